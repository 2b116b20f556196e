//! Contents of regular files: one page cache per inode, shared by every open file and mapping of it, and what stands behind the
//! cache (an outer file, an outer file whose changes stay in memory, or nothing). Not for: names (`vfs`), positions (`file`).
//!
//! `write` goes through to the outer file at once and refreshes the cached pages; pages dirtied through mappings reach it at `msync`,
//! `fsync` and when the last user of the inode goes.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use lock_api::RwLock;
use portolan::device::FileOperations;
use portolan::errno::Errno;
use portolan::machine::Machine;
use portolan::object::{Backing, Cache, Commit};
use portolan::paging::Format;
use portolan::platform::Platform;

use super::{Sleep, abi};
use crate::outside::{OuterFile, Stat, SyncKind, Timestamp};

/// Device and inode number: what makes two names the same file.
pub type Key = (u64, u64);

/// Where changes of an outer file's contents go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Changes {
    /// To the outer file.
    Outside,
    /// Nowhere: they are kept in memory.
    Kept,
}

/// The last state of an outer file that the cache agrees with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    size: u64,
    mtime: Timestamp,
    ctime: Timestamp,
}

impl Seen {
    fn of(stat: &Stat) -> Self {
        Self {
            size: stat.size,
            mtime: stat.mtime,
            ctime: stat.ctime,
        }
    }
}

struct Lower {
    reader: Option<Arc<dyn OuterFile>>,
    /// Writes where it is told to.
    writer: Option<Arc<dyn OuterFile>>,
    /// May change the length; perhaps appends.
    resizer: Option<Arc<dyn OuterFile>>,
    /// With kept changes: how much of the outer file still counts, and the pages that were written back.
    valid: u64,
    saved: BTreeMap<u64, Box<[u8]>>,
}

/// What stands behind the cache of an outer file.
struct Store<P: Platform> {
    lower: Sleep<P, Lower>,
    changes: Changes,
    /// The outer file has the new length already: the cache alone follows.
    already_long: AtomicBool,
}

impl<P: Platform> Store<P> {
    const PAGE: u64 = P::Format::GRANULE.bytes();

    fn reader(&self) -> Option<Arc<dyn OuterFile>> {
        self.lower.read().reader.clone()
    }

    fn writer(&self) -> Option<Arc<dyn OuterFile>> {
        self.lower.read().writer.clone()
    }

    fn offset(index: u64) -> Result<u64, Errno> {
        index.checked_mul(Self::PAGE).ok_or(Errno::EFBIG)
    }

    /// Fills `into` from the outer file, zeros after its end.
    fn read_lower(&self, offset: u64, into: &mut [u8]) -> Result<(), Errno> {
        let valid = self
            .lower
            .read()
            .valid
            .saturating_sub(offset)
            .min(into.len() as u64) as usize;
        let mut done = 0;
        if valid != 0 {
            let reader = self.reader().ok_or(Errno::EIO)?;
            while done < valid {
                match reader.read_at(offset + done as u64, &mut into[done..valid]) {
                    Ok(0) => break,
                    Ok(count) => done += count,
                    Err(Errno::EINTR) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        into[done..].fill(0);
        Ok(())
    }

    fn write_lower(&self, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        let writer = self.writer().ok_or(Errno::EIO)?;
        let mut done = 0;
        while done < from.len() {
            match writer.write_at(offset + done as u64, &from[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(_) if done != 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_whole(&self, offset: u64, from: &[u8]) -> Result<(), Errno> {
        if self.write_lower(offset, from)? == from.len() {
            Ok(())
        } else {
            Err(Errno::EIO)
        }
    }
}

impl<P: Platform> Backing for Store<P> {
    fn read_page(&self, index: u64, into: &mut [u8]) -> Result<(), Errno> {
        if let Some(page) = self.lower.read().saved.get(&index) {
            into.copy_from_slice(page);
            return Ok(());
        }
        self.read_lower(Self::offset(index)?, into)
    }

    fn read_pages(&self, first: u64, page_bytes: usize, pages: &mut [u8]) -> Result<(), Errno> {
        if self.lower.read().saved.is_empty() {
            return self.read_lower(Self::offset(first)?, pages);
        }
        (first..)
            .zip(pages.chunks_mut(page_bytes))
            .try_for_each(|(index, page)| self.read_page(index, page))
    }

    fn write_page(&self, index: u64, from: &[u8]) -> Result<(), Errno> {
        if self.changes == Changes::Outside {
            return self.write_whole(Self::offset(index)?, from);
        }
        let mut page = Vec::new();
        page.try_reserve_exact(Self::PAGE as usize)
            .map_err(|_| Errno::ENOMEM)?;
        page.extend_from_slice(from);
        page.resize(Self::PAGE as usize, 0);
        self.lower
            .write()
            .saved
            .insert(index, page.into_boxed_slice());
        Ok(())
    }

    fn write_pages(&self, first: u64, page_bytes: usize, pages: &[u8]) -> Result<(), Errno> {
        if self.changes == Changes::Outside {
            return self.write_whole(Self::offset(first)?, pages);
        }
        (first..)
            .zip(pages.chunks(page_bytes))
            .try_for_each(|(index, page)| self.write_page(index, page))
    }

    fn set_len(&self, size: u64) -> Result<(), Errno> {
        if self.already_long.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.changes == Changes::Outside {
            let resizer = self.lower.read().resizer.clone();
            return resizer.ok_or(Errno::EINVAL)?.set_len(size);
        }
        let mut lower = self.lower.write();
        lower.valid = lower.valid.min(size);
        let _beyond = lower.saved.split_off(&size.div_ceil(Self::PAGE));
        let (last, keep) = (size / Self::PAGE, (size % Self::PAGE) as usize);
        if let Some(page) = lower.saved.get_mut(&last) {
            page[keep..].fill(0);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Errno> {
        match (self.changes, self.writer()) {
            (Changes::Outside, Some(writer)) => writer.sync(SyncKind::Full),
            _ => Ok(()),
        }
    }
}

/// `struct inode` of a regular file.
pub struct Inode<P: Platform> {
    key: Key,
    cache: Arc<Cache<P>>,
    /// `None`: the cache is all there is (memfd, a file made in the overlay).
    store: Option<Arc<Store<P>>>,
    seen: Sleep<P, Option<Seen>>,
    /// Held by what changes the size.
    sizing: Sleep<P, ()>,
    /// With kept changes: contents differ from the outer file's, which no longer matters.
    changed: AtomicBool,
    /// Its last name was removed in the overlay, where the outer file still has it.
    unnamed: AtomicBool,
}

impl<P: Platform> Inode<P> {
    /// An empty memory file: memfd.
    ///
    /// # Errors
    /// `ENOMEM`: no heap.
    pub fn memory(machine: &Machine<P>, key: Key) -> Result<Self, Errno> {
        let cache = Cache::anonymous_shared(machine, 0, Commit::Unreserved)?;
        Ok(Self::kept(cache, key))
    }

    /// An empty file that is kept in memory where a disk is not to be written: `--overlay`.
    ///
    /// # Errors
    /// `ENOMEM`: no heap.
    pub fn overlaid(machine: &Machine<P>, key: Key) -> Result<Self, Errno> {
        Ok(Self::kept(Cache::in_memory(machine)?, key))
    }

    fn kept(cache: Arc<Cache<P>>, key: Key) -> Self {
        let (seen, sizing) = (RwLock::new(None), RwLock::new(()));
        Self {
            key,
            cache,
            store: None,
            seen,
            sizing,
            changed: AtomicBool::new(true),
            unnamed: AtomicBool::new(false),
        }
    }

    fn outer(machine: &Machine<P>, stat: &Stat, changes: Changes) -> Result<Self, Errno> {
        let lower = Lower {
            reader: None,
            writer: None,
            resizer: None,
            valid: u64::MAX,
            saved: BTreeMap::new(),
        };
        let store = Arc::new(Store {
            lower: RwLock::new(lower),
            changes,
            already_long: AtomicBool::new(false),
        });
        let cache = Cache::new(machine, store.clone(), stat.size)?;
        let (seen, sizing) = (RwLock::new(Some(Seen::of(stat))), RwLock::new(()));
        let (key, store) = ((stat.dev, stat.ino), Some(store));
        Ok(Self {
            key,
            cache,
            store,
            seen,
            sizing,
            changed: AtomicBool::new(false),
            unnamed: AtomicBool::new(false),
        })
    }

    /// Device and inode number.
    pub fn key(&self) -> Key {
        self.key
    }

    /// The page cache.
    pub fn cache(&self) -> &Arc<Cache<P>> {
        &self.cache
    }

    /// The size, bytes.
    pub fn size(&self) -> u64 {
        self.cache.size()
    }

    /// Whether the outer file no longer says what is in it.
    pub fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }

    fn goes_outside(&self) -> bool {
        self.store
            .as_ref()
            .is_some_and(|store| store.changes == Changes::Outside)
    }

    /// Another outer handle on the same file, open with these `O_*` flags: pages are read through one that may read, and written through
    /// one that writes where it is told to.
    pub fn attach(&self, outer: &Arc<dyn OuterFile>, flags: u32) {
        let Some(store) = &self.store else { return };
        let (access, appends) = (flags & abi::O_ACCMODE, flags & abi::O_APPEND != 0);
        let mut lower = store.lower.write();
        let fill = |slot: &mut Option<Arc<dyn OuterFile>>, fits: bool| {
            if fits && slot.is_none() {
                *slot = Some(outer.clone());
            }
        };
        fill(&mut lower.reader, access != abi::O_WRONLY);
        fill(&mut lower.writer, access != abi::O_RDONLY && !appends);
        fill(&mut lower.resizer, access != abi::O_RDONLY);
    }

    /// Whether a mapping's pages could be written back.
    pub fn has_writer(&self) -> bool {
        self.store
            .as_ref()
            .is_none_or(|store| store.changes == Changes::Kept || store.writer().is_some())
    }

    /// Compares with the outer file as it is now: when that changed outside, clean pages are forgotten and the size is taken over.
    ///
    /// # Errors
    /// Those of the cache.
    pub fn revalidate(&self, stat: &Stat) -> Result<(), Errno> {
        if self.store.is_none() || self.is_changed() {
            return Ok(());
        }
        let now = Seen::of(stat);
        let mut seen = self.seen.write();
        if *seen == Some(now) && self.cache.size() == stat.size {
            return Ok(());
        }
        self.cache.invalidate(stat.size)?;
        *seen = Some(now);
        Ok(())
    }

    /// Our own write or truncation changed the outer file's times: the next comparison must not trust the cache.
    fn forget_seen(&self) {
        if self.goes_outside() {
            *self.seen.write() = None;
        }
    }

    /// Reads through the cache; fewer bytes than asked for only at the end of the file.
    ///
    /// # Errors
    /// `EIO` and others of the outer file; `ENOMEM`: no frame.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let left = self.cache.size().saturating_sub(offset);
        if left == 0 && !into.is_empty() {
            self.notice_growth()?;
        }
        self.cache.read(offset, into)
    }

    /// At what was the end of file: asks the outer file whether it grew.
    fn notice_growth(&self) -> Result<(), Errno> {
        let Some(reader) = self.store.as_ref().and_then(|store| store.reader()) else {
            return Ok(());
        };
        if self.is_changed() {
            return Ok(());
        }
        let stat = reader.stat()?;
        if stat.size != self.cache.size() {
            self.revalidate(&stat)
        } else {
            Ok(())
        }
    }

    /// Writes at an offset: through to the outer file, or into memory.
    ///
    /// # Errors
    /// Those of the outer file; `ENOMEM`: no frame; `EFBIG`: beyond the greatest size.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        if offset
            .checked_add(from.len() as u64)
            .is_none_or(|end| end > i64::MAX as u64)
        {
            return Err(Errno::EFBIG);
        }
        match &self.store {
            Some(store) if store.changes == Changes::Outside => {
                let written = store.write_lower(offset, from)?;
                self.note_written(offset, &from[..written])?;
                Ok(written)
            }
            _ => {
                self.changed.store(true, Ordering::Release);
                self.cache.write(offset, from)
            }
        }
    }

    /// What is now in the outer file at `offset`: size and cached pages follow.
    ///
    /// # Errors
    /// Those of the cache.
    pub fn note_written(&self, offset: u64, from: &[u8]) -> Result<(), Errno> {
        self.forget_seen();
        let end = offset.saturating_add(from.len() as u64);
        if end > self.cache.size() && !from.is_empty() {
            self.grow(end)?;
        }
        self.refresh(offset, from);
        Ok(())
    }

    /// The outer file has grown by our own write; the cache follows without telling it.
    fn grow(&self, end: u64) -> Result<(), Errno> {
        let _sizing = self.sizing.write();
        let Some(store) = &self.store else {
            return Ok(());
        };
        if end <= self.cache.size() {
            return Ok(());
        }
        store.already_long.store(true, Ordering::Release);
        let grown = self.cache.truncate(end);
        store.already_long.store(false, Ordering::Release);
        grown
    }

    /// Puts into the pages that are cached what the outer file has there; pages that are not will be read when they are needed.
    fn refresh(&self, offset: u64, from: &[u8]) {
        let page_bytes = Store::<P>::PAGE;
        let mut done = 0;
        while done < from.len() {
            let at = offset + done as u64;
            let within = (at % page_bytes) as usize;
            let count = (from.len() - done).min(page_bytes as usize - within);
            if let Some(page) = self.cache.lookup(at / page_bytes) {
                page.write(within, &from[done..done + count]);
            }
            done += count;
        }
    }

    /// Zeros from `offset` to `end`, within the size, where a hole was made. The outer file has the hole already.
    ///
    /// # Errors
    /// Those of the cache.
    pub fn zero(&self, offset: u64, end: u64) -> Result<(), Errno> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut at = offset;
        while at < end {
            let part = &ZEROS[..(end - at).min(ZEROS.len() as u64) as usize];
            match self.goes_outside() {
                true => self.note_written(at, part)?,
                false => drop(self.write(at, part)?),
            }
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Sets the size.
    ///
    /// # Errors
    /// Those of ftruncate(2).
    pub fn truncate(&self, size: u64) -> Result<(), Errno> {
        if size > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        if !self.goes_outside() {
            self.changed.store(true, Ordering::Release);
        }
        let _sizing = self.sizing.write();
        self.cache.truncate(size)?;
        self.forget_seen();
        Ok(())
    }

    /// Writes pages dirtied through mappings back. Nothing to do for a file in memory.
    ///
    /// # Errors
    /// Those of the outer file.
    pub fn write_back(&self) -> Result<(), Errno> {
        if !self.goes_outside() {
            return Ok(());
        }
        if self.cache.dirty_pages() != 0 {
            self.forget_seen();
        }
        self.cache.writeback(0..u64::MAX)
    }
}

impl<P: Platform> FileOperations<P> for Inode<P> {
    fn has_no_name(&self) -> bool {
        if self.unnamed.load(Ordering::Relaxed) {
            return true;
        }
        let outer = self
            .store
            .as_ref()
            .and_then(|store| store.reader().or_else(|| store.writer()));
        outer
            .and_then(|outer| outer.stat().ok())
            .is_some_and(|stat| stat.nlink == 0)
    }
}

/// The right to write an inode, while it lasts nobody runs it. `get_write_access`.
pub struct WriteAccess<P: Platform>(Arc<Cache<P>>);

impl<P: Platform> WriteAccess<P> {
    /// Takes the right.
    ///
    /// # Errors
    /// `ETXTBSY`: it runs.
    pub fn take(inode: &Inode<P>) -> Result<Self, Errno> {
        inode.cache.get_write_access()?;
        Ok(Self(inode.cache.clone()))
    }
}

impl<P: Platform> Drop for WriteAccess<P> {
    fn drop(&mut self) {
        self.0.put_write_access();
    }
}

/// The inodes in use, so that every open of one file finds the same cache. `inode_hashtable`.
pub struct InodeTable<P: Platform> {
    known: Sleep<P, BTreeMap<Key, Weak<Inode<P>>>>,
}

impl<P: Platform> InodeTable<P> {
    /// None yet.
    pub fn new() -> Self {
        Self {
            known: RwLock::new(BTreeMap::new()),
        }
    }

    /// The last name of an inode is gone in the overlay.
    pub fn forget_name(&self, key: Key) {
        if let Some(inode) = self.known.read().get(&key).and_then(Weak::upgrade) {
            inode.unnamed.store(true, Ordering::Relaxed);
        }
    }

    /// The inode of an outer regular file, its cache compared with the file as it is now.
    ///
    /// # Errors
    /// `ENOMEM`: no heap. Those of the cache.
    pub fn get(
        &self,
        machine: &Machine<P>,
        stat: &Stat,
        changes: Changes,
    ) -> Result<Arc<Inode<P>>, Errno> {
        let key = (stat.dev, stat.ino);
        let mut known = self.known.write();
        if let Some(inode) = known.get(&key).and_then(Weak::upgrade) {
            drop(known);
            inode.revalidate(stat)?;
            return Ok(inode);
        }
        if known.len() >= 256 && known.len().is_power_of_two() {
            known.retain(|_, inode| inode.strong_count() != 0);
        }
        let inode = Arc::new(Inode::outer(machine, stat, changes)?);
        known.insert(key, Arc::downgrade(&inode));
        Ok(inode)
    }

    /// All inodes in use.
    pub fn all(&self) -> Vec<Arc<Inode<P>>> {
        self.known
            .read()
            .values()
            .filter_map(Weak::upgrade)
            .collect()
    }
}

impl<P: Platform> Default for InodeTable<P> {
    fn default() -> Self {
        Self::new()
    }
}

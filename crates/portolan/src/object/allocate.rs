//! Pages of memory files allocated ahead of use, and where such a file has data: `fallocate`, SEEK_DATA and SEEK_HOLE. Not for holes that are made
//! (`truncate`).
//!
//! A page that was allocated ahead has [`PageFlags::UNUSED`] until somebody maps or writes it: to lookups it is not there, so that it reads as zeros,
//! counts as a hole and is not mapped around a fault, as in Linux a folio that is not up to date.

use core::ops::Range;
use core::sync::atomic::Ordering;

use super::cache::{Cache, MAX_BYTES, PastEnd};
use super::mapping::ZapReason;
use super::tree::{Tag, Tree};
use super::truncate::Which;
use crate::errno::Errno;
use crate::phys::{FrameKind, PageFlags};
use crate::platform::Platform;

/// How many pages are looked at under one hold of the lock.
const BATCH: u64 = 512;

/// Whether allocating past the end moves the end. `FALLOC_FL_KEEP_SIZE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocatePastEnd {
    /// The object becomes as long as what was allocated.
    Grows,
    /// The end stays where it is.
    Keeps,
}

impl<P: Platform> Cache<P> {
    /// Allocates the pages that `len` bytes from `offset` on lie in. `mm/shmem.c: shmem_fallocate` without FALLOC_FL_PUNCH_HOLE.
    ///
    /// # Errors
    /// - `EOPNOTSUPP`: not memory alone. `EFBIG`: beyond [`MAX_BYTES`]. `EPERM`: sealed against growing, and the range ends past the end.
    /// - `ENOMEM`: no frame. As in Linux, what lies in the range and was allocated ahead, now or before, is given up then; the size stays.
    pub fn allocate(&self, offset: u64, len: u64, past_end: AllocatePastEnd) -> Result<(), Errno> {
        if !self.is_shmem() {
            return Err(Errno::EOPNOTSUPP);
        }
        let end = offset
            .checked_add(len)
            .filter(|&end| end <= MAX_BYTES)
            .ok_or(Errno::EFBIG)?;
        let _contents = self.contents.write();
        if end > self.size() {
            self.check_resize_seals(end)?;
        }
        let range = offset >> Self::GRANULE.shift()..Self::GRANULE.pages(end);
        for index in range.clone() {
            let allocated = self.machine.with_reclaim(|| self.allocate_page(index));
            if let Err(error) = allocated {
                let _filling = self.fill_lock.write();
                self.remove(range.start..index, ZapReason::Hole, Which::Unused);
                return Err(error);
            }
        }
        let old = self.size();
        if past_end == AllocatePastEnd::Grows && end > old {
            if self.past_end == PastEnd::Zeroed {
                self.zero_tail(old, u64::MAX);
            }
            self.size.store(end, Ordering::SeqCst);
        }
        Ok(())
    }

    fn allocate_page(&self, index: u64) -> Result<(), Errno> {
        let _filling = self.fill_lock.read();
        if self.pages.lock().get(index).is_some() {
            return Ok(());
        }
        let page = self.machine.phys().alloc_zeroed(FrameKind::Shmem)?;
        page.page().set_flags(PageFlags::UNUSED);
        self.insert(index, page)?;
        Ok(())
    }

    /// The first byte from `offset` on that is not in a hole, by whole pages. `mm/filemap.c: mapping_seek_hole_data`.
    ///
    /// # Errors
    /// `ENXIO`: there is none, or `offset` is not in the object.
    pub fn seek_data(&self, offset: u64) -> Result<u64, Errno> {
        let size = self.size();
        let mut at = Some(offset >> Self::GRANULE.shift()).filter(|_| offset < size);
        while let Some(from) = at {
            let pages = self.pages.lock();
            let found = self.next_used(&pages, from);
            drop(pages);
            match found {
                Found::Page(index) if index << Self::GRANULE.shift() < size => {
                    return Ok((index << Self::GRANULE.shift()).max(offset));
                }
                Found::GoOn(next) => at = Some(next),
                _ => at = None,
            }
        }
        Err(Errno::ENXIO)
    }

    /// The first byte from `offset` on that is in a hole, by whole pages; the end of the object counts as one. `mapping_seek_hole_data`.
    ///
    /// # Errors
    /// `ENXIO`: `offset` is not in the object.
    pub fn seek_hole(&self, offset: u64) -> Result<u64, Errno> {
        let size = self.size();
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        let (mut at, end) = (offset >> Self::GRANULE.shift(), Self::GRANULE.pages(size));
        while at < end {
            let batch = at..end.min(at + BATCH);
            let used = self.used_in_a_row(batch.clone());
            at = batch.start + used;
            if at < batch.end {
                break;
            }
        }
        Ok((at << Self::GRANULE.shift()).clamp(offset, size))
    }

    /// How many pages from the start of `range` on are there and in use.
    fn used_in_a_row(&self, range: Range<u64>) -> u64 {
        let pages = self.pages.lock();
        let is_used = |index: &u64| pages.get(*index).is_some_and(|page| !self.is_unused(page));
        range.take_while(is_used).count() as u64
    }

    fn next_used(&self, pages: &Tree<P>, from: u64) -> Found {
        let mut at = from;
        for _ in 0..BATCH {
            let Some(index) = pages.next(Tag::Present, at) else {
                return Found::Nothing;
            };
            if pages.get(index).is_some_and(|page| !self.is_unused(page)) {
                return Found::Page(index);
            }
            at = index + 1;
        }
        Found::GoOn(at)
    }
}

/// What a look at a batch of pages found.
enum Found {
    Page(u64),
    Nothing,
    GoOn(u64),
}

//! Byte ranges to and from an object through its cache: what read(2) and write(2) on a file do. Not for user memory, which the
//! caller copies from and to, nor for file positions.

use core::sync::atomic::Ordering;

use super::cache::{Cache, MAX_BYTES, PastEnd};
use crate::errno::Errno;
use crate::phys::{FrameKind, PageFlags, PageRef};
use crate::platform::Platform;

impl<P: Platform> Cache<P> {
    /// Copies bytes from `offset` on into `to`, and returns how many: fewer than asked for at the end of the object, 0 past it, or
    /// when a later page could not be read. `filemap_read`.
    ///
    /// # Errors
    /// As [`Cache::page`], when not one byte could be had.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < to.len() {
            let Some(at) = offset.checked_add(done as u64) else {
                break;
            };
            let left = self.size().saturating_sub(at);
            if left == 0 {
                break;
            }
            let (index, within) = Self::locate(at);
            let count = (Self::PAGE - within)
                .min(to.len() - done)
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let part = &mut to[done..done + count];
            match self.page_to_read(index) {
                Ok(Some(page)) => page.read(within, part),
                Ok(None) => part.fill(0),
                // Truncated meanwhile: the size says where it ends now.
                Err(Errno::ENXIO) if index >= self.size_in_pages() => continue,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            done += count;
        }
        Ok(done)
    }

    /// The page to read from; none for memory that nobody has written, which takes no frame to read.
    fn page_to_read(&self, index: u64) -> Result<Option<PageRef<P>>, Errno> {
        match self.backing {
            Some(_) => self.page(index).map(Some),
            None => Ok(self.lookup(index)),
        }
    }

    /// Copies `from` to the object from `offset` on, and returns how many bytes: fewer than asked for when memory ran out or a page could not
    /// be read on the way, or at [`MAX_BYTES`]. The object grows as far as was written; a gap reads as zeros. `generic_perform_write`.
    ///
    /// # Errors
    /// When not one byte was written: `EPERM`: sealed. `EFBIG`: the offset is [`MAX_BYTES`] or beyond; as [`Cache::page`].
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        let _contents = self.contents.write();
        self.write_exclusively(offset, from)
    }

    /// As [`Cache::write`], at the end, wherever that is. Returns the offset of the first byte too. O_APPEND.
    ///
    /// # Errors
    /// As [`Cache::write`].
    pub fn append(&self, from: &[u8]) -> Result<(u64, usize), Errno> {
        let _contents = self.contents.write();
        let offset = self.size();
        Ok((offset, self.write_exclusively(offset, from)?))
    }

    /// With the contents locked.
    fn write_exclusively(&self, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        if from.is_empty() {
            return Ok(0);
        }
        if offset >= MAX_BYTES {
            return Err(Errno::EFBIG);
        }
        let len = from
            .len()
            .min(usize::try_from(MAX_BYTES - offset).unwrap_or(usize::MAX));
        let old_size = self.size();
        if offset > old_size && self.past_end == PastEnd::Zeroed {
            // Up to the write only: what a mapping left behind it in the same page becomes part of the object, as in Linux.
            self.zero_tail(old_size, offset);
        }
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let (index, within) = Self::locate(at);
            let count = (Self::PAGE - within).min(len - done);
            let stored = self.check_write_seals(at + count as u64).and_then(|()| {
                let bytes = &from[done..done + count];
                self.machine
                    .with_reclaim(|| self.store(index, within, bytes))
            });
            let page = match stored {
                Ok(page) => page,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            };
            done += count;
            // Dirty last: write-back passes over what lies past the end. `page` keeps the page cached until it is.
            self.size.fetch_max(at + count as u64, Ordering::SeqCst);
            self.mark_dirty(index);
            drop(page);
        }
        Ok(done)
    }

    /// Copies bytes into one page, which is read first only where the copy leaves something of the object in it.
    fn store(&self, index: u64, within: usize, bytes: &[u8]) -> Result<PageRef<P>, Errno> {
        if let Some(page) = self.lookup(index) {
            page.write(within, bytes);
            return Ok(page);
        }
        let _filling = self.fill_lock.read();
        let new = index >= self.size_in_pages();
        if !new && bytes.len() < Self::PAGE {
            let page = self.fill(index)?;
            page.write(within, bytes);
            return Ok(page);
        }
        let kind = if self.is_shmem() {
            FrameKind::Shmem
        } else {
            FrameKind::Cache
        };
        let fresh = self.machine.phys().alloc(kind)?;
        fresh.fill(0, within, 0);
        fresh.write(within, bytes);
        let end = within + bytes.len();
        fresh.fill(end, Self::PAGE - end, 0);
        let page = self.insert(index, fresh.clone())?;
        if page != fresh {
            page.write(within, bytes);
        }
        Ok(page)
    }

    /// Zeroes what the page in which the object ends has between `end` and `until`, if it is cached: stores through a mapping may have left
    /// something.
    pub(super) fn zero_tail(&self, end: u64, until: u64) {
        let (_, within) = Self::locate(end);
        if within != 0 {
            self.zero_part(end, until);
        }
    }

    /// Zeroes the bytes from `start` to `until`, of one page at most, if it is cached.
    pub(super) fn zero_part(&self, start: u64, until: u64) {
        let (index, within) = Self::locate(start);
        let most = until
            .saturating_sub(start)
            .min((Self::PAGE - within) as u64);
        if most == 0 {
            return;
        }
        if let Some(page) = self.lookup(index) {
            page.fill(within, most as usize, 0);
            if self.is_shmem() {
                page.page().set_flags(PageFlags::DIRTY);
            }
        }
    }

    /// The page that a byte lies in, and where in it.
    fn locate(at: u64) -> (u64, usize) {
        (
            at >> Self::GRANULE.shift(),
            (at & Self::GRANULE.offset_mask()) as usize,
        )
    }
}

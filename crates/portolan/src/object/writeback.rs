//! Dirty pages to the backing, in order, each run write-protected first so that a later store makes its page dirty again.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use super::backing::Backing;
use super::cache::Cache;
use super::mapping::MappingKind;
use super::tree::Tag;
use crate::errno::Errno;
use crate::phys::{PageRef, heap};
use crate::platform::Platform;

/// The most pages written at once.
const RUN: usize = 32;

/// Pages in a row that were dirty and are to be written.
struct DirtyRun<P: Platform> {
    first: u64,
    pages: [Option<PageRef<P>>; RUN],
    count: usize,
}

impl<P: Platform> DirtyRun<P> {
    fn range(&self) -> Range<u64> {
        self.first..self.first + self.count as u64
    }
}

impl<P: Platform> Cache<P> {
    /// Writes the dirty ones of the pages in `range` to the backing, lowest first, and waits until that is done. Stores that come after the
    /// call began may or may not be in it. If the range covers the end of the object, the backing is as long as it afterwards. Shared anonymous memory has nowhere to go: nothing happens. `filemap_write_and_wait_range`.
    ///
    /// # Errors
    /// `ENOMEM`: no heap for a buffer; nothing was written. What the backing answered first: the rest was tried all the same, and what
    /// could not be written stays dirty, to be tried again (Linux drops it).
    pub fn writeback(&self, range: Range<u64>) -> Result<(), Errno> {
        let Some(backing) = &self.backing else {
            return Ok(());
        };
        let _writing = self.writeback_lock.write();
        self.write_dirty(&**backing, &range)?;
        let size = self.size();
        let covers_end = range.end >= Self::GRANULE.pages(size);
        if covers_end && self.backing_size.load(Ordering::Relaxed) < size {
            // The object grew, and the page in which it now ends was never written or has become a hole.
            backing.set_len(size)?;
            self.backing_size.store(size, Ordering::Relaxed);
        }
        Ok(())
    }

    /// With the write-back lock held.
    fn write_dirty(&self, backing: &dyn Backing, range: &Range<u64>) -> Result<(), Errno> {
        let dirty = {
            let tree = self.pages.lock();
            match tree.next(Tag::Dirty, range.start) {
                Some(first) if first < range.end => tree.dirty_len(),
                _ => return Ok(()),
            }
        };
        let most =
            usize::try_from(dirty.min(range.end - range.start)).map_or(RUN, |dirty| dirty.min(RUN));
        let mut buffer = heap::try_vec(self.machine.fail_point(), most * Self::PAGE)?;
        let mut result = Ok(());
        let mut from = range.start;
        while let Some(run) = self.take_dirty(from..range.end, most) {
            from = run.range().end;
            result = result.and(self.write_run(backing, &run, &mut buffer));
        }
        result
    }

    /// Writes all that is dirty and makes it durable. `vfs_fsync`.
    ///
    /// # Errors
    /// As [`Cache::writeback`], and what the backing's own sync answers.
    pub fn sync(&self) -> Result<(), Errno> {
        let written = self.writeback(0..u64::MAX);
        match &self.backing {
            Some(backing) => written.and(backing.sync()),
            None => written,
        }
    }

    /// The first dirty pages in a row, at most `most`, from now on clean.
    fn take_dirty(&self, range: Range<u64>, most: usize) -> Option<DirtyRun<P>> {
        let mut tree = self.pages.lock();
        let first = tree
            .next(Tag::Dirty, range.start)
            .filter(|&first| first < range.end)?;
        let mut run = DirtyRun {
            first,
            pages: [const { None }; RUN],
            count: 0,
        };
        let most = (range.end - first).min(most as u64) as usize;
        while run.count < most && tree.clear_dirty(first + run.count as u64) {
            run.pages[run.count] = tree.get(first + run.count as u64).cloned();
            run.count += 1;
        }
        Some(run)
    }

    fn write_run(
        &self,
        backing: &dyn Backing,
        run: &DirtyRun<P>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        // Clean first, protect second, copy third: a store that is missed by the copy finds a read-only entry and marks its page dirty.
        self.write_protect(&run.range());
        buffer.clear();
        buffer.resize(run.count * Self::PAGE, 0);
        for (page, bytes) in run
            .pages
            .iter()
            .flatten()
            .zip(buffer.chunks_mut(Self::PAGE))
        {
            page.read(0, bytes);
        }
        let start = run.first << Self::GRANULE.shift();
        let inside = self.size().saturating_sub(start).min(buffer.len() as u64) as usize;
        let bytes = &buffer[..inside];
        if bytes.is_empty() {
            return Ok(());
        }
        if run.count > 1 && backing.write_pages(run.first, Self::PAGE, bytes).is_ok() {
            let end = start + inside as u64;
            self.backing_size.fetch_max(end, Ordering::Relaxed);
            return Ok(());
        }
        let mut result = Ok(());
        for (index, part) in (run.first..).zip(bytes.chunks(Self::PAGE)) {
            match backing.write_page(index, part) {
                Ok(()) => {
                    let end = (index << Self::GRANULE.shift()) + part.len() as u64;
                    self.backing_size.fetch_max(end, Ordering::Relaxed);
                }
                Err(error) => {
                    self.pages.lock().set_dirty(index);
                    result = result.and(Err(error));
                }
            }
        }
        result
    }

    /// Makes every entry of these pages through which stores reach the object read-only. `folio_mkclean`.
    fn write_protect(&self, range: &Range<u64>) {
        self.mappings.read().overlapping(range, &mut |mapping| {
            if mapping.kind != MappingKind::SharedWritable {
                return;
            }
            if let Some(at) = mapping.addresses(range, Self::GRANULE.shift()) {
                mapping.space.write_protect(at);
            }
        });
    }
}

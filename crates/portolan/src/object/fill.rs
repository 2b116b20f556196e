//! Pages that are not cached yet: found in the backing, with neighbours, or made of zeros. Called with nothing but sleeping locks held.

use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;

use super::backing::Backing;
use super::cache::Cache;
use super::tree::{Spare, Tag};
use crate::errno::Errno;
use crate::phys::{FrameKind, OutOfMemory, PageFlags, PageRef, heap};
use crate::platform::Platform;

/// Reading ahead leaves this part of the machine's frames free.
const SPARE_FRAMES: u64 = 8;

impl<P: Platform> Cache<P> {
    /// The page at `index`: the cached one, else one that is read from the backing, or for shared anonymous memory made of zeros. Sleeps
    /// when it reads. `filemap_fault`, `shmem_get_folio`.
    ///
    /// # Errors
    /// - `ENXIO`: the index is past the end of the object.
    /// - `ENOMEM`: no frame or no heap is left.
    /// - What the backing answers.
    pub fn page(&self, index: u64) -> Result<PageRef<P>, Errno> {
        if let Some(page) = self.lookup(index) {
            return Ok(page);
        }
        self.machine.with_reclaim(|| {
            let _filling = self.fill_lock.read();
            self.fill(index)
        })
    }

    /// As [`Cache::page`], with the fill lock held.
    pub(super) fn fill(&self, index: u64) -> Result<PageRef<P>, Errno> {
        if index >= self.size_in_pages() {
            return Err(Errno::ENXIO);
        }
        let Some(backing) = &self.backing else {
            if let Some(page) = self.pages.lock().get(index) {
                page.page().clear_flags(PageFlags::UNUSED);
                return Ok(page.clone());
            }
            let page = self.machine.phys().alloc_zeroed(FrameKind::Shmem)?;
            return Ok(self.insert(index, page)?);
        };
        let run = match self.absent_run(index) {
            Ok(run) => run,
            Err(page) => return Ok(page),
        };
        if run.end - run.start > 1
            && let Ok(bytes) = self.read_run(&**backing, &run)
        {
            return self.keep_run(index, &run, &bytes);
        }
        let alone = index..index + 1;
        let bytes = self.read_run(&**backing, &alone)?;
        self.keep_run(index, &alone, &bytes)
    }

    /// The pages to read for `index`: those of the window it lies in, up to the next cached ones. The page itself if it is cached by now.
    fn absent_run(&self, index: u64) -> Result<Range<u64>, PageRef<P>> {
        let window = self.window(index);
        let pages = self.pages.lock();
        if let Some(page) = pages.get(index) {
            return Err(page.clone());
        }
        let mut start = window.start;
        while let Some(cached) = pages.next(Tag::Present, start).filter(|&at| at < index) {
            start = cached + 1;
        }
        let next = pages.next(Tag::Present, index);
        Ok(start..next.map_or(window.end, |next| next.min(window.end)))
    }

    /// The aligned window of read-ahead that `index` lies in, within the object.
    fn window(&self, index: u64) -> Range<u64> {
        let most = self.read_ahead.load(Ordering::Relaxed) >> Self::GRANULE.shift();
        let phys = self.machine.phys();
        if most <= 1 || phys.free_frames() < phys.total_frames() / SPARE_FRAMES + most {
            return index..index + 1;
        }
        let pages = 1 << most.ilog2().min(16);
        let start = index & !(pages - 1);
        start..(start + pages).min(self.size_in_pages()).max(index + 1)
    }

    /// Reads pages from the backing. What lies past the end of the object is zeros.
    fn read_run(&self, backing: &dyn Backing, run: &Range<u64>) -> Result<Vec<u8>, Errno> {
        let pages = (run.end - run.start) as usize;
        let len = pages.checked_mul(Self::PAGE).ok_or(OutOfMemory)?;
        let mut bytes = heap::try_vec(self.machine.fail_point(), len)?;
        bytes.resize(len, 0);
        match pages {
            1 => backing.read_page(run.start, &mut bytes)?,
            _ => backing.read_pages(run.start, Self::PAGE, &mut bytes)?,
        }
        let start = run.start << Self::GRANULE.shift();
        let inside = self.size().saturating_sub(start).min(len as u64) as usize;
        bytes[inside..].fill(0);
        Ok(bytes)
    }

    /// Puts what was read into the cache, and returns the page at `index`. Its neighbours are a bonus: they may fail.
    fn keep_run(&self, index: u64, run: &Range<u64>, bytes: &[u8]) -> Result<PageRef<P>, Errno> {
        let keep = |at: u64| {
            let offset = (at - run.start) as usize * Self::PAGE;
            let page = self.machine.phys().alloc(FrameKind::Cache)?;
            page.write(0, &bytes[offset..offset + Self::PAGE]);
            self.insert(at, page)
        };
        let page = keep(index)?;
        for at in run.clone().filter(|&at| at != index) {
            if keep(at).is_err() {
                break;
            }
        }
        Ok(page)
    }

    /// Puts a page at `index`, unless another is there by now; returns the one that is there. With the fill lock held.
    /// `filemap_add_folio`.
    pub(super) fn insert(&self, index: u64, page: PageRef<P>) -> Result<PageRef<P>, OutOfMemory> {
        page.page().index().store(index, Ordering::Relaxed);
        let mut spare = Spare::new();
        loop {
            let need = {
                let mut pages = self.pages.lock();
                if let Some(first) = pages.get(index) {
                    first.page().clear_flags(PageFlags::UNUSED);
                    return Ok(first.clone());
                }
                let need = pages.missing(index);
                if spare.covers(need) && pages.insert(index, page.clone(), &mut spare).is_ok() {
                    return Ok(page);
                }
                need
            };
            spare.fill(self.machine.fail_point(), need)?;
        }
    }
}

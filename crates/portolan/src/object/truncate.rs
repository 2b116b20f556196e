//! Pages that go because the object changed under them: it became shorter, got a hole, or was changed from outside. In each case the
//! entries that map them go with them. Not for memory pressure (`reclaim`).

use core::ops::Range;
use core::sync::atomic::{Ordering, fence};

use super::cache::{Cache, MAX_BYTES, PastEnd};
use super::mapping::ZapReason;
use super::tree::{Tag, Tree};
use crate::errno::Errno;
use crate::phys::PageRef;
use crate::platform::Platform;

/// How many pages are taken out under one hold of the lock.
const BATCH: usize = 32;

/// Which pages go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    All,
    Clean,
    /// Clean ones that nobody but the object refers to.
    Idle,
    /// Those that were allocated ahead and are not used yet.
    Unused,
}

impl<P: Platform> Cache<P> {
    /// Makes the object `bytes` long. Pages past the new end go, with the entries that map them and the private copies made of them; an access
    /// there is SIGBUS from now on. The rest of the last page becomes zeros, and so does what a longer object gains. `truncate_setsize`.
    ///
    /// # Errors
    /// `EFBIG`: beyond [`MAX_BYTES`]. `EPERM`: sealed. `ENOMEM`: the commit limit of charged shared memory. What the backing answers. Nothing has
    /// changed then.
    pub fn truncate(&self, bytes: u64) -> Result<(), Errno> {
        if bytes > MAX_BYTES {
            return Err(Errno::EFBIG);
        }
        let _contents = self.contents.write();
        self.check_resize_seals(bytes)?;
        let _writing = self.writeback_lock.write();
        let _filling = self.fill_lock.write();
        let (old, new) = (self.size_in_pages(), Self::GRANULE.pages(bytes));
        if self.charged && new > old {
            self.machine.charge_commit(new - old)?;
        }
        if let Some(backing) = &self.backing {
            backing.set_len(bytes)?;
            self.backing_size.store(bytes, Ordering::Relaxed);
        }
        self.resize(bytes);
        if self.charged && new < old {
            self.machine.uncharge_commit(old - new);
        }
        Ok(())
    }

    /// Gives up the pages in `range`, which read as zeros from now on; the size stays, and of a file what lies past it is left out. Entries that map them go, private copies stay.
    /// `truncate_pagecache_range`, `shmem_fallocate`.
    ///
    /// # Errors
    /// `EPERM`: sealed against writing. `EOPNOTSUPP`: the backing cannot. What else it answers. Nothing has changed then.
    pub fn punch_hole(&self, range: Range<u64>) -> Result<(), Errno> {
        let _contents = self.contents.write();
        self.check_write_seals(0)?;
        self.punch_pages(range)
    }

    /// With the contents locked.
    fn punch_pages(&self, range: Range<u64>) -> Result<(), Errno> {
        let _writing = self.writeback_lock.write();
        let _filling = self.fill_lock.write();
        // Memory may have been allocated past the end.
        let end = match self.backing {
            Some(_) => range.end.min(self.size_in_pages()),
            None => range.end,
        };
        let range = range.start..end;
        if range.is_empty() {
            return Ok(());
        }
        if let Some(backing) = &self.backing {
            backing.punch_hole(range.clone())?;
        }
        self.remove(range, ZapReason::Hole, Which::All);
        Ok(())
    }

    /// Gives up the bytes from `offset` to `end` of a memory file: whole pages go as by [`Cache::punch_hole`], parts of pages that are there become
    /// zeros. The size stays. `shmem_fallocate` with FALLOC_FL_PUNCH_HOLE.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: not memory alone. `EPERM`: sealed against writing. Nothing has changed then.
    pub fn punch_bytes(&self, offset: u64, end: u64) -> Result<(), Errno> {
        if !self.is_shmem() {
            return Err(Errno::EOPNOTSUPP);
        }
        let _contents = self.contents.write();
        self.check_write_seals(0)?;
        let shift = Self::GRANULE.shift();
        let whole = Self::GRANULE.pages(offset)..end >> shift;
        if whole.is_empty() {
            let middle = (whole.start << shift).clamp(offset, end.max(offset));
            self.zero_part(offset, middle);
            self.zero_part(middle, end);
            return Ok(());
        }
        self.zero_part(offset, whole.start << shift);
        self.zero_part(whole.end << shift, end);
        self.punch_pages(whole)
    }

    /// The file was changed from outside and is `bytes` long now: clean pages go, to be read again, and so do all pages past the new end.
    /// What is dirty within it stays, and will overwrite the change. Returns how many pages that are. `invalidate_inode_pages2`.
    ///
    /// # Errors
    /// `EFBIG`: beyond [`MAX_BYTES`]; nothing has changed. `EINVAL`: shared anonymous memory, which has no outside.
    pub fn invalidate(&self, bytes: u64) -> Result<u64, Errno> {
        if bytes > MAX_BYTES {
            return Err(Errno::EFBIG);
        }
        if self.is_shmem() {
            return Err(Errno::EINVAL);
        }
        let _contents = self.contents.write();
        let _writing = self.writeback_lock.write();
        let _filling = self.fill_lock.write();
        self.backing_size.store(bytes, Ordering::Relaxed);
        self.resize(bytes);
        self.remove(0..u64::MAX, ZapReason::Invalidate, Which::Clean);
        Ok(self.dirty_pages())
    }

    /// Changes the size, with all sleeping locks but that of the mappings held.
    fn resize(&self, bytes: u64) {
        let old = self.size();
        // Cutting to the same size cuts the last page, too.
        if bytes > old {
            // Shared memory keeps what stores through a mapping left behind its end, as in Linux.
            if self.past_end == PastEnd::Zeroed {
                self.zero_tail(old, u64::MAX);
            }
            self.size.store(bytes, Ordering::SeqCst);
            return;
        }
        self.size.store(bytes, Ordering::SeqCst);
        self.remove(
            Self::GRANULE.pages(bytes)..u64::MAX,
            ZapReason::Truncate,
            Which::All,
        );
        self.zero_tail(bytes, u64::MAX);
    }

    /// Takes pages out of the cache and out of every page table.
    ///
    /// A fault that found its page before the first zap is swept by that, or sees that the count has changed; one that found it after, but
    /// before it was taken out, is swept by the second zap, or sees the second change.
    ///
    /// Returns how many it took out.
    pub(super) fn remove(&self, range: Range<u64>, reason: ZapReason, which: Which) -> u64 {
        self.zap(&range, reason);
        let taken = self.take_out(range.clone(), which);
        self.zap(&range, reason);
        taken
    }

    /// Takes pages that no entry maps out of the cache, a batch under each hold of the lock; returns how many.
    pub(super) fn take_out(&self, range: Range<u64>, which: Which) -> u64 {
        let (mut from, mut taken) = (Some(range.start), 0);
        while let Some(start) = from {
            let mut batch = [const { None }; BATCH];
            from = self.take_batch(start..range.end, which, &mut batch);
            taken += batch.iter().flatten().count() as u64;
        }
        taken
    }

    /// Takes up to a batch of pages out, and says where to go on.
    fn take_batch(
        &self,
        range: Range<u64>,
        which: Which,
        batch: &mut [Option<PageRef<P>>; BATCH],
    ) -> Option<u64> {
        let mut tree = self.pages.lock();
        let mut at = range.start;
        for slot in batch {
            at = tree.next(Tag::Present, at).filter(|&at| at < range.end)?;
            if self.goes(&tree, at, which) {
                *slot = tree.take(at);
            }
            at = at.checked_add(1)?;
        }
        Some(at)
    }

    /// Whether the page at `index` is one of those.
    pub(super) fn goes(&self, tree: &Tree<P>, index: u64, which: Which) -> bool {
        let page = tree.get(index);
        match which {
            Which::All => true,
            Which::Clean => !tree.is_dirty(index),
            Which::Idle => !tree.is_dirty(index) && page.is_some_and(PageRef::is_exclusive),
            Which::Unused => page.is_some_and(|page| self.is_unused(page)),
        }
    }

    /// Takes the entries of these pages out of every page table. `unmap_mapping_pages`.
    fn zap(&self, range: &Range<u64>, reason: ZapReason) {
        self.truncations.fetch_add(1, Ordering::SeqCst);
        // A page-table page that a zap does not see yet was linked by a fault that will see the change.
        fence(Ordering::SeqCst);
        self.mappings.read().overlapping(range, &mut |mapping| {
            if let Some(at) = mapping.addresses(range, Self::GRANULE.shift()) {
                mapping.space.zap(at, reason);
            }
        });
    }
}

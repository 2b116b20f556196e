//! Clean pages given up when memory is short. Not for dirty ones (`writeback` first) nor mapped ones, which their spaces must give up.

use core::ops::Range;
use core::sync::atomic::Ordering;

use super::cache::Cache;
use super::tree::Tag;
use crate::phys::PageRef;
use crate::platform::Platform;

/// How many pages are looked at under one hold of the lock.
const BATCH: usize = 32;

impl<P: Platform> Cache<P> {
    /// Drops up to `most` pages that are clean and that nobody else refers to, going round the object from call to call; returns how
    /// many. Never sleeps: while pages are being read in or taken out it does nothing, so it may be called where an allocation failed.
    /// Shared anonymous memory has no other copy, so none of it goes. `invalidate_mapping_pages`.
    pub fn reclaim(&self, most: u64) -> u64 {
        if self.is_shmem() {
            return 0;
        }
        let Some(_filling) = self.fill_lock.try_write() else {
            return 0;
        };
        let mut freed = 0;
        let mut left = self.cached_pages();
        let mut at = self.reclaim_hand.load(Ordering::Relaxed);
        while freed < most && left > 0 {
            let mut batch = [const { None }; BATCH];
            let looked = self.reclaim_batch(&mut at, left, most - freed, &mut batch);
            freed += batch.iter().flatten().count() as u64;
            left -= looked;
        }
        self.reclaim_hand.store(at, Ordering::Relaxed);
        freed
    }

    /// Drops the pages of `range` that are clean and that nobody else refers to; returns how many. As [`Cache::reclaim`] otherwise.
    pub fn reclaim_range(&self, range: Range<u64>) -> u64 {
        if self.is_shmem() {
            return 0;
        }
        let Some(_filling) = self.fill_lock.try_write() else {
            return 0;
        };
        let (mut freed, mut at) = (0, range.start);
        loop {
            let mut batch: [Option<PageRef<P>>; BATCH] = [const { None }; BATCH];
            let mut tree = self.pages.lock();
            let mut room = batch.iter_mut();
            let more = loop {
                let Some(index) = tree.next(Tag::Present, at).filter(|&at| at < range.end) else {
                    break None;
                };
                if tree.is_dirty(index) || !tree.get(index).is_some_and(PageRef::is_exclusive) {
                    at = index + 1;
                    continue;
                }
                let Some(slot) = room.next() else {
                    break Some(index);
                };
                *slot = tree.take(index);
                at = index + 1;
                freed += 1;
            };
            drop(tree);
            match more {
                Some(next) => at = next,
                None => return freed,
            }
        }
    }

    /// Looks at a batch of pages from `at` on, and takes what may go; returns how many it looked at, at least 1.
    fn reclaim_batch(
        &self,
        at: &mut u64,
        left: u64,
        most: u64,
        batch: &mut [Option<PageRef<P>>; BATCH],
    ) -> u64 {
        let mut tree = self.pages.lock();
        let mut taken = 0;
        for looked in 0..left.min(BATCH as u64) {
            if taken == most {
                return looked;
            }
            let Some(index) = tree
                .next(Tag::Present, *at)
                .or_else(|| tree.next(Tag::Present, 0))
            else {
                return left;
            };
            *at = index.wrapping_add(1);
            if tree.is_dirty(index) || !tree.get(index).is_some_and(PageRef::is_exclusive) {
                continue;
            }
            batch[taken as usize] = tree.take(index);
            taken += 1;
        }
        left.min(BATCH as u64)
    }
}

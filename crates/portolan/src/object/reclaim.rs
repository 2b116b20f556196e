//! Pages given up when memory is short: clean ones that nobody uses, then mapped ones, then dirty ones, which are written first. Not for which
//! cache gives how much, which is the machine's to ask.

use core::ops::Range;
use core::sync::atomic::Ordering;

use super::cache::Cache;
use super::mapping::{Residency, ZapReason};
use super::tree::Tag;
use super::truncate::Which;
use crate::machine::{Effort, Shrink};
use crate::phys::PageRef;
use crate::platform::Platform;

/// How many pages are looked at under one hold of the lock.
const BATCH: usize = 32;

/// How many pages in a row are unmapped together.
const CHUNK: u64 = 64;

impl<P: Platform> Shrink for Cache<P> {
    fn shrink(&self, effort: Effort, most: u64) -> u64 {
        match effort {
            Effort::Unused => self.reclaim(most),
            Effort::Mapped => self.reclaim_mapped(most),
            Effort::Dirty if self.dirty_pages() == 0 => 0,
            Effort::Dirty => {
                // What cannot be written stays dirty, and so stays.
                let _ = self.writeback(0..u64::MAX);
                self.reclaim_mapped(most)
            }
        }
    }
}

impl<P: Platform> Cache<P> {
    /// Drops up to about `most` clean pages, mapped or not, with the entries that map them, but none that a locked mapping shows. Waits while pages
    /// are being read in, written back or taken out. `shrink_folio_list`.
    pub fn reclaim_mapped(&self, most: u64) -> u64 {
        if self.is_shmem() {
            return 0;
        }
        let _writing = self.writeback_lock.write();
        let _filling = self.fill_lock.write();
        let hand = self.reclaim_hand.load(Ordering::Relaxed);
        let (mut freed, mut at) = (0, hand);
        for end in [u64::MAX, hand] {
            while let Some(start) = self.next_clean(at..end).filter(|_| freed < most) {
                at = start.saturating_add(CHUNK);
                if !self.is_locked(start..at) {
                    freed += self.remove(start..at, ZapReason::Reclaim, Which::Clean);
                }
            }
            if freed >= most {
                break;
            }
            at = 0;
        }
        self.reclaim_hand.store(at, Ordering::Relaxed);
        freed
    }

    /// The first clean page in `range`.
    fn next_clean(&self, range: Range<u64>) -> Option<u64> {
        let tree = self.pages.lock();
        let mut at = range.start;
        loop {
            let index = tree
                .next(Tag::Present, at)
                .filter(|&index| index < range.end)?;
            if !tree.is_dirty(index) {
                return Some(index);
            }
            at = index.checked_add(1)?;
        }
    }

    /// Whether a locked mapping shows one of these pages.
    fn is_locked(&self, range: Range<u64>) -> bool {
        let mut locked = false;
        self.mappings.read().overlapping(&range, &mut |mapping| {
            locked |= mapping.residency == Residency::Locked;
        });
        locked
    }

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
        self.take_out(range, Which::Idle)
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
            if self.goes(&tree, index, Which::Idle) {
                batch[taken as usize] = tree.take(index);
                taken += 1;
            }
        }
        left.min(BATCH as u64)
    }
}

//! How much of an object is cached: what `cachestat` tells. Not for which pages those are (`mincore`).

use core::ops::Range;

use super::cache::Cache;
use super::tree::Tag;
use crate::platform::Platform;

/// How many pages are counted under one hold of the lock.
const BATCH: u64 = 512;

/// `struct cachestat`, in pages. Nothing is remembered of pages that were evicted, and none is under write-back when this is asked.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CacheStat {
    /// In memory.
    pub cached: u64,
    /// Of those, newer than what the backing has.
    pub dirty: u64,
}

impl<P: Platform> Cache<P> {
    /// Counts the cached ones of the pages in `range`. `mm/filemap.c: filemap_cachestat`.
    pub fn cachestat(&self, range: Range<u64>) -> CacheStat {
        let mut stat = CacheStat::default();
        let mut at = Some(range.start);
        while let Some(start) = at {
            at = self.count_batch(start..range.end, &mut stat);
        }
        stat
    }

    /// Counts up to a batch of pages, and says where to go on.
    fn count_batch(&self, range: Range<u64>, stat: &mut CacheStat) -> Option<u64> {
        let pages = self.pages.lock();
        let mut at = range.start;
        for _ in 0..BATCH {
            let index = pages
                .next(Tag::Present, at)
                .filter(|&index| index < range.end)?;
            stat.cached += 1;
            stat.dirty += u64::from(pages.is_dirty(index));
            at = index.checked_add(1)?;
        }
        Some(at)
    }
}

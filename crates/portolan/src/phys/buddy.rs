//! The buddy allocator: free blocks of 1 to 1024 frames, kept in a list per order, merged with their neighbour when both are free.
//! Works on frame indices under the caller's lock. Not for single frames on a hot path, which `percpu` keeps.

use core::sync::atomic::Ordering;

use super::page::Page;

/// The largest block is `1 << MAX_ORDER` frames. `MAX_PAGE_ORDER`.
pub const MAX_ORDER: u8 = 10;

/// How many orders there are. `NR_PAGE_ORDERS`.
pub const ORDERS: usize = MAX_ORDER as usize + 1;

/// The free lists. Blocks are named by the index of their first frame, which is a multiple of their size.
pub(super) struct Buddy {
    /// The first block of each order, as index + 1; 0 for none.
    heads: [u32; ORDERS],
    counts: [u64; ORDERS],
}

impl Buddy {
    pub(super) const fn new() -> Buddy {
        Buddy {
            heads: [0; ORDERS],
            counts: [0; ORDERS],
        }
    }

    /// How many free blocks there are of each order.
    pub(super) fn counts(&self) -> [u64; ORDERS] {
        self.counts
    }

    /// Takes a block of exactly this order, splitting a larger one if need be. The lowest part of it is what is taken.
    pub(super) fn take(&mut self, pages: &[Page], order: u8) -> Option<u32> {
        let mut found = (order..=MAX_ORDER).find(|&o| self.heads[o as usize] != 0)?;
        let index = self.heads[found as usize] - 1;
        self.unlink(pages, index, found);
        while found > order {
            found -= 1;
            self.link(pages, index + (1 << found), found);
        }
        Some(index)
    }

    /// Takes up to `want` frames, as few and as large blocks as there are, and shows each block (first index, frames) to `each`.
    /// Returns how many frames it took.
    pub(super) fn take_frames(
        &mut self,
        pages: &[Page],
        want: u32,
        mut each: impl FnMut(u32, u32),
    ) -> u32 {
        let mut left = want;
        let mut order = left.checked_ilog2().unwrap_or(0).min(MAX_ORDER as u32) as u8;
        while left > 0 {
            order = order.min(left.ilog2() as u8);
            match self.take(pages, order) {
                Some(index) => {
                    each(index, 1 << order);
                    left -= 1 << order;
                }
                None if order == 0 => break,
                None => order -= 1,
            }
        }
        want - left
    }

    /// Gives a block back and merges it as far as its neighbours are free.
    pub(super) fn give(&mut self, pages: &[Page], mut index: u32, mut order: u8) {
        debug_assert!(
            index.is_multiple_of(1 << order),
            "a free block lies where none can"
        );
        debug_assert!(
            (0..=MAX_ORDER).all(|o| !pages[index as usize].is_free_head(o)),
            "a free block was freed again"
        );
        while order < MAX_ORDER {
            let buddy = index ^ (1 << order);
            match pages.get(buddy as usize) {
                Some(page) if page.is_free_head(order) => self.unlink(pages, buddy, order),
                _ => break,
            }
            index &= !(1 << order);
            order += 1;
        }
        self.link(pages, index, order);
    }

    /// Gives `count` frames from `start` on back, as the largest blocks that lie in them. The highest go first, so that the
    /// lowest are taken first.
    pub(super) fn give_range(&mut self, pages: &[Page], start: u32, count: u32) {
        let mut end = start + count;
        while end > start {
            let order = end
                .trailing_zeros()
                .min((end - start).ilog2())
                .min(MAX_ORDER as u32) as u8;
            end -= 1 << order;
            self.give(pages, end, order);
        }
    }

    /// Gives frames back that come in any order; runs of neighbours, ascending or descending, go as ranges.
    pub(super) fn give_frames(&mut self, pages: &[Page], frames: &[u32]) {
        let mut rest = frames;
        while let Some((&first, _)) = rest.split_first() {
            let up = run_length(rest, 1);
            let down = run_length(rest, u32::MAX);
            let length = up.max(down);
            let lowest = if up >= down { first } else { rest[length - 1] };
            self.give_range(pages, lowest, length as u32);
            rest = &rest[length..];
        }
    }

    fn link(&mut self, pages: &[Page], index: u32, order: u8) {
        let head = &mut self.heads[order as usize];
        if *head != 0 {
            pages[*head as usize - 1]
                .links()
                .1
                .store(index + 1, Ordering::Relaxed);
        }
        pages[index as usize].set_free_head(order, *head);
        *head = index + 1;
        self.counts[order as usize] += 1;
    }

    fn unlink(&mut self, pages: &[Page], index: u32, order: u8) {
        let page = &pages[index as usize];
        let (next, prev) = page.links();
        let (next, prev) = (next.load(Ordering::Relaxed), prev.load(Ordering::Relaxed));
        if next != 0 {
            pages[next as usize - 1]
                .links()
                .1
                .store(prev, Ordering::Relaxed);
        }
        match prev {
            0 => self.heads[order as usize] = next,
            _ => pages[prev as usize - 1]
                .links()
                .0
                .store(next, Ordering::Relaxed),
        }
        page.retire();
        self.counts[order as usize] -= 1;
    }
}

/// How many of the leading `frames` follow each other at this distance.
fn run_length(frames: &[u32], step: u32) -> usize {
    1 + frames
        .windows(2)
        .take_while(|pair| pair[0].wrapping_add(step) == pair[1])
        .count()
}

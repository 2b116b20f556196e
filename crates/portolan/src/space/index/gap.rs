//! Where there is room. Each entry above the leaves knows the largest gap between items below it, so whole subtrees are skipped.

use core::ops::Range;

use super::node::{FANOUT, NodeRef};
use super::{Span, Writer};

/// What is looked for.
struct Wanted {
    low: u64,
    high: u64,
    len: u64,
    mask: u64,
    offset: u64,
}

impl Wanted {
    fn new(window: Range<u64>, len: u64, align: u64, offset: u64) -> Option<Self> {
        let sensible = len != 0 && align.is_power_of_two() && window.start < window.end;
        sensible.then(|| Self {
            low: window.start,
            high: window.end,
            len,
            mask: align - 1,
            offset,
        })
    }

    /// The free bytes `from..to` cut to the window, if long enough.
    fn cut(&self, from: u64, to: u64) -> Option<(u64, u64)> {
        let (low, high) = (from.max(self.low), to.min(self.high));
        (high.checked_sub(low)? >= self.len).then_some((low, high))
    }

    fn lowest_within(&self, from: u64, to: u64) -> Option<u64> {
        let (low, high) = self.cut(from, to)?;
        let at = low.checked_add(self.offset.wrapping_sub(low) & self.mask)?;
        (at.checked_add(self.len)? <= high).then_some(at)
    }

    fn highest_within(&self, from: u64, to: u64) -> Option<u64> {
        let (low, high) = self.cut(from, to)?;
        let at = high - self.len;
        at.checked_sub(at.wrapping_sub(self.offset) & self.mask)
            .filter(|&at| at >= low)
    }

    /// The lowest fit between two items below `node`.
    fn lowest_below(&self, node: NodeRef) -> Option<u64> {
        let len = node.len().min(FANOUT);
        for at in node.count(self.low)..len {
            if at > 0 {
                let from = node.end(at - 1);
                if from >= self.high {
                    return None;
                }
                if let Some(found) = self.lowest_within(from, node.floor(at)) {
                    return Some(found);
                }
            }
            if node.gap(at) >= self.len
                && let Some(found) = node.child(at).and_then(|child| self.lowest_below(child))
            {
                return Some(found);
            }
        }
        None
    }

    /// The highest fit between two items below `node`.
    fn highest_below(&self, node: NodeRef) -> Option<u64> {
        let len = node.len().min(FANOUT);
        // What comes after the first entry that ends above the window, and the gap before that, is above it too.
        let stop = len.min(node.count(self.high) + 1);
        for at in (0..stop).rev() {
            if node.end(at) <= self.low {
                return None;
            }
            if node.gap(at) >= self.len
                && let Some(found) = node.child(at).and_then(|child| self.highest_below(child))
            {
                return Some(found);
            }
            if at > 0
                && let Some(found) = self.highest_within(node.end(at - 1), node.floor(at))
            {
                return Some(found);
            }
        }
        None
    }
}

impl<T: Span> Writer<T> {
    /// The lowest address in `window` with `len` free bytes from it on, all in the window, that is `offset` more than a multiple of `align`.
    /// Bytes that an item guards ([`Span::gap_before`]) are not free. `None` when there is none, `len` is 0 or `align` no power of two.
    /// `unmapped_area`.
    ///
    /// Logarithmic while gaps that are long enough also hold an aligned start; each that does not is one more step. Linux asks for
    /// `align - page` bytes more instead and so passes over tight gaps; who wants its choice asks for that much with `align` 1.
    pub fn lowest_gap(&self, window: Range<u64>, len: u64, align: u64, offset: u64) -> Option<u64> {
        let wanted = Wanted::new(window, len, align, offset)?;
        let root = self.tree.root().filter(|root| root.len() > 0);
        let Some(root) = root else {
            return wanted.lowest_within(0, u64::MAX);
        };
        wanted
            .lowest_within(0, root.floor(0))
            .or_else(|| wanted.lowest_below(root))
            .or_else(|| wanted.lowest_within(self.last_end(), u64::MAX))
    }

    /// As [`Writer::lowest_gap`], the highest such address. `unmapped_area_topdown`.
    pub fn highest_gap(
        &self,
        window: Range<u64>,
        len: u64,
        align: u64,
        offset: u64,
    ) -> Option<u64> {
        let wanted = Wanted::new(window, len, align, offset)?;
        let root = self.tree.root().filter(|root| root.len() > 0);
        let Some(root) = root else {
            return wanted.highest_within(0, u64::MAX);
        };
        wanted
            .highest_within(self.last_end(), u64::MAX)
            .or_else(|| wanted.highest_below(root))
            .or_else(|| wanted.highest_within(0, root.floor(0)))
    }
}

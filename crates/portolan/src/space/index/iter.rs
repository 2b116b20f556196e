//! Walking the index in order. There are no links between leaves: from the end of one leaf the next is found from the root,
//! once in a leafful of items, so changes have no links to keep up.

use core::fmt;
use core::iter::FusedIterator;
use core::ops::Deref;

use super::node::NodeRef;
use super::{Slot, Span, Tree};

/// Items in ascending order. Made by [`super::Writer::iter`] and its kin.
pub struct Iter<'t, T> {
    tree: &'t Tree<T>,
    /// The leaf and the place in it of the next item.
    place: Option<(NodeRef, usize)>,
    /// Items that start here or later are not in the range.
    limit: u64,
}

impl<'t, T> Iter<'t, T> {
    /// The tree must not change while it is borrowed: the writer lends it.
    pub(super) fn new(tree: &'t Tree<T>, start: u64, end: u64) -> Self {
        let place = if start < end {
            tree.descend(start)
        } else {
            None
        };
        Self {
            tree,
            place,
            limit: end,
        }
    }
}

impl<'t, T: Span> Iterator for Iter<'t, T> {
    type Item = &'t T;

    #[inline]
    fn next(&mut self) -> Option<&'t T> {
        let (mut leaf, mut at) = self.place?;
        let mut slot = leaf.slot(at);
        if slot.is_null() {
            let last = at.checked_sub(1).map_or(u64::MAX, |last| leaf.end(last));
            self.place = if last == u64::MAX {
                None
            } else {
                self.tree.descend(last)
            };
            (leaf, at) = self.place?;
            slot = leaf.slot(at);
        }
        // SAFETY: null or an item of the tree, which the borrow of its writer keeps in it.
        let item =
            unsafe { slot.cast::<Slot<T>>().as_ref() }.filter(|item| item.start() < self.limit);
        self.place = item.map(|_| (leaf, at + 1));
        item.map(Deref::deref)
    }
}

impl<T: Span> FusedIterator for Iter<'_, T> {}

impl<T> fmt::Debug for Iter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Iter")
    }
}

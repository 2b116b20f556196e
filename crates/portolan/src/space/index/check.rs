//! Verifies all that the index relies on. For tests, of this room and of others.

use super::node::{FANOUT, FEWEST, LEVELS, NodeRef};
use super::{Slot, Span, Writer};

impl<T: Span> Writer<T> {
    /// Walks the whole index and compares everything it says of itself with its items. `validate_mm`.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        let root = self.tree.root().ok_or("no root")?;
        let mut seen = Seen {
            items: 0,
            nodes: [0; LEVELS],
            end: 0,
        };
        if root.level() >= LEVELS || root.level() > 0 && root.len() < 2 {
            return Err("the root is out of shape");
        }
        seen.node::<T>(root, true)?;
        if seen.items != self.shape.len {
            return Err("the number of items is wrong");
        }
        if seen.nodes != self.shape.nodes {
            return Err("the number of nodes is wrong");
        }
        Ok(())
    }
}

struct Seen {
    items: usize,
    nodes: [usize; LEVELS],
    end: u64,
}

impl Seen {
    fn node<T: Span>(&mut self, node: NodeRef, is_root: bool) -> Result<(), &'static str> {
        self.nodes[node.level()] += 1;
        let len = node.len();
        if len > FANOUT || !is_root && len < FEWEST {
            return Err("a node is too full or too thin");
        }
        for at in 0..FANOUT {
            if at >= len {
                if !node.slot(at).is_null() || node.end(at) != u64::MAX {
                    return Err("an unused slot is not clear");
                }
            } else if node.level() == 0 {
                self.item::<T>(node, at)?;
            } else {
                let child = node.child(at).ok_or("a child is missing")?;
                self.node::<T>(child, false)?;
                if child.summary() != node.entry(at) {
                    return Err("a parent is out of date");
                }
            }
        }
        Ok(())
    }

    fn item<T: Span>(&mut self, leaf: NodeRef, at: usize) -> Result<(), &'static str> {
        // SAFETY: null or an item of the tree, which its writer lends.
        let item =
            unsafe { leaf.slot(at).cast::<Slot<T>>().as_ref() }.ok_or("an item is missing")?;
        self.items += 1;
        if item.start() < self.end || item.end() <= item.start() {
            return Err("items overlap, are empty or out of order");
        }
        if leaf.end(at) != item.end()
            || leaf.floor(at) != item.start().saturating_sub(item.gap_before())
        {
            return Err("a leaf is out of date");
        }
        self.end = item.end();
        Ok(())
    }
}

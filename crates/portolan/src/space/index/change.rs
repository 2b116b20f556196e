//! Changes of the index: a run of items makes way for others in one step. Every node but the root keeps between a third and all of
//! its entries: a full one splits, a thin one merges with a neighbour or takes from it.

use alloc::boxed::Box;
use core::ptr::{NonNull, null_mut};

use super::node::{Entry, FANOUT, FEWEST, LEVELS, Node, NodeRef, ROOMY};
use super::{Removed, Shape, Slot, Span, Tree, Writer};
use crate::phys::{FailPoint, OutOfMemory};

/// The way from the root to a place in a leaf.
struct Path {
    /// By level; null above the root.
    nodes: [*mut Node; LEVELS],
    /// The place in each.
    at: [u8; LEVELS],
    root: usize,
}

impl Path {
    #[inline(always)]
    fn node(&self, level: usize) -> NodeRef {
        let node = NonNull::new(self.nodes[level])
            .unwrap_or_else(|| unreachable!("levels up to the root are set"));
        // SAFETY: put there by `Change::path` from the tree; the writer unlinks a node only after it has used the path.
        unsafe { NodeRef::new(node, level) }
    }

    #[inline(always)]
    fn at(&self, level: usize) -> usize {
        usize::from(self.at[level])
    }
}

/// Where items are, or are not any more, between two others.
struct Hole {
    /// How many bytes are free between those.
    gap: u64,
    /// Where the upper one, or what it guards, begins.
    limit: u64,
    /// Whether one of them is in another leaf.
    edge: bool,
}

/// What a slot's item says of itself. The slot now belongs to the entry.
#[inline(always)]
fn entry_of<T: Span>(item: Box<Slot<T>>) -> Entry {
    let (end, floor) = (item.end(), floor_of(&item));
    Entry {
        end,
        floor,
        gap: 0,
        slot: Box::into_raw(item).cast(),
    }
}

#[inline(always)]
fn floor_of<T: Span>(item: &Slot<T>) -> u64 {
    item.start().saturating_sub(item.gap_before())
}

impl<T: Span> Writer<T> {
    /// Allocates what `inserts` insertions may need, so that [`Writer::replace`] can not fail for that many, however they are spread over calls.
    ///
    /// # Errors
    /// The heap is exhausted; the index is as before.
    pub fn reserve(&mut self, inserts: usize, fail: &FailPoint) -> Result<(), OutOfMemory> {
        let shape = &mut self.shape;
        if inserts <= shape.ready {
            return Ok(());
        }
        let (leaves, inners) = shape.splits(inserts);
        shape.leaves.trim(2 * leaves + 8);
        shape.inners.trim(2 * inners + 8);
        shape.leaves.fill(leaves, fail)?;
        shape.inners.fill(inners, fail)?;
        shape.ready = inserts;
        Ok(())
    }

    /// Takes every item inside `start..end` out and puts the new ones in, in one step for readers. When a single item makes way for one with
    /// the same bounds, readers are not disturbed at all.
    ///
    /// The caller sees to it that no item straddles `start` or `end`; that the new items ascend and do not overlap; and that they lie where
    /// the removed ones or free bytes next to them (or to `start`) were. The index stays memory safe, but loses its order, if they do not.
    /// Room for the new items must have been reserved; one that was not is allocated here, and if the heap is exhausted the program ends.
    pub fn replace(
        &mut self,
        start: u64,
        end: u64,
        new: impl IntoIterator<Item = Box<Slot<T>>>,
    ) -> Removed<T> {
        let mut removed = Removed::new(self.tree.domain);
        Change {
            tree: &self.tree,
            shape: &mut self.shape,
            removed: &mut removed,
        }
        .replace(start, end, new.into_iter());
        removed
    }
}

impl Shape {
    /// At most how many leaves and how many other nodes `inserts` insertions make.
    ///
    /// A node that exists now may be full, and splits at the first insertion. What comes out of a split is [`ROOMY`] and splits again only
    /// after a few more. A split is an insertion one level up.
    fn splits(&self, inserts: usize) -> (usize, usize) {
        let mut inserts = inserts;
        let mut made = [0; 2];
        for level in 0..LEVELS {
            if inserts == 0 {
                break;
            }
            if self.nodes[level] == 0 {
                made[1] += 1;
            }
            let splits = inserts.min(self.nodes[level]) + inserts / (FANOUT + 1 - ROOMY);
            made[usize::from(level > 0)] += splits;
            inserts = splits;
        }
        (made[0], made[1])
    }

    fn new_node(&mut self, level: usize) -> NodeRef {
        self.nodes[level] += 1;
        self.ready = 0;
        if level == 0 {
            self.leaves.take(0)
        } else {
            self.inners.take(level)
        }
    }
}

/// One call of [`Writer::replace`].
struct Change<'w, T> {
    tree: &'w Tree<T>,
    shape: &'w mut Shape,
    removed: &'w mut Removed<T>,
}

impl<T: Span> Change<'_, T> {
    fn replace(&mut self, start: u64, end: u64, mut new: impl Iterator<Item = Box<Slot<T>>>) {
        let mut first = new.next();
        let mut path = self.path(start);
        let (mut at, mut stop) = self.run(&path, end);
        if at == stop && first.is_none() {
            return;
        }
        let mut second = None;
        if stop == at + 1 && first.is_some() && !self.may_go_on(&path, stop, end) {
            second = new.next();
            if second.is_none() {
                first = self.swap(&path, first);
                if first.is_none() {
                    return;
                }
            }
        }
        let tree = self.tree;
        let section = tree.sequence.write();
        // Nothing is put in before all of the run is out.
        while stop > at && self.may_go_on(&path, stop, end) {
            self.take_out(&path, at, stop);
            path.node(0).remove(at, stop - at);
            self.settle(&path);
            path = self.path(start);
            (at, stop) = self.run(&path, end);
        }
        self.take_out(&path, at, stop);
        let items = core::iter::from_fn(|| {
            first
                .take()
                .or_else(|| second.take())
                .or_else(|| new.next())
        });
        self.put_in(&mut path, at, stop, items);
        drop(section);
    }

    /// Replaces a single item by one of the same bounds with one store; gives the new one back when the bounds differ.
    fn swap(&mut self, path: &Path, new: Option<Box<Slot<T>>>) -> Option<Box<Slot<T>>> {
        let item = new?;
        let (leaf, at) = (path.node(0), path.at(0));
        let Some(old) = NonNull::new(leaf.slot(at).cast::<Slot<T>>()) else {
            return Some(item);
        };
        // SAFETY: an item of the tree.
        let start = unsafe { old.as_ref() }.start();
        if item.start() != start || item.end() != leaf.end(at) || floor_of(&item) != leaf.floor(at)
        {
            return Some(item);
        }
        leaf.publish(at, Box::into_raw(item).cast());
        // SAFETY: unlinked just now; it came from a box, and the tree gives it up.
        unsafe { self.removed.items.append_box(old) };
        None
    }

    /// The way to the first item that ends after `addr`, or to behind the last item.
    fn path(&self, addr: u64) -> Path {
        let mut path = Path {
            nodes: [null_mut(); LEVELS],
            at: [0; LEVELS],
            root: 0,
        };
        let Some(mut node) = self.tree.root() else {
            unreachable!("there is always a root")
        };
        path.root = node.level();
        loop {
            let level = node.level();
            if level == 0 {
                node.prefetch();
            }
            let mut at = node.count(addr);
            path.nodes[level] = node.as_ptr();
            if level == 0 {
                path.at[0] = at.min(node.len()) as u8;
                return path;
            }
            if node.slot(at).is_null() {
                at = node.len() - 1;
            }
            path.at[level] = at as u8;
            node = node
                .child(at)
                .unwrap_or_else(|| unreachable!("entries below the length are children"));
        }
    }

    /// Which entries of the leaf from the place of the path on end at or before `end`.
    fn run(&self, path: &Path, end: u64) -> (usize, usize) {
        let (leaf, at) = (path.node(0), path.at(0));
        (at, leaf.count(end).min(leaf.len()).max(at))
    }

    /// Whether a run of items inside something that ends at `end`, which stops before `stop` in the leaf, may go on in the next leaf.
    fn may_go_on(&self, path: &Path, stop: usize, end: u64) -> bool {
        let leaf = path.node(0);
        stop == leaf.len() && stop < self.shape.len && leaf.end(stop - 1) < end
    }

    /// Hands the items of a leaf from `at` up to `stop` over to `removed`. Their slots are the caller's to clear or overwrite.
    fn take_out(&mut self, path: &Path, at: usize, stop: usize) {
        for i in at..stop {
            if let Some(item) = NonNull::new(path.node(0).slot(i).cast::<Slot<T>>()) {
                // SAFETY: it came from a box, and the tree gives it up in this write section.
                unsafe { self.removed.items.append_box(item) };
            }
        }
        self.shape.len -= stop - at;
    }

    /// Puts items at `at`, over the entries up to `stop`, which are taken out already; brings the tree in order.
    fn put_in(
        &mut self,
        path: &mut Path,
        mut at: usize,
        stop: usize,
        mut items: impl Iterator<Item = Box<Slot<T>>>,
    ) {
        let leaf = path.node(0);
        let hole = self.hole(path, at, stop);
        let over = at;
        while at < stop {
            let Some(item) = items.next() else {
                let hole = hole.filter(|hole| at == over && leaf.end(stop - 1) <= hole.limit);
                leaf.remove(at, stop - at);
                return match hole {
                    Some(hole) if leaf.len() >= FEWEST => self.grow(path, &hole),
                    _ => self.settle(path),
                };
            };
            leaf.put(at, entry_of(item));
            self.shape.len += 1;
            at += 1;
        }
        let mut hole = hole.filter(|_| over == stop);
        for item in items {
            let entry = entry_of(item);
            self.shape.len += 1;
            hole = hole.filter(|hole| entry.end <= hole.limit);
            let leaf = path.node(0);
            if leaf.len() < FANOUT {
                leaf.insert(at, entry);
                at += 1;
            } else {
                self.split(path, at, entry);
                hole = None;
                *path = self.path(entry.end);
                at = path.at(0);
            }
        }
        let divided = hole.as_ref().map_or(u64::MAX, |hole| hole.gap);
        if path.root > 0
            && (hole.is_none_or(|hole| hole.edge) || divided >= path.node(1).gap(path.at(1)))
        {
            self.refresh(path, 0, divided);
        }
    }

    /// The free bytes between the item before `at` and the one at `stop`, as they are when none is between them. `None` where that takes
    /// more than a look at the leaf and its parent.
    #[inline]
    fn hole(&self, path: &Path, at: usize, stop: usize) -> Option<Hole> {
        if path.root == 0 {
            return None;
        }
        let (leaf, parent, place) = (path.node(0), path.node(1), path.at(1));
        let len = leaf.len();
        let before = if at > 0 {
            leaf.end(at - 1)
        } else {
            parent.end(place.checked_sub(1)?)
        };
        let limit = if stop < len {
            leaf.floor(stop)
        } else if place + 1 < parent.len() {
            parent.floor(place + 1)
        } else {
            return None;
        };
        Some(Hole {
            gap: limit.saturating_sub(before),
            limit,
            edge: at == 0 || stop == len,
        })
    }

    /// After the items in a hole were taken out, none of which lay under the guard of the item above: what was free on their sides and
    /// between them is no larger than the hole, so no largest gap can have shrunk below that.
    fn grow(&self, path: &Path, hole: &Hole) {
        let mut level = 1;
        if hole.edge {
            path.node(1).put(path.at(1), path.node(0).summary());
            level = 2;
        }
        for level in level..=path.root {
            let (parent, at) = (path.node(level), path.at(level));
            if parent.gap(at) >= hole.gap {
                return;
            }
            parent.set_gap(at, hole.gap);
        }
    }

    /// Brings what the parents say of the node at `level` up to date. If all that happened is that a hole of `divided` bytes between two items was
    /// divided (`u64::MAX` if more), this ends where a larger gap is known: that one is still there.
    fn refresh(&self, path: &Path, level: usize, divided: u64) {
        for level in level..path.root {
            let (parent, at) = (path.node(level + 1), path.at(level + 1));
            let summary = path.node(level).summary();
            if parent.entry(at) == summary {
                return;
            }
            parent.put(at, summary);
            if level + 1 < path.root && divided < path.node(level + 2).gap(path.at(level + 2)) {
                return;
            }
        }
    }

    /// Inserts into a full leaf: the leaf splits, and every full node above.
    fn split(&mut self, path: &Path, at: usize, entry: Entry) {
        let (mut at, mut entry) = (at, entry);
        for level in 0..=path.root {
            let node = path.node(level);
            if node.len() < FANOUT {
                node.insert(at, entry);
                return self.refresh(path, level, u64::MAX);
            }
            let right = self.shape.new_node(level);
            // Ascending and descending insertion leave full nodes behind, not half empty ones.
            let keep = match at {
                0 => FEWEST,
                FANOUT => FANOUT + 1 - FEWEST,
                _ => FANOUT.div_ceil(2),
            };
            if at < keep {
                node.move_tail(keep - 1, right);
                node.insert(at, entry);
            } else {
                node.move_tail(keep, right);
                right.insert(at - keep, entry);
            }
            entry = right.summary();
            if level < path.root {
                at = path.at(level + 1) + 1;
                path.node(level + 1).put(at - 1, node.summary());
                continue;
            }
            let root = self.shape.new_node(level + 1);
            root.insert(0, node.summary());
            root.insert(1, entry);
            self.tree.set_root(root);
        }
    }

    /// After entries were taken out of the leaf: fills it up, or does away with it, and so on upwards.
    fn settle(&mut self, path: &Path) {
        for level in 0..path.root {
            let node = path.node(level);
            if node.len() >= FEWEST {
                return self.refresh(path, level, u64::MAX);
            }
            let (parent, at) = (path.node(level + 1), path.at(level + 1));
            if node.len() == 0 {
                parent.remove(at, 1);
                self.unlink(node);
                continue;
            }
            let left_at = at.saturating_sub(1);
            let (Some(left), Some(right)) = (parent.child(left_at), parent.child(left_at + 1))
            else {
                unreachable!("a node above the leaves has two children at least");
            };
            let total = left.len() + right.len();
            if total <= ROOMY {
                left.copy_head(right, right.len());
                parent.remove(left_at + 1, 1);
                self.unlink(right);
            } else {
                if left.len() < right.len() {
                    let moved = total / 2 - left.len();
                    left.copy_head(right, moved);
                    right.remove(0, moved);
                } else {
                    left.move_tail(total / 2, right);
                }
                parent.put(left_at + 1, right.summary());
            }
            parent.put(left_at, left.summary());
        }
        self.lower();
    }

    /// Does away with roots that have a single child.
    fn lower(&mut self) {
        while let Some(root) = self.tree.root() {
            if root.level() == 0 || root.len() != 1 {
                return;
            }
            let Some(child) = root.child(0) else { return };
            self.tree.set_root(child);
            self.unlink(root);
        }
    }

    fn unlink(&mut self, node: NodeRef) {
        self.shape.nodes[node.level()] -= 1;
        self.shape.ready = 0;
        // SAFETY: no node of the tree points to it any more.
        unsafe { node.give_up(&mut self.removed.nodes) };
    }
}

//! A map from page index to page: a radix tree that is as tall as the highest index needs, with a dirty tag. Changed under the
//! cache's lock. It allocates nothing itself: insertion is given the nodes it may need. Not for I/O or for what a page means.

use alloc::boxed::Box;

use crate::phys::{FailPoint, OutOfMemory, PageRef, heap};
use crate::platform::Platform;

const FAN_SHIFT: u32 = 6;
const FAN: usize = 1 << FAN_SHIFT;

/// 64-bit indices in digits of `FAN_SHIFT` bits.
const MAX_HEIGHT: u32 = u64::BITS.div_ceil(FAN_SHIFT);

/// What a search looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tag {
    /// Any page.
    Present,
    /// A page that is newer than what the backing has.
    Dirty,
}

struct LeafNode<P: Platform> {
    pages: [Option<PageRef<P>>; FAN],
    present: u64,
    dirty: u64,
}

struct InnerNode<P: Platform> {
    children: [Option<Node<P>>; FAN],
    /// Which children exist; none of them is empty.
    present: u64,
    /// Which children have a dirty page below.
    dirty: u64,
}

enum Node<P: Platform> {
    Inner(Box<InnerNode<P>>),
    Leaf(Box<LeafNode<P>>),
}

impl<P: Platform> Node<P> {
    fn bits(&self, tag: Tag) -> u64 {
        match (self, tag) {
            (Node::Inner(inner), Tag::Present) => inner.present,
            (Node::Inner(inner), Tag::Dirty) => inner.dirty,
            (Node::Leaf(leaf), Tag::Present) => leaf.present,
            (Node::Leaf(leaf), Tag::Dirty) => leaf.dirty,
        }
    }
}

/// How many nodes an insertion lacks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Need {
    inner: usize,
    leaf: bool,
}

/// Nodes allocated ahead of an insertion. An insertion grows the tree by fewer than `MAX_HEIGHT` nodes and then goes down as many.
pub(super) struct Spare<P: Platform> {
    inner: [Option<Box<InnerNode<P>>>; 2 * MAX_HEIGHT as usize],
    count: usize,
    leaf: Option<Box<LeafNode<P>>>,
}

impl<P: Platform> Spare<P> {
    /// Without any node.
    pub fn new() -> Self {
        Self {
            inner: [const { None }; 2 * MAX_HEIGHT as usize],
            count: 0,
            leaf: None,
        }
    }

    /// Whether it is enough.
    pub fn covers(&self, need: Need) -> bool {
        self.count >= need.inner && (self.leaf.is_some() || !need.leaf)
    }

    /// Allocates until it is enough. Keeps what it has when that fails.
    ///
    /// # Errors
    /// The heap is exhausted.
    pub fn fill(&mut self, fail: &FailPoint, need: Need) -> Result<(), OutOfMemory> {
        while self.count < need.inner.min(self.inner.len()) {
            let node = InnerNode {
                children: [const { None }; FAN],
                present: 0,
                dirty: 0,
            };
            self.inner[self.count] = Some(heap::try_box(fail, node)?);
            self.count += 1;
        }
        if need.leaf && self.leaf.is_none() {
            let node = LeafNode {
                pages: [const { None }; FAN],
                present: 0,
                dirty: 0,
            };
            self.leaf = Some(heap::try_box(fail, node)?);
        }
        Ok(())
    }

    fn take(&mut self, level: u32) -> Option<Node<P>> {
        if level == 0 {
            return self.leaf.take().map(Node::Leaf);
        }
        self.count = self.count.checked_sub(1)?;
        self.inner[self.count].take().map(Node::Inner)
    }
}

/// `struct xarray` of a page cache: the pages of one object by their index.
pub(super) struct Tree<P: Platform> {
    root: Option<Node<P>>,
    /// Levels; 0 when empty. A node at level `l` tells digit `l` of the index apart, leaves are at level 0.
    height: u32,
    len: u64,
    dirty: u64,
}

fn digit(index: u64, level: u32) -> usize {
    (index >> (level * FAN_SHIFT)) as usize & (FAN - 1)
}

/// How tall a tree with this index is at least.
fn height_for(index: u64) -> u32 {
    (u64::BITS - index.leading_zeros())
        .div_ceil(FAN_SHIFT)
        .max(1)
}

impl<P: Platform> Tree<P> {
    /// An empty tree.
    pub const fn new() -> Self {
        Self {
            root: None,
            height: 0,
            len: 0,
            dirty: 0,
        }
    }

    /// How many pages it holds. `nrpages`.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// How many of them are dirty.
    pub fn dirty_len(&self) -> u64 {
        self.dirty
    }

    fn leaf(&self, index: u64) -> Option<&LeafNode<P>> {
        let mut level = height_for(index);
        if level > self.height {
            return None;
        }
        level = self.height;
        let mut node = self.root.as_ref()?;
        loop {
            level -= 1;
            match node {
                Node::Leaf(leaf) => return Some(leaf),
                Node::Inner(inner) => node = inner.children[digit(index, level)].as_ref()?,
            }
        }
    }

    /// The page at `index`.
    pub fn get(&self, index: u64) -> Option<&PageRef<P>> {
        self.leaf(index)?.pages[digit(index, 0)].as_ref()
    }

    /// References to the pages from `first` on, into the slots of `to` one by one; slots without a page become `None`.
    pub fn get_run(&self, first: u64, to: &mut [Option<PageRef<P>>]) {
        let mut done = 0;
        while done < to.len() {
            let Some(index) = first.checked_add(done as u64) else {
                return to[done..].fill(None);
            };
            let start = digit(index, 0);
            let count = (FAN - start).min(to.len() - done);
            let part = &mut to[done..done + count];
            match self.leaf(index) {
                Some(leaf) => part.clone_from_slice(&leaf.pages[start..start + count]),
                None => part.fill(None),
            }
            done += count;
        }
    }

    /// Whether the page at `index` is there and dirty.
    pub fn is_dirty(&self, index: u64) -> bool {
        self.leaf(index)
            .is_some_and(|leaf| leaf.dirty >> digit(index, 0) & 1 == 1)
    }

    /// The lowest index from `from` on whose page has the tag.
    pub fn next(&self, tag: Tag, from: u64) -> Option<u64> {
        if height_for(from) > self.height {
            return None;
        }
        next_below(self.root.as_ref()?, self.height - 1, tag, from)
    }

    /// What an insertion at `index` lacks.
    pub fn missing(&self, index: u64) -> Need {
        let levels = height_for(index);
        if self.height == 0 {
            return Need {
                inner: levels as usize - 1,
                leaf: true,
            };
        }
        if levels > self.height {
            return Need {
                inner: (levels - self.height + levels - 2) as usize,
                leaf: true,
            };
        }
        let mut level = self.height - 1;
        let mut node = self.root.as_ref();
        while let Some(Node::Inner(inner)) = node {
            node = inner.children[digit(index, level)].as_ref();
            if node.is_none() {
                return Need {
                    inner: level as usize - 1,
                    leaf: true,
                };
            }
            level -= 1;
        }
        Need::default()
    }

    /// Puts a clean page at `index`, where none is. `spare` must cover what is missing; else nothing happens and it is given back.
    pub fn insert(
        &mut self,
        index: u64,
        page: PageRef<P>,
        spare: &mut Spare<P>,
    ) -> Result<(), PageRef<P>> {
        if !spare.covers(self.missing(index)) || self.get(index).is_some() {
            return Err(page);
        }
        self.grow(height_for(index), spare);
        let mut level = self.height;
        let mut node = self.root.as_mut();
        while let Some(now) = node {
            level -= 1;
            let slot = digit(index, level);
            match now {
                Node::Inner(inner) => {
                    inner.present |= 1 << slot;
                    let child = &mut inner.children[slot];
                    if child.is_none() {
                        *child = spare.take(level - 1);
                    }
                    node = child.as_mut();
                }
                Node::Leaf(leaf) => {
                    leaf.present |= 1 << slot;
                    leaf.pages[slot] = Some(page);
                    self.len += 1;
                    return Ok(());
                }
            }
        }
        unreachable!("the spare nodes cover what was missing")
    }

    /// Makes the tree at least `height` tall.
    fn grow(&mut self, height: u32, spare: &mut Spare<P>) {
        if self.root.is_none() {
            self.root = spare.take(height - 1);
            self.height = height;
        }
        while self.height < height {
            let Some(Node::Inner(mut top)) = spare.take(self.height) else {
                return;
            };
            if let Some(old) = self.root.take() {
                top.present = 1;
                top.dirty = u64::from(old.bits(Tag::Dirty) != 0);
                top.children[0] = Some(old);
            }
            self.root = Some(Node::Inner(top));
            self.height += 1;
        }
    }

    /// Takes the page at `index` out, and the nodes that this leaves empty.
    pub fn take(&mut self, index: u64) -> Option<PageRef<P>> {
        if height_for(index) > self.height {
            return None;
        }
        let was_dirty = self.is_dirty(index);
        let root = self.root.as_mut()?;
        let page = take_below(root, self.height - 1, index)?;
        if root.bits(Tag::Present) == 0 {
            self.root = None;
            self.height = 0;
        }
        self.len -= 1;
        self.dirty -= u64::from(was_dirty);
        Some(page)
    }

    /// Marks the page at `index` dirty; false if there is none.
    pub fn set_dirty(&mut self, index: u64) -> bool {
        match self.leaf(index) {
            Some(leaf) if leaf.dirty >> digit(index, 0) & 1 == 1 => return true,
            Some(leaf) if leaf.pages[digit(index, 0)].is_some() => {}
            _ => return false,
        }
        self.dirty += 1;
        let mut level = self.height;
        let mut node = self.root.as_mut();
        while let Some(now) = node {
            level -= 1;
            let slot = digit(index, level);
            node = match now {
                Node::Inner(inner) => {
                    inner.dirty |= 1 << slot;
                    inner.children[slot].as_mut()
                }
                Node::Leaf(leaf) => {
                    leaf.dirty |= 1 << slot;
                    None
                }
            };
        }
        true
    }

    /// Marks the page at `index` clean; true if it was dirty.
    pub fn clear_dirty(&mut self, index: u64) -> bool {
        if !self.is_dirty(index) {
            return false;
        }
        if let Some(root) = self.root.as_mut() {
            clean_below(root, self.height - 1, index);
        }
        self.dirty -= 1;
        true
    }
}

fn next_below<P: Platform>(node: &Node<P>, level: u32, tag: Tag, from: u64) -> Option<u64> {
    let first = digit(from, level);
    let mut bits = node.bits(tag) >> first << first;
    while bits != 0 {
        let slot = bits.trailing_zeros() as usize;
        bits &= bits - 1;
        let at = if slot == first {
            from
        } else {
            let low = level * FAN_SHIFT;
            let above = (from >> low >> FAN_SHIFT).checked_shl(low + FAN_SHIFT);
            above.unwrap_or(0) | (slot as u64) << low
        };
        let Node::Inner(inner) = node else {
            return Some(at);
        };
        let child = inner.children[slot].as_ref();
        if let Some(found) = child.and_then(|child| next_below(child, level - 1, tag, at)) {
            return Some(found);
        }
    }
    None
}

fn take_below<P: Platform>(node: &mut Node<P>, level: u32, index: u64) -> Option<PageRef<P>> {
    let slot = digit(index, level);
    let mask = !(1 << slot);
    match node {
        Node::Leaf(leaf) => {
            let page = leaf.pages[slot].take()?;
            leaf.present &= mask;
            leaf.dirty &= mask;
            Some(page)
        }
        Node::Inner(inner) => {
            let child = inner.children[slot].as_mut()?;
            let page = take_below(child, level - 1, index)?;
            if child.bits(Tag::Dirty) == 0 {
                inner.dirty &= mask;
            }
            if child.bits(Tag::Present) == 0 {
                inner.present &= mask;
                inner.children[slot] = None;
            }
            Some(page)
        }
    }
}

fn clean_below<P: Platform>(node: &mut Node<P>, level: u32, index: u64) {
    let slot = digit(index, level);
    let mask = !(1 << slot);
    match node {
        Node::Leaf(leaf) => leaf.dirty &= mask,
        Node::Inner(inner) => {
            let Some(child) = inner.children[slot].as_mut() else {
                return;
            };
            clean_below(child, level - 1, index);
            if child.bits(Tag::Dirty) == 0 {
                inner.dirty &= mask;
            }
        }
    }
}

//! Nodes of the index: what is stored where, and how entries move within and between nodes. Knows nothing of order or balance.
//! Words that a reader may look at while they change are atomics; that it saw a moment's truth is for the sequence to say.

use core::mem::offset_of;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, fence};

use alloc::boxed::Box;

use crate::epoch::{Chain, Header};
use crate::phys::{FailPoint, OutOfMemory, heap};

/// The words of each kind in a node: two cache lines.
const WORDS: usize = 16;
/// The most entries of a node. The last word of each kind is no entry: an end that is never reached, the number of entries.
pub(super) const FANOUT: usize = WORDS - 1;
/// The fewest entries of a node other than the root.
pub(super) const FEWEST: usize = 5;
/// The most entries of a node that comes out of a split, a merge or a balancing: it takes `FANOUT + 1 - ROOMY` insertions to split it again.
pub(super) const ROOMY: usize = 12;
/// More levels than memory can hold nodes for: `FEWEST` to the 20th items, each with a header of 16 bytes, exceed 2^50 bytes.
pub(super) const LEVELS: usize = 20;

/// A leaf. Slots are items; an unused slot is null, its end `u64::MAX`.
#[repr(C, align(64))]
pub(super) struct Node {
    /// Last byte + 1 of the item, or of the last item below the child. The last word stays `u64::MAX`.
    ends: [AtomicU64; WORDS],
    slots: [AtomicPtr<()>; FANOUT],
    len: AtomicUsize,
    /// Start of the item less its `gap_before`, or that of the first item below the child.
    floors: [AtomicU64; FANOUT],
    header: Header,
}

/// A node above the leaves: slots are nodes.
#[repr(C)]
struct Inner {
    node: Node,
    /// The largest gap between two items below the child.
    gaps: [AtomicU64; FANOUT],
}

impl Inner {
    fn new() -> Self {
        Self {
            node: Node::new(),
            gaps: [const { AtomicU64::new(0) }; FANOUT],
        }
    }
}

/// One entry of a node: an item (with no gap inside), or a child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub end: u64,
    pub floor: u64,
    pub gap: u64,
    pub slot: *mut (),
}

impl Node {
    fn new() -> Self {
        Self {
            ends: [const { AtomicU64::new(u64::MAX) }; WORDS],
            slots: [const { AtomicPtr::new(null_mut()) }; FANOUT],
            floors: [const { AtomicU64::new(0) }; FANOUT],
            len: AtomicUsize::new(0),
            header: Header::new(),
        }
    }

    /// How many entries end at or before `addr`: the first slot that ends after it. Unused slots count only for `u64::MAX`.
    ///
    /// Free of branches, in two steps so that few words are compared and few loads wait for another: which quarter, and where in it.
    #[inline(always)]
    fn count(&self, addr: u64) -> usize {
        const QUARTER: usize = WORDS / 4;
        let below = |at: usize| usize::from(self.ends[at % WORDS].load(Relaxed) <= addr);
        let quarter =
            QUARTER * (below(QUARTER - 1) + below(2 * QUARTER - 1) + below(3 * QUARTER - 1));
        quarter + below(quarter) + below(quarter + 1) + below(quarter + 2) + below(quarter + 3)
    }
}

/// A node that lives, and its level (0: a leaf).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NodeRef {
    node: NonNull<Node>,
    level: usize,
}

impl NodeRef {
    /// # Safety
    /// `node` came from [`NodeRef::alloc`] with the same kind of level (0, or not), and is not freed while the reference is used:
    /// the tree is borrowed by the writer, or a section of the tree's domain is held that was begun while it was linked.
    #[inline(always)]
    pub unsafe fn new(node: NonNull<Node>, level: usize) -> Self {
        Self { node, level }
    }

    /// An empty node for this level, owned by the caller.
    ///
    /// # Errors
    /// The heap is exhausted.
    pub fn alloc(fail: &FailPoint, level: usize) -> Result<Self, OutOfMemory> {
        let node = if level == 0 {
            NonNull::from(Box::leak(heap::try_box(fail, Node::new())?))
        } else {
            NonNull::from(Box::leak(heap::try_box(fail, Inner::new())?)).cast()
        };
        Ok(Self { node, level })
    }

    /// # Safety
    /// Nobody uses the node any more.
    pub unsafe fn free(self) {
        if self.level == 0 {
            // SAFETY: allocated as a box of this type, by the contract of `new`.
            drop(unsafe { Box::from_raw(self.node.as_ptr()) });
        } else {
            // SAFETY: as above.
            drop(unsafe { Box::from_raw(self.node.cast::<Inner>().as_ptr()) });
        }
    }

    /// Adds the node to what is to be retired.
    ///
    /// # Safety
    /// It is unlinked from the tree, is in no chain, and is given up by the caller.
    pub unsafe fn give_up(self, chain: &mut Chain) {
        // SAFETY: in bounds of a node that lives; no reference is made, so the pointer may later free all of it.
        let header = unsafe { NonNull::new_unchecked(&raw mut (*self.node.as_ptr()).header) };
        let free = if self.level == 0 {
            free_leaf
        } else {
            free_inner
        };
        // SAFETY: the caller's promise.
        unsafe { chain.append(header, free) };
    }

    #[inline(always)]
    pub fn as_ptr(self) -> *mut Node {
        self.node.as_ptr()
    }

    pub fn level(self) -> usize {
        self.level
    }

    #[inline(always)]
    fn words(&self) -> &Node {
        // SAFETY: it lives (see `new`), and all of its words are atomics.
        unsafe { self.node.as_ref() }
    }

    #[inline(always)]
    fn gaps(&self) -> Option<&[AtomicU64; FANOUT]> {
        if self.level == 0 {
            return None;
        }
        // SAFETY: above the leaves it is an `Inner`, whose first field is the node (`repr(C)`).
        Some(unsafe { &self.node.cast::<Inner>().as_ref().gaps })
    }

    /// The first slot that ends after `addr`; `FANOUT` when none does and the node is full.
    #[inline(always)]
    pub fn count(self, addr: u64) -> usize {
        self.words().count(addr)
    }

    /// Asks for the slots, so that they come while the ends are compared.
    #[inline(always)]
    pub fn prefetch(self) {
        #[cfg(target_arch = "x86_64")]
        for at in [0, 8] {
            let line = self.words().slots[at].as_ptr();
            // SAFETY: a prefetch reads nothing that could be seen.
            unsafe {
                core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(line.cast())
            };
        }
    }

    /// What a slot points to; null when it is unused or out of range. Acquire: what was written before it was linked can be read.
    #[inline(always)]
    pub fn slot(self, at: usize) -> *mut () {
        match self.words().slots.get(at) {
            Some(slot) => slot.load(Acquire),
            None => null_mut(),
        }
    }

    #[inline(always)]
    pub fn len(self) -> usize {
        self.words().len.load(Relaxed)
    }

    fn set_len(self, len: usize) {
        self.words().len.store(len, Relaxed);
    }

    /// The end of the entry at `at`, below `FANOUT`.
    #[inline(always)]
    pub fn end(self, at: usize) -> u64 {
        self.words().ends[at].load(Relaxed)
    }

    /// The floor of the entry at `at`, below `FANOUT`.
    #[inline(always)]
    pub fn floor(self, at: usize) -> u64 {
        self.words().floors[at].load(Relaxed)
    }

    /// The largest gap inside the entry at `at`, below `FANOUT`; 0 in a leaf.
    #[inline(always)]
    pub fn gap(self, at: usize) -> u64 {
        self.gaps().map_or(0, |gaps| gaps[at].load(Relaxed))
    }

    /// The child at `at` of a node above the leaves.
    #[inline(always)]
    pub fn child(self, at: usize) -> Option<NodeRef> {
        debug_assert!(self.level > 0);
        let node = NonNull::new(self.slot(at).cast::<Node>())?;
        // SAFETY: a slot of a node above the leaves is null or a node one level lower, which is retired no earlier than it is
        // unlinked here, so it lives as long as this one may be used.
        Some(unsafe { NodeRef::new(node, self.level - 1) })
    }

    pub fn entry(self, at: usize) -> Entry {
        Entry {
            end: self.end(at),
            floor: self.floor(at),
            gap: self.gap(at),
            slot: self.slot(at),
        }
    }

    /// Writes an entry. Relaxed, since it is done in a write section, whose fence comes after all that `entry.slot` points to was written,
    /// or in a node that is not linked yet; what a reader does before its validation needs no more than that of a node, and of an item nothing.
    #[inline(always)]
    pub fn put(self, at: usize, entry: Entry) {
        let words = self.words();
        words.ends[at].store(entry.end, Relaxed);
        words.floors[at].store(entry.floor, Relaxed);
        words.slots[at].store(entry.slot, Relaxed);
        if let Some(gaps) = self.gaps() {
            gaps[at].store(entry.gap, Relaxed);
        }
    }

    /// Changes what a slot points to and nothing else, outside of any write section.
    pub fn publish(self, at: usize, slot: *mut ()) {
        self.words().slots[at].store(slot, Release);
    }

    fn clear(self, at: usize) {
        self.put(
            at,
            Entry {
                end: u64::MAX,
                floor: 0,
                gap: 0,
                slot: null_mut(),
            },
        );
    }

    /// Copies the entry at `from` over the one at `to`.
    #[inline(always)]
    fn copy(self, to: usize, from: usize) {
        let words = self.words();
        words.ends[to].store(words.ends[from].load(Relaxed), Relaxed);
        words.slots[to].store(words.slots[from].load(Relaxed), Relaxed);
        words.floors[to].store(words.floors[from].load(Relaxed), Relaxed);
        if let Some(gaps) = self.gaps() {
            gaps[to].store(gaps[from].load(Relaxed), Relaxed);
        }
    }

    /// Makes room at `at` and puts the entry there. The node must not be full.
    #[inline(always)]
    pub fn insert(self, at: usize, entry: Entry) {
        let len = self.len().min(FANOUT - 1);
        debug_assert!(at <= len);
        // One loop for all words: what it costs is one mispredicted end, not the copies.
        for i in (at..len).rev() {
            self.copy(i + 1, i);
        }
        self.put(at, entry);
        self.set_len(len + 1);
    }

    /// Takes `count` entries from `at` on out.
    pub fn remove(self, at: usize, count: usize) {
        let len = self.len().min(FANOUT);
        debug_assert!(at + count <= len);
        for i in at + count..len {
            self.copy(i - count, i);
        }
        for i in len - count..len {
            self.clear(i);
        }
        self.set_len(len - count);
    }

    /// Moves the entries from `from` on to the front of `right`, which follows this node.
    pub fn move_tail(self, from: usize, right: NodeRef) {
        let (len, old) = (self.len(), right.len());
        let count = len - from;
        debug_assert!(count + old <= FANOUT);
        for i in (0..old).rev() {
            right.put(i + count, right.entry(i));
        }
        for i in 0..count {
            right.put(i, self.entry(from + i));
        }
        right.set_len(old + count);
        for i in from..len {
            self.clear(i);
        }
        self.set_len(from);
    }

    /// Copies the first `count` entries of `right`, which follows this node, to the end of this one. `right` stays as it is.
    pub fn copy_head(self, right: NodeRef, count: usize) {
        let len = self.len();
        debug_assert!(len + count <= FANOUT);
        for i in 0..count {
            self.put(len + i, right.entry(i));
        }
        self.set_len(len + count);
    }

    /// Notes a larger gap inside the child at `at`.
    pub fn set_gap(self, at: usize, gap: u64) {
        if let Some(gaps) = self.gaps() {
            gaps[at].store(gap, Relaxed);
        }
    }

    /// The entry that stands for this node in its parent. The node must not be empty.
    pub fn summary(self) -> Entry {
        let words = self.words();
        // Over all words, used or not, so that no branch depends on how many are: a cleared floor leaves no gap. Two at a time, so
        // that one maximum need not wait for the other.
        let room = |at: usize| {
            words.floors[at]
                .load(Relaxed)
                .saturating_sub(words.ends[at - 1].load(Relaxed))
        };
        let (mut gap, mut other) = (0, 0);
        for pair in 0..FANOUT / 2 {
            gap = room(2 * pair + 1).max(gap);
            other = room(2 * pair + 2).max(other);
        }
        if let Some(gaps) = self.gaps() {
            gap = gaps
                .iter()
                .fold(gap, |gap, inside| gap.max(inside.load(Relaxed)));
        }
        gap = gap.max(other);
        let last = self.len().clamp(1, FANOUT) - 1;
        Entry {
            end: self.end(last),
            floor: self.floor(0),
            gap,
            slot: self.node.as_ptr().cast(),
        }
    }
}

/// # Safety
/// The header is that of a leaf that nobody uses any more.
unsafe fn free_leaf(header: NonNull<Header>) {
    // SAFETY: the pointer was made from that of the whole node in `give_up`.
    let node = unsafe { header.byte_sub(offset_of!(Node, header)) }.cast::<Node>();
    // SAFETY: the caller's promise.
    unsafe { NodeRef { node, level: 0 }.free() };
}

/// # Safety
/// The header is that of a node above the leaves that nobody uses any more.
unsafe fn free_inner(header: NonNull<Header>) {
    // SAFETY: the pointer was made from that of the whole node in `give_up`, and the node is the first field of an `Inner`.
    let node = unsafe { header.byte_sub(offset_of!(Node, header)) }.cast::<Node>();
    // SAFETY: the caller's promise.
    unsafe { NodeRef { node, level: 1 }.free() };
}

/// Nodes that were allocated and never linked, of one kind.
pub(super) struct Spare {
    first: *mut Node,
    count: usize,
    level: usize,
}

impl Spare {
    /// No nodes, for leaves (level 0) or for all levels above.
    pub const fn new(level: usize) -> Self {
        Self {
            first: null_mut(),
            count: 0,
            level,
        }
    }

    /// Allocates until there are `count`.
    ///
    /// # Errors
    /// The heap is exhausted; what was allocated stays.
    pub fn fill(&mut self, count: usize, fail: &FailPoint) -> Result<(), OutOfMemory> {
        while self.count < count {
            let node = NodeRef::alloc(fail, self.level)?;
            node.words().slots[0].store(self.first.cast(), Relaxed);
            self.first = node.as_ptr();
            self.count += 1;
        }
        Ok(())
    }

    /// Frees all but `count`.
    pub fn trim(&mut self, count: usize) {
        while self.count > count {
            let Some(node) = self.pop() else { return };
            // SAFETY: never linked, so only this list knew it.
            unsafe { node.free() };
        }
    }

    fn pop(&mut self) -> Option<NodeRef> {
        let node = NodeRef {
            node: NonNull::new(self.first)?,
            level: self.level,
        };
        self.first = node.slot(0).cast();
        self.count -= 1;
        node.clear(0);
        Some(node)
    }

    /// An empty node for `level`. One that was not reserved is allocated here, and if the heap is exhausted the program ends.
    pub fn take(&mut self, level: usize) -> NodeRef {
        debug_assert!(self.count > 0, "an insertion was not reserved");
        if let Some(node) = self.pop() {
            return NodeRef {
                node: node.node,
                level,
            };
        }
        let node = if self.level == 0 {
            NonNull::from(Box::leak(Box::new(Node::new())))
        } else {
            NonNull::from(Box::leak(Box::new(Inner::new()))).cast()
        };
        // The fence of the write section covers only what was there before it.
        fence(Release);
        NodeRef { node, level }
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.trim(0);
    }
}

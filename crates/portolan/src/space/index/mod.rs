//! The index of an address space: which item covers an address, in order, and where there is room. A B+tree; the maple tree's part in Linux.
//! One [`Writer`] changes it and looks without ceremony; any number of [`Reader`]s look while it changes, under an epoch guard.
//! Not for: locks among writers (the mmap lock), or what an item means.
//!
//! # How a reader and the writer get along
//! A change of the structure is bracketed by a sequence count; what a reader found counts only if the sequence stood still meanwhile.
//! Until then it may see anything half done, but never follows a pointer to freed memory: a slot of a node holds null or a
//! node exactly one level lower at all times, and what leaves the tree is freed a grace period later.

mod change;
mod check;
mod gap;
mod iter;
mod node;
mod sequence;
#[cfg(all(test, not(loom)))]
mod tests;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

pub use self::iter::Iter;
use self::node::{LEVELS, Node, NodeRef, Spare};
use self::sequence::Sequence;
use crate::epoch::{Chain, Domain, DomainId, Guard, Header, Retire};
use crate::phys::{FailPoint, OutOfMemory, heap};

/// What the index holds: something that covers a range of addresses, and always the same range.
pub trait Span: Send + Sync + 'static {
    /// First byte.
    fn start(&self) -> u64;

    /// First byte after it, above [`Span::start`].
    fn end(&self) -> u64;

    /// How many bytes right below the start are not free either (a stack's guard gap). `vm_start_gap`.
    fn gap_before(&self) -> u64 {
        0
    }
}

/// An item with what it needs to be in the index and to leave it.
#[repr(C)]
pub struct Slot<T> {
    header: Header,
    value: T,
}

// SAFETY: `repr(C)` with the header first, and nothing here touches it.
unsafe impl<T: Send + Sync + 'static> Retire for Slot<T> {}

impl<T> Slot<T> {
    /// An item ready to be inserted.
    ///
    /// # Errors
    /// The heap is exhausted, or the fail point fired; `value` is dropped.
    #[inline(always)]
    pub fn try_new(fail: &FailPoint, value: T) -> Result<Box<Self>, OutOfMemory> {
        heap::try_box(
            fail,
            Self {
                header: Header::new(),
                value,
            },
        )
    }
}

impl<T> Deref for Slot<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// A reader met writers at every try; the answer is to be had under the lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Contended;

impl fmt::Display for Contended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the index kept changing")
    }
}

impl core::error::Error for Contended {}

/// How often a reader tries before it gives up.
const TRIES: u32 = 64;

/// What writer and readers share.
struct Tree<T> {
    sequence: Sequence,
    /// The root node; the low bits, free by its alignment, are its level.
    root: AtomicPtr<Node>,
    domain: DomainId,
    items: PhantomData<Box<Slot<T>>>,
}

const LEVEL_MASK: usize = align_of::<Node>() - 1;
const _: () = assert!(LEVELS <= LEVEL_MASK);

impl<T> Tree<T> {
    #[inline(always)]
    fn root(&self) -> Option<NodeRef> {
        let tagged = self.root.load(Ordering::Acquire);
        let level = tagged.addr() & LEVEL_MASK;
        let node = NonNull::new(tagged.map_addr(|addr| addr & !LEVEL_MASK))?;
        // SAFETY: the root lives while the tree is borrowed by its writer, and for a reader that was pinned when it was the root.
        Some(unsafe { NodeRef::new(node, level) })
    }

    fn set_root(&self, root: NodeRef) {
        self.root.store(
            root.as_ptr().map_addr(|addr| addr | root.level()),
            Ordering::Release,
        );
    }

    /// The leaf and the place in it of the first item that ends after `addr`, which is below `u64::MAX`; `None` when there is none,
    /// or in the eyes of a reader that will not be validated.
    #[inline(always)]
    fn descend(&self, addr: u64) -> Option<(NodeRef, usize)> {
        let mut node = self.root()?;
        while node.level() > 0 {
            node = node.child(node.count(addr))?;
        }
        node.prefetch();
        Some((node, node.count(addr)))
    }

    #[inline(always)]
    fn find(&self, addr: u64) -> *mut Slot<T> {
        if addr == u64::MAX {
            return core::ptr::null_mut();
        }
        match self.descend(addr) {
            Some((leaf, at)) => leaf.slot(at).cast(),
            None => core::ptr::null_mut(),
        }
    }
}

impl<T> Drop for Tree<T> {
    fn drop(&mut self) {
        if let Some(root) = self.root() {
            free_subtree::<T>(root);
        }
    }
}

/// Frees a node, all below it, and the items. Only for the drop of the tree, when nobody else uses it.
fn free_subtree<T>(node: NodeRef) {
    for at in 0..node.len() {
        if node.level() > 0 {
            if let Some(child) = node.child(at) {
                free_subtree::<T>(child);
            }
        } else if let Some(item) = NonNull::new(node.slot(at).cast::<Slot<T>>()) {
            // SAFETY: the tree owns its items, which came from boxes, and nobody can look any more.
            drop(unsafe { Box::from_raw(item.as_ptr()) });
        }
    }
    // SAFETY: as above.
    unsafe { node.free() };
}

/// Makes indexes.
#[derive(Debug)]
pub struct Index;

impl Index {
    /// An empty index, whose removed items go through `domain` and through no other.
    ///
    /// # Errors
    /// The heap is exhausted.
    #[allow(clippy::new_ret_no_self)]
    pub fn new<T: Span>(
        fail: &FailPoint,
        domain: &Domain,
    ) -> Result<(Writer<T>, Reader<T>), OutOfMemory> {
        let empty = Tree {
            sequence: Sequence::new(),
            root: AtomicPtr::new(core::ptr::null_mut()),
            domain: domain.id(),
            items: PhantomData,
        };
        let tree = heap::try_arc(fail, empty)?;
        tree.set_root(NodeRef::alloc(fail, 0)?);
        let mut nodes = [0; LEVELS];
        nodes[0] = 1;
        let shape = Shape {
            len: 0,
            nodes,
            leaves: Spare::new(0),
            inners: Spare::new(1),
            ready: 0,
        };
        let writer = Writer {
            tree: tree.clone(),
            shape,
        };
        Ok((writer, Reader { tree }))
    }
}

/// Looks things up while the index changes.
pub struct Reader<T> {
    tree: Arc<Tree<T>>,
}

// SAFETY: the tree's words are atomics; it gives out `&T` and may drop a `T` with the last handle.
unsafe impl<T: Send + Sync> Send for Reader<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Reader<T> {}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self {
            tree: self.tree.clone(),
        }
    }
}

impl<T: Span> Reader<T> {
    /// The first item that ends after `addr`; it may start after it too. `lock_vma_under_rcu`, up to the VMA's own lock.
    ///
    /// The item was in the index at some moment during the call. It lives while the guard does, but may have left the index already.
    ///
    /// # Errors
    /// [`Contended`]: a writer was at work at every try, or the guard is of another domain than the index.
    #[inline]
    pub fn find<'g>(&'g self, addr: u64, guard: &'g Guard<'_>) -> Result<Option<&'g T>, Contended> {
        let tree = &*self.tree;
        if guard.domain() != tree.domain {
            return Err(Contended);
        }
        for _ in 0..TRIES {
            if let Some(seen) = tree.sequence.read() {
                let item = tree.find(addr);
                if tree.sequence.validate(seen) {
                    // SAFETY: null, or an item that was linked while pinned: what was read is of one moment. It is freed no earlier
                    // than the guard goes, or, if it stays in the tree, than the last handle, one of which is borrowed.
                    return Ok(unsafe { item.as_ref() }.map(Deref::deref));
                }
            }
            core::hint::spin_loop();
        }
        Err(Contended)
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

/// Changes the index, and looks things up while it does not change.
pub struct Writer<T> {
    tree: Arc<Tree<T>>,
    shape: Shape,
}

/// What only the writer knows of the tree.
struct Shape {
    /// How many items there are.
    len: usize,
    /// How many nodes each level has.
    nodes: [usize; LEVELS],
    leaves: Spare,
    inners: Spare,
    /// For how many insertions the spare nodes are known to do. What they need depends on `nodes` alone, so it stays so until a node comes or goes.
    ready: usize,
}

// SAFETY: only `&mut` changes the tree; it owns its spare nodes; items are `Send` and `Sync`.
unsafe impl<T: Send + Sync> Send for Writer<T> {}
// SAFETY: `&Writer` only reads.
unsafe impl<T: Send + Sync> Sync for Writer<T> {}

impl<T: Span> Writer<T> {
    /// How many items there are.
    pub fn len(&self) -> usize {
        self.shape.len
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.shape.len == 0
    }

    /// The first item that ends after `addr`. `find_vma`.
    #[inline]
    pub fn find(&self, addr: u64) -> Option<&T> {
        // SAFETY: null or an item of the tree, which only `&mut self` can take out.
        unsafe { self.tree.find(addr).as_ref() }.map(Deref::deref)
    }

    /// The item that covers `addr`. `vma_lookup`.
    #[inline]
    pub fn get(&self, addr: u64) -> Option<&T> {
        if addr == u64::MAX {
            return None;
        }
        let (leaf, at) = self.tree.descend(addr)?;
        // In a hole the leaf already says no, and the item stays out of the cache.
        if at >= leaf.len() || leaf.floor(at) > addr {
            return None;
        }
        self.item(leaf, at).filter(|item| item.start() <= addr)
    }

    /// The last item that starts below `addr`: the one before `addr`, or the one that covers both `addr` and the byte below.
    pub fn find_prev(&self, addr: u64) -> Option<&T> {
        self.get(addr)
            .filter(|item| item.start() < addr)
            .or_else(|| self.before(addr))
    }

    /// The last item that ends at or before `addr`: the one before [`Writer::find`]'s. `find_vma_prev`'s `pprev`.
    pub fn before(&self, addr: u64) -> Option<&T> {
        let mut node = self.tree.root()?;
        let mut turn = None;
        while node.level() > 0 {
            let at = node.count(addr).min(node.len());
            if at > 0 {
                turn = node.child(at - 1);
            }
            match node.child(at) {
                Some(child) if at < node.len() => node = child,
                _ => return self.rightmost(turn?),
            }
        }
        match node.count(addr).min(node.len()) {
            0 => self.rightmost(turn?),
            at => self.item(node, at - 1),
        }
    }

    /// The lowest item.
    pub fn first(&self) -> Option<&T> {
        self.find(0)
    }

    /// The highest item.
    pub fn last(&self) -> Option<&T> {
        self.rightmost(self.tree.root()?)
    }

    /// Where the highest item ends; 0 when there is none.
    pub fn last_end(&self) -> u64 {
        match self.tree.root() {
            Some(root) if root.len() > 0 => root.end(root.len() - 1),
            _ => 0,
        }
    }

    /// All items, ascending.
    pub fn iter(&self) -> Iter<'_, T> {
        self.iter_range(0, u64::MAX)
    }

    /// The items that end after `addr`, ascending.
    pub fn iter_from(&self, addr: u64) -> Iter<'_, T> {
        self.iter_range(addr, u64::MAX)
    }

    /// The items that share a byte with `start..end`, ascending. `for_each_vma_range`.
    pub fn iter_range(&self, start: u64, end: u64) -> Iter<'_, T> {
        Iter::new(&self.tree, start, end)
    }

    /// As [`Writer::iter_range`].
    pub fn overlapping(&self, range: core::ops::Range<u64>) -> Iter<'_, T> {
        self.iter_range(range.start, range.end)
    }

    fn rightmost(&self, mut node: NodeRef) -> Option<&T> {
        loop {
            let at = node.len().checked_sub(1)?;
            if node.level() == 0 {
                return self.item(node, at);
            }
            node = node.child(at)?;
        }
    }

    fn item(&self, leaf: NodeRef, at: usize) -> Option<&T> {
        // SAFETY: null or an item of the tree, which only `&mut self` can take out.
        unsafe { leaf.slot(at).cast::<Slot<T>>().as_ref() }.map(Deref::deref)
    }
}

impl<T> fmt::Debug for Writer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("len", &self.shape.len)
            .finish_non_exhaustive()
    }
}

/// Items that have left the index. They must be retired; dropping this leaks them.
#[must_use = "what left the index is freed by `retire` only"]
pub struct Removed<T> {
    items: Chain,
    nodes: Chain,
    domain: DomainId,
    owns: PhantomData<Box<Slot<T>>>,
}

impl<T: Span> Removed<T> {
    fn new(domain: DomainId) -> Self {
        Self {
            items: Chain::EMPTY,
            nodes: Chain::EMPTY,
            domain,
            owns: PhantomData,
        }
    }

    /// The items, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &T> + '_ {
        // SAFETY: each is the header, and so the start, of a slot that lives until it is retired, which consumes `self`.
        self.items
            .iter()
            .map(|header| unsafe { &header.cast::<Slot<T>>().as_ref().value })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing was removed.
    pub fn is_empty(&self) -> bool {
        self.items.len() == 0
    }

    /// Frees them when no reader looks any more. `domain` must be the one the index was made with, else they are leaked.
    ///
    /// As with [`Domain::retire`], things that are due may be freed in this call.
    pub fn retire(mut self, domain: &Domain) {
        let mut chain = core::mem::replace(&mut self.items, Chain::EMPTY);
        if self.nodes.len() != 0 {
            chain.join(core::mem::replace(&mut self.nodes, Chain::EMPTY));
        }
        debug_assert!(
            domain.id() == self.domain,
            "retired through a foreign domain"
        );
        if domain.id() == self.domain {
            domain.retire_chain(chain);
        }
    }
}

impl<T> Drop for Removed<T> {
    fn drop(&mut self) {
        debug_assert!(
            self.items.len() == 0 && self.nodes.len() == 0,
            "removed items were not retired"
        );
    }
}

impl<T> fmt::Debug for Removed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Removed")
            .field("len", &self.items.len())
            .finish_non_exhaustive()
    }
}

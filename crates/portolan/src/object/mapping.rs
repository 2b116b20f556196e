//! Who maps a file: `i_mmap`. Each mapping registers the pages of the file it shows, so that truncation, hole punching and write-back find
//! the entries they must take away or protect. Not for the entries themselves: a [`Mapper`] has those.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use crate::addr::{VirtAddr, VirtRange};
use crate::phys::{FailPoint, OutOfMemory};

/// Why entries are taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZapReason {
    /// The file became shorter: private copies go too, an access gets SIGBUS.
    Truncate,
    /// A hole was punched: private copies stay.
    Hole,
    /// The file changed outside: private copies stay.
    Invalidate,
    /// Memory is short, and the file has the page: private copies stay.
    Reclaim,
}

impl ZapReason {
    /// Whether the private copies that a mapping made of these pages go too. `even_cows` of `unmap_mapping_range`.
    pub const fn takes_private_copies(self) -> bool {
        matches!(self, ZapReason::Truncate)
    }
}

/// An address space, as the files that it maps see it.
///
/// Both calls come with the mappings of the file locked and no spin lock held; they may sleep, and must not call back into
/// [`super::Cache`] but for its lookups. On return no CPU uses an old translation.
pub trait Mapper: Send + Sync {
    /// Takes the entries in `at` away; without [`ZapReason::takes_private_copies`], only those of the file's own pages.
    /// `unmap_mapping_range_vma`.
    fn zap(&self, at: VirtRange, reason: ZapReason);

    /// Makes the entries in `at` read-only, so that the next store faults and marks its page dirty again. `page_mkclean_one`.
    fn write_protect(&self, at: VirtRange);
}

/// What stores through a mapping do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingKind {
    /// They make private copies.
    Private,
    /// There are none, now or after mprotect: shared, of a file that is not open for writing.
    Shared,
    /// They change the file. `VM_SHARED | VM_MAYWRITE`.
    SharedWritable,
}

/// Whether pages of a mapping may leave memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residency {
    /// They come back by a fault.
    Evictable,
    /// They stay. VM_LOCKED.
    Locked,
}

/// Where a space shows a run of a file's pages.
#[derive(Clone)]
pub struct Mapping {
    /// The space.
    pub space: Arc<dyn Mapper>,
    /// Where the first of the pages is.
    pub start: VirtAddr,
    /// Index of the first page in the file. `vm_pgoff`.
    pub first_page: u64,
    /// How many pages.
    pub pages: u64,
    /// What stores do.
    pub kind: MappingKind,
    /// Whether its pages may go when memory is short.
    pub residency: Residency,
}

impl Mapping {
    fn end(&self) -> u64 {
        self.first_page.saturating_add(self.pages)
    }

    /// The addresses that show the pages of `range`; `None` when it shows none of them.
    pub(super) fn addresses(&self, range: &Range<u64>, page_shift: u32) -> Option<VirtRange> {
        let first = range.start.max(self.first_page);
        let end = range.end.min(self.end());
        if first >= end {
            return None;
        }
        let bytes = |pages: u64| pages.checked_mul(1 << page_shift);
        let start = self.start.checked_add(bytes(first - self.first_page)?)?;
        VirtRange::with_len(start, bytes(end - first)?)
    }
}

/// Names one mapping of a [`super::Cache`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MappingId(u32);

const NIL: u32 = u32::MAX;

struct Slot {
    /// `None` while reserved or free.
    mapping: Option<Mapping>,
    /// Below in the tree; the next free slot while free.
    left: u32,
    right: u32,
    /// The highest end of any mapping from here down.
    max_end: u64,
}

/// The mappings of one object: a treap ordered by first page, in which each node knows how far its subtree reaches.
pub(super) struct MappingSet {
    slots: Vec<Slot>,
    free: u32,
    root: u32,
    /// Slots that are reserved or filled.
    used: usize,
    /// Makes the shape of the treap a secret, so that no caller can make it deep.
    seed: u64,
}

impl MappingSet {
    /// None yet. `seed` must not be known to those who choose what is mapped.
    pub const fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: NIL,
            root: NIL,
            used: 0,
            seed,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.root == NIL
    }

    /// Room for one more.
    ///
    /// # Errors
    /// The heap is exhausted, or there are 2^32 of them.
    pub fn reserve(&mut self, fail: &FailPoint) -> Result<MappingId, OutOfMemory> {
        if self.free == NIL {
            self.add_slot(fail)?;
        }
        let id = self.free;
        self.free = self.slots[id as usize].left;
        self.slots[id as usize].left = NIL;
        self.used += 1;
        Ok(MappingId(id))
    }

    fn add_slot(&mut self, fail: &FailPoint) -> Result<(), OutOfMemory> {
        if self.slots.len() >= NIL as usize {
            return Err(OutOfMemory);
        }
        if self.slots.len() == self.slots.capacity() {
            fail.check()?;
            self.slots.try_reserve(1).map_err(|_| OutOfMemory)?;
        }
        let id = self.slots.len() as u32;
        self.slots.push(Slot {
            mapping: None,
            left: self.free,
            right: NIL,
            max_end: 0,
        });
        self.free = id;
        Ok(())
    }

    /// Fills a reserved slot.
    pub fn fill(&mut self, id: MappingId, mapping: Mapping) {
        let slot = &mut self.slots[id.0 as usize];
        debug_assert!(slot.mapping.is_none(), "a mapping was registered twice");
        (slot.left, slot.right) = (NIL, NIL);
        slot.max_end = mapping.end();
        slot.mapping = Some(mapping);
        self.root = self.insert(self.root, id.0);
    }

    /// Takes a reserved or filled slot back, and gives what was in it to the caller, to drop outside the lock.
    pub fn remove(&mut self, id: MappingId) -> Option<Mapping> {
        if self.slots[id.0 as usize].mapping.is_some() {
            self.root = self.unlink(self.root, id.0);
        }
        let slot = &mut self.slots[id.0 as usize];
        let mapping = slot.mapping.take();
        slot.left = self.free;
        self.free = id.0;
        self.used -= 1;
        if self.used == 0 {
            self.slots = Vec::new();
            self.free = NIL;
        }
        mapping
    }

    /// Shows `visit` every mapping of a page in `range`, by first page.
    pub fn overlapping(&self, range: &Range<u64>, visit: &mut impl FnMut(&Mapping)) {
        self.visit(self.root, range, visit);
    }

    fn visit(&self, at: u32, range: &Range<u64>, visit: &mut impl FnMut(&Mapping)) {
        if at == NIL || self.slots[at as usize].max_end <= range.start {
            return;
        }
        let slot = &self.slots[at as usize];
        self.visit(slot.left, range, visit);
        let Some(mapping) = &slot.mapping else { return };
        if mapping.first_page >= range.end {
            return;
        }
        if mapping.end() > range.start {
            visit(mapping);
        }
        self.visit(slot.right, range, visit);
    }

    /// The order of the treap: first page, then slot, so that no two are equal.
    fn key(&self, at: u32) -> (u64, u32) {
        let mapping = self.slots[at as usize].mapping.as_ref();
        (mapping.map_or(0, |mapping| mapping.first_page), at)
    }

    /// A pseudo-random number for each slot: a parent's is at least its children's.
    fn priority(&self, at: u32) -> u64 {
        let mut x = self.seed ^ u64::from(at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    fn update(&mut self, at: u32) {
        let slot = &self.slots[at as usize];
        let reach = |child: u32| match child {
            NIL => 0,
            child => self.slots[child as usize].max_end,
        };
        let own = slot.mapping.as_ref().map_or(0, Mapping::end);
        let max_end = own.max(reach(slot.left)).max(reach(slot.right));
        self.slots[at as usize].max_end = max_end;
    }

    /// Puts `new` into the subtree at `at`; returns the root of what that makes.
    fn insert(&mut self, at: u32, new: u32) -> u32 {
        if at == NIL {
            return new;
        }
        if self.priority(new) > self.priority(at) {
            let (low, high) = self.split(at, self.key(new));
            (
                self.slots[new as usize].left,
                self.slots[new as usize].right,
            ) = (low, high);
            self.update(new);
            return new;
        }
        if self.key(new) < self.key(at) {
            let left = self.insert(self.slots[at as usize].left, new);
            self.slots[at as usize].left = left;
        } else {
            let right = self.insert(self.slots[at as usize].right, new);
            self.slots[at as usize].right = right;
        }
        self.update(at);
        at
    }

    /// Takes `old` out of the subtree at `at`; returns the root of the rest.
    fn unlink(&mut self, at: u32, old: u32) -> u32 {
        if at == NIL {
            return NIL;
        }
        let (left, right) = (self.slots[at as usize].left, self.slots[at as usize].right);
        if at == old {
            return self.merge(left, right);
        }
        if self.key(old) < self.key(at) {
            self.slots[at as usize].left = self.unlink(left, old);
        } else {
            self.slots[at as usize].right = self.unlink(right, old);
        }
        self.update(at);
        at
    }

    /// Parts a subtree into what is below `key` and the rest.
    fn split(&mut self, at: u32, key: (u64, u32)) -> (u32, u32) {
        if at == NIL {
            return (NIL, NIL);
        }
        let parts = if self.key(at) < key {
            let (low, high) = self.split(self.slots[at as usize].right, key);
            self.slots[at as usize].right = low;
            (at, high)
        } else {
            let (low, high) = self.split(self.slots[at as usize].left, key);
            self.slots[at as usize].left = high;
            (low, at)
        };
        self.update(at);
        parts
    }

    /// Joins two subtrees, all of the first below all of the second.
    fn merge(&mut self, low: u32, high: u32) -> u32 {
        if low == NIL || high == NIL {
            return if low == NIL { high } else { low };
        }
        let top = if self.priority(low) > self.priority(high) {
            let right = self.merge(self.slots[low as usize].right, high);
            self.slots[low as usize].right = right;
            low
        } else {
            let left = self.merge(low, self.slots[high as usize].left);
            self.slots[high as usize].left = left;
            high
        };
        self.update(top);
        top
    }
}

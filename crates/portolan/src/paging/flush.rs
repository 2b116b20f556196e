//! The flush batch: what was unmapped waits here until no TLB can reach it, and only then goes back. Nothing else can release a
//! frame that was in an entry, or a page-table page. `struct mmu_gather`. Not for what may be unmapped (`space`).

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::cpus::ActiveCpus;
use super::cursor::Cursor;
use super::retired::Retired;
use super::table::{LockedTable, PageTable, TableRef};
use super::{Entry, Format, Leaf, LeafFlags};
use crate::addr::{Pfn, VirtAddr, VirtRange};
use crate::epoch::Domain;
use crate::phys::{FailPoint, Phys};
use crate::platform::{Asid, FlushRequest, FlushScope, Platform, Tables};

/// Frames that a batch holds without an allocation.
const INLINE: usize = 16;
/// Frames that a batch holds before it flushes early, so that a large unmapping does not keep all its memory back until its end.
const MOST: usize = 16 * 1024;

/// Gathers what a change of page tables took away, flushes the TLBs once, and gives it back. Dropping it finishes it.
///
/// A batch must not be dropped, nor [`FlushBatch::clear_range`] and [`FlushBatch::free_tables`] be called, with a page-table page locked. Page-table
/// pages must not be freed while the thread is pinned to the epoch domain.
pub struct FlushBatch<'a, P: Platform> {
    phys: &'a Phys<P>,
    domain: &'a Domain,
    asid: Asid,
    cpus: &'a ActiveCpus,
    /// The hull of what must be flushed; empty when `start` is not below `end`.
    start: u64,
    end: u64,
    tables: Tables,
    frames: Frames,
    retired: Retired<P>,
}

impl<'a, P: Platform> FlushBatch<'a, P> {
    /// An empty batch for the space `asid`, of which `cpus` may hold translations. `tlb_gather_mmu`.
    pub(crate) fn new(
        phys: &'a Phys<P>,
        domain: &'a Domain,
        asid: Asid,
        cpus: &'a ActiveCpus,
    ) -> Self {
        Self {
            phys,
            domain,
            asid,
            cpus,
            start: u64::MAX,
            end: 0,
            tables: Tables::Kept,
            frames: Frames::new(),
            retired: Retired::new(),
        }
    }

    /// Empties every entry in `range` and takes over the references of the present ones; `visit` is told each of those, under the lock of its
    /// page-table page. Flushes early when the batch is full. `zap_page_range_single`, `unmap_page_range`.
    pub fn clear_range(
        &mut self,
        table: &PageTable<P>,
        range: VirtRange,
        visit: impl FnMut(VirtAddr, &Leaf),
    ) {
        self.clear(table, range, |_| true, visit);
    }

    /// As [`FlushBatch::clear_range`], but empties only the present entries that `wanted` accepts; markers and swap entries stay.
    pub fn clear_range_where(
        &mut self,
        table: &PageTable<P>,
        range: VirtRange,
        wanted: impl Fn(&Leaf) -> bool,
        visit: impl FnMut(VirtAddr, &Leaf),
    ) {
        let wanted = |raw| P::Format::leaf_at(0, raw).is_some_and(|leaf| wanted(&leaf));
        self.clear(table, range, wanted, visit);
    }

    /// Empties the entries whose bits `wanted` accepts.
    #[inline]
    fn clear(
        &mut self,
        table: &PageTable<P>,
        range: VirtRange,
        wanted: impl Fn(u64) -> bool,
        mut visit: impl FnMut(VirtAddr, &Leaf),
    ) {
        let granule = P::Format::GRANULE;
        for (part, leaf_table) in Cursor::new(table, self.phys, range) {
            let mut rest = part;
            while !rest.is_empty() {
                let pages = rest.pages(granule) as usize;
                let room = self.frames.room_for(pages, self.phys.inject());
                if room == 0 {
                    self.flush();
                    continue;
                }
                let (now, later) = split(rest, (room.min(pages) as u64) << granule.shift());
                self.clear_part(&mut leaf_table.lock(), now, &wanted, &mut visit);
                rest = later;
            }
        }
    }

    /// Empties the entries of `part`, which lies in one table; there is room for them.
    #[inline]
    fn clear_part(
        &mut self,
        locked: &mut LockedTable<'_, P>,
        part: VirtRange,
        wanted: &impl Fn(u64) -> bool,
        visit: &mut impl FnMut(VirtAddr, &Leaf),
    ) {
        let shift = P::Format::GRANULE.shift();
        let first = P::Format::index(0, part.start().get());
        let count = part.pages(P::Format::GRANULE) as usize;
        let (mut lowest, mut highest) = (usize::MAX, 0);
        for index in first..first + count {
            let raw = locked.table().cell(index).load(Ordering::Relaxed) & !P::Format::LOCK_BIT;
            if raw == 0 || !wanted(raw) {
                continue;
            }
            let raw = locked.take(index);
            let Some(leaf) = P::Format::leaf_at(0, raw) else {
                continue;
            };
            if leaf.flags.contains(LeafFlags::READ) {
                lowest = lowest.min(index);
                highest = index;
            }
            visit(
                VirtAddr::new(part.start().get() + (((index - first) as u64) << shift)),
                &leaf,
            );
            if !leaf.flags.contains(LeafFlags::SPECIAL) {
                self.frames.push(leaf.frame);
            }
        }
        if lowest <= highest {
            let at = |index: usize| part.start().get() + (((index - first) as u64) << shift);
            self.extend(at(lowest), at(highest + 1));
        }
    }

    /// Shows every present entry in `range` to `change`, which may give it other flags or another cache mode, but not another frame; what
    /// then allows less than before, or is clean and was not, will be flushed. `change_protection`.
    ///
    /// `change` may be asked twice about one entry, when a hardware walker wrote to it in between.
    pub fn change_range(
        &mut self,
        table: &PageTable<P>,
        range: VirtRange,
        mut change: impl FnMut(VirtAddr, Leaf) -> Option<Entry>,
    ) {
        let granule = P::Format::GRANULE;
        for (part, leaf_table) in Cursor::new(table, self.phys, range) {
            let mut locked = leaf_table.lock();
            let first = P::Format::index(0, part.start().get());
            for index in first..first + part.pages(granule) as usize {
                if is_empty::<P>(leaf_table, index) {
                    continue;
                }
                let at = VirtAddr::new(
                    part.start().get() + (((index - first) as u64) << granule.shift()),
                );
                let changed = locked.update(index, |old| match change(at, old)? {
                    Entry::Present(new) if new.frame == old.frame => (new != old).then_some(new),
                    _ => {
                        debug_assert!(false, "a change of protection must keep the frame");
                        None
                    }
                });
                if changed.is_some_and(|(old, new)| tightens(&old, &new)) {
                    self.extend(at.get(), at.get() + granule.bytes());
                }
            }
        }
    }

    /// Puts another present entry in the place of one: empties it, flushes, then writes the new one, so that no CPU uses the old page while
    /// another uses the new one already. Takes over the old entry's reference. `ptep_clear_flush`, `set_pte_at`.
    pub fn replace(&mut self, locked: &mut LockedTable<'_, P>, index: usize, new: Entry) {
        let old = P::Format::leaf_at(0, locked.take(index));
        if let Some(old) = old {
            let at = locked.covers().start().get() + ((index as u64) << P::Format::GRANULE.shift());
            self.extend(at, at + P::Format::GRANULE.bytes());
            self.flush_translations();
            self.keep_frame(&old);
        }
        locked.set(index, new);
    }

    /// Takes over the reference of an entry for the page at `at` that the caller has replaced by another.
    pub fn replaced(&mut self, at: VirtAddr, old: Leaf) {
        if self.frames.room_for(1, self.phys.inject()) == 0 {
            self.flush();
        }
        self.extend(
            at.get(),
            at.get().saturating_add(P::Format::GRANULE.bytes()),
        );
        self.keep_frame(&old);
    }

    fn keep_frame(&mut self, leaf: &Leaf) {
        if leaf.flags.contains(LeafFlags::SPECIAL) {
            return;
        }
        if self.frames.room_for(1, self.phys.inject()) != 0 {
            self.frames.push(leaf.frame);
            return;
        }
        self.flush_translations();
        // SAFETY: the entry that held the leaf owned a reference to its frame, and gave it to this batch.
        drop(unsafe { self.phys.from_raw(leaf.frame) });
    }

    /// Entries in `range` allow less than before: it will be flushed. `tlb_flush_pte_range`.
    pub fn note(&mut self, range: VirtRange) {
        if !range.is_empty() {
            self.extend(range.start().get(), range.end().get());
        }
    }

    /// Page-table pages of `range` left their place in the tree, or left it for good: what walkers keep of them will be flushed with the range.
    pub(super) fn note_tables(&mut self, range: VirtRange) {
        self.tables = Tables::Freed;
        self.note(range);
    }

    /// Unlinks the page-table pages that cover a part of `range` and nothing outside `bounds`: no mapping lies in `bounds`, and their entries were
    /// cleared. They go back after the flush and a grace period. `free_pgtables`.
    ///
    /// The caller holds the mmap lock for writing. If the heap is exhausted this waits for grace periods, as `tlb_remove_table_one` does.
    pub fn free_tables(&mut self, table: &PageTable<P>, bounds: VirtRange, range: VirtRange) {
        let end = range.end().get().min(1 << P::Format::VA_BITS);
        if range.start().get() < end {
            self.free_within(
                table,
                table.top(self.phys),
                bounds,
                range.start().get(),
                end,
            );
        }
    }

    /// Goes over the entries of a table above level 0 that translate `start..end`, which lies in it.
    fn free_within(
        &mut self,
        table: &PageTable<P>,
        upper: TableRef<'a, P>,
        bounds: VirtRange,
        start: u64,
        end: u64,
    ) {
        let level = upper.level();
        let bytes = 1u64 << P::Format::level_shift(level);
        let mut at = start;
        while at < end {
            let next = ((at | (bytes - 1)) + 1).min(end);
            let index = P::Format::index(level, at);
            if let Some(child) = upper.child(index, at) {
                if bounds.covers(child.covers()) {
                    upper.lock().take(index);
                    self.note_tables(child.covers());
                    self.retire(table, child);
                } else if level > 1 {
                    self.free_within(table, child, bounds, at, next);
                }
            }
            at = next;
        }
    }

    /// Retires an unlinked page-table page and all below it, lowest first.
    fn retire(&mut self, table: &PageTable<P>, unlinked: TableRef<'a, P>) {
        let level = unlinked.level();
        if level == 0 {
            debug_assert!(
                (0..unlinked.cells.len()).all(|index| is_empty::<P>(unlinked, index)),
                "a page-table page was freed with entries in it"
            );
        } else {
            // Who came here before it was unlinked may still link a page under its lock, until it sees that its mapping is gone.
            drop(unlinked.lock());
            for index in 0..unlinked.cells.len() {
                let addr = unlinked.covers().start().get()
                    + ((index as u64) << P::Format::level_shift(level));
                if let Some(child) = unlinked.child(index, addr) {
                    self.retire(table, child);
                }
            }
        }
        // SAFETY: the entry that pointed here, or to a table above, was taken out of the tree by `free_within`, once.
        let frame = unsafe { table.take_unlinked(self.phys, unlinked.frame(), level) };
        if let Err(frame) = self.retired.push(self.phys.inject(), frame) {
            self.flush();
            self.domain
                .synchronize(|turn| self.phys.platform().relax(turn));
            drop(frame);
        }
    }

    /// Flushes, then gives back what was gathered. `tlb_finish_mmu`.
    pub fn finish(self) {}

    #[inline]
    fn extend(&mut self, start: u64, end: u64) {
        self.start = self.start.min(start);
        self.end = self.end.max(end);
    }

    /// Does all that [`FlushBatch::finish`] promises; the batch is empty afterwards. `tlb_flush_mmu`.
    fn flush(&mut self) {
        self.flush_translations();
        let (inline, more) = self.frames.all();
        for frames in [inline, more] {
            if !frames.is_empty() {
                // SAFETY: each came out of a present entry that was not special and so owned a reference, which the entry lost when it was
                // emptied; the flush is over, so no TLB reaches the frames by it.
                unsafe { self.phys.put_many(frames) };
            }
        }
        self.frames.clear();
        self.domain.retire_chain(self.retired.take());
    }

    /// Flushes the hull, if it holds anything, on every CPU that may know of it. A hull of half the user's addresses or more is flushed as a whole
    /// space; at which length below that a whole flush is cheaper is the embedder's to know.
    fn flush_translations(&mut self) {
        let range = VirtRange::new(VirtAddr::new(self.start), VirtAddr::new(self.end))
            .filter(|range| !range.is_empty());
        let tables = core::mem::replace(&mut self.tables, Tables::Kept);
        (self.start, self.end) = (u64::MAX, 0);
        let Some(range) = range else { return };
        let cpus = self.cpus.snapshot();
        if cpus.is_empty() {
            return;
        }
        let scope = match range.bytes() >> (P::Format::USER_BITS - 1) {
            0 => FlushScope::Pages(range),
            _ => FlushScope::Space,
        };
        let platform = self.phys.platform();
        let asid = self.asid;
        let flush = platform.flush_begin(FlushRequest {
            asid,
            scope,
            tables,
            cpus: &cpus,
        });
        platform.flush_wait(flush);
    }

    /// The frames' owner.
    pub(super) fn phys(&self) -> &'a Phys<P> {
        self.phys
    }
}

impl<P: Platform> Drop for FlushBatch<'_, P> {
    fn drop(&mut self) {
        self.flush();
    }
}

impl<P: Platform> core::fmt::Debug for FlushBatch<'_, P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FlushBatch")
            .field("asid", &self.asid)
            .field("hull", &(self.start..self.end))
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

/// The first `bytes` of a range, and the rest.
fn split(range: VirtRange, bytes: u64) -> (VirtRange, VirtRange) {
    let cut = VirtAddr::new(
        range
            .start()
            .get()
            .saturating_add(bytes)
            .min(range.end().get()),
    );
    let part = |start, end| VirtRange::new(start, end).expect("a cut lies within its range");
    (part(range.start(), cut), part(cut, range.end()))
}

#[inline(always)]
pub(super) fn is_empty<P: Platform>(table: TableRef<'_, P>, index: usize) -> bool {
    table.cell(index).load(Ordering::Relaxed) & !P::Format::LOCK_BIT == 0
}

/// Whether a TLB that still has `old` would let something through that `new` does not, or not note a store that `new` would.
fn tightens(old: &Leaf, new: &Leaf) -> bool {
    let matter =
        LeafFlags::READ | LeafFlags::WRITE | LeafFlags::EXEC | LeafFlags::USER | LeafFlags::DIRTY;
    let lost = old.flags.difference(new.flags).intersects(matter) || old.cache != new.cache;
    old.flags.contains(LeafFlags::READ) && lost
}

/// The frames of a batch: some in place, more on the heap while that gives them room.
struct Frames {
    inline: [Pfn; INLINE],
    len: usize,
    more: Vec<Pfn>,
}

impl Frames {
    fn new() -> Self {
        Self {
            inline: [Pfn::new(0); INLINE],
            len: 0,
            more: Vec::new(),
        }
    }

    /// For how many frames there is room, `wanted` if that can be; zero if the batch must be flushed first.
    #[inline]
    fn room_for(&mut self, wanted: usize, fail: &FailPoint) -> usize {
        let room = self.room();
        if room >= wanted {
            room
        } else {
            self.grow(wanted, fail)
        }
    }

    #[cold]
    fn grow(&mut self, wanted: usize, fail: &FailPoint) -> usize {
        let fits = self.more.len().saturating_add(wanted) <= MOST.max(self.more.capacity());
        if fits && fail.check().is_ok() {
            // Where the heap is exhausted, what room there is must do.
            let _ = self.more.try_reserve(wanted);
        }
        self.room()
    }

    fn room(&self) -> usize {
        INLINE - self.len + (self.more.capacity() - self.more.len())
    }

    /// Adds one, for which there is room.
    #[inline]
    fn push(&mut self, frame: Pfn) {
        match self.inline.get_mut(self.len) {
            Some(slot) => {
                *slot = frame;
                self.len += 1;
            }
            None => self.more.push(frame),
        }
    }

    fn all(&self) -> (&[Pfn], &[Pfn]) {
        (&self.inline[..self.len], &self.more)
    }

    fn clear(&mut self) {
        self.len = 0;
        self.more.clear();
    }
}

//! Moving the entries of a range to another place, for `mremap`. Where both places are aligned alike, whole page-table pages change their place in
//! the tree, at any level, and no entry below them is touched; elsewhere words are copied, at a few nanoseconds a page.
//!
//! A lock-free descent may be on its way into a page-table page that moves. Who installs entries is stopped by its mapping, which is detached before
//! faults go on; who only reads or writes through an entry comes by [`PageTable::locked_leaf`], which sees that something moved and descends again.

use super::flush::{FlushBatch, is_empty};
use super::table::{LockedTable, PageTable, TableRef};
use super::{Entry, Format, Leaf, LeafFlags};
use crate::addr::{VirtAddr, VirtRange};
use crate::phys::{OutOfMemory, Phys};
use crate::platform::Platform;

/// As many entries as are moved in one go.
#[derive(Clone, Copy)]
struct Run {
    from: usize,
    to: usize,
    count: usize,
}

/// What moves as one.
#[derive(Clone, Copy)]
enum Piece {
    /// Base pages of one level-0 table.
    Pages(VirtRange),
    /// All that one entry at this level translates, from this address on.
    Table { at: VirtAddr, level: u8 },
}

/// The pieces of a move, in order, past what is absent at the source.
struct Pieces<'a, P: Platform> {
    table: &'a PageTable<P>,
    phys: &'a Phys<P>,
    at: u64,
    end: u64,
    /// How far the target lies from the source, modulo 2^64.
    distance: u64,
}

impl<'a, P: Platform> Pieces<'a, P> {
    fn new(table: &'a PageTable<P>, phys: &'a Phys<P>, from: VirtRange, to: VirtAddr) -> Self {
        Self {
            table,
            phys,
            at: from.start().get(),
            end: from.end().get().min(1 << P::Format::VA_BITS),
            distance: to.get().wrapping_sub(from.start().get()),
        }
    }

    /// The highest level at which one entry translates nothing but what moves, at the source and at the target; 0 for none above base pages.
    fn widest_level(&self) -> u8 {
        let fits = |level: &u8| {
            let bytes = 1 << P::Format::level_shift(*level);
            (self.at | self.distance) & (bytes - 1) == 0 && self.end - self.at >= bytes
        };
        (1..P::Format::LEVELS).rev().find(fits).unwrap_or(0)
    }
}

impl<P: Platform> Iterator for Pieces<'_, P> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        while self.at < self.end {
            let level = self.widest_level();
            let at = self.at;
            let gap = match self.table.reach(self.phys, VirtAddr::new(at), level) {
                Ok(upper) if level == 0 => {
                    let end = upper.covers().end().get().min(self.end);
                    self.at = end;
                    return VirtRange::new(VirtAddr::new(at), VirtAddr::new(end)).map(Piece::Pages);
                }
                Ok(upper) if upper.child(P::Format::index(level, at), at).is_some() => {
                    self.at = at + (1 << P::Format::level_shift(level));
                    let at = VirtAddr::new(at);
                    return Some(Piece::Table { at, level });
                }
                // Whoever links a table here later holds this lock, and then sees that its mapping is on the move.
                Ok(upper) => {
                    drop(upper.lock());
                    if upper.child(P::Format::index(level, at), at).is_some() {
                        continue;
                    }
                    level
                }
                Err(gap) => gap,
            };
            self.at = (at | ((1 << P::Format::level_shift(gap)) - 1)) + 1;
        }
        None
    }
}

impl<P: Platform> FlushBatch<'_, P> {
    /// Makes the page-table pages that [`FlushBatch::move_range`] will need, so that it cannot fail.
    ///
    /// # Errors
    /// No frame for a page-table page. What was linked before stays, empty.
    pub fn reserve_move(
        &self,
        table: &PageTable<P>,
        from: VirtRange,
        to: VirtAddr,
    ) -> Result<(), OutOfMemory> {
        let phys = self.phys();
        let make = |at, level| {
            table
                .table_or_create(phys, at, level, || true)?
                .ok_or(OutOfMemory)
        };
        for piece in Pieces::new(table, phys, from, to) {
            match piece {
                Piece::Table { at, level } => {
                    make(place(at, from, to), level)?;
                }
                Piece::Pages(part) => {
                    let mut at = place(part.start(), from, to);
                    let end = at.get() + part.bytes();
                    while at.get() < end {
                        at = make(at, 0)?.covers().end();
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves every entry of `from`, with its reference, to the range of the same length at `to`, which is empty and does not overlap it; the old
    /// place will be flushed. Pages that move one by one become soft-dirty; those that move with their page-table page do not, so the mapping at `to`
    /// must be VM_SOFTDIRTY. `move_page_tables`.
    ///
    /// The caller has reserved the move, holds the mmap lock for writing, keeps faults out of both ranges until no mapping that faults knew of
    /// is attached there, and keeps away whoever reaches the entries by the reverse map.
    pub fn move_range(&mut self, table: &PageTable<P>, from: VirtRange, to: VirtAddr) {
        let phys = self.phys();
        for piece in Pieces::new(table, phys, from, to) {
            match piece {
                Piece::Table { at, level } => {
                    self.move_table(table, at, place(at, from, to), level);
                }
                Piece::Pages(part) => {
                    if let Some(old) = table.leaf(phys, part.start()) {
                        self.move_part(table, part, old, place(part.start(), from, to));
                    }
                }
            }
        }
    }

    /// Exchanges the page-table page under one entry with what hangs from the target's, an empty one or none. `move_normal_pmd`,
    /// `move_normal_pud`.
    fn move_table(&mut self, table: &PageTable<P>, at: VirtAddr, to: VirtAddr, level: u8) {
        let phys = self.phys();
        let (Ok(old), Ok(new)) = (table.reach(phys, at, level), table.reach(phys, to, level))
        else {
            debug_assert!(false, "a move was not reserved");
            return;
        };
        let (from, into) = (
            P::Format::index(level, at.get()),
            P::Format::index(level, to.get()),
        );
        let mut source = old.lock();
        let moved = source.take(from);
        if old.frame() == new.frame() {
            let left = source.take(into);
            table.note_move();
            source.store(into, moved);
            source.store(from, left);
        } else {
            let mut target = new.lock();
            let left = target.take(into);
            table.note_move();
            target.store(into, moved);
            source.store(from, left);
        }
        drop(source);
        let whole = VirtRange::with_len(at, 1 << P::Format::level_shift(level));
        whole.into_iter().for_each(|range| self.note_tables(range));
    }

    /// Moves the entries of `part`, which lies in one table, to `to`, where they may lie in two.
    fn move_part(
        &mut self,
        table: &PageTable<P>,
        part: VirtRange,
        old: TableRef<'_, P>,
        to: VirtAddr,
    ) {
        let granule = P::Format::GRANULE;
        let mut done = 0;
        while done < part.bytes() {
            let target = VirtAddr::new(to.get() + done);
            let Some(new) = table.leaf(self.phys(), target) else {
                return;
            };
            let bytes = (part.bytes() - done).min(new.covers().end().get() - target.get());
            let start = part.start().get() + done;
            let run = Run {
                from: P::Format::index(0, start),
                to: P::Format::index(0, target.get()),
                count: (bytes >> granule.shift()) as usize,
            };
            if move_run(old, new, run) {
                let start = VirtAddr::new(start);
                VirtRange::with_len(start, bytes)
                    .into_iter()
                    .for_each(|moved| self.note(moved));
            }
            done += bytes;
        }
    }
}

/// Where an address of `from` comes to lie when `from` is moved to `to`.
fn place(at: VirtAddr, from: VirtRange, to: VirtAddr) -> VirtAddr {
    VirtAddr::new(to.get() + (at.get() - from.start().get()))
}

/// Says whether anything that a TLB may hold was moved.
fn move_run<P: Platform>(old: TableRef<'_, P>, new: TableRef<'_, P>, run: Run) -> bool {
    let mut source = old.lock();
    if old.frame() == new.frame() {
        let mut moved = false;
        for n in 0..run.count {
            if !is_empty::<P>(old, run.from + n) {
                let raw = source.take(run.from + n);
                moved |= put(&mut source, run.to + n, raw);
            }
        }
        return moved;
    }
    let mut target = new.lock();
    let mut moved = false;
    for n in 0..run.count {
        if !is_empty::<P>(old, run.from + n) {
            let raw = source.take(run.from + n);
            moved |= put(&mut target, run.to + n, raw);
        }
    }
    moved
}

/// Writes an entry at its new place. `move_soft_dirty_pte`.
#[inline(always)]
fn put<P: Platform>(table: &mut LockedTable<'_, P>, index: usize, raw: u64) -> bool {
    let entry = match P::Format::decode(0, raw) {
        Entry::Present(leaf) => Entry::Present(Leaf {
            flags: leaf.flags | LeafFlags::SOFT_DIRTY,
            ..leaf
        }),
        Entry::Swap(mut swap) => {
            swap.soft_dirty = true;
            Entry::Swap(swap)
        }
        other => other,
    };
    table.set(index, entry);
    matches!(entry, Entry::Present(leaf) if leaf.flags.contains(LeafFlags::READ))
}

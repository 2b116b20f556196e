//! Moving the entries of a range to another place, for `mremap`. Whole page-table pages are not relinked: a lock-free descent may be on its
//! way to one and would then change entries of another place. Words are copied, at about a nanosecond a page.

use super::cursor::Cursor;
use super::flush::{FlushBatch, is_empty};
use super::table::{LockedTable, PageTable, TableRef};
use super::{Entry, Format, Leaf, LeafFlags};
use crate::addr::{VirtAddr, VirtRange};
use crate::phys::OutOfMemory;
use crate::platform::Platform;

/// As many entries as are moved in one go.
#[derive(Clone, Copy)]
struct Run {
    from: usize,
    to: usize,
    count: usize,
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
        for (part, _) in Cursor::new(table, phys, from) {
            let mut at = place(part.start(), from, to);
            let end = at.get() + part.bytes();
            while at.get() < end {
                let Some(new) = table.leaf_or_create(phys, at, || true)? else {
                    return Err(OutOfMemory);
                };
                at = new.covers().end();
            }
        }
        Ok(())
    }

    /// Moves every entry of `from`, with its reference, to the range of the same length at `to`, which is empty and does not overlap it; the old
    /// place will be flushed. Present and swapped pages become soft-dirty. `move_page_tables`.
    ///
    /// The caller has reserved the move, holds the mmap lock for writing, keeps faults out of both ranges, and keeps away whoever reaches the entries
    /// by the reverse map.
    pub fn move_range(&mut self, table: &PageTable<P>, from: VirtRange, to: VirtAddr) {
        for (part, old) in Cursor::new(table, self.phys(), from) {
            self.move_part(table, part, old, place(part.start(), from, to));
        }
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

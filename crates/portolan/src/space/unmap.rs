//! `munmap`, and the removal of whatever lies in a range for everything that replaces it. Also zapping: taking pages out of a
//! range whose mapping stays.

use super::account::RssKind;
use super::edit::{Detached, Edit, check_cuts, open_rests, range as ordered, withdraw};
use super::mm::{Mm, MmState, MmUser};
use super::vma::Vma;
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::{FlushBatch, Format, Leaf, LeafFlags};
use crate::phys::{FrameKind, PageFlags};
use crate::platform::{MapEvent, Platform};

/// Resident pages that left a range, by kind.
#[derive(Default)]
struct Gone([i64; 4]);

impl Gone {
    /// Counts a page that is being unmapped. What was stored through this entry stays known: pages of files were marked when it became writable.
    fn count<P: Platform>(&mut self, mm: &Mm<P>, leaf: &Leaf) {
        let page = mm.machine.phys().page(leaf.frame);
        let Some((page, kind)) = page.and_then(|page| Some((page, RssKind::of(page.kind())?)))
        else {
            return;
        };
        self.0[kind as usize] += 1;
        if kind == RssKind::Shmem && leaf.flags.contains(LeafFlags::DIRTY) {
            page.set_flags(PageFlags::DIRTY);
        }
    }

    /// Takes what was counted off the resident set.
    fn settle<P: Platform>(self, mm: &Mm<P>) {
        let kinds = [RssKind::File, RssKind::Anon, RssKind::Swap, RssKind::Shmem];
        for kind in kinds.into_iter().filter(|&kind| self.0[kind as usize] != 0) {
            mm.add_rss(kind, -self.0[kind as usize]);
        }
    }
}

impl<P: Platform> Mm<P> {
    /// Empties every entry in `range`, markers included; the frames go when the batch does. `unmap_vmas`.
    pub(crate) fn zap_range(&self, batch: &mut FlushBatch<'_, P>, range: VirtRange) {
        let mut gone = Gone::default();
        self.note_peak_rss();
        batch.clear_range(&self.table, range, |_, leaf| gone.count(self, leaf));
        gone.settle(self);
    }

    /// Unmaps every page in `range`; markers stay. `zap_page_range_single`.
    pub(crate) fn zap_pages(&self, batch: &mut FlushBatch<'_, P>, range: VirtRange) {
        self.zap_pages_where(batch, range, |_| true);
    }

    /// Unmaps the pages in `range` that `wanted` accepts; markers stay.
    pub(crate) fn zap_pages_where(
        &self,
        batch: &mut FlushBatch<'_, P>,
        range: VirtRange,
        wanted: impl Fn(&Leaf) -> bool,
    ) {
        let mut gone = Gone::default();
        self.note_peak_rss();
        batch.clear_range_where(&self.table, range, wanted, |_, leaf| {
            gone.count(self, leaf);
        });
        gone.settle(self);
    }

    /// What the frame of an entry is used for.
    pub(crate) fn kind_of(&self, leaf: &Leaf) -> Option<FrameKind> {
        self.machine.phys().page(leaf.frame).map(|page| page.kind())
    }
}

impl<P: Platform> MmUser<P> {
    /// `munmap`. `mm/vma.c: do_vmi_munmap`. Holes are fine; areas that stick out are split.
    ///
    /// # Errors
    /// - `EINVAL`: unaligned address, length 0, or beyond the space.
    /// - `ENOMEM`: a split would exceed the most mappings, or no heap. `EPERM`: a sealed mapping.
    /// - What a driver's `may_split` answers.
    ///
    /// On any error nothing has changed, but that an area that sticks out at the start may have been split before a sealed one was met.
    pub fn munmap(&self, addr: VirtAddr, len: u64) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        let mut state = self.state.write();
        let len = granule
            .round_up(len)
            .filter(|&len| len != 0)
            .ok_or(Errno::EINVAL)?;
        let range = VirtRange::with_len(addr, len).ok_or(Errno::EINVAL)?;
        if !addr.is_aligned(granule) || range.end().get() > state.layout.task_size_max {
            return Err(Errno::EINVAL);
        }
        self.unmap_range(&mut state, range)
    }

    /// Removes every mapping in `range`, which is page-aligned. `do_vmi_align_munmap`.
    pub(crate) fn unmap_range(
        &self,
        state: &mut MmState<P>,
        range: VirtRange,
    ) -> Result<(), Errno> {
        if range.is_empty() {
            return Ok(());
        }
        self.check_sealed(state, range)?;
        self.unmap_unsealed(state, range)
    }

    /// The same for a range, not empty, in which nothing is sealed.
    pub(crate) fn unmap_unsealed(
        &self,
        state: &mut MmState<P>,
        range: VirtRange,
    ) -> Result<(), Errno> {
        let (start, end) = (range.start().get(), range.end().get());
        let Some(first) = state
            .vmas
            .find(start)
            .filter(|vma| vma.range().start() < range.end())
        else {
            return Ok(());
        };
        let last = state.vmas.get(end - 1).unwrap_or(first);
        let is_one = first.range() == last.range();
        check_cuts(first, range)?;
        if !is_one {
            check_cuts(last, range)?;
        }
        let mut edit = Edit::new(self);
        let mut hull = range;
        if first.range().start() < range.start() {
            hull = ordered(first.range().start(), hull.end());
            edit.add(
                first
                    .fields()
                    .cut(ordered(first.range().start(), range.start())),
            )?;
        }
        if last.range().end() > range.end() {
            hull = ordered(hull.start(), last.range().end());
            edit.add(last.fields().cut(ordered(range.end(), last.range().end())))?;
        }
        let splits_one = edit.len() == 2 && is_one;
        if splits_one {
            self.check_map_count(state, 2, 1)?;
        }
        state.vmas.reserve(edit.len(), self.machine.fail_point())?;
        self.remove(state, range, edit, hull);
        Ok(())
    }

    /// Removes every mapping in `range`, of which `rests` stays: all that lay in `hull` outside `range`. There is room for it, so this cannot fail.
    pub(crate) fn remove(
        &self,
        state: &mut MmState<P>,
        range: VirtRange,
        rests: Edit<'_, P>,
        hull: VirtRange,
    ) {
        let sticks_out =
            |vma: &&Vma<P>| vma.range().start() < range.start() && vma.range().end() > range.end();
        let split = state.vmas.get(range.start().get()).filter(sticks_out);
        let split = split.and_then(|vma| Some((vma.range().start(), vma.operations()?.clone())));
        self.uncount(state, range);
        let old = rests.commit(state, hull);
        if let Some((start, ops)) = split {
            ops.open(ordered(start, range.start()));
        }
        self.clear_unmapped(state, range, &old);
        old.iter()
            .filter(|vma| range.covers(vma.range()))
            .for_each(|vma| {
                if let Some(ops) = vma.operations() {
                    ops.close(vma.range());
                }
            });
        old.retire(self.machine.epoch());
    }

    /// Splits the areas that stick out of `range` at its ends, which is what Linux leaves of a mapping that was to take the place of `range` and
    /// met a limit (`vms_gather_munmap_vmas`). Without memory for it they stay whole.
    pub(crate) fn split_ends(&self, state: &mut MmState<P>, range: VirtRange) {
        self.split_at(state, range.start());
        self.split_at(state, range.end());
    }

    fn split_at(&self, state: &mut MmState<P>, cut: VirtAddr) {
        let Some(vma) = state
            .vmas
            .get(cut.get())
            .filter(|vma| vma.range().start() < cut)
        else {
            return;
        };
        let whole = vma.fields();
        let mut edit = Edit::new(self);
        let split = edit
            .add(whole.cut(ordered(whole.range.start(), cut)))
            .and_then(|()| edit.add(whole.cut(ordered(cut, whole.range.end()))))
            .and_then(|()| Ok(state.vmas.reserve(edit.len(), self.machine.fail_point())?));
        if split.is_ok() {
            let old = edit.commit(state, whole.range);
            self.retire(old);
            open_rests(&whole, ordered(cut, whole.range.end()), 1);
        }
    }

    /// Refuses a range with a sealed area in it. As Linux meets areas in order, one that sticks out at the start has been split by then, unless it
    /// is the sealed one. `vms_gather_munmap_vmas`.
    ///
    /// # Errors
    /// `EPERM`: there is one.
    pub(crate) fn check_sealed(
        &self,
        state: &mut MmState<P>,
        range: VirtRange,
    ) -> Result<(), Errno> {
        let mut areas = state
            .vmas
            .iter_range(range.start().get(), range.end().get());
        let Some(sealed) = areas.find(|vma| vma.flags().contains(VmFlags::SEALED)) else {
            return Ok(());
        };
        if sealed.range().start() > range.start() {
            self.split_at(state, range.start());
        }
        Err(Errno::EPERM)
    }

    /// Takes the parts of areas inside `range` off the counts and gives their commit charge back.
    fn uncount(&self, state: &mut MmState<P>, range: VirtRange) {
        let mut accounted = 0;
        let MmState { vmas, counts, .. } = state;
        for vma in vmas.iter_range(range.start().get(), range.end().get()) {
            let Some(part) = vma.range().intersection(range) else {
                continue;
            };
            let pages = part.pages(P::Format::GRANULE);
            counts.sub(vma.flags(), pages);
            if vma.flags().contains(VmFlags::ACCOUNT) {
                accounted += pages;
            }
            if vma.file().is_some() {
                let event = MapEvent {
                    asid: self.asid,
                    prot: 0,
                    flags: 0,
                    has_file: true,
                    range: part,
                };
                self.machine.platform().hooks().uprobe_munmap(&event);
            }
        }
        self.machine.uncharge_commit(accounted);
    }

    /// Unmaps the pages of a range whose areas are gone, and the page-table pages that no neighbour needs. `unmap_region`.
    ///
    /// The files forget the areas before tables go: a truncation that still knew them would walk those tables.
    fn clear_unmapped(&self, state: &MmState<P>, range: VirtRange, old: &Detached<P>) {
        let floor = state
            .vmas
            .find_prev(range.start().get())
            .map_or(VirtAddr::new(0), |vma| vma.range().end());
        let ceiling = state
            .vmas
            .find(range.end().get())
            .map_or(self.user_end(), |vma| vma.range().start());
        let mut batch = self.flush_batch();
        self.zap_range(&mut batch, range);
        withdraw(old);
        batch.free_tables(&self.table, ordered(floor, ceiling), range);
        batch.finish();
    }
}

impl<P: Platform> Mm<P> {
    /// The end of the user half of the tables.
    pub(crate) fn user_end(&self) -> VirtAddr {
        VirtAddr::new(1u64.checked_shl(P::Format::USER_BITS).unwrap_or(u64::MAX))
    }
}

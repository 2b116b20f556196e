//! `mremap`: shrink, grow in place, move. Entries move, not bytes: whole page-table pages where both sides are aligned alike.

use super::edit::{Edit, joined, mergeable_after, merged_with_neighbours, range as ordered};
use super::flags::Map;
use super::fork::ClosedGate;
use super::layout::PlaceRequest;
use super::mm::{MmState, MmUser};
use super::populate::Populate;
use super::vma::{Content, Vma, VmaFields};
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::Format;
use crate::platform::Platform;
use core::sync::atomic::Ordering;
use linux_raw_sys::general::{MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE};

/// The checked arguments, lengths in whole pages.
#[derive(Clone, Copy)]
struct Request {
    old: VirtAddr,
    old_len: u64,
    new_len: u64,
    flags: u32,
    new: VirtAddr,
}

impl Request {
    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether a place for the result is given or must be found. `vrm_implies_new_addr`.
    fn must_move(&self) -> bool {
        self.has(MREMAP_FIXED | MREMAP_DONTUNMAP)
    }
}

impl<P: Platform> MmUser<P> {
    /// `mremap`. `mm/mremap.c: do_mremap`. Returns where the mapping is afterwards.
    ///
    /// A move that keeps the length takes all areas in the range along, with the gaps between them.
    /// An `old_len` of 0 maps the pages of a shared mapping a second time. With MREMAP_DONTUNMAP the old range stays mapped and empty.
    ///
    /// # Errors
    /// - `EINVAL`: unknown or contradictory flags, unaligned, `new_len` 0, overlapping ranges, MREMAP_DONTUNMAP with two lengths, `old_len` 0 on
    ///   a private mapping.
    /// - `EFAULT`: nothing mapped at `old`, the range crosses the end of its area, or a grown VM_DONTEXPAND or VM_PFNMAP area.
    /// - `ENOMEM`: it cannot grow there and may not move, no room, a limit, no frame or heap. `EAGAIN`: RLIMIT_MEMLOCK. `EPERM`: sealed.
    /// - What a driver's mremap or may_split operation answers.
    ///
    /// With MREMAP_FIXED what lay at the target is gone even if the move then fails, as in Linux.
    pub fn mremap(
        &self,
        old: VirtAddr,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: VirtAddr,
    ) -> Result<VirtAddr, Errno> {
        let mut state = self.state.write();
        let request = check_arguments::<P>(
            &state,
            Request {
                old,
                old_len,
                new_len,
                flags,
                new,
            },
        )?;
        let mut populate = None;
        let result = self.remap(&mut state, request, &mut populate);
        drop(state);
        if let Some(range) = populate {
            self.populate(range, Populate::Silently);
        }
        result
    }

    fn remap(
        &self,
        state: &mut MmState<P>,
        request: Request,
        populate: &mut Option<VirtRange>,
    ) -> Result<VirtAddr, Errno> {
        if request.has(MREMAP_FIXED) && request.old_len == request.new_len {
            return self.move_each(state, request, populate);
        }
        let vma = state.vmas.get(request.old.get()).ok_or(Errno::EFAULT)?;
        let fields = vma.fields();
        check_area(vma, &request)?;
        self.check_growth(state, &fields, &request)?;
        if request.must_move() {
            return self.remap_to(state, request, populate);
        }
        if request.old_len >= request.new_len && request.old_len != 0 {
            self.shrink(state, &request)?;
            return Ok(request.old);
        }
        let at_end = plus(request.old, request.old_len)? == fields.range.end();
        if at_end && request.old_len != 0 && self.may_grow_in_place(state, &fields, &request) {
            self.grow_in_place(state, fields, &request, populate)?;
            return Ok(request.old);
        }
        if !request.has(MREMAP_MAYMOVE) {
            return Err(Errno::ENOMEM);
        }
        self.move_area(state, fields, request, populate)
    }

    /// A move without a change of length: of every area in the range, the gaps between them kept. `remap_move`, Linux 6.17. An error leaves
    /// the areas before it moved.
    fn move_each(
        &self,
        state: &mut MmState<P>,
        request: Request,
        populate: &mut Option<VirtRange>,
    ) -> Result<VirtAddr, Errno> {
        let range = VirtRange::with_len(request.old, request.old_len).ok_or(Errno::EFAULT)?;
        let mut first = None;
        let (mut at, mut target) = (range.start(), request.new);
        while at < range.end() {
            let Some(vma) = state
                .vmas
                .find(at.get())
                .filter(|vma| vma.range().start() < range.end())
            else {
                break;
            };
            let whole = vma.range();
            let part = whole
                .intersection(ordered(at, range.end()))
                .ok_or(Errno::EFAULT)?;
            if first.is_none() && part.start() > range.start() {
                return Err(Errno::EFAULT);
            }
            if !may_move_with_others(vma) && (first.is_some() || whole.end() < range.end()) {
                return Err(Errno::EFAULT);
            }
            let gap = part.start().get() - at.get().min(part.start().get());
            let new = target.checked_add(gap).ok_or(Errno::EINVAL)?;
            let len = part.bytes();
            let one = Request {
                old: part.start(),
                old_len: len,
                new_len: len,
                new,
                ..request
            };
            check_area(vma, &one)?;
            let moved = self.remap_to(state, one, populate)?;
            first = first.or(Some(moved));
            target = plus(moved, len)?;
            at = part.end();
        }
        first.ok_or(Errno::EFAULT)
    }

    /// Unmaps what lies past the new length, be it of this area or of those after it. `shrink_vma`.
    fn shrink(&self, state: &mut MmState<P>, request: &Request) -> Result<(), Errno> {
        let end = request.old.checked_add(request.old_len);
        let end = end
            .filter(|end| end.get() <= state.layout.task_size_max)
            .ok_or(Errno::EINVAL)?;
        self.unmap_range(state, ordered(plus(request.old, request.new_len)?, end))
    }

    /// MREMAP_FIXED and MREMAP_DONTUNMAP, of one area. `mremap_to`.
    fn remap_to(
        &self,
        state: &mut MmState<P>,
        mut request: Request,
        populate: &mut Option<VirtRange>,
    ) -> Result<VirtAddr, Errno> {
        if request.has(MREMAP_FIXED) {
            let target = VirtRange::with_len(request.new, request.new_len).ok_or(Errno::EINVAL)?;
            self.unmap_range(state, target)?;
        }
        if request.old_len > request.new_len {
            self.shrink(state, &request)?;
            request.old_len = request.new_len;
        }
        // What was unmapped may have been another part of the same area.
        let fields = state
            .vmas
            .get(request.old.get())
            .ok_or(Errno::EFAULT)?
            .fields();
        if request.has(MREMAP_DONTUNMAP) {
            let pages = request.old_len >> P::Format::GRANULE.shift();
            state.counts.may_expand(
                &self.limits,
                fields.flags,
                pages,
                P::Format::GRANULE.bytes(),
            )?;
        }
        self.move_area(state, fields, request, populate)
    }

    /// Whether the mapping may become longer at all.
    fn check_growth(
        &self,
        state: &MmState<P>,
        fields: &VmaFields<P>,
        request: &Request,
    ) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        let Some(more) = request
            .new_len
            .checked_sub(request.old_len)
            .filter(|&more| more != 0)
        else {
            return Ok(());
        };
        let skipped = (request.old.get() - fields.range.start().get()) >> granule.shift();
        let pgoff = fields.pgoff.wrapping_add(skipped);
        if pgoff
            .checked_add(request.new_len >> granule.shift())
            .is_none()
        {
            return Err(Errno::EINVAL);
        }
        if fields
            .flags
            .intersects(VmFlags::DONTEXPAND | VmFlags::PFNMAP)
        {
            return Err(Errno::EFAULT);
        }
        self.check_lock_limit(state, fields.flags, more)?;
        state.counts.may_expand(
            &self.limits,
            fields.flags,
            more >> granule.shift(),
            granule.bytes(),
        )
    }

    /// Whether what follows the area is free and within bounds. `vma_expandable`.
    fn may_grow_in_place(
        &self,
        state: &MmState<P>,
        fields: &VmaFields<P>,
        request: &Request,
    ) -> bool {
        let Some(end) = fields
            .range
            .end()
            .checked_add(request.new_len - request.old_len)
        else {
            return false;
        };
        let next = state.vmas.find(fields.range.end().get());
        end.get() <= state.layout.task_size && next.is_none_or(|next| next.range().start() >= end)
    }

    fn grow_in_place(
        &self,
        state: &mut MmState<P>,
        fields: VmaFields<P>,
        request: &Request,
        populate: &mut Option<VirtRange>,
    ) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        let more = request.new_len - request.old_len;
        let grown = VirtRange::with_len(fields.range.end(), more).ok_or(Errno::ENOMEM)?;
        let charged = if fields.is_accounted() {
            more >> granule.shift()
        } else {
            0
        };
        // A move that needs nothing more is refused like the rest when too much is promised, as in Linux.
        if fields.is_accounted() {
            self.charge_commit(state, charged)?;
        }
        let locked = fields.flags.contains(VmFlags::LOCKED);
        if let Err(error) = self.extend_area(state, fields, grown) {
            self.machine.uncharge_commit(charged);
            return Err(error);
        }
        if locked {
            *populate = Some(grown);
        }
        Ok(())
    }

    /// Makes an area longer by `grown`, which is free, and merges it with what follows. `vma_merge_extend`.
    fn extend_area(
        &self,
        state: &mut MmState<P>,
        fields: VmaFields<P>,
        grown: VirtRange,
    ) -> Result<(), Errno> {
        if fields.flags.intersects(VmFlags::SPECIAL) {
            return Err(Errno::ENOMEM);
        }
        let flags = fields.flags;
        let range = ordered(fields.range.start(), grown.end());
        let mut area = VmaFields {
            range,
            flags: flags | VmFlags::SOFTDIRTY,
            ..fields
        };
        if let Some(next) = mergeable_after(state, &area) {
            area = joined(&area, &next);
        }
        let hull = area.range;
        let mut edit = Edit::new(self);
        edit.add(area)?;
        state.vmas.reserve(edit.len(), self.machine.fail_point())?;
        let old = edit.commit(state, hull);
        self.retire(old);
        state.counts.add(flags, grown.pages(P::Format::GRANULE));
        Ok(())
    }

    /// Moves the mapping to a new place. `move_vma`.
    fn move_area(
        &self,
        state: &mut MmState<P>,
        fields: VmaFields<P>,
        request: Request,
        populate: &mut Option<VirtRange>,
    ) -> Result<VirtAddr, Errno> {
        let granule = P::Format::GRANULE;
        let from = VirtRange::with_len(request.old, request.old_len).ok_or(Errno::EFAULT)?;
        self.check_move(state, &fields, from)?;
        let map = if request.has(MREMAP_FIXED) {
            Map::FIXED
        } else {
            Map::empty()
        };
        let addr = if request.must_move() {
            request.new.get()
        } else {
            0
        };
        let new = self.place(
            state,
            PlaceRequest {
                addr,
                len: request.new_len,
                map,
            },
        )?;
        let to = VirtRange::with_len(new, request.new_len).ok_or(Errno::ENOMEM)?;
        let kept = if request.has(MREMAP_DONTUNMAP) {
            Kept::Empty
        } else {
            Kept::Nothing
        };
        let moved = match (fields.is_accounted(), kept) {
            (true, Kept::Nothing) => from.pages(granule),
            _ => 0,
        };
        let charged = match fields.is_accounted() {
            true => to.pages(granule) - moved,
            false => 0,
        };
        // A move that needs nothing more is refused like the rest when too much is promised, as in Linux.
        if fields.is_accounted() {
            self.charge_commit(state, charged)?;
        }
        let gate = ClosedGate::new(self);
        let result = self
            .plan_move(state, &fields, from, to, kept)
            .inspect_err(|_| self.machine.uncharge_commit(charged))
            .and_then(|plan| {
                self.machine.recharge_commit(moved);
                self.carry_out(state, &fields, plan)
            });
        drop(gate);
        result?;
        if fields.flags.contains(VmFlags::LOCKED) && request.new_len > request.old_len {
            let grown = to.start().checked_add(request.old_len);
            *populate = grown.and_then(|start| VirtRange::new(start, to.end()));
        }
        Ok(new)
    }

    /// All of a move that can fail for want of memory: the areas of every step, and the page-table pages of the target. Nothing has changed,
    /// with or without an error.
    fn plan_move<'m>(
        &'m self,
        state: &mut MmState<P>,
        source: &VmaFields<P>,
        from: VirtRange,
        to: VirtRange,
        kept: Kept,
    ) -> Result<MovePlan<'m, P>, Errno> {
        let moved = moved_fields(source, from, to);
        let merged = merged_with_neighbours(state, moved);
        // Memory that was never touched can merge with the very area it comes from.
        let whole = if merged.range.covers(from) {
            &merged
        } else {
            source
        };
        let mut rests = Edit::new(self);
        match kept {
            Kept::Nothing if from.is_empty() => {}
            Kept::Nothing => rests.add_rests(whole, from)?,
            Kept::Empty => rests.add(left_behind(whole, from))?,
        }
        let mut undo = Edit::new(self);
        if source.ops.is_some() {
            undo.add_rests(&merged, to)?;
        }
        let (hull, rests_hull) = (merged.range, whole.range);
        let mut target = Edit::new(self);
        target.add(merged)?;
        let room = target.len() + rests.len() + undo.len();
        state.vmas.reserve(room, self.machine.fail_point())?;
        let landing = ordered(to.start(), plus(to.start(), from.bytes())?);
        self.machine.with_reclaim(|| {
            self.flush_batch()
                .reserve_move(&self.table, from, landing.start())
        })?;
        Ok(MovePlan {
            from,
            to,
            landing,
            kept,
            target,
            hull,
            rests,
            rests_hull,
            undo,
        })
    }

    /// Carries a move out. Only the driver can refuse it now: then all is as it was before.
    fn carry_out(
        &self,
        state: &mut MmState<P>,
        source: &VmaFields<P>,
        plan: MovePlan<'_, P>,
    ) -> Result<(), Errno> {
        let (from, to, landing) = (plan.from, plan.to, plan.landing);
        let pages = |range: VirtRange| range.pages(P::Format::GRANULE);
        self.retire(plan.target.commit(state, plan.hull));
        state.counts.add(source.flags, pages(to));
        self.move_entries(source, from, landing);
        if let Some(ops) = &source.ops {
            if plan.hull == to {
                ops.open(to);
            }
            if let Err(error) = ops.mremap(from, to) {
                self.move_entries(source, landing, from);
                self.remove(state, to, plan.undo, plan.hull);
                return Err(error);
            }
        }
        match plan.kept {
            Kept::Nothing if from.is_empty() => {}
            Kept::Nothing => self.remove(state, from, plan.rests, plan.rests_hull),
            Kept::Empty => {
                let range = plan.rests_hull;
                self.retire(plan.rests.commit(state, range));
                let flags = source.flags;
                state.counts.sub(flags, pages(range));
                state
                    .counts
                    .add(flags & !VmFlags::LOCKED_MASK, pages(range));
            }
        }
        Ok(())
    }

    /// Room in the map count, and a driver that lets the area be split.
    fn check_move(
        &self,
        state: &MmState<P>,
        fields: &VmaFields<P>,
        from: VirtRange,
    ) -> Result<(), Errno> {
        let most = self
            .machine
            .settings()
            .max_map_count
            .load(Ordering::Relaxed);
        if state.vmas.len() as u64 >= most.saturating_sub(3) {
            return Err(Errno::ENOMEM);
        }
        let Some(ops) = &fields.ops else {
            return Ok(());
        };
        if from.start() != fields.range.start() {
            ops.may_split(fields.range, from.start())?;
        }
        if from.end() != fields.range.end() {
            ops.may_split(fields.range, from.end())?;
        }
        Ok(())
    }

    /// Moves the entries of `from` to `to`, of the same length, with truncation kept out. `move_page_tables`.
    fn move_entries(&self, fields: &VmaFields<P>, from: VirtRange, to: VirtRange) {
        let cache = fields.file.as_ref().and_then(|file| file.cache());
        let _mappings = cache.map(|cache| cache.lock_mappings());
        let mut batch = self.flush_batch();
        batch.move_range(&self.table, from, to.start());
        batch.finish();
    }
}

/// What a move leaves at the source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// A hole.
    Nothing,
    /// The mapping, without its pages. MREMAP_DONTUNMAP.
    Empty,
}

/// A move whose every step has what it needs.
struct MovePlan<'m, P: Platform> {
    from: VirtRange,
    to: VirtRange,
    /// The part of `to` that the entries of `from` go to.
    landing: VirtRange,
    kept: Kept,
    /// The new mapping, one with the neighbours that it merges with.
    target: Edit<'m, P>,
    hull: VirtRange,
    /// What is at the source afterwards.
    rests: Edit<'m, P>,
    rests_hull: VirtRange,
    /// What the new mapping had merged with, for a driver that refuses.
    undo: Edit<'m, P>,
}

/// The area at its new place. Anonymous memory that was never touched takes its page offset from its new address. `copy_vma`.
fn moved_fields<P: Platform>(
    fields: &VmaFields<P>,
    from: VirtRange,
    to: VirtRange,
) -> VmaFields<P> {
    let granule = P::Format::GRANULE;
    let skipped = (from.start().get() - fields.range.start().get()) >> granule.shift();
    let untouched = fields.content == Content::Anonymous && fields.anon == 0;
    let pgoff = match untouched {
        true => to.start().get() >> granule.shift(),
        false => fields.pgoff.wrapping_add(skipped),
    };
    VmaFields {
        range: to,
        pgoff,
        flags: fields.flags | VmFlags::SOFTDIRTY,
        ..fields.clone()
    }
}

/// What the source says after MREMAP_DONTUNMAP: it is not locked any more, and when all of it was emptied it has no anonymous pages to
/// look for. `dontunmap_complete`.
fn left_behind<P: Platform>(fields: &VmaFields<P>, from: VirtRange) -> VmaFields<P> {
    let mut left = fields.clone();
    left.flags &= !VmFlags::LOCKED_MASK;
    if from == left.range {
        (left.anon, left.anon_forked) = (0, false);
    }
    left
}

/// `at` and `bytes` after it, which are known to fit.
fn plus(at: VirtAddr, bytes: u64) -> Result<VirtAddr, Errno> {
    at.checked_add(bytes).ok_or(Errno::EFAULT)
}

/// Whether the area may be moved along with others. `vma_multi_allowed`: not where a driver chooses addresses itself.
fn may_move_with_others<P: Platform>(vma: &Vma<P>) -> bool {
    vma.operations().is_none_or(|ops| ops.may_merge()) && !vma.flags().contains(VmFlags::HUGETLB)
}

/// `check_mremap_params`.
fn check_arguments<P: Platform>(state: &MmState<P>, request: Request) -> Result<Request, Errno> {
    let granule = P::Format::GRANULE;
    let known = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
    if request.flags & !known != 0 || !request.old.is_aligned(granule) {
        return Err(Errno::EINVAL);
    }
    // As in Linux, a length that overflows when rounded becomes 0.
    let old_len = granule.round_up(request.old_len).unwrap_or(0);
    let new_len = granule.round_up(request.new_len).unwrap_or(0);
    if new_len == 0 || new_len > state.layout.task_size_max {
        return Err(Errno::EINVAL);
    }
    let request = Request {
        old_len,
        new_len,
        ..request
    };
    if !request.must_move() {
        return Ok(request);
    }
    let beyond = request.new.get() > state.layout.task_size_max - new_len;
    let both = request.has(MREMAP_DONTUNMAP) && old_len != new_len;
    if beyond || !request.new.is_aligned(granule) || !request.has(MREMAP_MAYMOVE) || both {
        return Err(Errno::EINVAL);
    }
    let overlaps = request.old.get().wrapping_add(old_len) > request.new.get()
        && request.new.get() + new_len > request.old.get();
    if overlaps {
        return Err(Errno::EINVAL);
    }
    Ok(request)
}

/// What the area itself forbids. `check_prep_vma`.
fn check_area<P: Platform>(vma: &Vma<P>, request: &Request) -> Result<(), Errno> {
    let flags = vma.flags();
    if flags.contains(VmFlags::SEALED) {
        return Err(Errno::EPERM);
    }
    let maps_new = request.new_len > request.old_len || request.must_move();
    if !maps_new {
        return Ok(());
    }
    if request.old_len == 0 && !flags.intersects(VmFlags::SHARED | VmFlags::MAYSHARE) {
        return Err(Errno::EINVAL);
    }
    if request.has(MREMAP_DONTUNMAP) && flags.intersects(VmFlags::DONTEXPAND | VmFlags::PFNMAP) {
        return Err(Errno::EINVAL);
    }
    let rest = vma.range().end().get() - request.old.get();
    // What a move cuts off first may reach beyond the area.
    if request.old_len.min(request.new_len) > rest {
        Err(Errno::EFAULT)
    } else {
        Ok(())
    }
}

//! One change of the index: new VMAs take the place of old ones in a single step that lock-free readers see whole. All that can
//! fail is done while the edit is put together; an edit that is dropped has changed nothing. Here, too, is when two areas may become one.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr;
use core::sync::atomic::Ordering;

use super::index::{Reader, Removed, Slot, Writer};
use super::mm::{Mm, MmState, MmUser};
use super::vma::{Vma, VmaFields};
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::{Mapping, MappingKind, VmFlags};
use crate::platform::Platform;

pub(crate) type AreaIndex<P> = Writer<Vma<P>>;
pub(crate) type AreaReader<P> = Reader<Vma<P>>;
/// VMAs that left the index and wait for their pages to be unmapped and for readers to leave them.
pub(crate) type Detached<P> = Removed<Vma<P>>;

/// The most VMAs that one edit puts in: the left rest, the changed middle, the right rest.
const MOST: usize = 3;

/// A change of the index that is being put together.
pub(crate) struct Edit<'m, P: Platform> {
    mm: &'m MmUser<P>,
    new: [Option<Box<Slot<Vma<P>>>>; MOST],
    count: usize,
}

impl<'m, P: Platform> Edit<'m, P> {
    /// An empty edit.
    pub fn new(mm: &'m MmUser<P>) -> Self {
        Self {
            mm,
            new: [const { None }; MOST],
            count: 0,
        }
    }

    /// Adds an area, above those added before.
    ///
    /// # Errors
    /// `ENOMEM`: the heap is exhausted.
    pub fn add(&mut self, fields: VmaFields<P>) -> Result<(), Errno> {
        let mapping = match fields.file.as_ref().and_then(|file| file.cache()) {
            Some(cache) => Some(cache.reserve_mapping()?),
            None => None,
        };
        let file = fields.file.clone();
        match Slot::try_new(self.mm.machine.fail_point(), Vma::new(fields, mapping)) {
            Ok(slot) => {
                self.new[self.count] = Some(slot);
                self.count += 1;
                Ok(())
            }
            Err(error) => {
                if let (Some(file), Some(id)) = (file, mapping) {
                    release_mapping(&file, id);
                }
                Err(error.into())
            }
        }
    }

    /// Puts the new areas in the place of every area inside `range`, which no area may straddle. The old ones are detached.
    ///
    /// `state` must have room for [`Edit::len`] insertions.
    pub fn commit(mut self, state: &mut MmState<P>, range: VirtRange) -> Detached<P> {
        for slot in self.new.iter().flatten() {
            announce(self.mm, slot);
            if slot.guarded_start() != slot.range().start().get() {
                state.lowest_stack = state.lowest_stack.min(slot.range().start().get());
            }
        }
        state
            .vmas
            .iter_range(range.start().get(), range.end().get())
            .for_each(|old| old.detach());
        let new = self.new.each_mut().map(Option::take);
        state.vmas.replace(
            range.start().get(),
            range.end().get(),
            new.into_iter().flatten(),
        )
    }

    /// Adds what `whole` leaves on both sides of `part`.
    ///
    /// # Errors
    /// `ENOMEM`: the heap is exhausted.
    pub fn add_rests(&mut self, whole: &VmaFields<P>, part: VirtRange) -> Result<(), Errno> {
        let (start, end) = (whole.range.start(), whole.range.end());
        for rest in [range(start, part.start()), range(part.end(), end)] {
            if !rest.is_empty() {
                self.add(whole.cut(rest))?;
            }
        }
        Ok(())
    }

    /// How many areas it holds.
    pub fn len(&self) -> usize {
        self.count
    }
}

impl<P: Platform> Drop for Edit<'_, P> {
    fn drop(&mut self) {
        for slot in self.new.iter().flatten() {
            if let (Some(file), Some(id)) = (slot.file(), slot.mapping) {
                release_mapping(file, id);
            }
        }
    }
}

fn release_mapping<P: Platform>(file: &Arc<crate::object::File<P>>, id: crate::object::MappingId) {
    if let Some(cache) = file.cache() {
        cache.remove_mapping(id);
    }
}

/// Tells the file of a VMA that it is mapped there, so that truncation finds it. `vma_link_file`.
pub(crate) fn announce<P: Platform>(mm: &MmUser<P>, vma: &Vma<P>) {
    let (Some(file), Some(id)) = (vma.file(), vma.mapping) else {
        return;
    };
    let Some(cache) = file.cache() else { return };
    let kind = match vma.is_shared() {
        true if vma.flags().contains(VmFlags::MAYWRITE) => MappingKind::SharedWritable,
        true => MappingKind::Shared,
        false => MappingKind::Private,
    };
    let space = mm.shared().clone();
    let pages = vma.range().pages(crate::machine::Machine::<P>::GRANULE);
    cache.fill_mapping(
        id,
        Mapping {
            space,
            start: vma.range().start(),
            first_page: vma.pgoff(),
            pages,
            kind,
            residency: vma.residency(),
        },
    );
}

/// Takes detached VMAs out of the mappings of their files. `unlink_file_vma`.
pub(crate) fn withdraw<P: Platform>(old: &Detached<P>) {
    for vma in old.iter() {
        if let (Some(file), Some(id)) = (vma.file(), vma.mapping) {
            release_mapping(file, id);
        }
    }
}

impl<P: Platform> Mm<P> {
    /// The end of detached VMAs whose pages belong to the areas that took their place: their files forget them, and they are
    /// freed once no reader looks.
    pub(crate) fn retire(&self, old: Detached<P>) {
        withdraw(&old);
        old.retire(self.machine.epoch());
    }
}

impl<P: Platform> MmUser<P> {
    /// Changes what `part` of the area `old` says to `changed` (same range), splitting off the rests and merging with neighbours that then agree.
    /// Page-table entries are the caller's. `vma_modify`.
    ///
    /// # Errors
    /// `ENOMEM`: too many mappings, or no heap; nothing has changed, but that an area which was to be split twice with room for one more is split where
    /// `part` starts, as in Linux.
    pub(crate) fn modify(
        &self,
        state: &mut MmState<P>,
        changed: VmaFields<P>,
    ) -> Result<(), Errno> {
        let part = changed.range;
        let vma = state.vmas.find(part.start().get()).ok_or(Errno::ENOMEM)?;
        check_cuts(vma, part)?;
        let old = vma.fields();
        let mut edit = Edit::new(self);
        let mut merged = changed;
        let mut hull = old.range;
        let mut gone = 1;
        if part.start() > old.range.start() {
            edit.add(old.cut(range(old.range.start(), part.start())))?;
        } else if let Some(prev) = mergeable_before(state, &merged) {
            merged = joined(&prev, &merged);
            hull = range(prev.range.start(), hull.end());
            gone += 1;
        }
        let next = if part.end() == old.range.end() {
            mergeable_after(state, &merged)
        } else {
            None
        };
        if let Some(next) = next {
            merged = joined(&merged, &next);
            hull = range(hull.start(), next.range.end());
            gone += 1;
        }
        edit.add(merged)?;
        if part.end() < old.range.end() {
            edit.add(old.cut(range(part.end(), old.range.end())))?;
        }
        if let Err(error) = self.check_map_count(state, edit.len(), gone) {
            let splits_twice = edit.len() == MOST;
            drop(edit);
            if splits_twice && self.check_map_count(state, 2, 1).is_ok() {
                self.split_ends(state, range(part.start(), old.range.end()));
            }
            return Err(error);
        }
        state.vmas.reserve(edit.len(), self.machine.fail_point())?;
        let more = edit.len().saturating_sub(gone);
        let replaced = edit.commit(state, hull);
        self.retire(replaced);
        open_rests(&old, part, more);
        Ok(())
    }

    /// Whether `added` more and `gone` less stay within the most mappings a space may have.
    pub(crate) fn check_map_count(
        &self,
        state: &MmState<P>,
        added: usize,
        gone: usize,
    ) -> Result<(), Errno> {
        let most = self
            .machine
            .settings()
            .max_map_count
            .load(Ordering::Relaxed);
        let grows = added > gone;
        if grows && (state.vmas.len() + added - gone) as u64 > most {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }
}

/// Asks the driver whether `area` may be split where `part` ends inside it. `may_split`.
///
/// # Errors
/// What it answers.
pub(crate) fn check_cuts<P: Platform>(area: &Vma<P>, part: VirtRange) -> Result<(), Errno> {
    let Some(ops) = area.operations() else {
        return Ok(());
    };
    for cut in [part.start(), part.end()] {
        if cut > area.range().start() && cut < area.range().end() {
            ops.may_split(area.range(), cut)?;
        }
    }
    Ok(())
}

/// Tells the driver of up to `most` of the rests of `area` beside `part`, which are mappings of their own now. `vm_ops->open` in `__split_vma`.
pub(crate) fn open_rests<P: Platform>(area: &VmaFields<P>, part: VirtRange, most: usize) {
    let Some(ops) = &area.ops else { return };
    let left = range(area.range.start(), part.start().max(area.range.start()));
    let right = range(part.end().min(area.range.end()), area.range.end());
    let rests = [left, right].into_iter().filter(|rest| !rest.is_empty());
    rests.take(most).for_each(|rest| ops.open(rest));
}

/// A range whose ends are known to be in order.
pub(crate) fn range(start: VirtAddr, end: VirtAddr) -> VirtRange {
    VirtRange::new(start, end.max(start)).unwrap_or_else(|| unreachable!("end is not before start"))
}

/// The area that ends where `area` starts, if the two say the same.
pub(crate) fn mergeable_before<P: Platform>(
    state: &MmState<P>,
    area: &VmaFields<P>,
) -> Option<VmaFields<P>> {
    let start = area.range.start().get();
    let prev = state.vmas.get(start.checked_sub(1)?)?;
    if prev.range().end().get() != start || !may_join(prev.flags(), area.flags) {
        return None;
    }
    let prev = prev.fields();
    can_merge(&prev, area).then_some(prev)
}

/// The area that starts where `area` ends, if the two say the same.
pub(crate) fn mergeable_after<P: Platform>(
    state: &MmState<P>,
    area: &VmaFields<P>,
) -> Option<VmaFields<P>> {
    let next = state.vmas.get(area.range.end().get())?;
    if next.range().start() != area.range.end() || !may_join(next.flags(), area.flags) {
        return None;
    }
    let next = next.fields();
    can_merge(area, &next).then_some(next)
}

/// What a new area becomes at its free place: one with those of its neighbours that say the same. `vma_merge_new_range`.
pub(crate) fn merged_with_neighbours<P: Platform>(
    state: &MmState<P>,
    area: VmaFields<P>,
) -> VmaFields<P> {
    let mut merged = area;
    if let Some(prev) = mergeable_before(state, &merged) {
        merged = joined(&prev, &merged);
    }
    if let Some(next) = mergeable_after(state, &merged) {
        merged = joined(&merged, &next);
    }
    merged
}

/// The area that two adjoining ones make.
pub(crate) fn joined<P: Platform>(low: &VmaFields<P>, high: &VmaFields<P>) -> VmaFields<P> {
    let mut area = low.clone();
    area.range = range(low.range.start(), high.range.end());
    area.flags |= high.flags & VmFlags::STICKY;
    if low.anon == 0 {
        (area.anon, area.anon_forked) = (high.anon, high.anon_forked);
    }
    area
}

/// The flags that must agree do.
fn may_join(a: VmFlags, b: VmFlags) -> bool {
    (a ^ b) & !VmFlags::STICKY == VmFlags::empty() && !a.intersects(VmFlags::SPECIAL)
}

/// Whether `low` and `high`, which adjoin, can be one area. `can_vma_merge_before`, `can_vma_merge_after`.
fn can_merge<P: Platform>(low: &VmaFields<P>, high: &VmaFields<P>) -> bool {
    let same_file = match (&low.file, &high.file) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    };
    let same_ops = match (&low.ops, &high.ops) {
        (None, None) => true,
        (Some(a), Some(b)) => ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b)) && a.may_merge(),
        _ => false,
    };
    let same_anon = low.anon == high.anon
        || low.anon == 0 && !high.anon_forked
        || high.anon == 0 && !low.anon_forked;
    may_join(low.flags, high.flags)
        && same_file
        && low.content == high.content
        && same_ops
        && same_anon
        && low.name == high.name
        && low.cache_mode == high.cache_mode
        && low.policy == high.policy
        && low.pgoff_end() == high.pgoff
}

/// The reverse map root of a neighbour that `vma` could share: it adjoins, says the same but for permissions, and did not come through fork.
/// `find_mergeable_anon_vma`.
pub(crate) fn neighbour_root<P: Platform>(state: &MmState<P>, vma: &Vma<P>) -> Option<u64> {
    let area = vma.fields();
    let after = state
        .vmas
        .get(area.range.end().get())
        .map(|next| (next.fields(), false));
    let before = area
        .range
        .start()
        .get()
        .checked_sub(1)
        .and_then(|at| state.vmas.get(at))
        .map(|prev| (prev.fields(), true));
    for (other, is_before) in [after, before].into_iter().flatten() {
        let (low, high) = if is_before {
            (&other, &area)
        } else {
            (&area, &other)
        };
        let free = VmFlags::ACCESS | VmFlags::STICKY;
        let alike = (low.flags ^ high.flags) & !free == VmFlags::empty()
            && low.pgoff_end() == high.pgoff
            && low.policy == high.policy
            && low.file.as_ref().map(Arc::as_ptr) == high.file.as_ref().map(Arc::as_ptr);
        if alike && other.anon != 0 && !other.anon_forked {
            return Some(other.anon);
        }
    }
    None
}

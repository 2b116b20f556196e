//! `mprotect`: new permissions for a range, area by area, and what they mean for the entries that are there.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::edit::range as ordered;
use super::flags::{Prot, vm_flags_of_prot};
use super::map::is_accountable;
use super::mm::{Mm, MmState, MmUser};
use super::populate::Populate;
use super::vma::{Content, Vma, VmaFields};
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::{Entry, FlushBatch, Format, Leaf, LeafFlags};
use crate::platform::Platform;

impl<P: Platform> MmUser<P> {
    /// `mprotect`. `mm/mprotect.c: do_mprotect_pkey` without a key.
    ///
    /// # Errors
    /// - `EINVAL`: unaligned, both PROT_GROWSDOWN and PROT_GROWSUP, one of them on an area that does not grow, an unknown bit.
    /// - `ENOMEM`: the range overflows, or has a hole: what lies before the hole is changed, as in Linux. Also limits and no heap.
    /// - `EACCES`: against what the mapping may become; what lies before that area is changed. `EPERM`: a sealed
    ///   mapping; likewise.
    /// - What a driver's mprotect operation answers.
    pub fn mprotect(&self, addr: VirtAddr, len: u64, prot: u32) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        let grows = prot & (Prot::GROWSDOWN | Prot::GROWSUP).bits();
        let known = (Prot::READ | Prot::WRITE | Prot::EXEC | Prot::SEM).bits();
        if grows == (Prot::GROWSDOWN | Prot::GROWSUP).bits() || !addr.is_aligned(granule) {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let len = granule.round_up(len).ok_or(Errno::ENOMEM)?;
        let range = VirtRange::with_len(addr, len).ok_or(Errno::ENOMEM)?;
        if prot & !grows & !known != 0 {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.write();
        let range = self.grown_range(&state, range, grows)?;
        let mut locked = Vec::new();
        let prot = Prot::from_bits_truncate(prot);
        let result = self.protect_range(&mut state, range, prot, &mut locked);
        drop(state);
        for part in locked {
            self.populate(part, Populate::Silently);
        }
        result
    }

    /// The range that PROT_GROWSDOWN stretches to the start of its stack.
    fn grown_range(
        &self,
        state: &MmState<P>,
        range: VirtRange,
        grows: u32,
    ) -> Result<VirtRange, Errno> {
        let first = state.vmas.find(range.start().get()).ok_or(Errno::ENOMEM)?;
        if grows == Prot::GROWSDOWN.bits() {
            if first.range().start() >= range.end() {
                return Err(Errno::ENOMEM);
            }
            if !first.flags().contains(VmFlags::GROWSDOWN) {
                return Err(Errno::EINVAL);
            }
            return Ok(ordered(first.range().start(), range.end()));
        }
        if first.range().start() > range.start() {
            return Err(Errno::ENOMEM);
        }
        if grows == Prot::GROWSUP.bits() {
            return Err(Errno::EINVAL);
        }
        Ok(range)
    }

    /// Changes every area of `range`, up to a hole or a refusal. `locked` gets the parts that have become writable and must be populated for that,
    /// because they are locked.
    fn protect_range(
        &self,
        state: &mut MmState<P>,
        range: VirtRange,
        prot: Prot,
        locked: &mut Vec<VirtRange>,
    ) -> Result<(), Errno> {
        let implies_exec =
            prot.contains(Prot::READ) && self.read_implies_exec.load(Ordering::Relaxed);
        let mut at = range.start();
        let mut batch = self.flush_batch();
        while at < range.end() {
            let vma = state.vmas.get(at.get()).ok_or(Errno::ENOMEM)?;
            let part = ordered(at, vma.range().end().min(range.end()));
            let mut wanted = vm_flags_of_prot(prot);
            if implies_exec && vma.flags().contains(VmFlags::MAYEXEC) {
                wanted |= VmFlags::EXEC;
            }
            let old = vma.fields();
            if wanted.bits() & !(old.flags.bits() >> 4) & VmFlags::ACCESS.bits() != 0 {
                return Err(Errno::EACCES);
            }
            if let Some(ops) = &old.ops {
                ops.mprotect(part, wanted)?;
            }
            if old.flags.contains(VmFlags::SEALED) {
                return Err(Errno::EPERM);
            }
            let lock_kind =
                VmFlags::WRITE | VmFlags::SHARED | VmFlags::LOCKED | VmFlags::LOCKONFAULT;
            let breaks_sharing =
                old.flags & lock_kind == VmFlags::LOCKED && wanted.contains(VmFlags::WRITE);
            if breaks_sharing {
                locked.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            }
            self.protect_area(state, &mut batch, old.cut(part), wanted)?;
            if breaks_sharing {
                locked.push(part);
            }
            at = part.end();
        }
        Ok(())
    }

    /// Changes one area, or a part of one. `mprotect_fixup`.
    fn protect_area(
        &self,
        state: &mut MmState<P>,
        batch: &mut FlushBatch<'_, P>,
        old: VmaFields<P>,
        wanted: VmFlags,
    ) -> Result<(), Errno> {
        let flags = old.flags & !VmFlags::ACCESS | wanted;
        if flags == old.flags {
            return Ok(());
        }
        let (part, old_flags, pages) = (old.range, old.flags, old.pages());
        if flags.contains(VmFlags::WRITE) {
            let page = P::Format::GRANULE.bytes();
            let fits = |flags| state.counts.may_expand(&self.limits, flags, pages, page);
            // An area that would not fit as it is was let in before a limit was lowered.
            fits(flags).or_else(|error| fits(old_flags).map_or(Ok(()), |()| Err(error)))?;
        }
        let (charged, released, flags) = charge_of(&old, flags);
        if charged != 0 {
            self.charge_commit(state, charged)?;
        }
        if let Err(error) = self.modify(state, VmaFields { flags, ..old }) {
            self.machine.uncharge_commit(charged);
            return Err(error);
        }
        self.machine.uncharge_commit(released);
        state.counts.sub(old_flags, pages);
        state.counts.add(flags, pages);
        if let Some(vma) = state.vmas.get(part.start().get()) {
            self.protect_entries(batch, vma, part);
        }
        Ok(())
    }
}

impl<P: Platform> Mm<P> {
    /// Gives the entries of `part` the permissions of `vma`, which covers it. `change_protection`.
    fn protect_entries(&self, batch: &mut FlushBatch<'_, P>, vma: &Vma<P>, part: VirtRange) {
        let allowed = vma.protection();
        batch.change_range(&self.table, part, |_, leaf| {
            let mut flags = leaf.flags & !(LeafFlags::READ | LeafFlags::EXEC)
                | allowed & (LeafFlags::READ | LeafFlags::EXEC);
            flags.set(
                LeafFlags::WRITE,
                allowed.contains(LeafFlags::WRITE) && self.keeps_write(vma, &leaf),
            );
            Some(Entry::Present(Leaf { flags, ..leaf }))
        });
    }

    /// Whether an entry of a writable area may be writable without a fault first: what it maps is already ours or already dirty.
    fn keeps_write(&self, vma: &Vma<P>, leaf: &Leaf) -> bool {
        if leaf.flags.contains(LeafFlags::WRITE) {
            return true;
        }
        let page = self.machine.phys().page(leaf.frame);
        // Nobody need be told of the first store to shared memory, unless stores are tracked.
        if vma.is_shared()
            && vma.operations().is_none()
            && vma.flags().contains(VmFlags::SOFTDIRTY)
            && page.is_some_and(|page| page.kind() == crate::phys::FrameKind::Shmem)
        {
            return true;
        }
        if !leaf.flags.contains(LeafFlags::DIRTY)
            || leaf
                .flags
                .intersects(LeafFlags::SPECIAL | LeafFlags::UFFD_WP)
        {
            return false;
        }
        let tracked = !vma.flags().contains(VmFlags::SOFTDIRTY);
        if tracked && !leaf.flags.contains(LeafFlags::SOFT_DIRTY) {
            return false;
        }
        match page {
            Some(page) if vma.is_shared() => page.kind() == crate::phys::FrameKind::Shmem,
            Some(page) => page.kind() == crate::phys::FrameKind::Anon && page.refs() == 1,
            None => false,
        }
    }
}

/// What an area that becomes `flags` is charged more and charged less to the commit limit, in pages, and the flags with that said: what becomes
/// writable is charged; anonymous memory without a page that stops being writable no longer is.
fn charge_of<P: Platform>(old: &VmaFields<P>, flags: VmFlags) -> (u64, u64, VmFlags) {
    let pages = old.pages();
    if flags.contains(VmFlags::WRITE) {
        return match is_accountable(flags)
            && !old.flags.intersects(VmFlags::ACCOUNT | VmFlags::WRITE)
        {
            true => (pages, 0, flags | VmFlags::ACCOUNT),
            false => (0, 0, flags),
        };
    }
    match old.is_accounted() && old.content == Content::Anonymous && old.anon == 0 {
        true => (0, pages, flags & !VmFlags::ACCOUNT),
        false => (0, 0, flags),
    }
}

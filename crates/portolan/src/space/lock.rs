//! `mlock` and its kin: which areas are locked, within which limit, and the checks that other operations make for VM_LOCKED. Not for bringing the
//! pages in, which is `populate`'s.

use core::sync::atomic::Ordering;

use super::mm::{MmState, MmUser};
use super::populate::Populate;
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::Format;
use crate::platform::Platform;
use linux_raw_sys::general::{MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, MLOCK_ONFAULT};

/// Areas that no lock applies to: they are passed over. `mlock_fixup`.
pub(super) const NEVER_LOCKED: VmFlags = VmFlags::SPECIAL
    .union(VmFlags::HUGETLB)
    .union(VmFlags::DROPPABLE);

impl<P: Platform> MmUser<P> {
    /// `mlock` (`flags` 0) and `mlock2`. `mm/mlock.c: do_mlock`. Locks every page that the range touches and faults it in; with MLOCK_ONFAULT
    /// pages are only locked as they come.
    ///
    /// # Errors
    /// - `EINVAL`: an unknown flag, or a range that wraps. `EPERM`: RLIMIT_MEMLOCK is 0, without the right to lock any.
    /// - `ENOMEM`: over RLIMIT_MEMLOCK with nothing changed; a hole, with what lies before it locked; a page that cannot be had (PROT_NONE, past the
    ///   end of a file), with everything locked; too many mappings, or no heap. `EAGAIN`: no frame for a page.
    pub fn mlock(&self, addr: VirtAddr, len: u64, flags: u32) -> Result<(), Errno> {
        if flags & !MLOCK_ONFAULT != 0 {
            return Err(Errno::EINVAL);
        }
        if !self.may_lock() {
            return Err(Errno::EPERM);
        }
        let lock = match flags & MLOCK_ONFAULT {
            0 => VmFlags::LOCKED,
            _ => VmFlags::LOCKED_MASK,
        };
        let range = match touched_pages::<P>(addr, len) {
            // The limit is asked before the range.
            Err(_) if self.is_over_lock_limit(len) => return Err(Errno::ENOMEM),
            range => range?,
        };
        let mut state = self.state.write();
        if !self.fits_lock_limit(&state, range) {
            return Err(Errno::ENOMEM);
        }
        self.set_lock(&mut state, range, lock)?;
        drop(state);
        self.populate_range(range, Populate::Locking)
            .map_err(|error| match error {
                Errno::ENOMEM => Errno::EAGAIN,
                _ => Errno::ENOMEM,
            })
    }

    /// `munlock`. `mm/mlock.c`. The pages stay where they are.
    ///
    /// # Errors
    /// `EINVAL`: a range that wraps. `ENOMEM`: a hole, with what lies before it unlocked; too many mappings, or no heap.
    pub fn munlock(&self, addr: VirtAddr, len: u64) -> Result<(), Errno> {
        let range = touched_pages::<P>(addr, len)?;
        self.set_lock(&mut self.state.write(), range, VmFlags::empty())
    }

    /// `mlockall`. `mm/mlock.c`. Locks what is mapped (MCL_CURRENT), what will be (MCL_FUTURE), page by page as they come with MCL_ONFAULT. What was asked
    /// for the future before is forgotten. Pages that cannot be had are passed over.
    ///
    /// # Errors
    /// `EINVAL`: no flag, an unknown one, or MCL_ONFAULT alone. `EPERM`: RLIMIT_MEMLOCK is 0, without the right to lock any. `ENOMEM`: all that is
    /// mapped is over RLIMIT_MEMLOCK; nothing has changed.
    pub fn mlockall(&self, flags: u32) -> Result<(), Errno> {
        let known = MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT;
        if flags == 0 || flags & !known != 0 || flags == MCL_ONFAULT {
            return Err(Errno::EINVAL);
        }
        if !self.may_lock() {
            return Err(Errno::EPERM);
        }
        let mut state = self.state.write();
        let current = flags & MCL_CURRENT != 0;
        let within = state.counts.total <= self.lock_limit()
            || self.limits.may_lock_any.load(Ordering::Relaxed);
        if current && !within {
            return Err(Errno::ENOMEM);
        }
        let lock = match flags & MCL_ONFAULT {
            0 => VmFlags::LOCKED,
            _ => VmFlags::LOCKED_MASK,
        };
        state.def_flags &= !VmFlags::LOCKED_MASK;
        if flags & MCL_FUTURE != 0 {
            state.def_flags |= lock;
        }
        if current {
            self.set_lock_everywhere(&mut state, lock);
            drop(state);
            let all = super::edit::range(VirtAddr::new(0), self.user_end());
            self.populate(all, Populate::Silently);
        }
        Ok(())
    }

    /// `munlockall`. `mm/mlock.c`. Nothing is locked any more, and nothing later will be by itself. Cannot fail: an area that there is no memory
    /// to merge stays locked, as in Linux.
    pub fn munlockall(&self) {
        let mut state = self.state.write();
        state.def_flags &= !VmFlags::LOCKED_MASK;
        self.set_lock_everywhere(&mut state, VmFlags::empty());
    }

    /// Gives every area of `range` the lock `lock`, up to the first hole. `apply_vma_lock_flags`.
    fn set_lock(
        &self,
        state: &mut MmState<P>,
        range: VirtRange,
        lock: VmFlags,
    ) -> Result<(), Errno> {
        let mut at = range.start();
        while at < range.end() {
            let vma = state.vmas.get(at.get()).ok_or(Errno::ENOMEM)?;
            let end = vma.range().end().min(range.end());
            self.set_lock_of(state, super::edit::range(at, end), lock)?;
            at = end;
        }
        Ok(())
    }

    /// Gives every area the lock `lock`, but for those that there is no memory for. `apply_mlockall_flags`.
    fn set_lock_everywhere(&self, state: &mut MmState<P>, lock: VmFlags) {
        let mut at = VirtAddr::new(0);
        while let Some(vma) = state.vmas.find(at.get()) {
            let range = vma.range();
            let _ = self.set_lock_of(state, range, lock);
            at = range.end();
        }
    }

    /// Locks or unlocks a part of one area. `mlock_fixup`.
    fn set_lock_of(
        &self,
        state: &mut MmState<P>,
        part: VirtRange,
        lock: VmFlags,
    ) -> Result<(), Errno> {
        let vma = state.vmas.get(part.start().get()).ok_or(Errno::ENOMEM)?;
        let old = vma.flags();
        let new = old & !VmFlags::LOCKED_MASK | lock;
        if new == old || old.intersects(NEVER_LOCKED) {
            return Ok(());
        }
        let mut fields = vma.fields().cut(part);
        fields.flags = new;
        let pages = fields.pages();
        self.modify(state, fields)?;
        state.counts.sub(old, pages);
        state.counts.add(new, pages);
        Ok(())
    }

    /// RLIMIT_MEMLOCK in pages.
    fn lock_limit(&self) -> u64 {
        self.limits.memlock.load(Ordering::Relaxed) >> P::Format::GRANULE.shift()
    }

    /// Whether `range` can be locked within RLIMIT_MEMLOCK: what of it is locked already counts once.
    fn fits_lock_limit(&self, state: &MmState<P>, range: VirtRange) -> bool {
        if self.limits.may_lock_any.load(Ordering::Relaxed) {
            return true;
        }
        let pages = range.pages(P::Format::GRANULE);
        let locked = state.counts.locked.saturating_add(pages);
        let again = || state.pages_with(range, VmFlags::LOCKED);
        locked <= self.lock_limit() || locked - again() <= self.lock_limit()
    }

    /// Whether so many bytes are more than could ever be locked.
    fn is_over_lock_limit(&self, bytes: u64) -> bool {
        !self.limits.may_lock_any.load(Ordering::Relaxed)
            && bytes >> P::Format::GRANULE.shift() > self.lock_limit()
    }

    /// Whether this space may lock memory at all. `can_do_mlock`.
    pub(crate) fn may_lock(&self) -> bool {
        self.limits.memlock.load(Ordering::Relaxed) != 0
            || self.limits.may_lock_any.load(Ordering::Relaxed)
    }

    /// Whether `bytes` more under `flags` stay within RLIMIT_MEMLOCK. `mlock_future_ok`.
    ///
    /// # Errors
    /// `EAGAIN`: they do not.
    pub(crate) fn check_lock_limit(
        &self,
        state: &MmState<P>,
        flags: VmFlags,
        bytes: u64,
    ) -> Result<(), Errno> {
        if !flags.contains(VmFlags::LOCKED) || self.limits.may_lock_any.load(Ordering::Relaxed) {
            return Ok(());
        }
        let granule = P::Format::GRANULE;
        match state.counts.locked.checked_add(granule.pages(bytes)) {
            Some(locked) if locked <= self.lock_limit() => Ok(()),
            _ => Err(Errno::EAGAIN),
        }
    }
}

/// The pages that a range touches; as in Linux, a length that overflows when it is rounded becomes 0.
///
/// # Errors
/// `EINVAL`: it ends beyond the last address.
fn touched_pages<P: Platform>(addr: VirtAddr, len: u64) -> Result<VirtRange, Errno> {
    let granule = P::Format::GRANULE;
    let start = addr.page_down(granule);
    let len = len.wrapping_add(addr.page_offset(granule));
    let len = granule.round_up(len).unwrap_or(0);
    VirtRange::with_len(start, len).ok_or(Errno::EINVAL)
}

//! Locking memory: the checks that other operations make for VM_LOCKED. The calls themselves (`mlock` and its kin) belong here too.

use core::sync::atomic::Ordering;

use super::mm::{MmState, MmUser};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::Format;
use crate::platform::Platform;

impl<P: Platform> MmUser<P> {
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
        let limit = self.limits.memlock.load(Ordering::Relaxed) >> granule.shift();
        match state.counts.locked.checked_add(granule.pages(bytes)) {
            Some(locked) if locked <= limit => Ok(()),
            _ => Err(Errno::EAGAIN),
        }
    }
}

//! Stacks that grow down when they are touched below.

use core::sync::atomic::Ordering;

use super::edit::{Edit, neighbour_root, range as ordered};
use super::mm::MmUser;
use super::vma::VmaFields;
use crate::addr::VirtAddr;
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::Format;
use crate::platform::Platform;

impl<P: Platform> MmUser<P> {
    /// Stretches the stack above `addr` down to its page. `expand_downwards`.
    ///
    /// # Errors
    /// `EFAULT`: no stack above. `EPERM`: below the minimum address. `ENOMEM`: RLIMIT_STACK, the guard gap, another limit, no heap.
    pub(super) fn grow_stack(&self, addr: VirtAddr) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        let at = addr.page_down(granule);
        let mut state = self.state.write();
        let vma = state.vmas.find(at.get()).ok_or(Errno::EFAULT)?;
        if vma.range().start() <= at {
            return Ok(());
        }
        if !vma.flags().contains(VmFlags::GROWSDOWN) {
            return Err(Errno::EFAULT);
        }
        if at.get() < self.min_addr() {
            return Err(Errno::EPERM);
        }
        if let Some(prev) = at
            .get()
            .checked_sub(1)
            .and_then(|below| state.vmas.find_prev(below + 1))
        {
            let reachable = prev.flags().intersects(VmFlags::ACCESS);
            let gap = at.get() - prev.range().end().get();
            if reachable && !prev.flags().contains(VmFlags::GROWSDOWN) && gap < self.guard_gap() {
                return Err(Errno::ENOMEM);
            }
        }
        // Before the limits, as in Linux: what merges later depends on it.
        if !vma.has_anon() {
            vma.set_anon(
                neighbour_root(&state, vma).unwrap_or_else(|| self.machine.new_anon_root()),
            );
        }
        let old = vma.fields();
        let size = old.range.end().get() - at.get();
        if size > self.limits.stack.load(Ordering::Relaxed) {
            return Err(Errno::ENOMEM);
        }
        let grown = ordered(at, old.range.start());
        let pages = grown.pages(granule);
        let pgoff = old.pgoff.checked_sub(pages).ok_or(Errno::ENOMEM)?;
        state
            .counts
            .may_expand(&self.limits, old.flags, pages, granule.bytes())?;
        self.check_lock_limit(&state, old.flags, grown.bytes())?;
        let charged = if old.is_accounted() { pages } else { 0 };
        let (flags, hull) = (old.flags, ordered(at, old.range.end()));
        let mut edit = Edit::new(self);
        edit.add(VmaFields {
            range: hull,
            pgoff,
            ..old
        })?;
        state.vmas.reserve(edit.len(), self.machine.fail_point())?;
        self.charge_commit(&state, charged)?;
        let gone = edit.commit(&mut state, hull);
        self.retire(gone);
        state.counts.add(flags, pages);
        self.count(|events| &events.stack_growths);
        Ok(())
    }
}

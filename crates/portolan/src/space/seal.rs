//! `mseal`: mappings that may not be unmapped, moved, or given other permissions any more. What the other calls refuse because of it is theirs to
//! check, but for discards, which all of `madvise` shares.

use super::mm::MmUser;
use super::vma::Vma;
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::Format;
use crate::platform::Platform;

impl<P: Platform> MmUser<P> {
    /// `mseal`. `mm/mseal.c: do_mseal`. Seals every area of the range, for good; `flags` must be 0.
    ///
    /// # Errors
    /// - `EINVAL`: a flag, an unaligned address, a range that wraps.
    /// - `ENOMEM`: a hole, with nothing sealed; or too many mappings or no heap, with the areas before sealed.
    pub fn mseal(&self, addr: VirtAddr, len: u64, flags: u64) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        if flags != 0 || !addr.is_aligned(granule) {
            return Err(Errno::EINVAL);
        }
        let len = granule.round_up(len).ok_or(Errno::EINVAL)?;
        let range = VirtRange::with_len(addr, len).ok_or(Errno::EINVAL)?;
        let mut state = self.state.write();
        let mut at = range.start();
        while at < range.end() {
            at = state.vmas.get(at.get()).ok_or(Errno::ENOMEM)?.range().end();
        }
        at = range.start();
        while at < range.end() {
            let vma = state.vmas.get(at.get()).ok_or(Errno::ENOMEM)?;
            let part = super::edit::range(at, vma.range().end().min(range.end()));
            if !vma.flags().contains(VmFlags::SEALED) {
                let mut fields = vma.fields().cut(part);
                fields.flags |= VmFlags::SEALED;
                self.modify(&mut state, fields)?;
            }
            at = part.end();
        }
        Ok(())
    }
}

/// A discard in sealed anonymous memory that the task could not write is refused: it would be a write. `can_madvise_modify`.
pub(super) fn check_discard<P: Platform>(vma: &Vma<P>) -> Result<(), Errno> {
    let open = VmFlags::SHARED | VmFlags::WRITE;
    if vma.flags().contains(VmFlags::SEALED) && vma.is_anonymous() && !vma.flags().intersects(open)
    {
        return Err(Errno::EPERM);
    }
    Ok(())
}

//! `msync`: shared file mappings written back, and what else that call checks.

use super::mm::MmUser;
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::Format;
use crate::platform::Platform;
use linux_raw_sys::general::{MS_ASYNC, MS_INVALIDATE, MS_SYNC};

impl<P: Platform> MmUser<P> {
    /// `msync`. `mm/msync.c`. With MS_SYNC the dirty pages of shared file mappings in the range are written to their files before it returns.
    ///
    /// # Errors
    /// - `EINVAL`: an unknown flag, both MS_ASYNC and MS_SYNC, unaligned. `ENOMEM`: the range overflows, or has a hole: what is mapped is
    ///   written all the same. `EBUSY`: MS_INVALIDATE on locked memory. What a file answers.
    pub fn msync(&self, addr: VirtAddr, len: u64, flags: u32) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        let both = MS_ASYNC | MS_SYNC;
        if flags & !(both | MS_INVALIDATE) != 0 || flags & both == both || !addr.is_aligned(granule)
        {
            return Err(Errno::EINVAL);
        }
        // As in Linux, a length that overflows when rounded becomes 0.
        let len = granule.round_up(len).unwrap_or(0);
        let range = VirtRange::with_len(addr, len).ok_or(Errno::ENOMEM)?;
        let mut result = Ok(());
        let mut at = range.start();
        while at < range.end() {
            let (part, work) = {
                let state = self.state.read();
                let vma = state.vmas.find(at.get()).ok_or(Errno::ENOMEM)?;
                let Some(part) = vma.range().intersection(range) else {
                    return Err(Errno::ENOMEM);
                };
                if part.start() > at {
                    result = Err(Errno::ENOMEM);
                }
                if flags & MS_INVALIDATE != 0 && vma.flags().contains(VmFlags::LOCKED) {
                    return Err(Errno::EBUSY);
                }
                let shared = flags & MS_SYNC != 0 && vma.is_shared();
                (
                    part,
                    vma.file()
                        .filter(|_| shared)
                        .map(|file| (file.clone(), vma.page_index(part.start()))),
                )
            };
            if let Some((file, first)) = work
                && let Some(cache) = file.cache()
            {
                let end = first.saturating_add(part.pages(granule));
                cache.writeback(first..end)?;
            }
            at = part.end();
        }
        result
    }
}

//! Guard regions: pages of a mapping where every access is a SIGSEGV, without a mapping of their own. They are markers in the page tables, and go only with
//! the mapping or when they are taken away.

use super::fork::ClosedGate;
use super::mm::{MmState, MmUser};
use super::vma::Vma;
use crate::addr::VirtRange;
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::{Cursor, Entry, Format, Marker};
use crate::platform::Platform;

/// Where there can be none.
const NEVER_GUARDED: VmFlags = VmFlags::SPECIAL.union(VmFlags::HUGETLB);

impl<P: Platform> MmUser<P> {
    /// MADV_GUARD_INSTALL on the part of one area: what is mapped there goes, and every page becomes a guard. Makes the page-table pages of the whole
    /// range. The caller holds the mmap lock for writing. `mm/madvise.c: madvise_guard_install`.
    ///
    /// # Errors
    /// `EINVAL`: a driver's or locked memory. `ENOMEM`: no frame for a page-table page; nothing has changed.
    pub(super) fn guard_install(
        &self,
        state: &MmState<P>,
        vma: &Vma<P>,
        part: VirtRange,
    ) -> Result<(), Errno> {
        if vma.flags().intersects(NEVER_GUARDED | VmFlags::LOCKED) {
            return Err(Errno::EINVAL);
        }
        let phys = self.machine.phys();
        let mut at = part.start();
        while at < part.end() {
            let table = self
                .machine
                .with_reclaim(|| self.table.leaf_or_create(phys, at, || true))?;
            at = table.ok_or(Errno::ENOMEM)?.covers().end();
        }
        // As Linux has it, anonymous memory gets a root and a file's does not: what merges later depends on it.
        if vma.is_anonymous() {
            self.give_root(state, vma);
        }
        vma.mark_guarded();
        let gate = ClosedGate::new(self);
        let mut batch = self.flush_batch();
        self.zap_pages(&mut batch, part);
        for (piece, table) in Cursor::new(&self.table, phys, part) {
            let mut locked = table.lock();
            let first = P::Format::index(0, piece.start().get());
            for index in first..first + piece.pages(P::Format::GRANULE) as usize {
                locked.set(index, Entry::Marker(Marker::Guard));
            }
        }
        batch.finish();
        drop(gate);
        Ok(())
    }

    /// MADV_GUARD_REMOVE on the part of one area: guards become pages that are not there yet; all else stays. `madvise_guard_remove`.
    ///
    /// # Errors
    /// `EINVAL`: a driver's memory.
    pub(super) fn guard_remove(&self, vma: &Vma<P>, part: VirtRange) -> Result<(), Errno> {
        if vma.flags().intersects(NEVER_GUARDED) {
            return Err(Errno::EINVAL);
        }
        for (piece, table) in Cursor::new(&self.table, self.machine.phys(), part) {
            let mut locked = table.lock();
            let first = P::Format::index(0, piece.start().get());
            for index in first..first + piece.pages(P::Format::GRANULE) as usize {
                if locked.get(index) == Entry::Marker(Marker::Guard) {
                    locked.set(index, Entry::Absent);
                }
            }
        }
        Ok(())
    }
}

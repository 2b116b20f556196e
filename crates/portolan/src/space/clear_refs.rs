//! `/proc/PID/clear_refs`: forgetting which pages were used, which were written (soft-dirty), and how large the resident set once was.
//! `fs/proc/task_mmu.c: clear_refs_write`.

use core::sync::atomic::Ordering;

use super::mm::{MmState, MmUser};
use super::vma::Vma;
use crate::addr::VirtRange;
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::{Entry, FlushBatch, Format, Leaf, LeafFlags};
use crate::phys::PageFlags;
use crate::platform::Platform;

/// What is forgotten: the number that is written to `clear_refs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ClearRefs {
    /// That pages were used. `CLEAR_REFS_ALL`.
    All = 1,
    /// That pages of areas without a file were used. `CLEAR_REFS_ANON`.
    Anonymous = 2,
    /// That pages of areas with a file were used. `CLEAR_REFS_MAPPED`.
    Mapped = 3,
    /// That pages were written, and areas are new. `CLEAR_REFS_SOFT_DIRTY`.
    SoftDirty = 4,
    /// The largest resident set: it is the present one. `CLEAR_REFS_MM_HIWATER_RSS`.
    PeakRss = 5,
}

impl ClearRefs {
    /// By its number.
    ///
    /// # Errors
    /// `EINVAL`: there is none with that number.
    pub fn from_number(number: i64) -> Result<Self, Errno> {
        [
            Self::All,
            Self::Anonymous,
            Self::Mapped,
            Self::SoftDirty,
            Self::PeakRss,
        ]
        .into_iter()
        .find(|kind| *kind as i64 == number)
        .ok_or(Errno::EINVAL)
    }

    /// Whether the pages of an area are meant.
    fn covers<P: Platform>(self, vma: &Vma<P>) -> bool {
        let wanted = match self {
            ClearRefs::Anonymous => vma.file().is_none(),
            ClearRefs::Mapped => vma.file().is_some(),
            _ => true,
        };
        wanted && !vma.flags().contains(VmFlags::PFNMAP)
    }
}

impl<P: Platform> MmUser<P> {
    /// `/proc/PID/clear_refs`. Cannot fail. Costs what is in the page tables.
    ///
    /// After [`ClearRefs::SoftDirty`] the first store to each page faults, and marks it; a mapping made later is soft-dirty as a whole.
    pub fn clear_refs(&self, what: ClearRefs) {
        match what {
            ClearRefs::PeakRss => {
                let _state = self.state.write();
                self.peak_rss.store(self.rss().total(), Ordering::Relaxed);
            }
            ClearRefs::SoftDirty => {
                let state = self.state.write();
                let mut batch = self.flush_batch();
                // Flags first: a fault that has seen the old ones is swept, or asks again under the lock of its page-table page.
                state.vmas.iter().for_each(Vma::clear_soft_dirty);
                self.each_area(&state, what, |vma| {
                    self.clear_soft_dirty(&mut batch, vma.range());
                });
                batch.finish();
            }
            ClearRefs::All | ClearRefs::Anonymous | ClearRefs::Mapped => {
                let state = self.state.read();
                let mut batch = self.flush_batch();
                self.each_area(&state, what, |vma| {
                    self.clear_accessed(&mut batch, vma.range());
                });
                batch.finish();
            }
        }
    }

    fn each_area(&self, state: &MmState<P>, what: ClearRefs, work: impl FnMut(&Vma<P>)) {
        let areas = state.vmas.iter().filter(|vma| what.covers(vma));
        areas.for_each(work);
    }

    /// `clear_soft_dirty`.
    fn clear_soft_dirty(&self, batch: &mut FlushBatch<'_, P>, range: VirtRange) {
        batch.change_range(&self.table, range, |_, leaf| {
            let flags = leaf.flags & !(LeafFlags::SOFT_DIRTY | LeafFlags::WRITE);
            (flags != leaf.flags).then_some(Entry::Present(Leaf { flags, ..leaf }))
        });
    }

    /// `clear_refs_pte_range`. TLBs forget what was used as well: else a use that they let through would not be noted.
    pub(super) fn clear_accessed(&self, batch: &mut FlushBatch<'_, P>, range: VirtRange) {
        let mut used: Option<VirtRange> = None;
        let page = P::Format::GRANULE.bytes();
        batch.change_range(&self.table, range, |at, leaf| {
            let page_of = self.normal_page(&leaf)?;
            page_of.clear_flags(PageFlags::REFERENCED);
            if !leaf.flags.contains(LeafFlags::ACCESSED) {
                return None;
            }
            let start = used.map_or(at, |used| used.start());
            used = VirtRange::new(start, at.checked_add(page)?);
            let flags = leaf.flags & !LeafFlags::ACCESSED;
            Some(Entry::Present(Leaf { flags, ..leaf }))
        });
        if let Some(used) = used {
            batch.note(used);
        }
    }
}

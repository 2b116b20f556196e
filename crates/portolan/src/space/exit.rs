//! The end of a space: its last user is gone, so every mapping, page and table goes.

use super::edit::{range as ordered, withdraw};
use super::mm::Mm;
use crate::addr::VirtAddr;
use crate::object::VmFlags;
use crate::platform::Platform;

impl<P: Platform> Mm<P> {
    /// `exit_mmap`. Called once, when the last user is dropped; nothing faults here any more.
    pub(super) fn exit(&self) {
        let mut state = self.state.write();
        let all = ordered(VirtAddr::new(0), self.user_end());
        self.note_peak_rss();
        let mut accounted = 0;
        let granule = crate::machine::Machine::<P>::GRANULE;
        for vma in state.vmas.iter() {
            let pages = vma.range().pages(granule);
            if vma.flags().contains(VmFlags::ACCOUNT) {
                accounted += pages;
            }
        }
        state.vmas.iter().for_each(|vma| vma.detach());
        let old = state.vmas.replace(0, u64::MAX, core::iter::empty());
        let mut batch = self.flush_batch();
        self.zap_range(&mut batch, all);
        withdraw(&old);
        batch.free_tables(&self.table, all, all);
        batch.finish();
        self.machine.platform().space_released(self.asid);
        state.counts = super::account::Counts {
            peak: state.counts.peak,
            ..Default::default()
        };
        self.machine.uncharge_commit(accounted);
        for vma in old.iter() {
            if let Some(ops) = vma.operations() {
                ops.close(vma.range());
            }
        }
        old.retire(self.machine.epoch());
    }
}

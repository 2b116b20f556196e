//! What a file does to the spaces that map it: truncation takes pages out, write-back makes them clean and read-only. Called with
//! the file's mappings locked, which keeps the page-table pages in place; the mmap lock is not needed.

use super::mm::Mm;
use crate::addr::VirtRange;
use crate::object::{Mapper, ZapReason};
use crate::paging::{Entry, Leaf, LeafFlags};
use crate::phys::FrameKind;
use crate::platform::Platform;

impl<P: Platform> Mapper for Mm<P> {
    /// `unmap_mapping_range_vma`.
    fn zap(&self, at: VirtRange, reason: ZapReason) {
        let mut batch = self.flush_batch();
        let copies_too = reason.takes_private_copies();
        self.zap_pages_where(&mut batch, at, |leaf| {
            copies_too || self.kind_of(leaf) != Some(FrameKind::Anon)
        });
        batch.finish();
    }

    /// `page_mkclean`.
    fn write_protect(&self, at: VirtRange) {
        let mut batch = self.flush_batch();
        batch.change_range(&self.table, at, |_, leaf| {
            let flags = leaf.flags & !(LeafFlags::WRITE | LeafFlags::DIRTY);
            (flags != leaf.flags).then_some(Entry::Present(Leaf { flags, ..leaf }))
        });
        batch.finish();
    }
}

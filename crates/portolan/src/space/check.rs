//! The invariants of a space, checked from scratch. For tests and for an embedder that hunts a fault of its own; slow.

use super::account::Counts;
use super::mm::Mm;
use crate::paging::{Cursor, Entry, Format};
use crate::platform::Platform;

impl<P: Platform> Mm<P> {
    /// Recomputes what is kept as it changes: the order of the index, the page counts, the resident set, and that nothing is mapped
    /// outside an area. `validate_mm`. No fault may be under way.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self) -> Result<(), &'static str> {
        let granule = P::Format::GRANULE;
        let state = self.state.read();
        state.vmas.check()?;
        let mut counts = Counts {
            peak: state.counts.peak,
            ..Counts::default()
        };
        let mut present = 0;
        for vma in state.vmas.iter() {
            counts.add(vma.flags(), vma.range().pages(granule));
            if vma.is_detached() {
                return Err("an area in the index is marked detached");
            }
            present += self.present_in(vma.range());
        }
        if counts != state.counts {
            return Err("the page counts are not those of the areas");
        }
        let user = super::edit::range(crate::addr::VirtAddr::new(0), self.user_end());
        if self.present_in(user) != present {
            return Err("a page is mapped outside every area");
        }
        if self.rss().total() > present {
            return Err("the resident set is larger than what is mapped");
        }
        Ok(())
    }

    /// How many entries of `range` are present.
    fn present_in(&self, range: crate::addr::VirtRange) -> u64 {
        let granule = P::Format::GRANULE;
        let _guard = self.machine.pin();
        let mut present = 0;
        for (part, table) in Cursor::reading(&self.table, self.machine.phys(), range) {
            let first = P::Format::index(0, part.start().get());
            let entries = first..first + part.pages(granule) as usize;
            present += entries
                .filter(|&index| matches!(table.peek(index), Entry::Present(_)))
                .count() as u64;
        }
        present
    }
}

//! The invariants of a space, checked from scratch. For tests and for an embedder that hunts a fault of its own; slow.

use super::account::{Counts, Rss, RssKind};
use super::mm::Mm;
use crate::paging::{Cursor, Entry, Format, Leaf, LeafFlags};
use crate::platform::Platform;

impl<P: Platform> Mm<P> {
    /// Recomputes what is kept as it changes: the order of the index, the page counts, the resident set, that nothing is mapped
    /// outside an area, and that no entry allows more than its area. `validate_mm`. No fault or truncation may be under way.
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
        let (mut present, mut rss) = (0, Rss::default());
        for vma in state.vmas.iter() {
            counts.add(vma.flags(), vma.range().pages(granule));
            if vma.is_detached() {
                return Err("an area in the index is marked detached");
            }
            let allowed = vma.protection();
            let mut excess = false;
            self.each_present(vma.range(), |leaf| {
                present += 1;
                excess |= !allowed.contains(leaf.flags & (LeafFlags::WRITE | LeafFlags::EXEC));
                self.count_in(&mut rss, leaf);
            });
            if excess {
                return Err("an entry allows what its area does not");
            }
        }
        if counts != state.counts {
            return Err("the page counts are not those of the areas");
        }
        let user = super::edit::range(crate::addr::VirtAddr::new(0), self.user_end());
        let mut all = 0;
        self.each_present(user, |_| all += 1);
        if all != present {
            return Err("a page is mapped outside every area");
        }
        if self.rss() != rss {
            return Err("the resident set is not what is mapped");
        }
        Ok(())
    }

    /// Counts what an entry maps, as a fault would have done.
    fn count_in(&self, rss: &mut Rss, leaf: &Leaf) {
        let page = self.machine.phys().page(leaf.frame);
        let counted = page.filter(|_| !leaf.flags.contains(LeafFlags::SPECIAL));
        match counted.and_then(|page| RssKind::of(page.kind())) {
            Some(RssKind::File) => rss.file += 1,
            Some(RssKind::Anon) => rss.anon += 1,
            Some(RssKind::Shmem) => rss.shmem += 1,
            Some(RssKind::Swap) | None => {}
        }
    }

    /// Shows every present entry of `range`.
    fn each_present(&self, range: crate::addr::VirtRange, mut show: impl FnMut(&Leaf)) {
        let granule = P::Format::GRANULE;
        let _guard = self.machine.pin();
        for (part, table) in Cursor::reading(&self.table, self.machine.phys(), range) {
            let first = P::Format::index(0, part.start().get());
            for index in first..first + part.pages(granule) as usize {
                if let Entry::Present(leaf) = table.peek(index) {
                    show(&leaf);
                }
            }
        }
    }
}

//! What each page of a range is to the views of single pages (pagemap): a walk that shows runs of pages that are alike. Costs what is in the page
//! tables and how many mappings there are, not how many pages the range has. Not for a view's own format.

use core::ops::ControlFlow;

use super::mm::Mm;
use super::usage::map_count;
use super::vma::Vma;
use crate::addr::{Pfn, VirtAddr, VirtRange};
use crate::object::VmFlags;
use crate::paging::{Cursor, Entry, Format, Leaf, LeafFlags, Marker, SwapEntry};
use crate::phys::FrameKind;
use crate::platform::Platform;

bitflags::bitflags! {
    /// What is true of one page of a space.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct PageBits: u32 {
        /// An entry maps it, readable or not.
        const PRESENT = 1 << 0;
        /// Written out; also a guard or poison marker, which Linux keeps as swap entries.
        const SWAPPED = 1 << 1;
        /// It belongs to a file or to shared memory.
        const FILE = 1 << 2;
        /// No other entry maps it.
        const EXCLUSIVE = 1 << 3;
        /// Written since soft-dirty was cleared, or in an area that is new since.
        const SOFT_DIRTY = 1 << 4;
        /// Write-protected by userfaultfd.
        const UFFD_WP = 1 << 5;
        /// A guard page (MADV_GUARD_INSTALL).
        const GUARD = 1 << 6;
        /// The entry maps the zero page.
        const ZERO = 1 << 7;
        /// No page-table page translates it.
        const NO_TABLE = 1 << 8;
    }
}

/// A page of a space.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PageState {
    /// What is true of it.
    pub bits: PageBits,
    /// The frame if it is present; of what is swapped, area and slot as `/proc/PID/pagemap` shows them (area in the low 5 bits).
    pub number: u64,
}

/// A run of pages that are alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRun {
    /// Where.
    pub range: VirtRange,
    /// VM_* flags of the area they lie in; `None` where nothing is mapped.
    pub area: Option<VmFlags>,
    /// What each of them is.
    pub state: PageState,
}

/// The swap area that markers pretend to lie in, and the slots that tell them apart. `SWP_PTE_MARKER`, `PTE_MARKER_*`.
const MARKER_AREA: u64 = 31;
const AREA_BITS: u32 = 5;

impl PageState {
    /// A marker, as Linux keeps it.
    const fn marker(marker: Marker) -> Self {
        let (slot, bits) = match marker {
            Marker::UffdWp => (1, PageBits::SWAPPED.union(PageBits::UFFD_WP)),
            Marker::Poison => (2, PageBits::SWAPPED),
            Marker::Guard => (4, PageBits::SWAPPED.union(PageBits::GUARD)),
        };
        Self {
            bits,
            number: MARKER_AREA | slot << AREA_BITS,
        }
    }

    fn swapped(swap: SwapEntry) -> Self {
        let mut bits = PageBits::SWAPPED;
        bits.set(PageBits::SOFT_DIRTY, swap.soft_dirty);
        Self {
            bits,
            number: u64::from(swap.area) | swap.slot << AREA_BITS,
        }
    }
}

impl<P: Platform> Mm<P> {
    /// Shows every page of `range`, in runs and in order, until `visit` breaks; the mmap lock is held for reading. The range is taken as far
    /// as the space goes, its start rounded down and its end up to whole pages. `walk_page_range`.
    pub fn for_each_page_run<B>(
        &self,
        range: VirtRange,
        mut visit: impl FnMut(PageRun) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let granule = P::Format::GRANULE;
        let end = granule.round_up(range.end().get()).unwrap_or(u64::MAX);
        let end = VirtAddr::new(end).min(self.user_end());
        let state = self.state.read();
        let mut at = range.start().page_down(granule);
        while at < end {
            let vma = state
                .vmas
                .find(at.get())
                .filter(|vma| vma.range().start() < end);
            let gap_end = vma.map_or(end, |vma| vma.range().start());
            if at < gap_end {
                show(&mut visit, at, gap_end, None, PageState::default())?;
                at = gap_end;
            }
            let Some(vma) = vma else { break };
            let stop = vma.range().end().min(end);
            self.pages_of(vma, super::edit::range(at, stop), &mut visit)?;
            at = stop;
        }
        ControlFlow::Continue(())
    }

    /// The pages of `part`, which lies in `vma`. The mmap lock is held. A driver's bare frames show as holes, as in Linux.
    fn pages_of<B>(
        &self,
        vma: &Vma<P>,
        part: VirtRange,
        visit: &mut impl FnMut(PageRun) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let granule = P::Format::GRANULE;
        let area = Some(vma.flags());
        let mut empty = PageState::default();
        empty.bits.set(
            PageBits::SOFT_DIRTY,
            vma.flags().contains(VmFlags::SOFTDIRTY),
        );
        let mut hole = empty;
        hole.bits |= PageBits::NO_TABLE;
        let mut at = part.start();
        if !vma.flags().contains(VmFlags::PFNMAP) {
            for (piece, table) in Cursor::reading(&self.table, self.machine.phys(), part) {
                show(visit, at, piece.start(), area, hole)?;
                at = piece.start();
                let first = P::Format::index(0, piece.start().get());
                for n in 0..piece.pages(granule) {
                    if table.peek(first + n as usize) == Entry::Absent {
                        continue;
                    }
                    // The lock keeps the page mapped while it is looked at; `visit` runs without.
                    let entries = table.lock();
                    let Some(mut state) = self.page_state(entries.get(first + n as usize)) else {
                        continue;
                    };
                    drop(entries);
                    state.bits |= empty.bits;
                    let here = VirtAddr::new(piece.start().get() + (n << granule.shift()));
                    show(visit, at, here, area, empty)?;
                    at = VirtAddr::new(here.get() + granule.bytes());
                    show(visit, here, at, area, state)?;
                }
                show(visit, at, piece.end(), area, empty)?;
                at = piece.end();
            }
        }
        show(visit, at, part.end(), area, hole)
    }

    /// What an entry says; `None` where there is none. `pte_to_pagemap_entry`.
    fn page_state(&self, entry: Entry) -> Option<PageState> {
        match entry {
            Entry::Absent | Entry::Table(_) => None,
            Entry::Swap(swap) => Some(PageState::swapped(swap)),
            Entry::Marker(marker) => Some(PageState::marker(marker)),
            Entry::Present(leaf) => Some(self.present_state(&leaf)),
        }
    }

    fn present_state(&self, leaf: &Leaf) -> PageState {
        let mut bits = PageBits::PRESENT;
        let has = |flag| leaf.flags.contains(flag);
        bits.set(PageBits::SOFT_DIRTY, has(LeafFlags::SOFT_DIRTY));
        bits.set(PageBits::UFFD_WP, has(LeafFlags::UFFD_WP));
        bits.set(PageBits::ZERO, self.is_zero_page(leaf.frame));
        if let Some(page) = self.normal_page(leaf) {
            bits.set(PageBits::FILE, page.kind() != FrameKind::Anon);
            bits.set(PageBits::EXCLUSIVE, map_count(page) == 1);
        }
        PageState {
            bits,
            number: leaf.frame.get(),
        }
    }

    fn is_zero_page(&self, frame: Pfn) -> bool {
        frame == self.machine.phys().zero_page()
    }
}

fn show<B>(
    visit: &mut impl FnMut(PageRun) -> ControlFlow<B>,
    start: VirtAddr,
    end: VirtAddr,
    area: Option<VmFlags>,
    state: PageState,
) -> ControlFlow<B> {
    match VirtRange::new(start, end) {
        Some(range) if !range.is_empty() => visit(PageRun { range, area, state }),
        _ => ControlFlow::Continue(()),
    }
}

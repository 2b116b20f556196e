//! What of an area is in memory, and in which state: the figures of smaps. Also what a page says of itself to every view: by how many entries
//! it is mapped, and whether it is dirty. Costs what is in the page tables, not what is mapped. Not for the text of a view (`view`).

use core::ops::AddAssign;

use super::mm::Mm;
use super::policy::Mempolicy;
use super::show::{Area, Places, describe};
use super::vma::Vma;
use crate::addr::VirtAddr;
use crate::object::{Residency, VmFlags};
use crate::paging::{Cursor, Entry, Format, Leaf, LeafFlags};
use crate::phys::{FrameKind, Page, PageFlags};
use crate::platform::Platform;

/// How many bits a proportional share has below a byte. `PSS_SHIFT`.
pub const SHARE_SHIFT: u32 = 12;

/// By how many entries a page is mapped. `folio_mapcount`.
///
/// Each entry that is not special owns a reference to its page, a page cache owns one to each of its pages, and the kernel one to a page of its own
/// that it maps (the vDSO): mappings are the references less the owner's. A reference that someone holds just now to use the page
/// (a fault under way) counts as a mapping, which Linux tells apart.
pub(super) fn map_count(page: &Page) -> u32 {
    let owners = match page.kind() {
        FrameKind::Cache | FrameKind::Shmem | FrameKind::Kernel => 1,
        _ => 0,
    };
    page.refs().saturating_sub(owners)
}

/// `struct mem_size_stats`: how much of an area, or of several, is in memory. Bytes; a share in units of 2^-[`SHARE_SHIFT`] bytes: each page counts
/// divided by how many entries map it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AreaUsage {
    /// Mapped by entries. `Rss`.
    pub resident: u64,
    /// The share of all. `Pss`.
    pub share: u64,
    /// The share of anonymous pages. `Pss_Anon`.
    pub share_anon: u64,
    /// The share of pages of files. `Pss_File`.
    pub share_file: u64,
    /// The share of shared anonymous memory. `Pss_Shmem`.
    pub share_shmem: u64,
    /// The share of dirty pages. `Pss_Dirty`.
    pub share_dirty: u64,
    /// The share of pages in locked areas. `Locked`.
    pub share_locked: u64,
    /// Mapped more than once, and clean.
    pub shared_clean: u64,
    /// Mapped more than once, and dirty: the entry or the page is.
    pub shared_dirty: u64,
    /// Mapped once, and clean.
    pub private_clean: u64,
    /// Mapped once, and dirty.
    pub private_dirty: u64,
    /// Used since that was last cleared.
    pub referenced: u64,
    /// Anonymous pages.
    pub anonymous: u64,
    /// Freed lazily and not written since.
    pub lazy_free: u64,
    /// Written out.
    pub swap: u64,
    /// The share of what is written out.
    pub swap_share: u64,
}

macro_rules! add_fields {
    ($($field:ident)*) => {
        impl AddAssign for AreaUsage {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

add_fields!(resident share share_anon share_file share_shmem share_dirty share_locked shared_clean shared_dirty private_clean private_dirty
    referenced anonymous lazy_free swap swap_share);

/// `struct numa_maps`: the pages of an area that entries map, counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AreaPages {
    /// All of them.
    pub mapped: u64,
    /// Anonymous ones.
    pub anonymous: u64,
    /// Dirty ones: the entry or the page is.
    pub dirty: u64,
    /// By how many entries the most mapped one is mapped.
    pub most_mappings: u64,
    /// Those that reclaim would not take next: active, or in a locked area.
    pub active: u64,
}

impl AreaPages {
    /// Counts a mapped page. `gather_stats`.
    fn count(&mut self, page: &Page, dirty: Dirty, residency: Residency) {
        self.mapped += 1;
        self.anonymous += u64::from(page.kind() == FrameKind::Anon);
        self.dirty += u64::from(dirty == Dirty::Yes);
        self.most_mappings = self.most_mappings.max(map_count(page).into());
        let active = residency == Residency::Locked || page.flags().contains(PageFlags::ACTIVE);
        self.active += u64::from(active);
    }
}

/// How often a page is mapped in all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharers {
    One,
    Many,
}

impl AreaUsage {
    /// Counts a mapped page. `smaps_account`.
    fn count(
        &mut self,
        page: &Page,
        flags: LeafFlags,
        dirty: Dirty,
        bytes: u64,
        residency: Residency,
    ) {
        let kind = page.kind();
        let state = page.flags();
        if kind == FrameKind::Anon {
            self.anonymous += bytes;
            if dirty == Dirty::No && state.contains(PageFlags::LAZY_FREE) {
                self.lazy_free += bytes;
            }
        }
        self.resident += bytes;
        if flags.contains(LeafFlags::ACCESSED) || state.contains(PageFlags::REFERENCED) {
            self.referenced += bytes;
        }
        let mappings = u64::from(map_count(page));
        let share = (bytes << SHARE_SHIFT) / mappings.max(1);
        let sharers = match mappings {
            0 | 1 => Sharers::One,
            _ => Sharers::Many,
        };
        self.share += share;
        match kind {
            FrameKind::Anon => self.share_anon += share,
            FrameKind::Shmem => self.share_shmem += share,
            _ => self.share_file += share,
        }
        if residency == Residency::Locked {
            self.share_locked += share;
        }
        if dirty == Dirty::Yes {
            self.share_dirty += share;
        }
        *match (sharers, dirty) {
            (Sharers::One, Dirty::No) => &mut self.private_clean,
            (Sharers::One, Dirty::Yes) => &mut self.private_dirty,
            (Sharers::Many, Dirty::No) => &mut self.shared_clean,
            (Sharers::Many, Dirty::Yes) => &mut self.shared_dirty,
        } += bytes;
    }
}

/// Whether a page, or an entry that maps it, holds what its backing does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dirty {
    No,
    Yes,
}

impl<P: Platform> Mm<P> {
    /// Shows every area, ascending, with what of it is in memory, under the mmap lock for reading. `fs/proc/task_mmu.c: smap_gather_stats`.
    pub fn for_each_area_usage(&self, mut show: impl FnMut(&Area<'_>, &AreaUsage)) {
        let state = self.state.read();
        let places = Places::of(&state.layout);
        for vma in state.vmas.iter() {
            show(&describe(vma, places.name_of(vma)), &self.usage_of(vma));
        }
    }

    /// Shows every area, ascending, with its pages counted and the policy it has of its own, under the mmap lock for reading. The kernel's own pages (the vDSO) are left out.
    /// `fs/proc/task_mmu.c: gather_pte_stats`.
    pub fn for_each_area_pages(
        &self,
        mut show: impl FnMut(&Area<'_>, &AreaPages, Option<&Mempolicy>),
    ) {
        let state = self.state.read();
        let places = Places::of(&state.layout);
        for vma in state.vmas.iter() {
            let residency = vma.residency();
            let mut pages = AreaPages::default();
            self.for_each_page_of(vma, |_, page, dirty| {
                if page.kind() != FrameKind::Kernel {
                    pages.count(page, dirty, residency);
                }
            });
            let area = describe(vma, places.name_of(vma));
            show(&area, &pages, vma.policy().map(|policy| &**policy));
        }
    }

    /// What of one area is in memory. The mmap lock is held.
    fn usage_of(&self, vma: &Vma<P>) -> AreaUsage {
        let mut usage = AreaUsage::default();
        let (bytes, residency) = (P::Format::GRANULE.bytes(), vma.residency());
        self.for_each_page_of(vma, |leaf, page, dirty| {
            usage.count(page, leaf.flags, dirty, bytes, residency);
        });
        usage
    }

    /// Shows the pages of an area that entries map. The mmap lock is held. A driver's bare frames are no memory.
    fn for_each_page_of(&self, vma: &Vma<P>, mut visit: impl FnMut(&Leaf, &Page, Dirty)) {
        if vma.flags().contains(VmFlags::PFNMAP) {
            return;
        }
        let granule = P::Format::GRANULE;
        for (part, table) in Cursor::reading(&self.table, self.machine.phys(), vma.range()) {
            // Keeps the pages mapped, and so counted, while they are looked at.
            let entries = table.lock();
            let first = P::Format::index(0, part.start().get());
            for n in 0..part.pages(granule) {
                let Entry::Present(leaf) = entries.get(first + n as usize) else {
                    continue;
                };
                let Some(page) = self.normal_page(&leaf) else {
                    continue;
                };
                let at = VirtAddr::new(part.start().get() + (n << granule.shift()));
                visit(&leaf, page, self.dirtiness(vma, at, &leaf, page));
            }
        }
    }

    /// The page that an entry maps, if it is one that mappings count: not the zero page, nor a driver's bare frame. `vm_normal_page`.
    pub(super) fn normal_page(&self, leaf: &Leaf) -> Option<&Page> {
        match leaf.flags.contains(LeafFlags::SPECIAL) {
            true => None,
            false => self.machine.phys().page(leaf.frame),
        }
    }

    /// Whether the entry for the page at `at` is dirty, or the page is. `pte_dirty`, `folio_test_dirty`.
    pub(super) fn dirtiness(&self, vma: &Vma<P>, at: VirtAddr, leaf: &Leaf, page: &Page) -> Dirty {
        let cached = || match page.kind() {
            FrameKind::Cache | FrameKind::Shmem => vma
                .file()
                .and_then(|file| file.cache())
                .is_some_and(|cache| cache.is_dirty(vma.page_index(at))),
            _ => false,
        };
        match leaf.flags.contains(LeafFlags::DIRTY) || cached() {
            true => Dirty::Yes,
            false => Dirty::No,
        }
    }
}

//! PAGEMAP_SCAN, the request of `/proc/PID/pagemap` that tells which pages of a range are in given categories. `fs/proc/task_mmu.c: do_pagemap_scan`.

use core::ops::ControlFlow;

use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::Format;
use crate::platform::Platform;
use crate::space::{Mm, PageBits, PageRun, PageState};

bitflags::bitflags! {
    /// `PAGE_IS_*`: what is asked of pages and told of them.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct PageCategories: u64 {
        /// Writes to its area are tracked by userfaultfd. Never, without that.
        const WP_ALLOWED = 1 << 0;
        /// Not write-protected by userfaultfd; of absent pages only where a page-table page is, as Linux has it.
        const WRITTEN = 1 << 1;
        /// Of a file or shared memory.
        const FILE = 1 << 2;
        /// In memory.
        const PRESENT = 1 << 3;
        /// Written out, or a marker.
        const SWAPPED = 1 << 4;
        /// The zero page.
        const PFN_ZERO = 1 << 5;
        /// Part of a huge page. Never.
        const HUGE = 1 << 6;
        /// Soft-dirty.
        const SOFT_DIRTY = 1 << 7;
        /// A guard page.
        const GUARD = 1 << 8;
    }
}

bitflags::bitflags! {
    /// `PM_SCAN_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct ScanFlags: u64 {
        /// Write-protect what is found. Areas where that is not possible are passed over: all of them, without userfaultfd.
        const WP_MATCHING = 1 << 0;
        /// Refuse areas where write-protecting is not possible.
        const CHECK_WPASYNC = 1 << 1;
    }
}

/// `struct page_region`: a run of pages in the same categories.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PageRegion {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
    /// Those of its categories that were asked to be told.
    pub categories: PageCategories,
}

impl PageRegion {
    /// Bytes of it as a program sees it.
    pub const BYTES: usize = 24;

    /// As a program sees it.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [self.start, self.end, self.categories.bits()];
        for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
            part.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// `struct pm_scan_arg`: what a scan asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageScan {
    /// How.
    pub flags: ScanFlags,
    /// Where: whole pages.
    pub range: VirtRange,
    /// Where the program wants regions; 0 for nowhere.
    pub vec: u64,
    /// How many regions there is room for.
    pub vec_len: u64,
    /// How many pages to tell of at most.
    pub max_pages: u64,
    /// Categories that are meant inverted.
    pub inverted: PageCategories,
    /// A page must be in all of these,
    pub required: PageCategories,
    /// and in one of these, if any are given.
    pub any_of: PageCategories,
    /// What is told of each region.
    pub told: PageCategories,
}

impl PageScan {
    /// Bytes of the structure.
    pub const BYTES: usize = 96;
    /// Where in it the end of the walk is told.
    pub const WALK_END: u64 = 32;

    /// Reads the structure. `end` is where user addresses end. `pagemap_scan_get_args`.
    ///
    /// # Errors
    /// - `EINVAL`: another size than this version's, an unknown flag or category, an unaligned start, room without an address.
    /// - `EFAULT`: the range or the room reaches beyond `end`.
    pub fn parse<P: Platform>(bytes: &[u8; Self::BYTES], end: VirtAddr) -> Result<Self, Errno> {
        let mut words = [0; Self::BYTES / 8];
        for (word, part) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*part);
        }
        let [
            size,
            flags,
            start,
            stop,
            _,
            vec,
            vec_len,
            max_pages,
            rest @ ..,
        ] = words;
        let flags = ScanFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        let known = |bits| PageCategories::from_bits(bits).ok_or(Errno::EINVAL);
        let [inverted, required, any_of, told] = rest;
        let (inverted, required) = (known(inverted)?, known(required)?);
        let (any_of, told) = (known(any_of)?, known(told)?);
        let granule = P::Format::GRANULE;
        if size != Self::BYTES as u64 || !VirtAddr::new(start).is_aligned(granule) {
            return Err(Errno::EINVAL);
        }
        let within = VirtRange::new(VirtAddr::new(start), VirtAddr::new(stop));
        let within = within.filter(|range| range.end() <= end);
        let range = within.ok_or(Errno::EFAULT)?;
        if vec == 0 && vec_len != 0 {
            return Err(Errno::EINVAL);
        }
        let room = vec_len.checked_mul(PageRegion::BYTES as u64);
        let room_end = room.and_then(|bytes| vec.checked_add(bytes));
        if vec != 0 && room_end.is_none_or(|room_end| room_end > end.get()) {
            return Err(Errno::EFAULT);
        }
        let stop = granule.round_up(range.end().get()).ok_or(Errno::EFAULT)?;
        Ok(Self {
            flags,
            range: VirtRange::new(range.start(), VirtAddr::new(stop)).ok_or(Errno::EFAULT)?,
            vec,
            vec_len,
            max_pages: if max_pages == 0 { u64::MAX } else { max_pages },
            inverted,
            required,
            any_of,
            told,
        })
    }

    /// `pagemap_scan_is_interesting_page`.
    fn wants(&self, categories: PageCategories) -> bool {
        let categories = categories ^ self.inverted;
        categories.contains(self.required)
            && (self.any_of.is_empty() || categories.intersects(self.any_of))
    }

    /// Whether an area can hold what is looked for. `pagemap_scan_is_interesting_vma`.
    fn wants_area(&self) -> bool {
        let required = self.required & PageCategories::WP_ALLOWED;
        self.inverted.contains(required)
    }
}

/// Regions gathered under one hold of the mmap lock.
const ROOM: usize = 64;

/// Why a walk stopped.
enum Stop {
    /// No room for more regions or pages; it came to here.
    Full(VirtAddr),
    /// An area cannot be write-protected.
    Refused,
}

/// Scans, handing regions to `write` a few at a time without any lock held. Returns how many regions there were and where the walk ended, which
/// is told also when it failed.
///
/// Unlike Linux, which goes on telling where its buffer of 512 regions was last full, the end of a walk that came to the end of its range is that end.
///
/// # Errors
/// `EPERM`: [`ScanFlags::CHECK_WPASYNC`], and there is a mapping. What `write` answers.
pub fn scan_pages<P: Platform>(
    mm: &Mm<P>,
    scan: &PageScan,
    mut write: impl FnMut(&[PageRegion]) -> Result<(), Errno>,
) -> (Result<u64, Errno>, VirtAddr) {
    let end = scan.range.end();
    let mut found = Found {
        scan,
        page: P::Format::GRANULE.bytes(),
        regions: [PageRegion::default(); ROOM],
        len: 0,
        left: scan.vec_len,
        pages: 0,
    };
    let (mut start, mut count) = (scan.range.start(), 0);
    loop {
        let Some(rest) = VirtRange::new(start, end) else {
            return (Ok(count), end);
        };
        let walk = mm.for_each_page_run(rest, |run| found.visit(run));
        let regions = &found.regions[..found.len];
        count += regions.len() as u64;
        if !regions.is_empty()
            && let Err(error) = write(regions)
        {
            return (Err(error), end);
        }
        found.left -= found.len as u64;
        found.len = 0;
        match walk {
            ControlFlow::Continue(()) => return (Ok(count), end),
            ControlFlow::Break(Stop::Refused) => return (Err(Errno::EPERM), end),
            ControlFlow::Break(Stop::Full(at)) => {
                if found.left == 0 || found.pages == scan.max_pages {
                    return (Ok(count), at);
                }
                start = at;
            }
        }
    }
}

/// What a scan has found and not yet told.
struct Found<'a> {
    scan: &'a PageScan,
    page: u64,
    regions: [PageRegion; ROOM],
    len: usize,
    /// How many regions there is room for in all.
    left: u64,
    pages: u64,
}

impl Found<'_> {
    /// Looks at a run of pages.
    fn visit(&mut self, run: PageRun) -> ControlFlow<Stop> {
        let Some(area) = run.area else {
            return ControlFlow::Continue(());
        };
        if self.scan.flags.contains(ScanFlags::CHECK_WPASYNC) {
            return ControlFlow::Break(Stop::Refused);
        }
        let passed_over = self.scan.flags.contains(ScanFlags::WP_MATCHING)
            || area.contains(VmFlags::PFNMAP)
            || !self.scan.wants_area();
        let categories = categories_of(run.state);
        if passed_over || !self.scan.wants(categories) || self.scan.vec_len == 0 {
            return ControlFlow::Continue(());
        }
        self.tell(run.range, categories & self.scan.told)
    }

    /// Tells of pages, as many as there is room for. `pagemap_scan_output`.
    fn tell(&mut self, range: VirtRange, categories: PageCategories) -> ControlFlow<Stop> {
        let wanted = range.bytes() / self.page;
        let told = wanted.min(self.scan.max_pages - self.pages);
        let stop = VirtAddr::new(range.start().get() + told * self.page);
        if told != 0 && !self.push(range.start(), stop, categories) {
            return ControlFlow::Break(Stop::Full(range.start()));
        }
        self.pages += told;
        match told == wanted {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(Stop::Full(stop)),
        }
    }

    /// Adds a region, to the last one if it goes on there; false if there is no room. `pagemap_scan_push_range`.
    fn push(&mut self, start: VirtAddr, end: VirtAddr, categories: PageCategories) -> bool {
        let (start, end) = (start.get(), end.get());
        if let Some(last) = self.regions[..self.len].last_mut()
            && last.end == start
            && last.categories == categories
        {
            last.end = end;
            return true;
        }
        if self.len as u64 >= self.left {
            return false;
        }
        let Some(slot) = self.regions.get_mut(self.len) else {
            return false;
        };
        *slot = PageRegion {
            start,
            end,
            categories,
        };
        self.len += 1;
        true
    }
}

/// The categories of a page. `pagemap_page_category`.
fn categories_of(state: PageState) -> PageCategories {
    const SAME: [(PageBits, PageCategories); 6] = [
        (PageBits::FILE, PageCategories::FILE),
        (PageBits::PRESENT, PageCategories::PRESENT),
        (PageBits::SWAPPED, PageCategories::SWAPPED),
        (PageBits::ZERO, PageCategories::PFN_ZERO),
        (PageBits::SOFT_DIRTY, PageCategories::SOFT_DIRTY),
        (PageBits::GUARD, PageCategories::GUARD),
    ];
    let mut categories = PageCategories::empty();
    for (bit, category) in SAME {
        categories.set(category, state.bits.contains(bit));
    }
    let unwritten = PageBits::UFFD_WP | PageBits::NO_TABLE;
    categories.set(PageCategories::WRITTEN, !state.bits.intersects(unwritten));
    categories
}

//! Frames: the metadata array, the buddy allocator with per-CPU lists before it, owned references, the zero page; and the fallible
//! heap allocations that the rest of the library uses. Not for what a frame is mapped by (`paging`, `space`) or holds (`object`).
//!
//! A free frame lies in a per-CPU list or in the buddy allocator and has no reference. [`Phys::alloc`] gives it one, as a
//! [`PageRef`]; `Clone` adds, `Drop` takes away, and whoever takes the last one away frees the frame. A page-table entry owns its
//! reference as a bare [`Pfn`]: [`PageRef::into_raw`] and [`Phys::from_raw`] go there and back.
//!
//! # When a machine goes
//! [`PhysOwner`] frees the metadata and the platform only if every frame is back. If one is still out (a [`PageRef`] lives on, a
//! count was saturated) it leaks them both, so that the reference stays valid.

mod block;
mod buddy;
mod bytes;
mod census;
pub mod heap;
mod page;
mod pageref;
mod pages;
mod percpu;
#[cfg(test)]
mod tests;

pub use block::{Block, Frames};
pub use buddy::{MAX_ORDER, ORDERS};
pub use census::Census;
pub use heap::{FailPoint, OutOfMemory};
pub use page::{FrameKind, Page, PageFlags};
pub use pageref::PageRef;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicI64, Ordering};

use lock_api::Mutex;

use crate::addr::{Granule, Pfn, PhysRange};
use crate::errno::Errno;
use crate::paging::Format;
use crate::platform::{MAX_CPUS, Padded, Platform};
use buddy::Buddy;
use pages::Pages;
use percpu::{BATCH, List};

/// How many frames [`Phys::put_many`] frees under one lock.
const PUT_BATCH: usize = 64;

/// All frames of a machine.
///
/// # Which calls may allocate where
/// Not for interrupt handlers: running out of memory waits for the per-CPU lists of other CPUs, held for a few instructions each.
pub struct Phys<P: Platform> {
    platform: P,
    pages: Pages,
    /// The frame that `pages[0]` is for; a multiple of the largest block.
    base: u64,
    lists: Vec<Padded<List>>,
    fail: FailPoint,
    total: u64,
    zero: u32,
    buddy: Padded<Mutex<P::RawMutex, Buddy>>,
    /// Frames in `buddy`. What is given back is added after the lock is released, as the last touch of `self`: that is what
    /// lets the owner free `self` once all frames are counted. So it may be briefly too low, even negative.
    free: Padded<AtomicI64>,
}

// SAFETY: the platform, the locks, the atomics and the fail point are `Send`; `pages` owns its memory.
unsafe impl<P: Platform> Send for Phys<P> {}
// SAFETY: the platform is `Sync`, metadata and lists are atomics, and the buddy allocator is behind a `Sync` raw lock.
unsafe impl<P: Platform> Sync for Phys<P> {}

impl<P: Platform> Phys<P> {
    const GRANULE: Granule = P::Format::GRANULE;

    /// What the embedder supplied.
    #[inline]
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// A frame with one reference; its bytes are whatever they were. `alloc_page`.
    ///
    /// # Errors
    /// No frame is free, on any CPU's list either; or the fail point fired.
    #[inline]
    pub fn alloc(&self, kind: FrameKind) -> Result<PageRef<P>, OutOfMemory> {
        self.fail.check()?;
        let quick = self.list().try_hold().and_then(|mut held| held.pop());
        let index = match quick {
            Some(index) => index,
            None => self.refill()?,
        };
        Ok(self.hand_out(index, kind))
    }

    /// A frame with one reference, all zeros. `alloc_page(__GFP_ZERO)`.
    ///
    /// # Errors
    /// As [`Phys::alloc`].
    pub fn alloc_zeroed(&self, kind: FrameKind) -> Result<PageRef<P>, OutOfMemory> {
        let frame = self.alloc(kind)?;
        self.zero_new(frame.pfn());
        Ok(frame)
    }

    /// Fills the empty slots of `frames`, from the first on, under one lock; full ones are left alone. Returns how many slots
    /// at the front are full afterwards: less than all of them if memory ran out or the fail point fired. `alloc_pages_bulk`.
    pub fn alloc_many(&self, kind: FrameKind, frames: &mut [Option<PageRef<P>>]) -> usize {
        let mut done = 0;
        if let Some(mut held) = self.list().try_hold() {
            for slot in frames.iter_mut() {
                if slot.is_none() {
                    if self.fail.check().is_err() {
                        return done;
                    }
                    let Some(index) = held.pop() else { break };
                    *slot = Some(self.hand_out(index, kind));
                }
                done += 1;
            }
        }
        for slot in &mut frames[done..] {
            if slot.is_none() {
                let Ok(frame) = self.alloc(kind) else { break };
                *slot = Some(frame);
            }
            done += 1;
        }
        done
    }

    /// `1 << order` frames in a row, the first a multiple of that; their bytes are whatever they were. `alloc_pages`.
    ///
    /// # Errors
    /// No free block is large enough, even with all per-CPU lists given back; `order` is above [`MAX_ORDER`]; or the fail point fired.
    pub fn alloc_order(&self, order: u8, kind: FrameKind) -> Result<Block<P>, OutOfMemory> {
        if order == 0 {
            return Ok(Block::from_page(self.alloc(kind)?));
        }
        if order > MAX_ORDER {
            return Err(OutOfMemory);
        }
        self.fail.check()?;
        let index = match self.take(order) {
            Some(index) => index,
            None => {
                self.drain();
                self.take(order).ok_or(OutOfMemory)?
            }
        };
        for tail in &self.pages[index as usize + 1..index as usize + (1 << order)] {
            tail.label(kind);
        }
        let head = &self.pages[index as usize];
        head.hand_out(order, kind);
        Ok(Block::new(self, head))
    }

    /// As [`Phys::alloc_order`], all zeros.
    ///
    /// # Errors
    /// As [`Phys::alloc_order`].
    pub fn alloc_order_zeroed(&self, order: u8, kind: FrameKind) -> Result<Block<P>, OutOfMemory> {
        let block = self.alloc_order(order, kind)?;
        for n in 0..1u64 << order {
            self.zero_new(Pfn::new(block.pfn().get() + n));
        }
        Ok(block)
    }

    /// The frame of zeros that a read fault maps; entries for it are special and hold no reference. `ZERO_PAGE`.
    #[inline]
    pub fn zero_page(&self) -> Pfn {
        self.pfn_at(self.zero)
    }

    /// How many frames are free, those in per-CPU lists too. Exact while nobody allocates or frees. `NR_FREE_PAGES`.
    pub fn free_frames(&self) -> u64 {
        let listed: i64 = self.lists.iter().map(|list| list.0.len() as i64).sum();
        (self.free.0.load(Ordering::Relaxed) + listed).max(0) as u64
    }

    /// How many frames the machine has, the zero page too. `totalram_pages`.
    pub fn total_frames(&self) -> u64 {
        self.total
    }

    /// How many free blocks there are of each order, frames in per-CPU lists left out. `/proc/buddyinfo`.
    pub fn free_blocks(&self) -> [u64; ORDERS] {
        self.buddy.0.lock().counts()
    }

    /// Gives what lies in the per-CPU lists back to the buddy allocator, where it merges. `drain_all_pages`.
    pub fn drain(&self) {
        for list in &self.lists {
            let mut frames = [0; percpu::CAPACITY];
            let mut held = list.0.hold(|turn| self.platform.relax(turn));
            let taken = held.take_oldest(&mut frames);
            if taken != 0 {
                // SAFETY: `self` is borrowed until this returns, and the frames were free and now lie nowhere else.
                unsafe { Self::give_back(NonNull::from(self), &frames[..taken]) };
            }
        }
    }

    /// The metadata of a frame; `None` outside the span of memory. A hole within it has one, of kind [`FrameKind::Reserved`].
    /// `pfn_to_online_page`.
    #[inline]
    pub fn page(&self, pfn: Pfn) -> Option<&Page> {
        self.pages
            .get(usize::try_from(pfn.get().checked_sub(self.base)?).ok()?)
    }

    /// Where the first byte of a frame can be reached: [`Platform::direct_map`]. `page_address`. `pfn` must be memory.
    #[inline]
    pub fn ptr(&self, pfn: Pfn) -> *mut u8 {
        debug_assert!(self.page(pfn).is_some(), "not a frame of this machine");
        self.platform.direct_map(pfn.addr(Self::GRANULE))
    }

    /// Takes over one reference that is held as a bare number, by a page-table entry for instance.
    ///
    /// # Safety
    /// There must be such a reference, from [`PageRef::into_raw`] or [`Phys::get_raw`] of this `Phys`, and nothing else may take it over.
    #[inline]
    pub unsafe fn from_raw(&self, pfn: Pfn) -> PageRef<P> {
        PageRef::new(self, self.owned_page(pfn))
    }

    /// Takes over a block that is held as the bare number of its first frame.
    ///
    /// # Safety
    /// It must come from [`Block::into_raw`] of a block of this `Phys`, and nothing else may take it over.
    pub unsafe fn block_from_raw(&self, pfn: Pfn) -> Block<P> {
        Block::new(self, self.owned_page(pfn))
    }

    /// Adds a reference, to be held as a bare number: what fork does for an entry it copies. `get_page`.
    ///
    /// # Safety
    /// There must be a reference already, and it must stay until this returns.
    #[inline]
    pub unsafe fn get_raw(&self, pfn: Pfn) {
        self.owned_page(pfn).get();
    }

    /// A reference to a frame that may be free by now. `get_page_unless_zero`.
    ///
    /// `None` if it is free, a hole, outside memory, or within a block. A frame that was freed may have been handed out again, so
    /// the caller checks after this that it still is what it looked for.
    #[inline]
    pub fn get(&self, pfn: Pfn) -> Option<PageRef<P>> {
        let page = self.page(pfn)?;
        page.get_unless_zero().then(|| PageRef::new(self, page))
    }

    /// Drops one reference to each of `frames`, which are held as bare numbers; what nobody else refers to is freed, many under
    /// one lock. `release_pages`. A frame that stands there twice loses two.
    ///
    /// # Safety
    /// As [`Phys::from_raw`], for each.
    pub unsafe fn put_many(&self, frames: &[Pfn]) {
        let mut last = [0u32; PUT_BATCH];
        let mut count = 0;
        for &pfn in frames {
            let page = self.owned_page(pfn);
            if !page.put() {
                continue;
            }
            let order = page.retire();
            let index = self.index_of(page);
            if order != 0 {
                // SAFETY: `self` is borrowed, and this dropped the last reference to the block.
                unsafe { Self::free_block(NonNull::from(self), index, order) };
                continue;
            }
            last[count] = index;
            count += 1;
            if count == PUT_BATCH {
                self.free_many(&last);
                count = 0;
            }
        }
        self.free_many(&last[..count]);
    }

    /// The fail point that every allocation consults, of frames and of the heap. For tests.
    #[inline]
    pub fn inject(&self) -> &FailPoint {
        &self.fail
    }

    #[inline]
    fn list(&self) -> &List {
        let cpu = self.platform.cpu().0 as usize;
        match self.lists.get(cpu) {
            Some(list) => &list.0,
            None => &self.lists[cpu % self.lists.len()].0,
        }
    }

    #[inline]
    fn hand_out(&self, index: u32, kind: FrameKind) -> PageRef<P> {
        let page = &self.pages[index as usize];
        page.hand_out(0, kind);
        PageRef::new(self, page)
    }

    #[inline]
    fn pfn_at(&self, index: u32) -> Pfn {
        Pfn::new(self.base + index as u64)
    }

    /// Which element of `pages` this is.
    #[inline]
    fn index_of(&self, page: *const Page) -> u32 {
        ((page.addr() - self.pages.as_ptr().addr()) / size_of::<Page>()) as u32
    }

    /// The metadata of a frame that the caller says it has a reference to.
    #[inline]
    fn owned_page(&self, pfn: Pfn) -> &Page {
        &self.pages[pfn.get().wrapping_sub(self.base) as usize]
    }

    /// Zeroes a frame that was just handed out.
    fn zero_new(&self, pfn: Pfn) {
        // SAFETY: the frame is memory, so the platform says its bytes can be written; it was free, so nothing else uses them, and
        // the only reference to it is the caller's.
        unsafe { self.ptr(pfn).write_bytes(0, Self::GRANULE.bytes() as usize) };
    }

    /// Takes a block from the buddy allocator.
    fn take(&self, order: u8) -> Option<u32> {
        let index = self.buddy.0.lock().take(&self.pages, order)?;
        self.free.0.fetch_sub(1 << order, Ordering::Relaxed);
        Some(index)
    }

    /// A frame from the buddy allocator, and a batch for this CPU's list while there: neighbours, lowest on top, where it can.
    #[cold]
    #[inline(never)]
    fn refill(&self) -> Result<u32, OutOfMemory> {
        if let Some(mut held) = self.list().try_hold() {
            if let Some(index) = held.pop() {
                return Ok(index);
            }
            let taken =
                self.buddy
                    .0
                    .lock()
                    .take_frames(&self.pages, BATCH as u32, |first, count| {
                        for index in (first..first + count).rev() {
                            // An empty list has room for a batch.
                            held.push(index);
                        }
                    });
            self.free.0.fetch_sub(taken as i64, Ordering::Relaxed);
            if let Some(index) = held.pop() {
                return Ok(index);
            }
        } else if let Some(index) = self.take(0) {
            return Ok(index);
        }
        self.drain();
        self.take(0).ok_or(OutOfMemory)
    }

    /// Frees single frames: into this CPU's list if they fit, else straight to the buddy allocator.
    fn free_many(&self, frames: &[u32]) {
        if frames.is_empty() {
            return;
        }
        if let Some(mut held) = self.list().try_hold()
            && held.room() >= frames.len()
        {
            for &index in frames {
                held.push(index);
            }
            return;
        }
        // SAFETY: `self` is borrowed; the frames have no reference and lie in no list.
        unsafe { Self::give_back(NonNull::from(self), frames) };
    }

    /// Frees what starts at a page whose last reference was just dropped.
    ///
    /// The functions that free take no `&self`: once the last frame is counted as free, another thread that drops the owner may free `this`
    /// before they return. Their last touch of it is an atomic access.
    ///
    /// # Safety
    /// `this` must be valid, `page` one of its pages, and the caller must have dropped its last reference.
    #[inline]
    unsafe fn release(this: NonNull<Self>, page: NonNull<Page>) {
        // SAFETY: the frame is not counted as free, so the owner does not free `this` nor the metadata; a local reference, it is
        // not required to outlive its last use.
        let (phys, page) = unsafe { (this.as_ref(), page.as_ref()) };
        let order = page.retire();
        let index = phys.index_of(page);
        if order != 0 {
            // SAFETY: passed on from the caller.
            return unsafe { Self::free_block(this, index, order) };
        }
        if let Some(mut held) = phys.list().try_hold()
            && held.push(index)
        {
            return;
        }
        // SAFETY: passed on from the caller.
        unsafe { Self::release_slow(this, index) };
    }

    /// As `release`, when this CPU's list is full or held.
    ///
    /// # Safety
    /// As [`Phys::give_back`], for one frame.
    #[cold]
    #[inline(never)]
    unsafe fn release_slow(this: NonNull<Self>, index: u32) {
        // SAFETY: as in `release`.
        let phys = unsafe { this.as_ref() };
        if let Some(mut held) = phys.list().try_hold() {
            let mut oldest = [0; BATCH];
            let taken = if held.room() == 0 {
                held.take_oldest(&mut oldest)
            } else {
                0
            };
            if taken != 0 {
                // SAFETY: the frame `index` is not counted as free yet, so `this` stays; what was taken lies nowhere else.
                unsafe { Self::give_back(this, &oldest[..taken]) };
            }
            held.push(index);
            return;
        }
        // SAFETY: passed on from the caller.
        unsafe { Self::give_back(this, &[index]) };
    }

    /// Gives single frames to the buddy allocator.
    ///
    /// # Safety
    /// `this` must be valid until the frames are counted as free; they must have no reference and lie in no list.
    unsafe fn give_back(this: NonNull<Self>, frames: &[u32]) {
        // SAFETY: as in `release`.
        let phys = unsafe { this.as_ref() };
        phys.buddy.0.lock().give_frames(&phys.pages, frames);
        phys.free
            .0
            .fetch_add(frames.len() as i64, Ordering::Release);
    }

    /// Gives a block to the buddy allocator.
    ///
    /// # Safety
    /// As [`Phys::give_back`], for `1 << order` frames from `index` on.
    #[cold]
    unsafe fn free_block(this: NonNull<Self>, index: u32, order: u8) {
        // SAFETY: as in `release`.
        let phys = unsafe { this.as_ref() };
        for tail in &phys.pages[index as usize..index as usize + (1 << order)] {
            tail.label(FrameKind::Free);
        }
        phys.buddy.0.lock().give(&phys.pages, index, order);
        phys.free.0.fetch_add(1 << order, Ordering::Release);
    }
}

impl<P: Platform> core::fmt::Debug for Phys<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Phys")
            .field("total", &self.total)
            .field("free", &self.free_frames())
            .finish()
    }
}

/// Owns a [`Phys`]; a machine holds one. See the module for what becomes of frames that are still out when it is dropped.
pub struct PhysOwner<P: Platform>(NonNull<Phys<P>>);

// SAFETY: it is a `Box<Phys<P>>` but for what `Drop` does, and `Phys` is `Send` and `Sync`.
unsafe impl<P: Platform> Send for PhysOwner<P> {}
// SAFETY: it gives out `&Phys` only, and `Phys` is `Sync`.
unsafe impl<P: Platform> Sync for PhysOwner<P> {}

impl<P: Platform> PhysOwner<P> {
    /// Takes over all memory of a platform; every frame but the zero page is free.
    ///
    /// The heap holds 32 bytes for each frame from the first to the last, holes included. Those of holes, and of memory that is never used, are
    /// not written, so on a system with demand paging they cost nothing.
    ///
    /// # Errors
    /// - `EINVAL`: the ranges of [`Platform::ram`] are not ascending, disjoint and aligned to the granule, they span 2^32 frames or
    ///   more, or there are no CPUs or more than [`MAX_CPUS`].
    /// - `ENOMEM`: there is no memory at all, or the heap has no room for the metadata.
    pub fn new(platform: P) -> Result<PhysOwner<P>, Errno> {
        let fail = FailPoint::new();
        let granule = P::Format::GRANULE;
        let span = Span::of(platform.ram(), granule)?;
        let cpus = platform.cpus();
        if cpus == 0 || cpus > MAX_CPUS {
            return Err(Errno::EINVAL);
        }
        let mut lists = heap::try_vec(&fail, cpus)?;
        lists.resize_with(cpus, Padded::<List>::default);
        let pages = Pages::new(span.len)?;
        let mut buddy = Buddy::new();
        for range in platform.ram().iter().rev() {
            let first = (Pfn::containing(range.start(), granule).get() - span.base) as u32;
            buddy.give_range(&pages, first, range.pages(granule) as u32);
        }
        let zero = buddy.take(&pages, 0).ok_or(OutOfMemory)?;
        pages[zero as usize].hand_out(0, FrameKind::Zero);
        let phys = Phys {
            platform,
            pages,
            base: span.base,
            lists,
            total: span.frames,
            zero,
            buddy: Padded(Mutex::new(buddy)),
            free: Padded(AtomicI64::new(span.frames as i64 - 1)),
            fail: FailPoint::new(),
        };
        phys.zero_new(phys.zero_page());
        let phys = heap::try_box(&fail, phys)?;
        Ok(PhysOwner(NonNull::from(Box::leak(phys))))
    }
}

impl<P: Platform> Deref for PhysOwner<P> {
    type Target = Phys<P>;

    #[inline]
    fn deref(&self) -> &Phys<P> {
        // SAFETY: it points at a leaked box that only `drop` takes back.
        unsafe { self.0.as_ref() }
    }
}

impl<P: Platform> Drop for PhysOwner<P> {
    fn drop(&mut self) {
        self.drain();
        let free = self.free.0.load(Ordering::Acquire);
        let zero_is_ours = self.pages[self.zero as usize].refs() == 1;
        if free as u64 + 1 != self.total || !zero_is_ours {
            return;
        }
        // SAFETY: every frame but the zero page is counted as free in the buddy allocator, and the zero page has our reference only, so no
        // `PageRef` or `Block` exists and none can come to be. Whoever freed the last frames counted them with a release as its last touch of
        // `Phys`, and whoever dropped a reference to the zero page did so with a release as its last touch of the metadata; both
        // loads above acquire.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl<P: Platform> core::fmt::Debug for PhysOwner<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        (**self).fmt(f)
    }
}

/// What the metadata array must cover.
struct Span {
    base: u64,
    len: usize,
    frames: u64,
}

impl Span {
    fn of(ram: &[PhysRange], granule: Granule) -> Result<Span, Errno> {
        let mut last_end = 0;
        let mut frames = 0;
        for range in ram {
            let (start, end) = (range.start().get(), range.end().get());
            if start < last_end || !granule.is_aligned(start) || !granule.is_aligned(end) {
                return Err(Errno::EINVAL);
            }
            frames += range.pages(granule);
            last_end = end;
        }
        let first = ram
            .iter()
            .find(|range| !range.is_empty())
            .ok_or(Errno::ENOMEM)?;
        let base = Pfn::containing(first.start(), granule).get() & !((1 << MAX_ORDER) - 1);
        let len = (last_end >> granule.shift()) - base;
        if len >= u32::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        Ok(Span {
            base,
            len: usize::try_from(len).map_err(|_| Errno::EINVAL)?,
            frames,
        })
    }
}

//! A platform of a few megabytes of heap, with any granule and no TLB. For the tests of frames only.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::addr::{Granule, PhysAddr, PhysRange};
use crate::paging::{Access, Entry, Format};
use crate::platform::{CpuId, FlushRequest, Platform};

/// A format with nothing but a granule.
#[derive(Clone, Copy)]
pub(super) struct Bare<const SHIFT: u32>;

impl<const SHIFT: u32> Format for Bare<SHIFT> {
    const NAME: &'static str = "bare";
    const GRANULE: Granule = match SHIFT {
        12 => Granule::K4,
        14 => Granule::K16,
        _ => Granule::K64,
    };
    const LEVELS: u8 = 1;
    const VA_BITS: u32 = 30;
    const USER_BITS: u32 = 30;
    const HARDWARE_ACCESSED: bool = false;
    const HARDWARE_DIRTY: bool = false;
    const LOCK_BIT: u64 = 1;
    const ACCESSED_BIT: u64 = 0;

    fn has_large(_: u8) -> bool {
        false
    }

    fn encode(_: u8, _: Entry) -> u64 {
        0
    }

    fn decode(_: u8, _: u64) -> Entry {
        Entry::Absent
    }

    fn walker_may_change(_raw: u64) -> bool {
        false
    }

    fn hardware_access(_: u8, _: u64, _: Access) -> Option<u64> {
        None
    }
}

pub(super) struct Spin(AtomicBool);

// SAFETY: `try_lock` succeeds for one caller until `unlock`.
unsafe impl lock_api::RawMutex for Spin {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Spin = Spin(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock(&self) {
        while !self.try_lock() {
            std::thread::yield_now();
        }
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

// SAFETY: readers exclude each other too, which is more than is asked.
unsafe impl lock_api::RawRwLock for Spin {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Spin = Spin(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardSend;

    fn lock_shared(&self) {
        lock_api::RawMutex::lock(self);
    }

    fn try_lock_shared(&self) -> bool {
        lock_api::RawMutex::try_lock(self)
    }

    unsafe fn unlock_shared(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn lock_exclusive(&self) {
        lock_api::RawMutex::lock(self);
    }

    fn try_lock_exclusive(&self) -> bool {
        lock_api::RawMutex::try_lock(self)
    }

    unsafe fn unlock_exclusive(&self) {
        self.0.store(false, Ordering::Release);
    }
}

thread_local! {
    /// What `Platform::cpu` tells this thread.
    pub(super) static CPU: Cell<u16> = const { Cell::new(0) };
}

pub(super) const CPUS: usize = 4;

/// Memory at the given frames, each range a heap allocation of its own.
pub(super) struct Ram<const SHIFT: u32> {
    pub(super) ranges: Vec<PhysRange>,
    pub(super) buffers: Vec<(*mut u8, Layout)>,
    pub(super) gone: Arc<AtomicBool>,
}

// SAFETY: the buffers are plain memory.
unsafe impl<const SHIFT: u32> Send for Ram<SHIFT> {}
// SAFETY: as for `Send`.
unsafe impl<const SHIFT: u32> Sync for Ram<SHIFT> {}

impl<const SHIFT: u32> Ram<SHIFT> {
    /// Memory at these frame numbers: first, and one after the last.
    pub(super) fn new(frames: &[(u64, u64)]) -> Self {
        let ranges = frames.iter().map(|&(first, end)| {
            PhysRange::new(PhysAddr::new(first << SHIFT), PhysAddr::new(end << SHIFT)).unwrap()
        });
        Self::at(ranges.collect())
    }

    fn at(ranges: Vec<PhysRange>) -> Self {
        let buffer = |range: &PhysRange| {
            let layout = Layout::from_size_align(range.bytes() as usize + 1, 1 << SHIFT).unwrap();
            // SAFETY: the size is not zero.
            let memory = unsafe { alloc(layout) };
            assert!(!memory.is_null());
            // SAFETY: all of it was just allocated. What allocations give must not look like zeros by luck.
            unsafe { memory.write_bytes(0xa5, layout.size()) };
            (memory, layout)
        };
        Ram {
            buffers: ranges.iter().map(buffer).collect(),
            ranges,
            gone: Arc::default(),
        }
    }
}

impl<const SHIFT: u32> Drop for Ram<SHIFT> {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        for &(memory, layout) in &self.buffers {
            // SAFETY: allocated in `at` with this layout.
            unsafe { dealloc(memory, layout) };
        }
    }
}

// SAFETY: `direct_map` leads into buffers that live as long as the platform and are used for nothing else; there is no TLB.
unsafe impl<const SHIFT: u32> Platform for Ram<SHIFT> {
    type Format = Bare<SHIFT>;
    type RawMutex = Spin;
    type RawRwLock = Spin;
    type Flush = ();

    fn ram(&self) -> &[PhysRange] {
        &self.ranges
    }

    fn direct_map(&self, at: PhysAddr) -> *mut u8 {
        let n = self
            .ranges
            .iter()
            .position(|range| range.contains(at))
            .expect("an address outside memory");
        // SAFETY: `at` lies in the range, and its buffer is as long.
        unsafe {
            self.buffers[n]
                .0
                .add((at.get() - self.ranges[n].start().get()) as usize)
        }
    }

    fn cpus(&self) -> usize {
        CPUS
    }

    fn cpu(&self) -> CpuId {
        CpuId(CPU.get())
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn random(&self) -> u64 {
        4
    }

    fn relax(&self, _: u32) {
        std::thread::yield_now();
    }

    fn flush_begin(&self, _: FlushRequest<'_>) {}

    fn flush_wait(&self, _: ()) {}
}

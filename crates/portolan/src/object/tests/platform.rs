//! A platform of a few megabytes of heap without a TLB, whose spin locks know which thread holds them; a backing in memory that fails when
//! told to; and a space of plain maps that faults by the library's protocol. For the tests of objects only.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::*;
use crate::addr::{Granule, PhysAddr, PhysRange, VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::machine::{Machine, Settings};
use crate::paging::{Access, Entry, Format};
use crate::phys::PageRef;
use crate::platform::{CpuId, FlushRequest, Platform};

/// A format with nothing but a granule.
#[derive(Clone, Copy)]
pub struct Bare<const SHIFT: u32>;

impl<const SHIFT: u32> Format for Bare<SHIFT> {
    const NAME: &'static str = "bare";
    const GRANULE: Granule = if SHIFT == 12 {
        Granule::K4
    } else {
        Granule::K64
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

thread_local! {
    static SPINNING: Cell<u32> = const { Cell::new(0) };
}

/// Fails the test if this thread holds a spin lock: what calls this may sleep.
pub fn may_sleep() {
    assert_eq!(SPINNING.get(), 0, "sleeps under a spin lock");
}

pub struct Spin(AtomicBool);

// SAFETY: `try_lock` succeeds for one caller until `unlock`.
unsafe impl lock_api::RawMutex for Spin {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Spin = Spin(AtomicBool::new(false));
    type GuardMarker = lock_api::GuardNoSend;

    fn lock(&self) {
        while !lock_api::RawMutex::try_lock(self) {
            std::thread::yield_now();
        }
    }

    fn try_lock(&self) -> bool {
        let taken = !self.0.swap(true, Ordering::Acquire);
        SPINNING.set(SPINNING.get() + u32::from(taken));
        taken
    }

    unsafe fn unlock(&self) {
        SPINNING.set(SPINNING.get() - 1);
        self.0.store(false, Ordering::Release);
    }
}

/// The number of readers, or -1.
pub struct Sleeping(AtomicI64);

// SAFETY: -1 keeps all others out, a positive count keeps writers out.
unsafe impl lock_api::RawRwLock for Sleeping {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Sleeping = Sleeping(AtomicI64::new(0));
    type GuardMarker = lock_api::GuardSend;

    fn lock_shared(&self) {
        may_sleep();
        while !self.try_lock_shared() {
            std::thread::yield_now();
        }
    }

    fn try_lock_shared(&self) -> bool {
        let more = |count: i64| (count >= 0).then(|| count + 1);
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, more)
            .is_ok()
    }

    unsafe fn unlock_shared(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }

    fn lock_exclusive(&self) {
        may_sleep();
        while !self.try_lock_exclusive() {
            std::thread::yield_now();
        }
    }

    fn try_lock_exclusive(&self) -> bool {
        self.0
            .compare_exchange(0, -1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    unsafe fn unlock_exclusive(&self) {
        self.0.store(0, Ordering::Release);
    }
}

pub struct Ram<const SHIFT: u32> {
    range: [PhysRange; 1],
    memory: *mut u8,
    layout: Layout,
}

// SAFETY: the buffer is plain memory.
unsafe impl<const SHIFT: u32> Send for Ram<SHIFT> {}
// SAFETY: as for `Send`.
unsafe impl<const SHIFT: u32> Sync for Ram<SHIFT> {}

impl<const SHIFT: u32> Drop for Ram<SHIFT> {
    fn drop(&mut self) {
        // SAFETY: allocated in `machine` with this layout.
        unsafe { dealloc(self.memory, self.layout) };
    }
}

// SAFETY: `direct_map` leads into a buffer that lives as long as the platform and is used for nothing else; there is no TLB.
unsafe impl<const SHIFT: u32> Platform for Ram<SHIFT> {
    type Format = Bare<SHIFT>;
    type RawMutex = Spin;
    type RawRwLock = Sleeping;
    type Flush = ();

    fn ram(&self) -> &[PhysRange] {
        &self.range
    }

    fn direct_map(&self, at: PhysAddr) -> *mut u8 {
        // SAFETY: `at` lies in the range, and the buffer is as long.
        unsafe {
            self.memory
                .add((at.get() - self.range[0].start().get()) as usize)
        }
    }

    fn cpus(&self) -> usize {
        2
    }

    fn cpu(&self) -> CpuId {
        CpuId(0)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn random(&self) -> u64 {
        0x5eed
    }

    fn relax(&self, _: u32) {
        std::thread::yield_now();
    }

    fn flush_begin(&self, _: FlushRequest<'_>) {}

    fn flush_wait(&self, _: ()) {}
}

/// A machine whose every allocation is counted back in.
pub struct TestMachine<const SHIFT: u32> {
    pub machine: Machine<Ram<SHIFT>>,
    free: u64,
}

impl<const SHIFT: u32> TestMachine<SHIFT> {
    pub fn new(frames: u64) -> Self {
        let start = PhysAddr::new(1 << 30);
        let bytes = frames << SHIFT;
        let layout = Layout::from_size_align(bytes as usize, 1 << SHIFT).unwrap();
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc(layout) };
        assert!(!memory.is_null());
        // SAFETY: all of it was just allocated. What frames hold at first must not look like zeros by luck.
        unsafe { memory.write_bytes(0xa5, layout.size()) };
        let range = [PhysRange::with_len(start, bytes).unwrap()];
        let machine = Machine::new(
            Ram {
                range,
                memory,
                layout,
            },
            Settings::default(),
        )
        .unwrap();
        let free = machine.phys().free_frames();
        Self { machine, free }
    }

    /// Every frame is back, and every promise.
    pub fn assert_all_back(&self) {
        assert_eq!(self.machine.phys().free_frames(), self.free);
        assert_eq!(self.machine.committed_pages(), 0);
    }
}

/// A file in memory.
pub struct Disk {
    pub bytes: Mutex<Vec<u8>>,
    page: usize,
    /// How many calls from now the failing one is; 0 for none.
    fail_in: AtomicU64,
    pub reads: AtomicU64,
    pub written: Mutex<Vec<u64>>,
    pub syncs: AtomicU64,
}

impl Disk {
    pub fn new<const SHIFT: u32>(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(bytes),
            page: 1 << SHIFT,
            fail_in: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            written: Mutex::default(),
            syncs: AtomicU64::new(0),
        })
    }

    /// Makes the `nth` call from now fail with EIO.
    pub fn fail(&self, nth: u64) {
        self.fail_in.store(nth, Ordering::Relaxed);
    }

    fn check(&self) -> Result<(), Errno> {
        may_sleep();
        let less = |left: u64| left.checked_sub(1);
        match self
            .fail_in
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        {
            Ok(1) => Err(Errno::EIO),
            _ => Ok(()),
        }
    }

    pub fn contents(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

impl Backing for Disk {
    fn read_page(&self, index: u64, page: &mut [u8]) -> Result<(), Errno> {
        self.check()?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        assert_eq!(page.len(), self.page);
        let bytes = self.bytes.lock().unwrap();
        let start = (index as usize * self.page).min(bytes.len());
        let count = page.len().min(bytes.len() - start);
        page[..count].copy_from_slice(&bytes[start..start + count]);
        page[count..].fill(0);
        Ok(())
    }

    fn write_page(&self, index: u64, page: &[u8]) -> Result<(), Errno> {
        self.check()?;
        assert!(!page.is_empty() && page.len() <= self.page);
        self.written.lock().unwrap().push(index);
        let mut bytes = self.bytes.lock().unwrap();
        let start = index as usize * self.page;
        let end = start + page.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(page);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Errno> {
        self.check()?;
        self.bytes.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn punch_hole(&self, pages: core::ops::Range<u64>) -> Result<(), Errno> {
        self.check()?;
        let mut bytes = self.bytes.lock().unwrap();
        let len = bytes.len();
        let at = |index: u64| (index as usize * self.page).min(len);
        bytes[at(pages.start)..at(pages.end)].fill(0);
        Ok(())
    }

    fn sync(&self) -> Result<(), Errno> {
        self.check()?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// What one entry of a [`Space`] says.
pub struct Mapped<P: Platform> {
    pub page: PageRef<P>,
    pub writable: bool,
    pub private_copy: bool,
}

/// A space with one mapping of one object, from page 0 of both on. The map's lock stands for that of a page-table page.
pub struct Space<const SHIFT: u32> {
    pub entries: Mutex<BTreeMap<u64, Mapped<Ram<SHIFT>>>>,
    pub base: u64,
    pub zaps: AtomicU64,
}

impl<const SHIFT: u32> Mapper for Space<SHIFT> {
    fn zap(&self, at: VirtRange, reason: ZapReason) {
        may_sleep();
        self.zaps.fetch_add(1, Ordering::Relaxed);
        let range = self.index(at.start())..self.index(at.end());
        let keep = |entry: &Mapped<_>| entry.private_copy && !reason.takes_private_copies();
        self.entries
            .lock()
            .unwrap()
            .retain(|index, entry| !range.contains(index) || keep(entry));
    }

    fn write_protect(&self, at: VirtRange) {
        may_sleep();
        let range = self.index(at.start())..self.index(at.end());
        for (_, entry) in self.entries.lock().unwrap().range_mut(range) {
            entry.writable = false;
        }
    }
}

impl<const SHIFT: u32> Space<SHIFT> {
    /// Maps `pages` of an object from its start on.
    pub fn map(cache: &Cache<Ram<SHIFT>>, pages: u64, kind: MappingKind) -> (Arc<Self>, MappingId) {
        let base = 0x7000_0000;
        let space = Arc::new(Self {
            entries: Mutex::default(),
            base,
            zaps: AtomicU64::new(0),
        });
        let id = cache.reserve_mapping().unwrap();
        let start = VirtAddr::new(base);
        cache.fill_mapping(
            id,
            Mapping {
                space: space.clone(),
                start,
                first_page: 0,
                pages,
                kind,
                residency: Residency::Evictable,
            },
        );
        (space, id)
    }

    fn index(&self, at: VirtAddr) -> u64 {
        (at.get() - self.base) >> SHIFT
    }

    /// Stores through the mapping, faulting as a space does; false on SIGBUS.
    pub fn store(&self, cache: &Cache<Ram<SHIFT>>, offset: u64, bytes: &[u8]) -> bool {
        let index = offset >> SHIFT;
        loop {
            if let Some(entry) = self.entries.lock().unwrap().get(&index)
                && entry.writable
            {
                entry
                    .page
                    .write((offset & ((1 << SHIFT) - 1)) as usize, bytes);
                return true;
            }
            if !self.fault(cache, index, Access::Write) {
                return false;
            }
        }
    }

    /// Loads a byte through the mapping; none on SIGBUS.
    pub fn load(&self, cache: &Cache<Ram<SHIFT>>, offset: u64) -> Option<u8> {
        let index = offset >> SHIFT;
        loop {
            if let Some(entry) = self.entries.lock().unwrap().get(&index) {
                let mut byte = [0];
                entry
                    .page
                    .read((offset & ((1 << SHIFT) - 1)) as usize, &mut byte);
                return Some(byte[0]);
            }
            if !self.fault(cache, index, Access::Read) {
                return None;
            }
        }
    }

    /// One try at a fault; false on SIGBUS.
    fn fault(&self, cache: &Cache<Ram<SHIFT>>, index: u64, access: Access) -> bool {
        let truncations = cache.truncations();
        if index >= cache.size_in_pages() {
            return false;
        }
        let Some(page) = cache.lookup(index) else {
            return !matches!(cache.page(index), Err(Errno::ENXIO | Errno::EIO));
        };
        let mut entries = self.entries.lock().unwrap();
        let writable = access == Access::Write;
        if cache.truncations() != truncations || writable && !cache.mark_dirty(index) {
            return true;
        }
        let entry = entries.entry(index).or_insert(Mapped {
            page,
            writable,
            private_copy: false,
        });
        entry.writable |= writable;
        true
    }
}

/// xorshift64*: the same numbers in each run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(255) as u8 + 1).collect()
    }
}

//! An in-memory machine for tests, examples and fuzzing: memory that is a piece of the heap, CPUs that are software ([`Cpu`]) and walk
//! the real page-table bytes, and TLBs that keep what they know until they are told to forget it.
//! Not a model of time: nothing here says what a real machine would take.

mod cpu;
mod memory;
mod tlb;

#[cfg(test)]
mod tests;

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use core::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;

pub use cpu::{Cpu, PageFault, Space, Width};
pub use tlb::TlbCounts;

use crate::addr::{PhysAddr, PhysRange};
use crate::paging::Format;
use crate::platform::{
    Asid, CpuId, CpuSet, FlushRequest, FlushScope, MAX_CPUS, Padded, Platform, Tables,
};
use memory::Memory;
use tlb::Tlb;

/// The physical address at which memory begins: not zero, so that frame 0 is always a mistake.
const RAM_START: u64 = 1 << 30;

/// From this turn of a spin loop on, the thread gives up its processor.
const SPINS: u32 = 64;

const UNSET: u16 = u16::MAX;

thread_local! {
    static CPU: Cell<u16> = const { Cell::new(UNSET) };
}

/// The CPU that the next thread without one gets.
static NEXT_CPU: AtomicU16 = AtomicU16::new(0);

/// An in-memory machine with the page-table format `F`.
pub struct Sim<F: Format> {
    memory: Memory,
    ram: [PhysRange; 1],
    tlbs: Vec<Padded<Mutex<Tlb>>>,
    started: Instant,
    random: AtomicU64,
    format: PhantomData<F>,
}

impl<F: Format> Sim<F> {
    /// A machine with `bytes` of memory, rounded down to whole frames, and `cpus` CPUs. Memory costs the host only what is used of it.
    ///
    /// # Panics
    /// The host has not that much memory, or `cpus` is 0 or more than [`MAX_CPUS`].
    pub fn new(bytes: usize, cpus: usize) -> Self {
        assert!((1..=MAX_CPUS).contains(&cpus), "1 to {MAX_CPUS} CPUs");
        let granule = F::GRANULE;
        let bytes = granule.round_down(bytes as u64);
        let ram =
            PhysRange::with_len(PhysAddr::new(RAM_START), bytes).expect("less than 2^63 bytes");
        let mut tlbs = Vec::new();
        tlbs.resize_with(cpus, || Padded(Mutex::new(Tlb::default())));
        Self {
            memory: Memory::new(bytes as usize, granule.bytes() as usize),
            ram: [ram],
            tlbs,
            started: Instant::now(),
            random: AtomicU64::new(0),
            format: PhantomData,
        }
    }

    /// Bounds each TLB to this many pages; without it they grow without bound. A full one forgets some page for each new one.
    #[must_use]
    pub fn with_tlb_capacity(self, pages: usize) -> Self {
        self.tlbs
            .iter()
            .for_each(|tlb| tlb.0.lock().set_capacity(pages));
        self
    }

    /// Starts [`Platform::random`] elsewhere; without it every machine gives the same numbers.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        self.random.store(seed, Ordering::Relaxed);
        self
    }

    /// Makes this thread run as a CPU, for [`Platform::cpu`]. Threads that never call this get the CPUs in turn.
    pub fn set_cpu(cpu: CpuId) {
        CPU.set(cpu.0);
    }

    /// What the TLBs saw, summed over all CPUs.
    pub fn tlb_counts(&self) -> TlbCounts {
        let mut sum = TlbCounts::default();
        self.tlbs
            .iter()
            .for_each(|tlb| sum.add(&tlb.0.lock().counts));
        sum
    }

    /// How many translations of a space the CPUs hold.
    pub fn cached_pages(&self, asid: Asid) -> usize {
        self.tlbs
            .iter()
            .map(|tlb| tlb.0.lock().pages_of(asid))
            .sum()
    }

    fn tlb(&self, cpu: CpuId) -> &Mutex<Tlb> {
        &self.tlbs[cpu.0 as usize % self.tlbs.len()].0
    }
}

/// A flush that has been ordered and not been done: only [`Platform::flush_wait`] reaches the TLBs, so forgetting it shows.
#[derive(Debug)]
#[must_use = "nothing is flushed before `flush_wait`"]
pub struct PendingFlush {
    asid: Asid,
    scope: FlushScope,
    tables: Tables,
    cpus: CpuSet,
}

// SAFETY: `direct_map` leads into `memory`, which is this platform's alone, aligned to the granule, and freed when it is dropped; `ram` says just
// that. A CPU uses a translation only while it holds its TLB's lock, and `flush_wait` takes that lock to remove it.
unsafe impl<F: Format> Platform for Sim<F> {
    type Format = F;
    type RawMutex = parking_lot::RawMutex;
    type RawRwLock = parking_lot::RawRwLock;
    type Flush = PendingFlush;

    fn ram(&self) -> &[PhysRange] {
        &self.ram
    }

    #[inline]
    fn direct_map(&self, at: PhysAddr) -> *mut u8 {
        self.memory.at(at.get().wrapping_sub(RAM_START) as usize)
    }

    fn cpus(&self) -> usize {
        self.tlbs.len()
    }

    #[inline]
    fn cpu(&self) -> CpuId {
        let mut cpu = CPU.get();
        if cpu == UNSET {
            cpu = NEXT_CPU.fetch_add(1, Ordering::Relaxed) % MAX_CPUS as u16;
            CPU.set(cpu);
        }
        let cpus = self.tlbs.len() as u16;
        CpuId(if cpu < cpus { cpu } else { cpu % cpus })
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Splitmix64 from the seed on.
    fn random(&self) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let mut word = self
            .random
            .fetch_add(step, Ordering::Relaxed)
            .wrapping_add(step);
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn relax(&self, turn: u32) {
        if turn < SPINS {
            core::hint::spin_loop()
        } else {
            std::thread::yield_now()
        }
    }

    fn flush_begin(&self, request: FlushRequest<'_>) -> PendingFlush {
        PendingFlush {
            asid: request.asid,
            scope: request.scope,
            tables: request.tables,
            cpus: *request.cpus,
        }
    }

    fn flush_wait(&self, flush: PendingFlush) {
        for cpu in flush
            .cpus
            .iter()
            .take_while(|cpu| (cpu.0 as usize) < self.tlbs.len())
        {
            let mut tlb = self.tlb(cpu).lock();
            tlb.flush::<F>(flush.asid, flush.scope, flush.tables);
        }
    }

    fn space_released(&self, asid: Asid) {
        self.tlbs.iter().for_each(|tlb| tlb.0.lock().forget(asid));
    }
}

impl<F: Format> fmt::Debug for Sim<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("format", &F::NAME)
            .field("ram", &self.ram[0])
            .field("cpus", &self.tlbs.len())
            .finish_non_exhaustive()
    }
}

//! All that an embedder supplies, in one place: memory, a page-table format, a TLB, locks, a clock, a CPU number, and the
//! hooks Linux calls out to. Nothing here is global: a process can hold several machines, each with its own `Platform`.

use core::fmt::Debug;
use core::time::Duration;

use crate::addr::{PhysAddr, PhysRange, VirtRange};
use crate::errno::Errno;
use crate::paging::Format;

/// The greatest number of CPUs a machine may have. `NR_CPUS`.
pub const MAX_CPUS: usize = 256;

/// A CPU's number, below [`Platform::cpus`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CpuId(pub u16);

/// A set of CPUs. `cpumask_t`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CpuSet([u64; MAX_CPUS / 64]);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: CpuSet = CpuSet([0; MAX_CPUS / 64]);

    /// Adds one.
    pub fn insert(&mut self, cpu: CpuId) {
        self.0[cpu.0 as usize / 64] |= 1 << (cpu.0 % 64);
    }

    /// Whether it is in the set.
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0[cpu.0 as usize / 64] >> (cpu.0 % 64) & 1 == 1
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; MAX_CPUS / 64]
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        (0..MAX_CPUS as u16)
            .map(CpuId)
            .filter(|&cpu| self.contains(cpu))
    }

    /// The set whose words are these, CPU 0 the lowest bit of the first.
    pub const fn from_words(words: [u64; MAX_CPUS / 64]) -> CpuSet {
        CpuSet(words)
    }
}

/// Names one address space to a TLB: never reused within a machine, so an embedder with few hardware ASIDs maps these to those.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Asid(pub u64);

/// What a TLB must forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushScope {
    /// The translations of these addresses. Page-aligned, not empty.
    Pages(VirtRange),
    /// Every translation of the space.
    Space,
}

/// One order to forget translations. `flush_tlb_range`, `flush_tlb_mm`.
#[derive(Clone, Copy, Debug)]
pub struct FlushRequest<'a> {
    /// Whose translations.
    pub asid: Asid,
    /// Which of them.
    pub scope: FlushScope,
    /// Whether page-table pages are freed too, so that cached upper levels (paging-structure caches) must go with the leaves.
    pub tables: Tables,
    /// The CPUs that may hold such translations.
    pub cpus: &'a CpuSet,
}

/// Whether a flush covers only last-level entries or page-table pages as well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tables {
    /// Only leaves changed.
    Kept,
    /// Page-table pages were unlinked.
    Freed,
}

/// What an embedder supplies.
///
/// An implementation must be cheap to call: `direct_map`, `cpu` and `relax` stand on hot paths.
///
/// # Safety
/// `direct_map` and `ram` must describe memory that stays readable and writable, is used by nothing else, and is aligned to
/// the granule, for as long as the platform lives; `flush_wait` must not return while any CPU may still use a flushed translation.
/// The library frees frames on the strength of both.
pub unsafe trait Platform: Send + Sync + Sized + 'static {
    /// The page-table format.
    type Format: Format;
    /// A lock held for a few instructions, under which nothing sleeps. `spinlock_t`.
    type RawMutex: lock_api::RawMutex + Send + Sync + 'static;
    /// A lock under which an operation may sleep; the mmap lock is one. `struct rw_semaphore`.
    type RawRwLock: lock_api::RawRwLock + Send + Sync + 'static;
    /// A flush under way, from [`Platform::flush_begin`] to [`Platform::flush_wait`].
    type Flush;

    /// The memory this machine has: disjoint, ascending, granule-aligned ranges. Called once.
    fn ram(&self) -> &[PhysRange];

    /// Where a physical address within [`Platform::ram`] can be reached. `__va`.
    ///
    /// Addresses within one range are contiguous: `direct_map(a + n) == direct_map(a) + n`.
    fn direct_map(&self, at: PhysAddr) -> *mut u8;

    /// How many CPUs there are, 1 to [`MAX_CPUS`]. Constant. `nr_cpu_ids`.
    fn cpus(&self) -> usize;

    /// The CPU this runs on: a hint that spreads per-CPU data. Two threads may be told the same number; the library stays
    /// correct and only loses speed. `smp_processor_id`.
    fn cpu(&self) -> CpuId;

    /// Time since some fixed moment; never goes back. `ktime_get`.
    fn now(&self) -> Duration;

    /// 64 random bits, for address-space layout. `get_random_u64`.
    fn random(&self) -> u64;

    /// Called in each turn of a spin loop, `turn` counting from 0: a CPU hint at first, and on a hosted platform the right
    /// moment to give up the processor once `turn` is large. `cpu_relax`.
    fn relax(&self, turn: u32) {
        let _ = turn;
        core::hint::spin_loop();
    }

    /// Starts a flush and returns at once.
    fn flush_begin(&self, request: FlushRequest<'_>) -> Self::Flush;

    /// Waits until no CPU uses a translation that the flush named.
    fn flush_wait(&self, flush: Self::Flush);

    /// The space with this name is being torn down (`exit_mmap` is done with its entries); its tables are about to be freed.
    /// After this call no CPU may run on it.
    fn space_released(&self, asid: Asid) {
        let _ = asid;
    }

    /// What Linux calls out to. Empty by default.
    fn hooks(&self) -> &dyn Hooks {
        &NoHooks
    }
}

/// A mapping that is about to be made, as a hook is shown it.
#[derive(Clone, Copy, Debug)]
pub struct MapEvent {
    /// The space.
    pub asid: Asid,
    /// PROT_* as asked for.
    pub prot: u32,
    /// MAP_* as asked for.
    pub flags: u32,
    /// Whether a file is behind it.
    pub has_file: bool,
    /// Where it lies; empty before placement.
    pub range: VirtRange,
}

/// What Linux calls out to while it changes an address space. Every method does nothing by default.
pub trait Hooks: Send + Sync + Debug {
    /// `audit_mmap_fd`: the call's arguments, before anything is checked.
    fn audit_mmap(&self, _event: &MapEvent) {}

    /// `security_mmap_file`: may refuse.
    ///
    /// # Errors
    /// Whatever the policy answers; `mmap` returns it.
    fn security_mmap_file(&self, _event: &MapEvent) -> Result<(), Errno> {
        Ok(())
    }

    /// `security_mmap_addr`: may refuse an address below the minimum.
    ///
    /// # Errors
    /// Whatever the policy answers; `mmap` returns it.
    fn security_mmap_addr(&self, _event: &MapEvent) -> Result<(), Errno> {
        Ok(())
    }

    /// `perf_event_mmap`: a mapping was made.
    fn perf_event_mmap(&self, _event: &MapEvent) {}

    /// `uprobe_mmap`: a mapping of a file was made.
    fn uprobe_mmap(&self, _event: &MapEvent) {}

    /// `uprobe_munmap`: a mapping of a file is about to go.
    fn uprobe_munmap(&self, _event: &MapEvent) {}
}

/// Hooks that do nothing.
#[derive(Debug)]
pub struct NoHooks;

impl Hooks for NoHooks {}

/// A value on cache lines of its own, so that CPUs that write neighbours do not disturb each other.
#[derive(Default, Debug)]
#[repr(align(128))]
pub struct Padded<T>(pub T);

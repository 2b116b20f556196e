//! What a space uses and may use: limits, page counts, resident set, event counts. The counts under the mmap lock are plain
//! numbers; what faults change is kept per CPU and summed when read.

use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use super::mm::{Mm, MmState};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::percpu::PerCpu;
use crate::phys::{FailPoint, FrameKind, OutOfMemory};
use crate::platform::{CpuId, Platform};

/// RLIM_INFINITY.
const UNLIMITED: u64 = u64::MAX;

/// The resource limits and rights that memory calls obey, soft values in bytes. `rlimit()`, `capable()`.
#[derive(Debug)]
pub struct Limits {
    /// RLIMIT_AS.
    pub address_space: AtomicU64,
    /// RLIMIT_DATA.
    pub data: AtomicU64,
    /// The hard RLIMIT_DATA, which mappings are held to while the soft one is 0: Linux leaves this way open to Valgrind.
    pub data_hard: AtomicU64,
    /// RLIMIT_STACK.
    pub stack: AtomicU64,
    /// RLIMIT_MEMLOCK.
    pub memlock: AtomicU64,
    /// CAP_IPC_LOCK: locking memory is not limited.
    pub may_lock_any: AtomicBool,
    /// CAP_SYS_RAWIO: addresses below `mmap_min_addr` may be mapped.
    pub may_map_low: AtomicBool,
    /// CAP_SYS_ADMIN, as far as memory calls ask for it.
    pub admin: AtomicBool,
    /// CAP_SYS_NICE: pages that others map too may be moved, and to any node.
    pub nice: AtomicBool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            address_space: AtomicU64::new(UNLIMITED),
            data: AtomicU64::new(UNLIMITED),
            data_hard: AtomicU64::new(UNLIMITED),
            stack: AtomicU64::new(8 << 20),
            memlock: AtomicU64::new(8 << 20),
            may_lock_any: AtomicBool::new(false),
            may_map_low: AtomicBool::new(false),
            admin: AtomicBool::new(false),
            nice: AtomicBool::new(false),
        }
    }
}

impl Limits {
    /// The same limits, for a child.
    pub(crate) fn copied(&self) -> Self {
        let number = |value: &AtomicU64| AtomicU64::new(value.load(Ordering::Relaxed));
        let right = |value: &AtomicBool| AtomicBool::new(value.load(Ordering::Relaxed));
        Self {
            address_space: number(&self.address_space),
            data: number(&self.data),
            data_hard: number(&self.data_hard),
            stack: number(&self.stack),
            memlock: number(&self.memlock),
            may_lock_any: right(&self.may_lock_any),
            may_map_low: right(&self.may_map_low),
            admin: right(&self.admin),
            nice: right(&self.nice),
        }
    }
}

/// Page counts of a space, exact under its mmap lock. All in pages.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counts {
    /// All that is mapped. `total_vm`.
    pub total: u64,
    /// Under mlock. `locked_vm`.
    pub locked: u64,
    /// Private writable, not stack. `data_vm`.
    pub data: u64,
    /// Executable and not writable. `exec_vm`.
    pub exec: u64,
    /// Stacks. `stack_vm`.
    pub stack: u64,
    /// The most that `total` ever was. `hiwater_vm`.
    pub peak: u64,
}

/// Whether `flags` make an area count as data. `is_data_mapping`.
fn is_data(flags: VmFlags) -> bool {
    flags & (VmFlags::WRITE | VmFlags::SHARED | VmFlags::GROWSDOWN) == VmFlags::WRITE
}

impl Counts {
    /// Counts an area in. `vm_stat_account`.
    pub(crate) fn add(&mut self, flags: VmFlags, pages: u64) {
        self.apply(flags, |count| *count += pages);
        self.peak = self.peak.max(self.total);
    }

    /// Counts an area out.
    pub(crate) fn sub(&mut self, flags: VmFlags, pages: u64) {
        self.apply(flags, |count| *count -= pages);
    }

    /// Changes every count that an area with these flags is part of.
    fn apply(&mut self, flags: VmFlags, change: impl Fn(&mut u64)) {
        change(&mut self.total);
        if flags.contains(VmFlags::LOCKED) {
            change(&mut self.locked);
        }
        if flags & (VmFlags::EXEC | VmFlags::WRITE | VmFlags::GROWSDOWN) == VmFlags::EXEC {
            change(&mut self.exec);
        } else if flags.contains(VmFlags::GROWSDOWN) {
            change(&mut self.stack);
        } else if is_data(flags) {
            change(&mut self.data);
        }
    }

    /// Whether `pages` more with these flags stay within the limits. `may_expand_vm`.
    ///
    /// # Errors
    /// `ENOMEM`: RLIMIT_AS, or for data RLIMIT_DATA.
    pub(crate) fn may_expand(
        &self,
        limits: &Limits,
        flags: VmFlags,
        pages: u64,
        page: u64,
    ) -> Result<(), Errno> {
        let over = |count: u64, limit: &AtomicU64| {
            count
                .checked_add(pages)
                .is_none_or(|sum| sum > limit.load(Ordering::Relaxed) / page)
        };
        let data_limit = match limits.data.load(Ordering::Relaxed) {
            0 => &limits.data_hard,
            _ => &limits.data,
        };
        if over(self.total, &limits.address_space) || is_data(flags) && over(self.data, data_limit)
        {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }
}

impl<P: Platform> Mm<P> {
    /// Promises `pages` more to this space. `security_vm_enough_memory_mm`.
    ///
    /// # Errors
    /// `ENOMEM`: mode 0 and more than the machine has at all; mode 2 and beyond the commit limit, less what is kept for the administrator and from
    /// this space.
    pub(crate) fn charge_commit(&self, state: &MmState<P>, pages: u64) -> Result<(), Errno> {
        self.machine.charge_commit_keeping(pages, || {
            let for_admin = match self.limits.admin.load(Ordering::Relaxed) {
                true => 0,
                false => self.machine.admin_reserve_pages(),
            };
            let from_user = (state.counts.total / 32).min(self.machine.user_reserve_pages());
            for_admin.saturating_add(from_user)
        })
    }
}

/// What a resident page counts as. `MM_FILEPAGES`, ...
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum RssKind {
    /// Of a file.
    File,
    /// Anonymous.
    Anon,
    /// Written out to swap.
    Swap,
    /// Of shared anonymous memory.
    Shmem,
}

impl RssKind {
    /// The kind a mapped frame counts as; `None` for frames that are not counted (zero page, device memory).
    pub(crate) fn of(kind: FrameKind) -> Option<RssKind> {
        match kind {
            FrameKind::Anon => Some(RssKind::Anon),
            FrameKind::Cache => Some(RssKind::File),
            FrameKind::Shmem => Some(RssKind::Shmem),
            _ => None,
        }
    }
}

/// A resident set, in pages.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Rss {
    /// Pages of files.
    pub file: u64,
    /// Anonymous pages.
    pub anon: u64,
    /// Pages in swap.
    pub swap: u64,
    /// Pages of shared anonymous memory.
    pub shmem: u64,
}

impl Rss {
    /// All that is in memory. `get_mm_rss`.
    pub fn total(&self) -> u64 {
        self.file + self.anon + self.shmem
    }
}

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// How often things happened in a space since it was made.
        #[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
        pub struct Statistics { $($(#[$doc])* pub $name: u64,)* }

        #[derive(Default, Debug)]
        pub(crate) struct Events { $(pub $name: AtomicU64,)* }

        impl Statistics {
            fn add(&mut self, events: &Events) {
                $(self.$name += events.$name.load(Ordering::Relaxed);)*
            }

            /// Every count with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

events! {
    /// Read faults that mapped the zero page.
    zero_page_faults,
    /// Faults that made an anonymous page.
    anonymous_faults,
    /// Read faults that mapped a page of a file.
    file_read_faults,
    /// Write faults that copied a page of a file into private memory.
    file_copy_faults,
    /// Write faults on shared mappings.
    shared_write_faults,
    /// Pages copied because they were shared copy-on-write.
    copies,
    /// Pages made writable again in place because nobody else had them.
    reuses,
    /// Pages mapped because they were cached next to a faulting one.
    faults_around,
    /// Faults that found the entry already right, or only its accessed or dirty state to set.
    spurious_faults,
    /// Faults that had to read from a file.
    major_faults,
    /// Stacks grown.
    stack_growths,
    /// Faults repeated under the mmap lock.
    locked_faults,
    /// Faults that ended in a signal.
    failed_faults,
    /// TLB flushes ordered.
    flushes,
}

/// What a CPU counts for a space.
#[derive(Default, Debug)]
pub(crate) struct Tally {
    rss: [AtomicI64; 4],
    pub events: Events,
}

impl PerCpu<Tally> {
    pub(crate) fn for_space(cpus: usize, fail: &FailPoint) -> Result<Self, OutOfMemory> {
        PerCpu::new(cpus, fail)
    }

    /// Adds to a resident count.
    pub(crate) fn add_rss(&self, cpu: CpuId, kind: RssKind, pages: i64) {
        self.of(cpu).rss[kind as usize].fetch_add(pages, Ordering::Relaxed);
    }

    /// The resident set as a sum.
    pub(crate) fn rss(&self) -> Rss {
        let sum = |kind: RssKind| {
            let pages: i64 = self
                .iter()
                .map(|tally| tally.rss[kind as usize].load(Ordering::Relaxed))
                .sum();
            pages.max(0) as u64
        };
        Rss {
            file: sum(RssKind::File),
            anon: sum(RssKind::Anon),
            swap: sum(RssKind::Swap),
            shmem: sum(RssKind::Shmem),
        }
    }

    /// The event counts as a sum.
    pub(crate) fn statistics(&self) -> Statistics {
        let mut sum = Statistics::default();
        self.iter().for_each(|tally| sum.add(&tally.events));
        sum
    }
}

/// Counts one event.
pub(crate) fn bump(event: &AtomicU64) {
    event.fetch_add(1, Ordering::Relaxed);
}

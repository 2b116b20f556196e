//! Tasks. A [`Task`] is one thread, owned by whoever runs it; [`Thread`] is the part of it that others reach; a [`Process`] is a thread
//! group and what its threads always share. What `clone` can share or not (files, place in the tree, memory, signal actions) hangs on
//! shared handles of its own. Not for: what a task does (`kernel`, `syscall`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use lock_api::{Mutex, RwLock};
use portolan::addr::VirtAddr;
use portolan::platform::Platform;
use portolan::space::{CoreFilter, Mempolicy, MmUser};

use crate::engine::{Engine, Kicker, Registers};
use crate::fs::{FdTable, Place, SignalSets, Sleep};
use crate::outside::Identity;
use crate::signal::frame::FaultInfo;
use crate::signal::{Action, Actions, AltStack, Pending, SIG_IGN, SignalSet};
use crate::syscall::Call;

/// A lock held for a few instructions.
pub type Spin<P, T> = lock_api::Mutex<<P as Platform>::RawMutex, T>;

/// `struct files_struct` as threads share it (CLONE_FILES).
pub type Files<E> = Arc<Sleep<E, FdTable<E>>>;
/// `struct fs_struct` as threads share it (CLONE_FS).
pub type Places<E> = Arc<Sleep<E, Place>>;

/// `struct task_struct`: one thread, as its own kernel side holds it.
pub struct Task<E: Engine> {
    /// What others reach of it.
    pub thread: Arc<Thread<E>>,
    /// Its thread group.
    pub process: Arc<Process<E>>,
    /// Its user-mode side. Before `mm`: the engine lets go of the space before the space goes.
    pub vcpu: E::Vcpu,
    /// Its address space (shared under CLONE_VM).
    pub mm: MmUser<E>,
    /// Its descriptors (shared under CLONE_FILES).
    pub files: Files<E>,
    /// Its place in the file tree and its umask (shared under CLONE_FS).
    pub place: Places<E>,
    /// Its user-mode registers while it is in the kernel.
    pub regs: Registers,
    /// Its alternate signal stack.
    pub alt_stack: AltStack,
    /// The mask to return to when `sigsuspend` or `ppoll` is over. `saved_sigmask`.
    pub saved_mask: Option<SignalSet>,
    /// Bytes of its extended state, once that was asked for.
    pub(crate) extended_size: Option<usize>,
    /// What its last fault said of itself. `thread.trap_nr`, `error_code`, `cr2`.
    pub fault: FaultInfo,
    /// `set_tid_address`: cleared and woken at exit.
    pub clear_tid: Option<VirtAddr>,
    /// `set_robust_list`: head and length, 0 if none.
    pub robust_list: (u64, u64),
    /// Its NUMA policy; `None` is the default. `mempolicy`.
    pub policy: Option<Mempolicy>,
    /// This thread ends when it leaves the kernel.
    pub(crate) exiting: Option<ExitStatus>,
    /// The call under way, for how it restarts.
    pub(crate) call: Option<Call<E>>,
}

impl<E: Engine> Task<E> {
    /// Its signals, as `/proc/PID/status` shows them.
    pub fn signal_sets(&self) -> SignalSets {
        let (ignored, caught) = self.process.actions.lock().summary();
        SignalSets {
            pending: self.thread.pending.lock().set().0,
            shared_pending: self.process.pending.lock().set().0,
            blocked: self.thread.blocked.lock().0,
            ignored: ignored.0,
            caught: caught.0,
        }
    }
}

/// What other threads reach of a thread.
pub struct Thread<E: Engine> {
    /// Thread id; the thread group's id for its first thread.
    pub tid: u32,
    /// Signals sent to this thread alone.
    pub pending: Spin<E, Pending>,
    /// Signals held back.
    pub blocked: Spin<E, SignalSet>,
    /// Its name. `comm`, at most 15 bytes.
    pub name: Spin<E, Vec<u8>>,
    /// Interrupts its user mode.
    pub kicker: Kicker,
}

impl<E: Engine> Thread<E> {
    /// A thread with nothing pending.
    pub fn new(tid: u32, name: Vec<u8>, blocked: SignalSet, kicker: Kicker) -> Self {
        let (pending, blocked, name) = (
            Mutex::new(Pending::default()),
            Mutex::new(blocked),
            Mutex::new(name),
        );
        Self {
            tid,
            pending,
            blocked,
            name,
            kicker,
        }
    }
}

/// The longest name of a thread, bytes. `TASK_COMM_LEN` less its NUL.
pub const NAME_MAX: usize = 15;

/// `struct signal_struct` and `struct sighand_struct`: a thread group.
pub struct Process<E: Engine> {
    /// Process id.
    pub pid: u32,
    /// Parent's.
    pub ppid: AtomicU32,
    /// Process group.
    pub pgid: AtomicU32,
    /// Session.
    pub sid: AtomicU32,
    /// What the process runs: for `/proc/PID/{exe,cmdline,auxv}`.
    pub program: Sleep<E, ProgramInfo>,
    /// Signals sent to the group.
    pub pending: Spin<E, Pending>,
    /// What is done about each signal (shared under CLONE_SIGHAND).
    pub actions: Arc<Spin<E, Actions>>,
    /// Its threads.
    pub threads: Spin<E, Vec<Arc<Thread<E>>>>,
    /// `personality`.
    pub personality: AtomicU32,
    /// What a core dump holds. `/proc/PID/coredump_filter`.
    pub core_filter: AtomicU32,
    /// PR_SET_DUMPABLE.
    pub dumpable: AtomicU32,
    /// PR_SET_THP_DISABLE.
    pub huge_pages_disabled: AtomicU32,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: AtomicBool,
    /// PR_SET_PDEATHSIG.
    pub parent_death_signal: AtomicI32,
    /// The nice value, which nothing here obeys.
    pub nice: AtomicI32,
    /// Soft and hard limits by RLIMIT_* number.
    pub limits: Spin<E, ResourceLimits>,
    /// ITIMER_REAL: when it is due next (monotonic), and every how long after.
    pub alarm: Spin<E, Alarm>,
    /// The `membarrier` commands that it has registered by. `membarrier_state`.
    pub membarrier: AtomicU32,
    /// Minor and major faults. `min_flt`, `maj_flt`.
    pub faults: [AtomicU64; 2],
    exit: Spin<E, Option<ExitStatus>>,
}

/// ITIMER_REAL.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Alarm {
    /// When it is due, on the monotonic clock.
    pub due: Option<Duration>,
    /// Every how long after; zero for once.
    pub interval: Duration,
}

impl<E: Engine> Process<E> {
    /// A process without threads.
    pub fn new(identity: &Identity, limits: ResourceLimits, personality: u32) -> Self {
        Self {
            pid: identity.pid,
            ppid: AtomicU32::new(identity.ppid),
            pgid: AtomicU32::new(identity.pgid),
            sid: AtomicU32::new(identity.sid),
            program: RwLock::new(ProgramInfo::default()),
            pending: Mutex::new(Pending::default()),
            actions: Arc::new(Mutex::new(Actions::default())),
            threads: Mutex::new(Vec::new()),
            personality: AtomicU32::new(personality),
            core_filter: AtomicU32::new(CoreFilter::default().bits()),
            dumpable: AtomicU32::new(1),
            huge_pages_disabled: AtomicU32::new(0),
            no_new_privs: AtomicBool::new(false),
            parent_death_signal: AtomicI32::new(0),
            nice: AtomicI32::new(0),
            limits: Mutex::new(limits),
            alarm: Mutex::new(Alarm::default()),
            membarrier: AtomicU32::new(0),
            faults: [AtomicU64::new(0), AtomicU64::new(0)],
            exit: Mutex::new(None),
        }
    }

    /// Ignores these signals, as a parent's choice that exec keeps.
    pub(crate) fn ignore(&self, signals: SignalSet) {
        let mut actions = self.actions.lock();
        for signal in (1..=crate::signal::MAX_SIGNAL).filter(|&signal| signals.contains(signal)) {
            actions.set(
                signal,
                Action {
                    handler: SIG_IGN,
                    ..Action::default()
                },
            );
        }
    }

    /// The whole group ends: every thread leaves at its next turn in the kernel. The first caller's status counts. `do_group_exit`.
    pub fn exit_group(&self, status: ExitStatus) {
        self.exit.lock().get_or_insert(status);
        self.threads
            .lock()
            .iter()
            .for_each(|thread| thread.kicker.kick());
    }

    /// How the group ends, once it does.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.lock()
    }

    /// Counts a fault.
    pub(crate) fn count_fault(&self, major: bool) {
        self.faults[usize::from(major)].fetch_add(1, Ordering::Relaxed);
    }
}

/// What a process runs.
#[derive(Clone, Default, Debug)]
pub struct ProgramInfo {
    /// The path of the executable: `/proc/PID/exe`.
    pub exe: Vec<u8>,
    /// The auxiliary vector as it lies in memory, terminator included.
    pub auxv: Vec<u64>,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitStatus {
    /// By `exit`, with the low eight bits of its argument.
    Exited(u8),
    /// By a signal.
    Killed {
        /// Its number.
        signal: i32,
        /// Whether it left a core dump.
        core: bool,
    },
}

/// A soft and a hard limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// What is enforced.
    pub soft: u64,
    /// How far the soft one can be raised.
    pub hard: u64,
}

/// RLIMIT_AS.
pub const RLIMIT_AS: usize = 9;
/// RLIMIT_DATA.
pub const RLIMIT_DATA: usize = 2;
/// RLIMIT_STACK.
pub const RLIMIT_STACK: usize = 3;
/// RLIMIT_CORE.
pub const RLIMIT_CORE: usize = 4;
/// RLIMIT_NOFILE.
pub const RLIMIT_NOFILE: usize = 7;
/// RLIMIT_MEMLOCK.
pub const RLIMIT_MEMLOCK: usize = 8;

/// Every limit, by RLIMIT_* number. `signal->rlim`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResourceLimits(pub [Limit; 16]);

/// No limit. `RLIM_INFINITY`.
pub const UNLIMITED: u64 = u64::MAX;

impl Default for ResourceLimits {
    /// `INIT_RLIMITS`, with the numbers that Linux computes from the size of memory at usual values.
    fn default() -> Self {
        let none = Limit {
            soft: UNLIMITED,
            hard: UNLIMITED,
        };
        let both = |value| Limit {
            soft: value,
            hard: value,
        };
        let mut limits = [none; 16];
        limits[RLIMIT_STACK] = Limit {
            soft: 8 << 20,
            hard: UNLIMITED,
        };
        limits[RLIMIT_CORE] = Limit {
            soft: 0,
            hard: UNLIMITED,
        };
        limits[6] = both(63704);
        limits[RLIMIT_NOFILE] = Limit {
            soft: 1024,
            hard: 4096,
        };
        limits[RLIMIT_MEMLOCK] = both(8 << 20);
        limits[11] = both(63704);
        limits[12] = both(819_200);
        limits[13] = both(0);
        limits[14] = both(0);
        Self(limits)
    }
}

impl ResourceLimits {
    /// One of them; `None` for a number that is no limit.
    pub fn get(&self, number: usize) -> Option<Limit> {
        self.0.get(number).copied()
    }

    /// Soft and hard, by number.
    pub fn pairs(&self) -> [(u64, u64); 16] {
        self.0.map(|limit| (limit.soft, limit.hard))
    }
}

//! What a guest's process does between `fork` and its first stop: the few calls that only it can make for itself.
//! Between `fork` and the stop nothing may allocate, lock or unwind: other threads of the supervisor may have held any lock.

use crate::seccomp::MEMORY_FD;

/// What the child needs to know; made before the fork.
pub(crate) struct Plan {
    /// The supervisor, to notice that it died before the death signal was asked for.
    pub(crate) parent: i32,
    /// The guest's memory file.
    pub(crate) memory: i32,
    /// The stub's file.
    pub(crate) stub: i32,
    /// The address of the stub's `int3`.
    pub(crate) stop: u64,
    /// Where to leave the step and errno of a failure.
    pub(crate) report: *mut [i32; 2],
}

/// The descriptor of the stub's file in the child, until the stub is in place.
pub(crate) const STUB_FD: i32 = 1;

/// What each step is called in a report, by its number.
pub(crate) const STEPS: [&str; 6] = [
    "nothing",
    "parent death signal",
    "new session",
    "descriptors",
    "no new privileges",
    "ptrace",
];
/// The step at which the kernel says whether tracing is allowed.
pub(crate) const STEP_TRACE: i32 = 5;

/// Prepares the child and stops it. Never returns.
///
/// # Safety
/// Only in a child just forked, whose only thread this is.
pub(crate) unsafe fn become_guest(plan: &Plan) -> ! {
    // SAFETY: plain system calls with numbers, or pointers to live locals; `report` is a shared mapping made before the fork.
    unsafe {
        let failed = prepare(plan);
        if failed != 0 {
            (*plan.report) = [failed, *libc::__errno_location()];
            libc::_exit(125);
        }
    }
    // SAFETY: `stop` is an `int3` in a mapping inherited from the supervisor; the tracer never lets the child go on from there
    // with this stack or code.
    unsafe { std::arch::asm!("jmp {}", in(reg) plan.stop, options(noreturn)) }
}

/// The number of the step that failed, 0 when none did.
///
/// # Safety
/// As for [`become_guest`].
unsafe fn prepare(plan: &Plan) -> i32 {
    // SAFETY: as for the caller's; every pointer is to a live local.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 || libc::getppid() != plan.parent
        {
            return 1;
        }
        // Signals of the terminal and of job control are for the supervisor, which forwards them.
        if libc::setsid() < 0 {
            return 2;
        }
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        lift_limits();
        libc::personality(0);
        libc::chdir(c"/".as_ptr());
        libc::prctl(libc::PR_SET_NAME, c"portolan-guest".as_ptr());
        if !keep_two_descriptors(plan) {
            return 3;
        }
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return 4;
        }
        if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) != 0 {
            return STEP_TRACE;
        }
    }
    0
}

/// The guest's limits are kept by its own kernel; the outer ones must not stop a mapping, and no outer core file is wanted.
///
/// # Safety
/// As for [`become_guest`].
unsafe fn lift_limits() {
    // SAFETY: pointers to a live local.
    unsafe {
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        let mut space: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_AS, &mut space) == 0 {
            space.rlim_cur = space.rlim_max;
            libc::setrlimit(libc::RLIMIT_AS, &space);
        }
    }
}

/// Moves the two files to where the stub expects them and closes everything else.
///
/// # Safety
/// As for [`become_guest`].
unsafe fn keep_two_descriptors(plan: &Plan) -> bool {
    // SAFETY: calls on numbers only.
    unsafe {
        let memory = libc::fcntl(plan.memory, libc::F_DUPFD, 3);
        let stub = libc::fcntl(plan.stub, libc::F_DUPFD, 3);
        if libc::dup2(memory, MEMORY_FD) < 0 || libc::dup2(stub, STUB_FD) < 0 {
            return false;
        }
        if libc::syscall(libc::SYS_close_range, 2, u32::MAX, 0) == 0 {
            return true;
        }
        // Before Linux 5.9: one by one, as many as there can be.
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return false;
        }
        for fd in 2..limit.rlim_cur.min(1 << 20) as i32 {
            libc::close(fd);
        }
        true
    }
}

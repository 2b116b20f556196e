//! One traced process: how it is made, emptied, resumed, waited for and ended. Knows nothing of page tables or traps.
//!
//! A tracer is a thread: only the thread that made a [`Tracee`] can drive it. Any thread may drop it.

use std::io;
use std::ptr;
use std::thread::ThreadId;

use crate::child::{self, Plan, STEP_TRACE, STEPS, STUB_FD};
use crate::error::HostError;
use crate::memory::PAGE;
use crate::seccomp;
use crate::stub::{
    CODE_DONE, Call, LIST_BYTES, LIST_CALLS, STUB_CODE, STUB_END, STUB_LIST, Stub, USER_END,
};

/// The registers as ptrace has them.
pub(crate) type RawRegisters = libc::user_regs_struct;

const EVENT_SECCOMP: i32 = libc::PTRACE_EVENT_SECCOMP;
/// The signal with which a running guest is made to stop: it cannot be blocked, and the tracer always swallows it.
pub(crate) const KICK: i32 = libc::SIGSTOP;

/// How a process is resumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resume {
    /// It runs guest code: no system call is executed, each one stops.
    Guest,
    /// It runs the stub: calls are executed (those that the second wall lets through).
    Stub,
}

/// Why it stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// At a system call, which was not executed.
    Syscall,
    /// At a call into the `[vsyscall]` page, which is not executed either if `orig_rax` is set to -1 now.
    Vsyscall,
    /// A signal is about to be delivered.
    Signal(i32),
    /// It is gone: the signal that ended it.
    Gone(i32),
}

/// Why a list of calls did not succeed.
#[derive(Debug)]
pub(crate) enum StubError {
    /// The call with this index failed; those before it were executed.
    Call(usize, io::Error),
    /// The process is gone: the signal that ended it.
    Gone(i32),
}

/// Whether the seccomp filter is in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecondWall {
    /// It is.
    Up,
    /// This kernel has no seccomp filters; `PTRACE_SYSEMU` stands alone.
    Unavailable,
}

/// A traced process with nothing in its address space but the stub.
pub(crate) struct Tracee {
    pid: libc::pid_t,
    tracer: ThreadId,
    stub: Stub,
    wall: SecondWall,
    gone: Option<i32>,
    /// Registers of the empty process: its segment selectors and flags.
    blank: RawRegisters,
    code: u64,
    list: u64,
}

impl Tracee {
    /// Makes one. `memory` is the descriptor of the guest's memory file.
    pub(crate) fn spawn(memory: i32) -> Result<Tracee, HostError> {
        let stub = Stub::new().map_err(HostError::Memory)?;
        let plan = Plan {
            // SAFETY: getpid only returns a number.
            parent: unsafe { libc::getpid() },
            memory,
            stub: stub.fd(),
            stop: stub.own_code() + CODE_DONE,
            report: stub.report(),
        };
        // SAFETY: the child only runs `become_guest`, which is made for the state after a fork.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(HostError::Fork(io::Error::last_os_error()));
        }
        if pid == 0 {
            // SAFETY: this is the child, just forked.
            unsafe { child::become_guest(&plan) }
        }
        let (code, list) = (stub.own_code(), stub.own_list());
        let mut tracee = Tracee {
            pid,
            tracer: std::thread::current().id(),
            stub,
            wall: SecondWall::Unavailable,
            gone: None,
            // SAFETY: plain numbers, all zero is a value.
            blank: unsafe { std::mem::zeroed() },
            code,
            list,
        };
        tracee.take_over()?;
        tracee.empty()?;
        Ok(tracee)
    }

    /// Waits for the first stop and sets the options under which nothing outlives the supervisor.
    fn take_over(&mut self) -> Result<(), HostError> {
        match self.wait() {
            Stop::Signal(libc::SIGTRAP) => {}
            Stop::Gone(_) => return Err(self.reported()),
            other => {
                return Err(HostError::Child(
                    "first stop",
                    io::Error::other(format!("{other:?}")),
                ));
            }
        }
        let options =
            libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACESECCOMP;
        self.request(libc::PTRACE_SETOPTIONS, 0, options as usize)
            .map_err(HostError::TraceRefused)?;
        let now = self.registers().map_err(HostError::TraceRefused)?;
        let selectors = (now.cs, now.ss);
        // SAFETY: plain numbers, all zero is a value.
        self.blank = unsafe { std::mem::zeroed() };
        (self.blank.cs, self.blank.ss) = selectors;
        self.blank.eflags = FLAGS;
        self.clear_extended_state()
            .map_err(|why| HostError::Child("clear the vector registers", why))
    }

    /// Puts the extended state as a new process has it, so that nothing of the supervisor is left for the guest to read.
    fn clear_extended_state(&self) -> io::Result<()> {
        let image = self.extended_state()?;
        let mut features = [0; 8];
        if let Some(said) = image.get(FEATURES..FEATURES + 8) {
            features.copy_from_slice(said);
        }
        let image = initial_state(image.len(), features);
        self.set_extended_state(&image)
    }

    /// What the child said before it gave up.
    fn reported(&self) -> HostError {
        // SAFETY: the list is mapped while the stub lives, and the child that wrote it is gone.
        let [step, errno] = unsafe { *self.stub.report() };
        let why = io::Error::from_raw_os_error(errno);
        match step {
            STEP_TRACE => HostError::TraceRefused(why),
            _ => HostError::Child(STEPS.get(step as usize).copied().unwrap_or("start"), why),
        }
    }

    /// Puts the stub in its place, gives up all that the C library told the kernel about itself, unmaps everything else and
    /// puts the second wall up.
    fn empty(&mut self) -> Result<(), HostError> {
        let read = libc::PROT_READ;
        let place = [
            Call::mmap(STUB_CODE, PAGE, read | libc::PROT_EXEC, 0, STUB_FD, 0),
            Call::mmap(STUB_LIST, LIST_BYTES, read, 0, STUB_FD, PAGE),
        ];
        self.call(&place)
            .map_err(|why| step_failed("place the stub", why))?;
        (self.code, self.list) = (STUB_CODE, STUB_LIST);

        let mut calls = Vec::with_capacity(6);
        if let Some((area, bytes, signature)) = self.rseq() {
            // Left registered, the kernel would write to it at the next preemption and kill the process.
            calls.push(Call::new(libc::SYS_rseq, [area, bytes, 1, signature, 0, 0]));
        }
        calls.push(Call::new(libc::SYS_set_tid_address, [0; 6]));
        calls.push(Call::new(libc::SYS_set_robust_list, [0, 24, 0, 0, 0, 0]));
        calls.push(Call::new(libc::SYS_close, [STUB_FD as u64, 0, 0, 0, 0, 0]));
        calls.push(Call::munmap(0, STUB_CODE));
        calls.push(Call::munmap(STUB_END, USER_END));
        self.call(&calls)
            .map_err(|why| step_failed("empty the process", why))?;
        self.raise_wall()
    }

    /// Installs the seccomp filter.
    fn raise_wall(&mut self) -> Result<(), HostError> {
        let at = self.stub.write_spare(&[]);
        let (bytes, header) = seccomp::program(at);
        self.stub.write_spare(&bytes);
        let set = Call::new(
            libc::SYS_seccomp,
            [libc::SECCOMP_SET_MODE_FILTER as u64, 0, header, 0, 0, 0],
        );
        match self.call(&[set]) {
            Ok(()) => self.wall = SecondWall::Up,
            Err(StubError::Call(_, why))
                if matches!(why.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {}
            Err(why) => return Err(step_failed("install the seccomp filter", why)),
        }
        Ok(())
    }

    /// The restartable-sequence area that the C library registered: address, size, signature.
    fn rseq(&self) -> Option<(u64, u64, u64)> {
        // SAFETY: plain numbers, all zero is a value.
        let mut config: libc::ptrace_rseq_configuration = unsafe { std::mem::zeroed() };
        let size = size_of_val(&config);
        // A kernel that does not know the request (before 5.13) has C libraries that register nothing.
        self.request(
            libc::PTRACE_GET_RSEQ_CONFIGURATION,
            size,
            &raw mut config as usize,
        )
        .ok()?;
        (config.rseq_abi_pointer != 0).then_some((
            config.rseq_abi_pointer,
            config.rseq_abi_size.into(),
            config.signature.into(),
        ))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// Whether the seccomp filter is in place.
    pub(crate) fn wall(&self) -> SecondWall {
        self.wall
    }

    /// Whether the calling thread may drive it.
    pub(crate) fn is_mine(&self) -> bool {
        self.tracer == std::thread::current().id()
    }

    fn request(&self, what: libc::c_uint, addr: usize, data: usize) -> io::Result<i64> {
        // SAFETY: `data` is a number, or the address of a live value of the type that the request fills or reads, as each
        // caller in this file passes it; the process traced is another one, so no memory of ours changes otherwise.
        let result = unsafe { libc::ptrace(what, self.pid, addr, data) };
        if result == -1 {
            Err(io::Error::last_os_error())
        } else {
            Ok(result)
        }
    }

    /// Reads all general registers.
    pub(crate) fn registers(&self) -> io::Result<RawRegisters> {
        // SAFETY: plain numbers, all zero is a value.
        let mut regs: RawRegisters = unsafe { std::mem::zeroed() };
        self.request(libc::PTRACE_GETREGS, 0, &raw mut regs as usize)?;
        Ok(regs)
    }

    /// Writes all general registers. A segment base outside user space, which guest code can set by itself but ptrace does
    /// not accept, stays as the process has it.
    pub(crate) fn set_registers(&self, regs: &RawRegisters) -> io::Result<()> {
        match self.request(libc::PTRACE_SETREGS, 0, ptr::from_ref(regs) as usize) {
            Ok(_) => Ok(()),
            Err(why) if why.raw_os_error() == Some(libc::EIO) => self.poke_registers(regs),
            Err(why) => Err(why),
        }
    }

    fn poke_registers(&self, regs: &RawRegisters) -> io::Result<()> {
        const WORDS: usize = size_of::<RawRegisters>() / 8;
        // SAFETY: both are plain old data of the same size.
        let words: [u64; WORDS] = unsafe { std::mem::transmute_copy(regs) };
        for (i, &word) in words.iter().enumerate() {
            match self.request(libc::PTRACE_POKEUSER, i * 8, word as usize) {
                Ok(_) => {}
                Err(why) if why.raw_os_error() == Some(libc::EIO) => {}
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }

    /// The extended state (x87, SSE, AVX, ...) as an XSAVE image.
    pub(crate) fn extended_state(&self) -> io::Result<Vec<u8>> {
        let mut image = vec![0u8; 16 << 10];
        let mut vector = libc::iovec {
            iov_base: image.as_mut_ptr().cast(),
            iov_len: image.len(),
        };
        self.request(
            libc::PTRACE_GETREGSET,
            NT_X86_XSTATE,
            &raw mut vector as usize,
        )?;
        image.truncate(vector.iov_len);
        Ok(image)
    }

    /// Sets the extended state from an XSAVE image.
    pub(crate) fn set_extended_state(&self, image: &[u8]) -> io::Result<()> {
        let mut vector = libc::iovec {
            iov_base: image.as_ptr().cast_mut().cast(),
            iov_len: image.len(),
        };
        self.request(
            libc::PTRACE_SETREGSET,
            NT_X86_XSTATE,
            &raw mut vector as usize,
        )?;
        Ok(())
    }

    /// The signal that it is stopped at: si_code and si_addr.
    pub(crate) fn signal(&self) -> io::Result<(i32, u64)> {
        // SAFETY: plain numbers and addresses, all zero is a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        self.request(libc::PTRACE_GETSIGINFO, 0, &raw mut info as usize)?;
        // SAFETY: the union's first word; any bits are a value, and it is read as a number only.
        let addr = unsafe { info.si_addr() } as u64;
        Ok((info.si_code, addr))
    }

    /// Lets it run; the signal it is stopped at is swallowed.
    pub(crate) fn resume(&self, how: Resume) -> io::Result<()> {
        let what = match how {
            Resume::Guest => libc::PTRACE_SYSEMU,
            Resume::Stub => libc::PTRACE_CONT,
        };
        self.request(what, 0, 0).map(drop)
    }

    /// Moves it to the CPUs that the calling thread may use.
    pub(crate) fn follow(&self) {
        // SAFETY: a set of bits, all zero is a value; pointers to it with its size. Failure costs only speed.
        unsafe {
            let mut mine: libc::cpu_set_t = std::mem::zeroed();
            if libc::sched_getaffinity(0, size_of_val(&mine), &mut mine) == 0 {
                libc::sched_setaffinity(self.pid, size_of_val(&mine), &mine);
            }
        }
    }

    /// Whether the kernel can resume a process such that every system call stops.
    pub(crate) fn check_sysemu(&mut self) -> Result<(), HostError> {
        let failed = |why| HostError::Child("resume", why);
        let list = [Call::new(libc::SYS_getpid, [0; 6])];
        self.stub.write_calls(&list);
        let mut regs = self.blank;
        (regs.rip, regs.rbx, regs.rbp) =
            (self.code, self.list, self.list + size_of_val(&list) as u64);
        regs.orig_rax = u64::MAX;
        self.set_registers(&regs).map_err(failed)?;
        self.resume(Resume::Guest).map_err(HostError::NoSysemu)?;
        match self.wait() {
            Stop::Syscall => Ok(()),
            other => Err(HostError::NoSysemu(io::Error::other(format!(
                "{other:?} instead of a stop"
            )))),
        }
    }

    /// Sends the stop that [`KICK`] is; it comes before the next guest instruction when the process is stopped now.
    pub(crate) fn kick(&self) {
        kick(self.pid);
    }

    /// Waits until it stops or is gone.
    pub(crate) fn wait(&mut self) -> Stop {
        if let Some(signal) = self.gone {
            return Stop::Gone(signal);
        }
        let mut status = 0;
        loop {
            // SAFETY: a pointer to a live local.
            let got = unsafe { libc::waitpid(self.pid, &mut status, libc::__WALL) };
            if got == self.pid {
                break;
            }
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return self.ended(libc::SIGKILL);
            }
        }
        if libc::WIFSIGNALED(status) {
            return self.ended(libc::WTERMSIG(status));
        }
        if libc::WIFEXITED(status) {
            // Only in its preparation: guest code cannot make the call.
            return self.ended(libc::SIGKILL);
        }
        match (libc::WSTOPSIG(status), status >> 16) {
            (libc::SIGTRAP, EVENT_SECCOMP) => Stop::Vsyscall,
            (signal, _) if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
            (signal, _) => Stop::Signal(signal),
        }
    }

    fn ended(&mut self, signal: i32) -> Stop {
        self.gone = Some(signal);
        Stop::Gone(signal)
    }

    /// Executes calls in the process, in order, through the stub. Leaves the general registers changed and all others as they
    /// were. The process must be stopped.
    pub(crate) fn call(&mut self, calls: &[Call]) -> Result<(), StubError> {
        for (i, part) in calls.chunks(LIST_CALLS).enumerate() {
            self.call_list(part).map_err(|why| match why {
                StubError::Call(at, why) => StubError::Call(i * LIST_CALLS + at, why),
                gone => gone,
            })?;
        }
        Ok(())
    }

    fn call_list(&mut self, calls: &[Call]) -> Result<(), StubError> {
        self.stub.write_calls(calls);
        let mut regs = self.blank;
        regs.rip = self.code;
        regs.rbx = self.list;
        regs.rbp = self.list + size_of_val(calls) as u64;
        regs.orig_rax = u64::MAX;
        let gone = |_| StubError::Gone(libc::SIGKILL);
        self.set_registers(&regs).map_err(gone)?;
        loop {
            self.resume(Resume::Stub).map_err(gone)?;
            match self.wait() {
                Stop::Signal(libc::SIGTRAP) => return Ok(()),
                Stop::Signal(libc::SIGILL) => break,
                Stop::Gone(signal) => return Err(StubError::Gone(signal)),
                // A kick, or a signal from outside: the caller looks at its flags before it goes on.
                _ => {}
            }
        }
        let regs = self.registers().map_err(gone)?;
        let at = (regs.rbx.wrapping_sub(self.list) / size_of::<Call>() as u64) as usize;
        Err(StubError::Call(
            at,
            io::Error::from_raw_os_error(regs.rax.wrapping_neg() as i32),
        ))
    }
}

const NT_X86_XSTATE: usize = 0x202;
/// Flags of a new process: interrupts on, and the bit that is always set.
const FLAGS: u64 = 0x202;

/// Bytes of an XSAVE image that has nothing but x87 and SSE state.
pub(crate) const LEGACY_AND_HEADER: usize = 576;
/// Where the software-reserved bytes of an XSAVE image say which features it has.
const FEATURES: usize = 464;

/// The XSAVE image of a new process: no feature in use, FCW and MXCSR at their defaults.
pub(crate) fn initial_state(bytes: usize, features: [u8; 8]) -> Vec<u8> {
    let mut image = vec![0; bytes.max(LEGACY_AND_HEADER)];
    image[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
    image[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    image[FEATURES..FEATURES + 8].copy_from_slice(&features);
    image.truncate(bytes);
    image
}

/// Makes a running process stop. The caller must know that it has not been waited for to its end.
pub(crate) fn kick(pid: libc::pid_t) {
    // SAFETY: a system call on numbers.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, KICK) };
}

fn step_failed(step: &'static str, why: StubError) -> HostError {
    match why {
        StubError::Call(_, why) => HostError::Child(step, why),
        StubError::Gone(signal) => {
            HostError::Child(step, io::Error::other(format!("ended by signal {signal}")))
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if self.gone.is_some() {
            return;
        }
        // SAFETY: the process is ours and not yet waited for, so the number still names it.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        while !matches!(self.wait(), Stop::Gone(_)) {}
    }
}

#[cfg(test)]
mod tests;

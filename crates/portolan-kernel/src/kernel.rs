//! The kernel itself: its machine, what it knows of the outside, and the loop that serves a task. Not for: what a call does
//! (`syscall`) or how a program is laid out (`exec`).

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use lock_api::{Mutex, RwLock};
use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::machine::Machine;
use portolan::paging::{Access, Format};
use portolan::space::{Fault, FaultDone, FaultError, Signal};

use crate::engine::{Engine, ExceptionKind, Registers, Trap};
use crate::exec::vdso::Vdso;
use crate::exec::{self, Program};
use crate::fs::{Boot, Place, Settings, Vfs};
use crate::outside::{Identity, Outside};
use crate::signal::frame::FaultInfo;
use crate::signal::{self, AltStack, Delivery, SigInfo, SignalSet};
use crate::stats::{Report, SpaceSummary, Stats};
use crate::syscall::{SyscallContext, SyscallResult, Table};
use crate::task::{ExitStatus, Process, RLIMIT_NOFILE, ResourceLimits, Spin, Task, Thread};
use crate::trace::{CallLine, FaultLine, Log, SignalLine, Sink};

/// How a kernel is set up.
pub struct KernelConfig {
    /// Where trace lines go; `None` for no trace.
    pub trace: Option<Box<dyn Sink>>,
    /// Where the kernel says what it cannot do.
    pub log: Box<dyn Log>,
    /// How files of the outside are shown.
    pub files: Settings,
    /// Whether addresses are randomised. `/proc/sys/kernel/randomize_va_space`.
    pub randomize: Randomize,
}

/// Whether addresses are randomised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Randomize {
    /// Never, as under ADDR_NO_RANDOMIZE (0).
    Off,
    /// All of them, the heap included (2).
    On,
}

/// The first program of a kernel and what it inherits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Launch {
    /// What to run.
    pub program: Program,
    /// Its working directory: an absolute, canonical path.
    pub cwd: Vec<u8>,
    /// `personality`, inherited.
    pub personality: u32,
    /// Resource limits, inherited.
    pub limits: ResourceLimits,
    /// Signals that the invoker ignores, which the program then does as well.
    pub ignored: SignalSet,
}

impl Launch {
    /// A program in a directory, with default limits.
    pub fn new(program: Program, cwd: Vec<u8>) -> Self {
        Self {
            program,
            cwd,
            personality: 0,
            limits: ResourceLimits::default(),
            ignored: SignalSet::EMPTY,
        }
    }
}

/// A reference kernel.
pub struct Kernel<E: Engine> {
    pub(crate) machine: Machine<E>,
    pub(crate) vfs: Vfs<E>,
    pub(crate) table: Table<E>,
    pub(crate) identity: Identity,
    pub(crate) randomize: Randomize,
    pub(crate) trace: Option<Box<dyn Sink>>,
    pub(crate) log: Box<dyn Log>,
    pub(crate) stats: Stats,
    pub(crate) vdso: Vdso<E>,
    unknown: Spin<E, Vec<u64>>,
    processes: Spin<E, Vec<Arc<Process<E>>>>,
    last_space: Spin<E, Option<SpaceSummary>>,
}

impl<E: Engine> Kernel<E> {
    /// A kernel on a machine, with no process.
    ///
    /// # Errors
    /// `ENOMEM`: no heap.
    pub fn new(machine: Machine<E>, config: KernelConfig) -> Result<Self, Errno> {
        let outside = machine.platform().outside();
        Ok(Self {
            vfs: Vfs::new(&machine, outside, config.files.writes),
            table: Table::new()?,
            identity: outside.identity(),
            randomize: config.randomize,
            trace: config.trace,
            log: config.log,
            stats: Stats::new()?,
            vdso: Vdso::new(&machine)?,
            unknown: Mutex::new(Vec::new()),
            processes: Mutex::new(Vec::new()),
            last_space: Mutex::new(None),
            machine,
        })
    }

    /// Its machine.
    pub fn machine(&self) -> &Machine<E> {
        &self.machine
    }

    /// What runs its programs.
    pub fn engine(&self) -> &E {
        self.machine.platform()
    }

    /// The files, the clock and the user of the outside.
    pub fn outside(&self) -> &dyn Outside {
        self.engine().outside()
    }

    /// The file tree.
    pub fn vfs(&self) -> &Vfs<E> {
        &self.vfs
    }

    /// Who the invoking user is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What was counted so far.
    pub fn report(&self) -> Report {
        self.stats.report(&self.table, *self.last_space.lock())
    }

    /// Sends a signal of the outside (a terminal's interrupt) to every process. A number that is no signal does nothing.
    pub fn interrupt(&self, signal: i32) {
        if !signal::is_valid(signal) {
            return;
        }
        let processes = self.processes.lock().clone();
        for process in processes {
            // Only real-time signals are refused, and a terminal sends none.
            let _ = process.send(SigInfo::kernel(signal));
        }
    }

    /// Runs a program to its end on the calling thread.
    ///
    /// # Errors
    /// Those of [`exec::find_program`], and `ENOMEM` of loading; those of the engine when it has no CPU to give. The program has then not run.
    pub fn run_program(&self, launch: &Launch) -> Result<ExitStatus, Errno> {
        let Some(mut task) = self.new_process(launch)? else {
            let signal = signal::SIGSEGV;
            return Ok(ExitStatus::Killed {
                signal,
                core: false,
            });
        };
        let status = self.run_task(&mut task);
        self.processes
            .lock()
            .retain(|process| process.pid != task.process.pid);
        *self.last_space.lock() = Some(SpaceSummary::of(&task.mm));
        Ok(status)
    }

    /// The first process: `init`, so to speak. `None`: it died of its own segments.
    fn new_process(&self, launch: &Launch) -> Result<Option<Task<E>>, Errno> {
        let outside = self.outside();
        let place = Place {
            cwd: launch.cwd.clone(),
            umask: self.identity.umask,
        };
        let boot = Boot {
            place: place.clone(),
            identity: &self.identity,
        };
        let session = boot.session(&self.vfs, outside);
        let found = exec::find_program(&session, &launch.program, &launch.limits)?;
        let ready = match found.load(self, &session, &launch.limits, launch.personality) {
            Ok(ready) => ready,
            Err(Errno::ENOMEM) => return Err(Errno::ENOMEM),
            Err(error) => {
                self.note_death(error);
                return Ok(None);
            }
        };
        let most = launch.limits.0[RLIMIT_NOFILE].soft.min(1 << 20) as u32;
        let files = self.vfs.standard_files(outside, most)?;
        let vcpu = self.engine().new_vcpu(&ready.mm)?;

        let process = Process::new(&self.identity, launch.limits, ready.personality);
        *process.program.write() = ready.info;
        process.ignore(launch.ignored);
        let process = Arc::new(process);
        let kicker = self.engine().kicker(&vcpu);
        let thread = Arc::new(Thread::new(
            process.pid,
            ready.name,
            SignalSet::EMPTY,
            kicker,
        ));
        process.threads.lock().push(thread.clone());
        self.processes.lock().push(process.clone());
        Ok(Some(Task {
            thread,
            process,
            vcpu,
            mm: ready.mm,
            files: Arc::new(RwLock::new(files)),
            place: Arc::new(RwLock::new(place)),
            regs: Registers::start(ready.entry, ready.stack),
            alt_stack: AltStack::default(),
            saved_mask: None,
            extended_size: None,
            fault: FaultInfo::default(),
            clear_tid: None,
            robust_list: (0, 0),
            policy: None,
            exiting: None,
            call: None,
        }))
    }

    /// A program was found but could not be loaded, which kills.
    pub(crate) fn note_death(&self, error: Errno) {
        self.log.note(format_args!(
            "the program is killed because it cannot be loaded: {error}"
        ));
    }

    /// Serves a thread until it ends. Returns how its process ends, as far as this thread knows.
    fn run_task(&self, task: &mut Task<E>) -> ExitStatus {
        let status = loop {
            match self.engine().run(&mut task.vcpu, &task.mm, &mut task.regs) {
                Trap::Syscall => self.serve_call(task),
                Trap::Fault { addr, access } => self.serve_fault(task, addr, access),
                Trap::Exception { kind, .. } => self.serve_exception(task, kind),
                Trap::Interrupted => {}
                Trap::Killed { signal } => {
                    break ExitStatus::Killed {
                        signal,
                        core: false,
                    };
                }
            }
            if let Some(status) = task.exiting.or_else(|| task.process.exit_status()) {
                break status;
            }
            self.ring_alarm(task);
            if task.saved_mask.is_none() && task.call.is_none() && !task.is_interrupted() {
                continue;
            }
            if let Delivery::Exit(status) = signal::deliver(self, task) {
                break status;
            }
        };
        self.leave(task, status);
        status
    }

    /// What a thread does last. `do_exit`.
    fn leave(&self, task: &mut Task<E>, status: ExitStatus) {
        if let Some(at) = task.clear_tid.take() {
            // The program may have unmapped it; then nobody waits there.
            let _ = task.mm.copy_to_user(at, &0_u32.to_ne_bytes());
        }
        let mut threads = task.process.threads.lock();
        threads.retain(|thread| thread.tid != task.thread.tid);
        let is_last = threads.is_empty();
        drop(threads);
        if is_last || matches!(status, ExitStatus::Killed { .. }) {
            task.process.exit_group(status);
        }
    }

    fn serve_call(&self, task: &mut Task<E>) {
        let args = task.regs.syscall_args();
        // The number is an `int` to Linux.
        let number = u64::from(task.regs.syscall_number() as u32);
        let Some(&call) = self.table.get(number) else {
            self.note_unknown(number);
            task.regs.set_return(Errno::ENOSYS.as_return());
            return;
        };
        task.call = Some(call);
        let result = (call.handler)(&mut SyscallContext {
            kernel: self,
            task,
            args,
        });
        self.stats.count_call(call.number, result.is_err());
        if task.mm.take_out_of_memory() {
            self.kill_for_memory(task);
        }
        if let (Some(sink), Some(returns)) = (&self.trace, call.traced) {
            let line = CallLine {
                name: call.name,
                kinds: call.args,
                args,
                result: &result,
                returns,
            };
            sink.line(format_args!("{line}"));
        }
        task.regs.set_return(value_of(result));
        if !matches!(result, Err(Errno::EINTR)) {
            task.call = None;
            task.regs.orig_rax = Registers::NO_SYSCALL;
        }
    }

    /// Names a call that is not built, the first time it is made.
    fn note_unknown(&self, number: u64) {
        self.stats.count_unknown_call();
        let mut unknown = self.unknown.lock();
        if unknown.contains(&number) || unknown.len() >= 512 || unknown.try_reserve(1).is_err() {
            return;
        }
        unknown.push(number);
        drop(unknown);
        match crate::syscall::name_of(number) {
            Some(name) => self.log.note(format_args!(
                "system call {name} ({number}) is not built: ENOSYS"
            )),
            None => self
                .log
                .note(format_args!("there is no system call {number}: ENOSYS")),
        }
    }

    fn serve_fault(&self, task: &mut Task<E>, addr: VirtAddr, access: Access) {
        let result = task.mm.handle_fault(addr, access);
        self.stats.count_fault(access, &result);
        if let Some(sink) = &self.trace {
            sink.line(format_args!(
                "{}",
                FaultLine {
                    addr,
                    access,
                    result: &result
                }
            ));
        }
        match result {
            Ok(done) => task.process.count_fault(done == FaultDone::Major),
            Err(FaultError::Signal(fault)) => self.force_fault(task, &fault, access),
            Err(FaultError::OutOfMemory) => self.kill_for_memory(task),
        }
    }

    /// Ends the program that found no memory: what could be reclaimed was, and no other program is there to be chosen. `oom_kill_process`.
    fn kill_for_memory(&self, task: &mut Task<E>) {
        task.mm.take_out_of_memory();
        self.stats.count_out_of_memory();
        let rss = task.mm.rss();
        let kib = |pages: u64| pages << (E::Format::GRANULE.shift() - 10);
        self.log.note(format_args!(
            "out of memory: killed process {}, anon-rss {} kB, file-rss {} kB, shmem-rss {} kB",
            task.process.pid,
            kib(rss.anon),
            kib(rss.file),
            kib(rss.shmem),
        ));
        task.force(SigInfo::kernel(signal::SIGKILL));
    }

    /// A fault that the program is told of. `bad_area`, `do_sigbus`.
    fn force_fault(&self, task: &mut Task<E>, fault: &Fault, access: Access) {
        let present = task.mm.translate(fault.addr, Access::Read).is_some();
        let beyond = fault.addr.get() >= task.mm.layout().task_size_max;
        let kind = match access {
            Access::Read => 0,
            Access::Write => 2,
            Access::Execute => 16,
        };
        // User mode (4) always; "present" (1) also where a user may not look.
        let error = 4 | kind | u64::from(present || beyond);
        task.fault = FaultInfo {
            vector: 14,
            error,
            addr: fault.addr.get(),
        };
        let signal = match fault.signal {
            Signal::Segv => signal::SIGSEGV,
            Signal::Bus => signal::SIGBUS,
        };
        self.force(
            task,
            SigInfo::fault(signal, fault.code.si_code(), fault.addr.get()),
        );
    }

    fn serve_exception(&self, task: &mut Task<E>, kind: ExceptionKind) {
        let ip = task.regs.rip;
        let (vector, info) = match kind {
            ExceptionKind::Divide => (0, SigInfo::fault(signal::SIGFPE, 1, ip)),
            ExceptionKind::Debug => (1, SigInfo::fault(signal::SIGTRAP, 2, ip)),
            ExceptionKind::Breakpoint => (3, SigInfo::kernel(signal::SIGTRAP)),
            ExceptionKind::Overflow => (4, SigInfo::kernel(signal::SIGSEGV)),
            ExceptionKind::InvalidOpcode => (6, SigInfo::fault(signal::SIGILL, 2, ip)),
            ExceptionKind::StackSegment => (12, SigInfo::kernel(signal::SIGBUS)),
            ExceptionKind::GeneralProtection => (13, SigInfo::kernel(signal::SIGSEGV)),
            ExceptionKind::Alignment => (17, SigInfo::fault(signal::SIGBUS, 1, 0)),
            ExceptionKind::FloatingPoint => {
                (16, self.float_exception(task, ip, signal::frame::x87_code))
            }
            ExceptionKind::SimdFloat => {
                (19, self.float_exception(task, ip, signal::frame::simd_code))
            }
        };
        task.fault = FaultInfo {
            vector,
            error: 0,
            addr: task.fault.addr,
        };
        self.force(task, info);
    }

    /// `math_error`: which exception it was stands in the control and status words.
    fn float_exception(&self, task: &mut Task<E>, ip: u64, code: fn(&[u8]) -> i32) -> SigInfo {
        let image = self.engine().extended_state(&mut task.vcpu);
        SigInfo::fault(signal::SIGFPE, code(&image), ip)
    }

    fn force(&self, task: &mut Task<E>, info: SigInfo) {
        if let Some(sink) = &self.trace {
            sink.line(format_args!(
                "{}",
                SignalLine {
                    signal: info.signal,
                    code: info.code
                }
            ));
        }
        task.force(info);
    }

    /// ITIMER_REAL, looked at whenever the task is in the kernel.
    pub(crate) fn ring_alarm(&self, task: &Task<E>) {
        let mut alarm = task.process.alarm.lock();
        let Some(due) = alarm.due else { return };
        let now = self.outside().monotonic();
        if now < due {
            return;
        }
        alarm.due = if alarm.interval.is_zero() {
            None
        } else {
            Some(now + alarm.interval)
        };
        drop(alarm);
        // A standard signal is never refused.
        let _ = task.process.send(SigInfo::kernel(signal::SIGALRM));
    }
}

/// What rax holds after a call.
fn value_of(result: SyscallResult) -> u64 {
    result.unwrap_or_else(Errno::as_return)
}

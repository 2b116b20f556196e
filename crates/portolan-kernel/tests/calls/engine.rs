//! An engine without a CPU: it plays a script of traps and remembers with which registers the kernel resumed it. Its outside is the
//! one in memory, with a clock that sleeping moves.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use portolan::addr::{Granule, PhysAddr, PhysRange, VirtAddr};
use portolan::errno::Errno;
use portolan::machine::{Machine, Settings};
use portolan::paging::{Access, X86_64};
use portolan::platform::{Asid, CpuId, FlushRequest, Platform};
use portolan::sim::Sim;
use portolan::space::Mm;
use portolan_kernel::engine::{Engine, ExceptionKind, Kick, Kicker, Registers, Trap};
use portolan_kernel::exec::Program;
use portolan_kernel::fs::{Settings as Files, Writes};
use portolan_kernel::kernel::{Kernel, KernelConfig, Launch, Randomize};
use portolan_kernel::outside::{
    AccessAs, Follow, Identity, OuterFile, Outside, PollItem, SetTime, Stat, StatFs,
};
use portolan_kernel::signal::SIGKILL;
use portolan_kernel::task::ExitStatus;
use portolan_kernel::trace::Silent;

use crate::fake::Fake;

type Machinery = Sim<X86_64>;

/// What the program does next.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A system call: number and arguments.
    Call(u64, [u64; 6]),
    /// An access that faults until it is allowed.
    Touch(u64, Access),
    /// An exception.
    Exception(ExceptionKind),
    /// Stores words, which lie in one page.
    Store(u64, [u64; 4]),
    /// Loads a word into rbx.
    Load(u64),
    /// Goes on with what this makes of the registers, which the kernel then sees in the next trap.
    Change(fn(&mut Registers)),
}

/// How many sleeps one call may take before the program is killed: nobody would ever wake it.
const SLEEPS: u32 = 4;

/// The outside in memory, with a clock.
pub struct Clocked {
    fake: Fake,
    now: AtomicU64,
    sleeps: AtomicU32,
    kernel: OnceLock<Weak<Kernel<Scripted>>>,
}

impl Clocked {
    fn wait(&self, time: Duration) {
        self.now.fetch_add(
            u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4) / 4 * 4,
            Ordering::Relaxed,
        );
        if self.sleeps.fetch_add(1, Ordering::Relaxed) >= SLEEPS {
            let kernel = self.kernel.get().and_then(Weak::upgrade);
            kernel.expect("a kernel").interrupt(SIGKILL);
        }
    }

    fn time(&self) -> Duration {
        Duration::from_nanos(self.now.load(Ordering::Relaxed))
    }
}

macro_rules! passed_on {
    ($(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        impl Outside for Clocked {
            $(fn $name(&self, $($arg: $type),*) -> $result {
                self.fake.$name($($arg),*)
            })*

            fn poll(&self, items: &mut [PollItem], timeout: Option<Duration>) -> Result<usize, Errno> {
                self.wait(timeout.unwrap_or(Duration::from_secs(1)));
                items.iter_mut().for_each(|item| item.revents = 0);
                if timeout.is_some() { Ok(0) } else { Err(Errno::EINTR) }
            }

            fn realtime(&self) -> Duration {
                self.time()
            }

            fn monotonic(&self) -> Duration {
                self.time()
            }

            fn boottime(&self) -> Duration {
                self.time()
            }

            fn sleep(&self, time: Duration) -> Result<(), Errno> {
                self.wait(time);
                Ok(())
            }
        }
    };
}

passed_on! {
    fn open(path: &[u8], flags: u32, mode: u32) -> Result<Box<dyn OuterFile>, Errno>;
    fn stat(path: &[u8], follow: Follow) -> Result<Stat, Errno>;
    fn read_link(path: &[u8]) -> Result<Vec<u8>, Errno>;
    fn make_dir(path: &[u8], mode: u32) -> Result<(), Errno>;
    fn remove_dir(path: &[u8]) -> Result<(), Errno>;
    fn make_node(path: &[u8], mode: u32, dev: u64) -> Result<(), Errno>;
    fn unlink(path: &[u8]) -> Result<(), Errno>;
    fn rename(from: &[u8], to: &[u8], flags: u32) -> Result<(), Errno>;
    fn link(from: &[u8], to: &[u8]) -> Result<(), Errno>;
    fn symlink(target: &[u8], path: &[u8]) -> Result<(), Errno>;
    fn set_mode(path: &[u8], mode: u32) -> Result<(), Errno>;
    fn set_owner(path: &[u8], uid: u32, gid: u32, follow: Follow) -> Result<(), Errno>;
    fn set_times(path: &[u8], atime: SetTime, mtime: SetTime, follow: Follow) -> Result<(), Errno>;
    fn access(path: &[u8], mask: u32, who: AccessAs, follow: Follow) -> Result<(), Errno>;
    fn stat_fs(path: &[u8]) -> Result<StatFs, Errno>;
    fn get_xattr(path: &[u8], name: &[u8], follow: Follow) -> Result<Vec<u8>, Errno>;
    fn list_xattr(path: &[u8], follow: Follow) -> Result<Vec<u8>, Errno>;
    fn sync() -> ();
    fn standard(number: u32) -> Result<Box<dyn OuterFile>, Errno>;
    fn cpu_time() -> (Duration, Duration);
    fn random(into: &mut [u8]) -> ();
    fn identity() -> Identity;
}

#[derive(Default)]
struct Play {
    script: VecDeque<Step>,
    seen: Vec<Registers>,
}

/// The engine.
pub struct Scripted {
    sim: Machinery,
    outside: Clocked,
    play: Mutex<Play>,
}

// SAFETY: memory and flushes are the in-memory machine's own.
unsafe impl Platform for Scripted {
    type Format = X86_64;
    type RawMutex = <Machinery as Platform>::RawMutex;
    type RawRwLock = <Machinery as Platform>::RawRwLock;
    type Flush = <Machinery as Platform>::Flush;

    fn ram(&self) -> &[PhysRange] {
        self.sim.ram()
    }
    fn direct_map(&self, at: PhysAddr) -> *mut u8 {
        self.sim.direct_map(at)
    }
    fn cpus(&self) -> usize {
        self.sim.cpus()
    }
    fn cpu(&self) -> CpuId {
        self.sim.cpu()
    }
    fn now(&self) -> Duration {
        self.sim.now()
    }
    fn random(&self) -> u64 {
        self.sim.random()
    }
    fn flush_begin(&self, request: FlushRequest<'_>) -> Self::Flush {
        self.sim.flush_begin(request)
    }
    fn flush_wait(&self, flush: Self::Flush) {
        self.sim.flush_wait(flush);
    }
    fn space_released(&self, asid: Asid) {
        self.sim.space_released(asid);
    }
}

struct NoKick;

impl Kick for NoKick {
    fn kick(&self) {}
}

impl Engine for Scripted {
    type Vcpu = Vec<u8>;

    fn new_vcpu(&self, _: &Mm<Self>) -> Result<Vec<u8>, Errno> {
        Ok(vec![0; 832])
    }

    fn run(&self, _: &mut Vec<u8>, mm: &Mm<Self>, regs: &mut Registers) -> Trap {
        self.outside.sleeps.store(0, Ordering::Relaxed);
        let mut play = self.play.lock().unwrap();
        loop {
            play.seen.push(*regs);
            match play.script.pop_front() {
                Some(Step::Call(number, args)) => {
                    enter(regs, number, args);
                    return Trap::Syscall;
                }
                Some(Step::Touch(addr, access)) => {
                    let addr = VirtAddr::new(addr);
                    if mm.translate(addr, access).is_none() {
                        return Trap::Fault { addr, access };
                    }
                }
                Some(step @ (Step::Store(addr, _) | Step::Load(addr))) => {
                    let (addr, access) = (VirtAddr::new(addr), step.access());
                    let Some(found) = mm.translate(addr, access) else {
                        play.script.push_front(Step::Touch(addr.get(), access));
                        play.script.insert(1, step);
                        continue;
                    };
                    let page = found.frame.addr(Granule::K4);
                    let at = page.checked_add(addr.page_offset(Granule::K4));
                    self.access(at.expect("within a page"), step, regs);
                }
                Some(Step::Exception(kind)) => {
                    return Trap::Exception {
                        kind,
                        addr: VirtAddr::new(regs.rip),
                    };
                }
                Some(Step::Change(change)) => change(regs),
                None => {
                    enter(regs, 231, [0; 6]);
                    return Trap::Syscall;
                }
            }
        }
    }

    fn extended_state(&self, vcpu: &mut Vec<u8>) -> Vec<u8> {
        vcpu.clone()
    }

    fn set_extended_state(&self, vcpu: &mut Vec<u8>, image: &[u8]) -> Result<(), Errno> {
        if image.len() != vcpu.len() {
            return Err(Errno::EINVAL);
        }
        vcpu.copy_from_slice(image);
        Ok(())
    }

    fn kicker(&self, _: &Vec<u8>) -> Kicker {
        Kicker::new(Arc::new(NoKick))
    }

    fn outside(&self) -> &dyn Outside {
        &self.outside
    }
}

impl Step {
    fn access(self) -> Access {
        match self {
            Step::Store(..) => Access::Write,
            _ => Access::Read,
        }
    }
}

impl Scripted {
    /// Does a store or load whose words lie in one page.
    fn access(&self, at: PhysAddr, step: Step, regs: &mut Registers) {
        let room = Granule::K4.bytes() - at.page_offset(Granule::K4);
        assert!(room >= 32 && at.get().is_multiple_of(8), "across pages");
        let words = self.sim.direct_map(at).cast::<u64>();
        match step {
            // SAFETY: 32 bytes, aligned, within a frame that the one running thread has mapped.
            Step::Store(_, values) => unsafe { words.cast::<[u64; 4]>().write(values) },
            // SAFETY: as above.
            _ => regs.rbx = unsafe { words.read() },
        }
    }
}

/// What the instruction does to the registers.
fn enter(regs: &mut Registers, number: u64, args: [u64; 6]) {
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
    regs.orig_rax = number;
    regs.rax = Errno::ENOSYS.as_return();
    regs.rip = regs.rip.wrapping_add(2);
}

/// A kernel on a small machine, with a file system that has one program.
pub struct World {
    pub kernel: Arc<Kernel<Scripted>>,
    machine: Machine<Scripted>,
    free: u64,
}

/// The program's path.
pub const PROGRAM: &str = "/bin/program";
/// Where the program is linked to lie.
pub const BASE: u64 = 0x40_0000;

impl World {
    /// With this much memory, bytes.
    pub fn new(memory: usize) -> Self {
        let fake = Fake::new();
        fake.dir("/bin");
        fake.dir("/home");
        fake.file(PROGRAM, &program());
        fake.file("/home/file", &[7; 10_000]);
        fake.set_mode(PROGRAM.as_bytes(), 0o755)
            .expect("it is there");
        let outside = Clocked {
            fake,
            now: AtomicU64::new(1_000_000_000),
            sleeps: AtomicU32::new(0),
            kernel: OnceLock::new(),
        };
        let engine = Scripted {
            sim: Sim::new(memory, 1),
            outside,
            play: Mutex::default(),
        };
        let machine = Machine::new(engine, Settings::default()).expect("a machine");
        let free = machine.phys().free_frames();
        let config = KernelConfig {
            trace: Some(Box::new(Silent)),
            log: Box::new(Silent),
            files: Files {
                writes: Writes::Outside,
            },
            randomize: Randomize::Off,
        };
        let kernel = Arc::new(Kernel::new(machine.clone(), config).expect("a kernel"));
        let known = &machine.platform().outside.kernel;
        assert!(known.set(Arc::downgrade(&kernel)).is_ok());
        Self {
            kernel,
            machine,
            free,
        }
    }

    /// Runs the program with a script; returns how it ended and the registers with which it went on after each step.
    pub fn run(&self, script: impl IntoIterator<Item = Step>) -> (ExitStatus, Vec<Registers>) {
        *self.machine.platform().play.lock().unwrap() = Play {
            script: script.into_iter().collect(),
            seen: Vec::new(),
        };
        let program = Program {
            path: PROGRAM.into(),
            argv: vec![b"program".to_vec(), b"one".to_vec()],
            env: vec![b"A=B".to_vec()],
        };
        let launch = Launch::new(program, b"/home".to_vec());
        let status = self.kernel.run_program(&launch).expect("it is loaded");
        let seen = std::mem::take(&mut self.machine.platform().play.lock().unwrap().seen);
        (status, seen)
    }

    /// Everything is given back.
    pub fn finish(self) {
        let Self {
            kernel,
            machine,
            free,
        } = self;
        assert!(Arc::into_inner(kernel).is_some(), "the kernel is kept");
        machine.quiesce();
        assert_eq!(machine.phys().free_frames(), free, "frames are missing");
    }
}

/// A static program: one page of text, then a page of data with zeros after it. It has no code, for nothing runs it.
fn program() -> Vec<u8> {
    let mut bytes = vec![0; 0x1100];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &(BASE + 0x800).to_le_bytes());
    put(32, &64_u64.to_le_bytes());
    put(52, &[64, 0, 56, 0, 2, 0]);
    let segments = [
        (5_u32, 0_u64, 0x1000_u64, 0x1000_u64),
        (6, 0x1000, 0x100, 0x1100),
    ];
    for (n, (flags, offset, in_file, in_memory)) in segments.into_iter().enumerate() {
        let at = 64 + 56 * n;
        put(at, &1_u32.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        let words = [offset, BASE + offset, 0, in_file, in_memory, 0x1000];
        for (m, word) in words.into_iter().enumerate() {
            put(at + 8 + 8 * m, &word.to_le_bytes());
        }
    }
    put(0x1000, &[0xaa; 0x100]);
    bytes
}

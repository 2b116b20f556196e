//! What a task leaves when a signal kills it with a core dump: the file `core` in its working directory, and the notes that say what the task was doing.
//! Memory and the file's format are the library's (`portolan::view::write_core`). Not for: which signals dump (`signal`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use core::time::Duration;

use portolan::errno::Errno;
use portolan::paging::Format;
use portolan::space::CoreFilter;
use portolan::view::{CoreDump, CoreNote, CoreSink, Gate, write_core};

use crate::engine::{Engine, Registers};
use crate::fs::{OpenFile, Session, TaskOf, abi};
use crate::kernel::Kernel;
use crate::signal::SigInfo;
use crate::task::{RLIMIT_CORE, Task};

/// The name of the file. `core_pattern`.
const NAME: &[u8] = b"core";
/// `EM_X86_64`.
const MACHINE: u16 = 62;
/// Where in the extended state the features that it has are told to readers of a dump. `xstate_fx_sw_bytes`.
const FEATURES_AT: usize = 464;
/// Bytes of the legacy part of the extended state.
const FXSAVE_SIZE: usize = 512;

const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_X86_XSTATE: u32 = 0x202;
const NT_SIGINFO: u32 = 0x5349_4749;

/// What became of the dump that a signal calls for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dumped {
    /// It is there: the exit status says so.
    Yes,
    /// There is none, or only a part: over RLIMIT_CORE, not dumpable, or the file cannot be written.
    No,
}

impl<E: Engine> Kernel<E> {
    /// Dumps a task that `info` kills. `fs/coredump.c: do_coredump`.
    pub(crate) fn dump_core(&self, task: &mut Task<E>, info: &SigInfo) -> Dumped {
        let limit = task.process.limits.lock().0[RLIMIT_CORE].soft;
        let dumpable = task.process.dumpable.load(Ordering::Relaxed) != 0;
        // A limit below a page is no dump at all. `min_coredump`.
        if !dumpable || limit < <E as portolan::platform::Platform>::Format::GRANULE.bytes() {
            return Dumped::No;
        }
        match self.try_dump(task, info, limit) {
            Ok(()) => Dumped::Yes,
            Err(_) => Dumped::No,
        }
    }

    fn try_dump(&self, task: &mut Task<E>, info: &SigInfo, limit: u64) -> Result<(), Errno> {
        let mut extended = self.engine().extended_state(&mut task.vcpu);
        let features = self.engine().cpu_description().xfeatures.to_ne_bytes();
        if let Some(place) = extended.get_mut(FEATURES_AT..FEATURES_AT + features.len()) {
            place.copy_from_slice(&features);
        }
        let task = &*task;
        let status = self.status_note(task, info);
        let program = self.program_note(task);
        let signal = info.to_bytes();
        let auxv: Vec<u8> = {
            let program = task.process.program.read();
            program
                .auxv
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect()
        };
        let note = |owner, kind, content| CoreNote {
            owner,
            kind,
            content,
        };
        let before = [
            note("CORE", NT_PRSTATUS, &status[..]),
            note("CORE", NT_PRPSINFO, &program),
            note("CORE", NT_SIGINFO, &signal),
            note("CORE", NT_AUXV, &auxv),
        ];
        let legacy = &extended[..extended.len().min(FXSAVE_SIZE)];
        let after = [
            note("CORE", NT_FPREGSET, legacy),
            note("LINUX", NT_X86_XSTATE, &extended),
        ];
        let after = match extended.len() > FXSAVE_SIZE {
            true => &after[..],
            false => &after[..1],
        };
        let filter = task.process.core_filter.load(Ordering::Relaxed);
        let dump = CoreDump {
            filter: CoreFilter::from_bits_truncate(filter),
            machine: MACHINE,
            gate: Gate::Vsyscall,
            notes: [&before, after],
        };
        let view = TaskOf { kernel: self, task };
        let session = view.session();
        let mut sink = File {
            file: create(&session, task)?,
            session: &session,
            left: limit,
        };
        write_core(&task.mm, &dump, &mut sink)
    }

    /// `struct elf_prstatus`. `fill_prstatus`.
    fn status_note(&self, task: &Task<E>, info: &SigInfo) -> Vec<u8> {
        let mut note = Vec::with_capacity(336);
        for half in [info.signal, info.code, info.errno, info.signal & 0xffff] {
            note.extend_from_slice(&half.to_ne_bytes());
        }
        let signals = task.signal_sets();
        for word in [signals.pending, signals.blocked] {
            note.extend_from_slice(&word.to_ne_bytes());
        }
        put_ids(&mut note, task, task.thread.tid);
        let (user, system) = self.outside().cpu_time();
        for time in [user, system, Duration::ZERO, Duration::ZERO] {
            note.extend_from_slice(&time.as_secs().to_ne_bytes());
            note.extend_from_slice(&u64::from(time.subsec_micros()).to_ne_bytes());
        }
        for word in register_words(&task.regs) {
            note.extend_from_slice(&word.to_ne_bytes());
        }
        // The floating-point registers are there; padding.
        note.extend_from_slice(&1u64.to_ne_bytes());
        note
    }

    /// `struct elf_prpsinfo`. `fill_psinfo`.
    fn program_note(&self, task: &Task<E>) -> Vec<u8> {
        const NAME_BYTES: usize = 16;
        const ARGS_BYTES: usize = 80;
        let identity = self.identity();
        let nice = task.process.nice.load(Ordering::Relaxed) as u8;
        let mut note = Vec::with_capacity(136);
        // State 0 is R, running; not a zombie.
        note.extend_from_slice(&[0, b'R', 0, nice, 0, 0, 0, 0]);
        // PF_RANDOMIZE and PF_DUMPCORE are the flags that such a task has.
        note.extend_from_slice(&0x0040_0200u64.to_ne_bytes());
        for id in [identity.uid[0], identity.gid[0]] {
            note.extend_from_slice(&id.to_ne_bytes());
        }
        put_ids(&mut note, task, task.process.pid);
        let name = task.thread.name.lock().clone();
        let mut args = arguments(task, ARGS_BYTES - 1);
        args.iter_mut()
            .filter(|byte| **byte == 0)
            .for_each(|byte| *byte = b' ');
        for (part, room) in [(&name, NAME_BYTES), (&args, ARGS_BYTES)] {
            let end = note.len() + room;
            note.extend_from_slice(&part[..part.len().min(room - 1)]);
            note.resize(end, 0);
        }
        note
    }
}

/// Process, parent, process group, session.
fn put_ids<E: Engine>(note: &mut Vec<u8>, task: &Task<E>, id: u32) {
    let process = &task.process;
    let family = [&process.ppid, &process.pgid, &process.sid].map(|id| id.load(Ordering::Relaxed));
    for id in [id].into_iter().chain(family) {
        note.extend_from_slice(&id.to_ne_bytes());
    }
}

/// The registers in the order of `struct user_regs_struct`.
fn register_words(regs: &Registers) -> [u64; 27] {
    let r = regs;
    [
        r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx,
        r.rsi, r.rdi, r.orig_rax, r.rip, r.cs, r.eflags, r.rsp, r.ss, r.fs_base, r.gs_base, r.ds,
        r.es, r.fs, r.gs,
    ]
}

/// The start of the arguments as they lie in memory, as far as that can be read.
fn arguments<E: Engine>(task: &Task<E>, most: usize) -> Vec<u8> {
    let layout = task.mm.layout();
    let len = layout.arg_end.saturating_sub(layout.arg_start);
    let mut bytes = alloc::vec![0; len.min(most as u64) as usize];
    let start = portolan::addr::VirtAddr::new(layout.arg_start);
    let _ = task.mm.copy_from_user(start, &mut bytes);
    bytes
}

/// Makes the file: an old one is removed, a link is not followed.
fn create<E: Engine>(session: &Session<'_, E>, task: &Task<E>) -> Result<Arc<OpenFile<E>>, Errno> {
    const OWNER_ONLY: u32 = 0o600;
    let cwd = task.place.read().cwd.clone();
    match session.unlink(&cwd, NAME) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    let path = [&cwd[..], b"/", NAME].concat();
    let flags = abi::O_CREAT | abi::O_EXCL | abi::O_WRONLY | abi::O_NOFOLLOW;
    Ok(Arc::new(session.open_path(&path, flags, OWNER_ONLY)?))
}

/// The file as the library writes to it, within RLIMIT_CORE.
struct File<'a, E: Engine> {
    file: Arc<OpenFile<E>>,
    session: &'a Session<'a, E>,
    /// Bytes that may still be written; what is left out does not count.
    left: u64,
}

impl<E: Engine> CoreSink for File<'_, E> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let count = bytes.len() as u64;
        self.left = self.left.checked_sub(count).ok_or(Errno::EFBIG)?;
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            match self.file.write_at(self.session, at, &bytes[done..])? {
                0 => return Err(Errno::EIO),
                count => done += count,
            }
        }
        Ok(())
    }

    fn finish(&mut self, len: u64) -> Result<(), Errno> {
        let regular = self.file.regular().ok_or(Errno::EIO)?;
        regular.truncate(self.session, len)
    }
}

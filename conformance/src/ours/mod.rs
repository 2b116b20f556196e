//! The library's side: the same calls on the in-memory machine. Loads, stores and fetches go through a software CPU whose TLB forgets nothing by
//! itself, so a flush that is missing shows as wrong memory.

mod look;
mod run;

use std::sync::Arc;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::machine::{Machine, Settings};
use portolan::object::{Cache, Commit, File, FileIdentity, FileMode, FileSpec, Seals};
use portolan::paging::{Access, Format};
use portolan::platform::CpuId;
use portolan::sim::{Cpu, PageFault, Sim};
use portolan::space::{FaultError, MapRequest, Mm, MmConfig, MmUser, Prot, Signal};

pub use run::{Checks, Library, Ours};

use crate::arena::{ARENA_END, BASE, HEAP, LOW_END, LOW_START, MEMLOCK, PAGE, STACK, TASK_END};
use crate::files::{self, FILES, OBJECTS, Opened};
use crate::later::{Fork, Later};
use crate::linux::{Base, HostSettings};
use crate::op::User;
use crate::trace::signal_word;
use std::sync::atomic::Ordering;

/// An address space of the library.
pub type Space<F> = MmUser<Sim<F>>;

/// The bytes of physical memory of a machine.
const MEMORY: usize = 64 << 20;

/// What a sequence works on.
pub struct World<F: Format> {
    machine: Machine<Sim<F>>,
    objects: [Arc<Cache<Sim<F>>>; OBJECTS],
    files: [Option<Arc<File<Sim<F>>>>; FILES.len()],
    held: Vec<Space<F>>,
    depth: u64,
    text: String,
    /// What the process on Linux had at first, which a space here is given too.
    pub base: Base,
    /// Where is written what was seen.
    pub sink: Vec<u64>,
    /// What the call asked for.
    pub later: Later,
}

/// A machine with the settings of the outer kernel, and memory for `data` pages that `mlockall` may bring in besides what sequences use.
fn machine<F: Format>(host: &HostSettings, data: u64) -> Machine<Sim<F>> {
    let memory = MEMORY + (data * F::GRANULE.bytes()) as usize;
    let machine = Machine::new(Sim::<F>::new(memory, 1), Settings::default());
    let machine = machine.expect("memory for a machine");
    let settings = machine.settings();
    settings
        .mmap_min_addr
        .store(host.min_addr, Ordering::Relaxed);
    settings
        .max_map_count
        .store(host.max_map_count, Ordering::Relaxed);
    machine
}

fn object<F: Format>(
    machine: &Machine<Sim<F>>,
    number: usize,
) -> Result<Arc<Cache<Sim<F>>>, Errno> {
    let cache = Cache::anonymous_shared(machine, 0, Commit::Unreserved)?;
    cache.allow_sealing(Seals::empty());
    let scale = F::GRANULE.bytes() / PAGE;
    for page in 0..files::SIZE.div_ceil(PAGE as usize) {
        let bytes = vec![files::content(number, page); F::GRANULE.bytes() as usize];
        let at = page * PAGE as usize;
        let len = (files::SIZE - at).min(PAGE as usize);
        let len = if len == PAGE as usize {
            bytes.len()
        } else {
            len
        };
        cache.write(at as u64 * scale, &bytes[..len])?;
    }
    Ok(cache)
}

impl<F: Format> World<F> {
    fn new(machine: &Machine<Sim<F>>, base: Base) -> Result<Self, Errno> {
        let objects = [object(machine, 0)?, object(machine, 1)?];
        let mut files = [const { None }; FILES.len()];
        for (file, kind) in files.iter_mut().zip(FILES) {
            let Some(kind) = kind else { continue };
            let mode = match kind.opened {
                Opened::ReadWrite => FileMode::READ | FileMode::WRITE,
                Opened::Read => FileMode::READ,
                Opened::Write => FileMode::WRITE,
            };
            let names: [&[u8]; OBJECTS] = [b"/memfd:one (deleted)", b"/memfd:two (deleted)"];
            let spec = FileSpec {
                cache: Some(objects[kind.object].clone()),
                mode: mode | FileMode::OBSERVABLE,
                identity: FileIdentity {
                    major: 0,
                    minor: 1,
                    inode: kind.object as u64 + 1,
                },
                path: names[kind.object].to_vec(),
                operations: None,
            };
            *file = Some(File::new(machine, spec)?);
        }
        Ok(Self {
            machine: machine.clone(),
            objects,
            files,
            held: Vec::new(),
            depth: 0,
            text: String::new(),
            base,
            sink: Vec::new(),
            later: Later::default(),
        })
    }

    /// A space that has besides nothing what the process on Linux has, above the arena.
    fn space(&self, user: User) -> Result<Space<F>, Errno> {
        let mut config = MmConfig::new::<F>();
        config.layout.limit(F::GRANULE, TASK_END);
        let heap = self.at(HEAP).get();
        (config.layout.start_brk, config.layout.brk) = (heap, heap);
        let root = user == User::Root;
        let limits = &config.limits;
        limits.memlock.store(MEMLOCK, Ordering::Relaxed);
        limits.stack.store(self.bytes(STACK), Ordering::Relaxed);
        limits.may_lock_any.store(root, Ordering::Relaxed);
        limits.may_map_low.store(root, Ordering::Relaxed);
        limits.admin.store(root, Ordering::Relaxed);
        limits.nice.store(root, Ordering::Relaxed);
        let mm = Mm::new(&self.machine, config)?;
        mm.activate(CpuId(0));
        self.fill_above(&mm)?;
        Ok(mm)
    }

    /// Maps all that lies above the arena, of the same kinds as on Linux as far as calls can tell.
    fn fill_above(&self, mm: &Space<F>) -> Result<(), Errno> {
        const SHARED: u32 = 0x4031;
        const PRIVATE: u32 = 0x4032;
        let page = F::GRANULE.bytes();
        let end = TASK_END / page * page;
        let fixed = |addr: u64, pages: u64, prot: Prot, flags: u32| MapRequest {
            addr: VirtAddr::new(addr),
            len: pages * page,
            prot: prot.bits(),
            flags,
            file: None,
            offset: 0,
        };
        let mut at = self.at(ARENA_END).get();
        let all = (end - at) / page;
        let data = self.base.data.min(all / 2);
        let unlockable = (self.base.total - self.base.lockable).min(16);
        mm.mmap(&fixed(at, 1, Prot::READ, SHARED))?;
        at += page;
        let low = (LOW_END - LOW_START) / page;
        mm.mmap(&fixed(LOW_START, low, Prot::empty(), SHARED))?;
        if data != 0 {
            mm.mmap(&fixed(at, data, Prot::READ | Prot::WRITE, PRIVATE))?;
            at += data * page;
        }
        if unlockable != 0 {
            let file = self.files[1].clone().ok_or(Errno::EBADF)?;
            let special = VirtAddr::new(at);
            mm.install_special_mapping(special, unlockable * page, Prot::empty(), file, "[vvar]")?;
            at += unlockable * page;
        }
        mm.mmap(&fixed(at, (end - at) / page, Prot::empty(), PRIVATE))?;
        Ok(())
    }

    /// An address of the 4 KiB layout in this format's.
    pub fn at(&self, addr: u64) -> VirtAddr {
        let scale = F::GRANULE.bytes() / PAGE;
        VirtAddr::new(match addr {
            BASE..=ARENA_END => BASE + self.bytes(addr - BASE),
            0..0x100_0000 => addr * scale,
            _ => addr,
        })
    }

    /// A length of the 4 KiB layout in this format's: the same number of pages, and the same number of bytes beyond.
    pub fn bytes(&self, bytes: u64) -> u64 {
        let scale = F::GRANULE.bytes() / PAGE;
        match bytes {
            0..0x1_0000_0000 => bytes / PAGE * PAGE * scale + bytes % PAGE,
            _ => bytes,
        }
    }

    /// A file, `None` where there is none.
    pub fn file(&self, file: u64) -> Option<Arc<File<Sim<F>>>> {
        self.files.get(file as usize)?.clone()
    }

    /// The pages of a file.
    pub fn cache(&self, file: u64) -> &Arc<Cache<Sim<F>>> {
        let kind = FILES[file as usize % FILES.len()].expect("a file");
        &self.objects[kind.object]
    }

    /// This space, or that of the first child that waits.
    pub fn process(&self, space: &Space<F>, held: bool) -> Space<F> {
        let first = self.held.first().filter(|_| held);
        first.unwrap_or(space).clone()
    }

    /// Does an access until it goes through or ends in a signal: its result, and where it faulted.
    pub fn access(
        &self,
        space: &Space<F>,
        at: VirtAddr,
        _access: Access,
        mut access: impl FnMut(&Cpu<'_, F>, portolan::sim::Space) -> Result<i64, PageFault>,
    ) -> (i64, u64) {
        let cpu = Cpu::new(self.machine.phys(), CpuId(0));
        let on = portolan::sim::Space {
            root: space.root(),
            asid: space.asid(),
        };
        let result = cpu.retry(
            |cpu| access(cpu, on),
            |fault| match space.handle_fault(fault.addr, fault.access) {
                Ok(_) => Ok(()),
                Err(FaultError::Signal(fault)) => Err(fault),
                Err(FaultError::OutOfMemory) => panic!("out of memory at {at:?}"),
            },
        );
        match result {
            Ok(value) => (value, 0),
            Err(fault) => {
                let signal = match fault.signal {
                    Signal::Bus => libc::SIGBUS,
                    Signal::Segv => libc::SIGSEGV,
                };
                (signal_word(signal, fault.code.si_code()), fault.addr.get())
            }
        }
    }

    /// Loads a byte.
    pub fn load(&self, space: &Space<F>, at: VirtAddr) -> (i64, u64) {
        self.access(space, at, Access::Read, |cpu, on| {
            let mut byte = [0];
            cpu.load(on, at, &mut byte)?;
            Ok(i64::from(byte[0]))
        })
    }

    /// Stores a byte.
    pub fn store(&self, space: &Space<F>, at: VirtAddr, value: u8) -> (i64, u64) {
        self.access(space, at, Access::Write, |cpu, on| {
            cpu.store(on, at, &[value]).map(|()| 0)
        })
    }

    fn fork_later(&mut self, kind: Fork) -> i64 {
        self.later.fork = Some(kind);
        0
    }

    /// A child will show what it has.
    pub fn fork_show(&mut self, _: &Space<F>) -> i64 {
        self.fork_later(Fork::Show)
    }

    /// A child will go on.
    pub fn fork_into(&mut self, _: &Space<F>) -> i64 {
        self.fork_later(Fork::Into)
    }

    /// A child will wait.
    pub fn fork_hold(&mut self, _: &Space<F>) -> i64 {
        self.fork_later(Fork::Hold)
    }
}

//! Loading a program into a fresh address space: `execve` as far as one process sees it. Here: finding the file, scripts, the order of
//! things. The parts: [`script`] reads `#!` lines, [`image`] maps an ELF file, [`stack`] lays out the first stack,
//! [`vdso`] is the object that every program finds mapped. Not for: the task that
//! will run it (`kernel`).

pub mod image;
pub mod script;
pub mod stack;
pub mod vdso;

use alloc::sync::Arc;
use alloc::vec::Vec;

use portolan::addr::{Granule, VirtAddr};
use portolan::errno::Errno;
use portolan::object::File;
use portolan::paging::Format;
use portolan::platform::Platform;
use portolan::space::{Layout, Limits, Mm, MmConfig, MmUser, Placement, ReadImpliesExec};

use crate::elf::{FileHeader, HEADER_SIZE, Image, Kind, StackExec};
use crate::engine::Engine;
use crate::fs::vfs::Missing;
use crate::fs::{OpenFile, Session};
use crate::kernel::{Kernel, Randomize};
use crate::outside::{AccessAs, FileKind, Follow};
use crate::task::{
    NAME_MAX, ProgramInfo, RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK, RLIMIT_STACK, ResourceLimits,
};
use image::Loaded;
use stack::{Strings, Values};

/// `ADDR_NO_RANDOMIZE`.
pub const ADDR_NO_RANDOMIZE: u32 = 0x0040000;
/// `READ_IMPLIES_EXEC`.
pub const READ_IMPLIES_EXEC: u32 = 0x0400000;
/// `ADDR_COMPAT_LAYOUT`.
pub const ADDR_COMPAT_LAYOUT: u32 = 0x0200000;

/// How deep scripts may name scripts.
const MAX_SCRIPTS: usize = 5;
/// How much of a file decides what it is. `BINPRM_BUF_SIZE`.
const HEAD_SIZE: usize = 256;
/// `O_RDONLY | O_CLOEXEC`.
const OPEN_FLAGS: u32 = 0o2_000_000;
/// The most random bits, in pages, that the stack top is moved down. `STACK_RND_MASK`.
const STACK_RANDOM_PAGES: u64 = 0x3f_ffff;
/// Random bits of the mmap base. `mmap_rnd_bits`.
const MMAP_RANDOM_BITS: u32 = 28;
/// How far the heap is moved up at most, bytes.
const BRK_RANDOM: u64 = 1 << 30;

/// What to run.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Program {
    /// The file: absolute, or relative to the working directory.
    pub path: Vec<u8>,
    /// Argument strings, the program's own name first.
    pub argv: Vec<Vec<u8>>,
    /// Environment strings.
    pub env: Vec<Vec<u8>>,
}

/// A program that is ready to run.
pub struct Ready<E: Engine> {
    /// Its space.
    pub mm: MmUser<E>,
    /// Where it starts.
    pub entry: VirtAddr,
    /// Its first stack pointer.
    pub stack: VirtAddr,
    /// For /proc.
    pub info: ProgramInfo,
    /// The name of its thread.
    pub name: Vec<u8>,
    /// The personality it starts with.
    pub personality: u32,
}

/// An executable file that was found and may be run.
struct Executable<E: Engine> {
    file: Arc<OpenFile<E>>,
    path: Vec<u8>,
}

impl<E: Engine> Executable<E> {
    /// Finds a file and checks that it may be run. `do_open_execat`.
    ///
    /// # Errors
    /// `EACCES`: not a regular file, no right to run it, or its mount forbids it. Those of open(2).
    fn open(session: &Session<'_, E>, path: &[u8]) -> Result<Self, Errno> {
        let found = session.walk(&session.task.place().cwd, path, Follow::Yes, Missing::Error)?;
        if found.stat.kind() != FileKind::Regular {
            return Err(Errno::EACCES);
        }
        session.access(&found, 1, AccessAs::Effective)?;
        let file = Arc::new(session.open_path(path, OPEN_FLAGS, 0)?);
        Ok(Self {
            file,
            path: found.path,
        })
    }

    /// Reads as much of `into` as the file has.
    fn read(&self, session: &Session<'_, E>, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < into.len() {
            match self
                .file
                .read_at(session, offset + done as u64, &mut into[done..])?
            {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    /// Reads exactly `len` bytes.
    ///
    /// # Errors
    /// `EIO`: the file is shorter. `ENOMEM`: no heap. Those of the file.
    fn read_exactly(
        &self,
        session: &Session<'_, E>,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(len, 0);
        offset
            .checked_add(len as u64)
            .filter(|&end| end <= i64::MAX as u64)
            .ok_or(Errno::EIO)?;
        if self.read(session, offset, &mut bytes)? == len {
            Ok(bytes)
        } else {
            Err(Errno::EIO)
        }
    }

    /// Reads the headers. `load_elf_phdrs`.
    ///
    /// # Errors
    /// `ENOEXEC`: not a program for this machine, or cut short.
    fn image(&self, session: &Session<'_, E>, head: &[u8]) -> Result<Image, Errno> {
        let header = FileHeader::parse(head)?;
        let segments = self.read_exactly(session, header.segments_at, header.segments_size);
        Image::parse(header, &segments.map_err(|_| Errno::ENOEXEC)?)
    }

    /// The interpreter that a program names.
    ///
    /// # Errors
    /// `ENOEXEC`: its name is no proper string. `ELIBBAD`: it is no program for this machine. `EIO`: it is cut short. Those of
    /// [`Executable::open`].
    fn interpreter(
        &self,
        session: &Session<'_, E>,
        image: &Image,
    ) -> Result<Option<(Self, Image)>, Errno> {
        let Some((offset, size)) = image.interpreter else {
            return Ok(None);
        };
        if !(2..=4096).contains(&size) {
            return Err(Errno::ENOEXEC);
        }
        let mut name = self.read_exactly(session, offset, size as usize)?;
        if name.pop() != Some(0) {
            return Err(Errno::ENOEXEC);
        }
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        let file = Self::open(session, name)?;
        let head = file.read_exactly(session, 0, HEADER_SIZE)?;
        let image = file.image(session, &head).map_err(|error| match error {
            Errno::ENOEXEC => Errno::ELIBBAD,
            other => other,
        })?;
        Ok(Some((file, image)))
    }

    /// The file as mappings take it.
    fn mapping(&self, session: &Session<'_, E>) -> Result<Arc<File<E>>, Errno> {
        self.file.map_file(session)
    }
}

/// Follows `#!` lines to a file that is none, changing the arguments on the way. `search_binary_handler`, `load_script`.
///
/// # Errors
/// `ELOOP`: too many of them. `ENOEXEC`: a line without an interpreter. Those of [`Executable::open`].
fn find<E: Engine>(
    session: &Session<'_, E>,
    program: &mut Program,
) -> Result<(Executable<E>, Vec<u8>), Errno> {
    let mut path = program.path.clone();
    for _ in 0..=MAX_SCRIPTS {
        let file = Executable::open(session, &path)?;
        let mut head = alloc::vec![0; HEAD_SIZE];
        let count = file.read(session, 0, &mut head)?;
        if !head.starts_with(b"#!") {
            head.truncate(count);
            return Ok((file, head));
        }
        let line = script::parse(&head)?;
        let argument = line.argument.map(<[u8]>::to_vec);
        let interpreter = line.interpreter.to_vec();
        let before = core::iter::once(interpreter.clone())
            .chain(argument)
            .chain(core::iter::once(path));
        let shown = 1.min(program.argv.len());
        program.argv.splice(..shown, before);
        path = interpreter;
    }
    Err(Errno::ELOOP)
}

/// The bits of a personality that a program starts with. `SET_PERSONALITY`.
fn personality_of(old: u32) -> u32 {
    old & !READ_IMPLIES_EXEC
}

/// Random numbers for one program's layout, all zero when it is not randomised.
struct Dice<'a, E: Engine> {
    platform: &'a E,
    on: bool,
}

impl<E: Engine> Dice<'_, E> {
    const GRANULE: Granule = <<E as Platform>::Format as Format>::GRANULE;

    /// Below `2^bits` pages, in bytes.
    fn pages(&self, bits: u32) -> u64 {
        if self.on {
            (self.platform.random() & ((1 << bits) - 1)) << Self::GRANULE.shift()
        } else {
            0
        }
    }

    /// Below `limit` bytes.
    fn below(&self, limit: u64) -> u64 {
        if self.on {
            self.platform.random() % limit
        } else {
            0
        }
    }
}

/// A fresh space with its bases placed. `setup_new_exec`, `arch_pick_mmap_layout`.
fn new_space<E: Engine>(
    kernel: &Kernel<E>,
    dice: &Dice<'_, E>,
    limits: &ResourceLimits,
    personality: u32,
) -> Result<MmUser<E>, Errno> {
    let machine = &kernel.machine;
    let root = kernel.identity.uid[1] == 0;
    let legacy = &kernel.vfs.tunables().legacy_va_layout;
    let mut config = MmConfig {
        layout: Layout::new::<E::Format>(),
        limits: Limits::default(),
    };
    let granule = Dice::<E>::GRANULE;
    if let Some(end) = machine.platform().user_end() {
        config.layout.limit(granule, end.get());
    }
    let stack = limits.0[RLIMIT_STACK].soft;
    let stack_random = if dice.on {
        STACK_RANDOM_PAGES << granule.shift()
    } else {
        0
    };
    let guard = machine
        .settings()
        .stack_guard_gap
        .load(core::sync::atomic::Ordering::Relaxed);
    config.layout.place_bases(
        granule,
        stack,
        stack_random,
        guard,
        dice.pages(MMAP_RANDOM_BITS),
    );
    if personality & ADDR_COMPAT_LAYOUT != 0 || legacy.load(core::sync::atomic::Ordering::Relaxed) {
        config.layout.placement = Placement::BottomUp;
    }
    set_space_limits(&config.limits, limits);
    for right in [
        &config.limits.may_lock_any,
        &config.limits.may_map_low,
        &config.limits.admin,
        &config.limits.nice,
    ] {
        right.store(root, core::sync::atomic::Ordering::Relaxed);
    }
    let mm = Mm::new(machine, config)?;
    let implied = if personality & READ_IMPLIES_EXEC != 0 {
        ReadImpliesExec::On
    } else {
        ReadImpliesExec::Off
    };
    mm.set_read_implies_exec(implied);
    Ok(mm)
}

/// Tells a space the limits that memory calls obey.
pub fn set_space_limits(space: &Limits, limits: &ResourceLimits) {
    let set = |to: &core::sync::atomic::AtomicU64, number: usize| {
        to.store(limits.0[number].soft, core::sync::atomic::Ordering::Relaxed);
    };
    set(&space.address_space, RLIMIT_AS);
    set(&space.data, RLIMIT_DATA);
    let data = limits.0[RLIMIT_DATA].hard;
    space
        .data_hard
        .store(data, core::sync::atomic::Ordering::Relaxed);
    set(&space.stack, RLIMIT_STACK);
    set(&space.memlock, RLIMIT_MEMLOCK);
}

/// A program that was found and understood, and is not loaded yet: up to here a failed `execve` changes nothing.
pub struct Found<E: Engine> {
    /// The path it was asked for by.
    name: Vec<u8>,
    /// With the arguments that scripts put in.
    program: Program,
    file: Executable<E>,
    image: Image,
    interpreter: Option<(Executable<E>, Image)>,
}

/// Finds a program's file and reads what it is. The first half of `execve`, before `begin_new_exec`.
///
/// # Errors
/// `E2BIG`: too many or too long strings. `ENOEXEC`, `ELIBBAD`: not a program for this machine. `EACCES`: no right to run it. `ELOOP`: scripts
/// that name scripts. Those of open(2).
pub fn find_program<E: Engine>(
    session: &Session<'_, E>,
    program: &Program,
    limits: &ResourceLimits,
) -> Result<Found<E>, Errno> {
    let mut program = program.clone();
    if program.argv.is_empty() {
        program.argv.push(Vec::new());
    }
    let name = program.path.clone();
    stack::check_size(&program, limits.0[RLIMIT_STACK].soft)?;
    let (file, head) = find(session, &mut program)?;
    let image = file.image(session, &head)?;
    let interpreter = file.interpreter(session, &image)?;
    Ok(Found {
        name,
        program,
        file,
        image,
        interpreter,
    })
}

impl<E: Engine> Found<E> {
    /// Loads it into a fresh space. The second half of `execve`; when it fails, Linux kills the process with SIGSEGV.
    ///
    /// # Errors
    /// `ENOMEM`, `EEXIST`: no room. `EINVAL`, `EFAULT`: segments that make no sense. Those of mmap and of the file.
    pub fn load(
        &self,
        kernel: &Kernel<E>,
        session: &Session<'_, E>,
        limits: &ResourceLimits,
        personality: u32,
    ) -> Result<Ready<E>, Errno> {
        let personality = personality_of(personality);
        let on = personality & ADDR_NO_RANDOMIZE == 0 && kernel.randomize == Randomize::On;
        let dice = Dice {
            platform: kernel.engine(),
            on,
        };
        let mm = new_space(kernel, &dice, limits, personality)?;

        let strings = Strings {
            path: &self.name,
            argv: &self.program.argv,
            env: &self.program.env,
        };
        let plan = stack::plan(&strings, stack_top(&mm, &dice), limits.0[RLIMIT_STACK].soft)?;
        stack::map(&mm, &plan, self.image.stack == StackExec::Enable)?;
        stack::copy_strings(&mm, &plan, &strings)?;

        let (main, linker) = self.map_images(&mm, session, dice.pages(MMAP_RANDOM_BITS))?;
        let (entry, linker_base) = linker.unwrap_or((main.entry, 0));
        let is_alone = self.image.header.kind == Kind::Movable && self.interpreter.is_none();
        place_heap(&mm, &main, is_alone, &dice)?;

        let vdso = Some(kernel.vdso.map(&mm)?);
        let mut random = [0; 16];
        kernel.outside().random(&mut random);
        let (cpu, identity) = (&kernel.engine().cpu_description(), &kernel.identity);
        let values = Values {
            main: &main,
            linker_base,
            cpu,
            identity,
            random,
            vdso,
        };
        let (sp, auxv) = stack::finish(&mm, &plan, &strings, &values, dice.below(8192))?;
        mm.set_layout(|layout| record(layout, &main, &plan, sp));
        let info = ProgramInfo {
            exe: self.file.path.clone(),
            auxv,
        };
        let (entry, stack) = (VirtAddr::new(entry), VirtAddr::new(sp));
        Ok(Ready {
            mm,
            entry,
            stack,
            info,
            name: thread_name(&self.name),
            personality,
        })
    }

    /// Maps the program, then its interpreter, of which entry point and base are returned.
    fn map_images(
        &self,
        mm: &MmUser<E>,
        session: &Session<'_, E>,
        random: u64,
    ) -> Result<(Loaded, Option<(u64, u64)>), Errno> {
        let file = self.file.mapping(session)?;
        let main = image::load_main(mm, &self.image, &file, self.interpreter.is_some(), random)?;
        let Some((file, image)) = &self.interpreter else {
            return Ok((main, None));
        };
        let linker = image::load_interpreter(mm, image, &file.mapping(session)?)?;
        Ok((main, Some(linker)))
    }
}

/// The name a thread takes from its program's path. `__set_task_comm`.
pub fn thread_name(path: &[u8]) -> Vec<u8> {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    name[..name.len().min(NAME_MAX)].to_vec()
}

/// The end of the stack's area. `randomize_stack_top` and `arch_align_stack`.
fn stack_top<E: Engine>(mm: &MmUser<E>, dice: &Dice<'_, E>) -> u64 {
    let granule = Dice::<E>::GRANULE;
    let top = mm
        .layout()
        .task_size
        .saturating_sub(dice.pages(STACK_RANDOM_PAGES.count_ones()));
    granule
        .round_up((top - dice.below(8192)) & !15)
        .unwrap_or(top)
}

/// Places the heap: after the program, or far from the mappings when the program itself lies among them.
fn place_heap<E: Engine>(
    mm: &MmUser<E>,
    main: &Loaded,
    among_mappings: bool,
    dice: &Dice<'_, E>,
) -> Result<(), Errno> {
    let granule = Dice::<E>::GRANULE;
    let end = if among_mappings {
        image::movable_base::<E>()
    } else {
        main.brk
    };
    let mut start = granule.round_up(end).ok_or(Errno::ENOMEM)?;
    if dice.on {
        if !among_mappings {
            start = start.saturating_add(granule.bytes());
        }
        start = granule.round_down(start.saturating_add(dice.below(BRK_RANDOM)));
    }
    mm.set_layout(|layout| (layout.start_brk, layout.brk) = (start, start));
    Ok(())
}

fn record(layout: &mut Layout, main: &Loaded, plan: &stack::Plan, sp: u64) {
    layout.start_code = main.start_code;
    layout.end_code = main.end_code;
    layout.start_data = main.start_data;
    layout.end_data = main.end_data;
    layout.start_stack = sp;
    layout.arg_start = plan.arg_start;
    layout.arg_end = plan.env_start;
    layout.env_start = plan.env_start;
    layout.env_end = plan.env_end;
}

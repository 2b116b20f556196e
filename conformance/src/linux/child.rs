//! The processes: one that waits for sequences and forks, and those that do one sequence each. Nothing here allocates, so that what a process
//! has besides the sequence's mappings stays what it was.

use super::procfs;
use super::shared::{Base, SharedSink, Slot};
use super::{SLOTS, fault, sys};
use crate::arena::{
    ARENA_END, HEAP, LOOKED_AT, LOW_END, LOW_START, MEMLOCK, PAGE, STACK, TASK_END,
};
use crate::files::{self, FILES, OBJECTS, Opened};
use crate::later::{Fork, Later};
use crate::op::User;
use crate::smaps::{self, Line};
use crate::trace::{Hash, LOCKED_BITS, PAGEMAP_BITS, Sink, Tag};

const MOST_HELD: usize = 8;
const MOST_AREAS: usize = 512;

/// A process that does a sequence.
#[derive(Debug)]
pub struct Child {
    slot: Slot,
    /// Where it writes what it saw.
    pub sink: SharedSink,
    /// What the call asked for.
    pub later: Later,
    base: Base,
    files: [i32; FILES.len()],
    held: [(i32, i32); MOST_HELD],
    holds: usize,
    depth: u64,
}

/// Fills what must be filled, says whether that went well, then forks a process for each slot number that comes in.
pub(super) fn serve(socket: i32, slots: &[Slot; SLOTS]) -> ! {
    let ready = fill_above();
    grow_stack();
    reply(socket, i32::from(ready.is_none()));
    loop {
        let mut slot = 0u8;
        let at = (&raw mut slot) as u64;
        if sys(libc::SYS_read, [socket as u64, at, 1, 0, 0, 0]) != 1 {
            end(0);
        }
        let process = fork();
        if process == 0 {
            sys(libc::SYS_close, [socket as u64, 0, 0, 0, 0, 0]);
            Child::new(slots[slot as usize % SLOTS], ready.unwrap_or(0)).run();
            end(0);
        }
        reply(socket, wait_for(process));
    }
}

fn reply(socket: i32, status: i32) {
    let at = (&raw const status) as u64;
    sys(libc::SYS_write, [socket as u64, at, 4, 0, 0, 0]);
}

fn end(status: u64) -> ! {
    sys(libc::SYS_exit_group, [status, 0, 0, 0, 0, 0]);
    unreachable!("a process that has ended");
}

fn fork() -> i32 {
    sys(libc::SYS_fork, [0; 6]) as i32
}

fn wait_for(process: i32) -> i32 {
    let mut status = 0i32;
    let at = (&raw mut status) as u64;
    while sys(libc::SYS_wait4, [process as u64, at, 0, 0, 0, 0]) == -i64::from(libc::EINTR) {}
    status
}

/// Maps all that is free above the arena. How many pages there can never be locked; `None` if the arena is not free.
fn fill_above() -> Option<u64> {
    let text = std::fs::read("/proc/self/maps").ok()?;
    let mut at = ARENA_END + PAGE;
    let lines = text.split(|&byte| byte == b'\n').filter_map(smaps::line);
    for line in lines {
        if line.start < ARENA_END + PAGE {
            return None;
        }
        fill(at, line.start.min(TASK_END))?;
        at = at.max(line.end);
    }
    fill(at, TASK_END)?;
    fence(ARENA_END, PAGE, 1)?;
    fence(LOW_START, LOW_END - LOW_START, 0)?;
    Some(procfs::unlockable(&text))
}

/// Memory around the arena of a kind that merges with nothing.
fn fence(start: u64, len: u64, prot: u64) -> Option<()> {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let flags = flags | libc::MAP_FIXED_NOREPLACE;
    let result = sys(
        libc::SYS_mmap,
        [start, len, prot, flags as u64, u64::MAX, 0],
    );
    (result == start as i64).then_some(())
}

fn fill(start: u64, end: u64) -> Option<()> {
    if start >= end {
        return Some(());
    }
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let flags = flags | libc::MAP_FIXED_NOREPLACE;
    let result = sys(
        libc::SYS_mmap,
        [start, end - start, 0, flags as u64, u64::MAX, 0],
    );
    (result == start as i64).then_some(())
}

/// Uses some stack, so that it does not grow later.
#[inline(never)]
fn grow_stack() {
    let mut room = [0u8; 96 << 10];
    for byte in room.iter_mut().step_by(4096) {
        // SAFETY: a byte of a local.
        unsafe { core::ptr::write_volatile(byte, 1) };
    }
    core::hint::black_box(&room);
}

/// Sets a soft limit, and leaves the hard one as it is: the result of the call.
pub(crate) fn limit(resource: u64, soft: u64) -> i64 {
    let mut old = [0u64; 2];
    let at = (&raw mut old) as u64;
    sys(libc::SYS_prlimit64, [0, resource, 0, at, 0, 0]);
    let new = [soft, core::hint::black_box(&old)[1]];
    let at = (&raw const new) as u64;
    sys(libc::SYS_prlimit64, [0, resource, at, 0, 0, 0])
}

fn prctl(option: i32, a: u64, b: u64, c: u64) -> i64 {
    sys(libc::SYS_prctl, [option as u64, a, b, c, 0, 0])
}

/// `struct prctl_mm_map`.
#[repr(C)]
struct Places {
    places: [u64; 11],
    auxv: u64,
    auxv_size: u32,
    exe: u32,
}

/// Puts the heap into the arena.
fn place_heap() -> i64 {
    let here = 0u64;
    let stack = (&raw const here) as u64;
    let (code, data) = (0x1_0000, 0x1_1000);
    let places = Places {
        places: [
            code, data, data, data, HEAP, HEAP, stack, stack, stack, stack, stack,
        ],
        auxv: 0,
        auxv_size: 0,
        exe: u32::MAX,
    };
    let size = core::mem::size_of::<Places>() as u64;
    prctl(
        libc::PR_SET_MM,
        libc::PR_SET_MM_MAP as u64,
        (&raw const places) as u64,
        size,
    )
}

fn make_files() -> [i32; FILES.len()] {
    let mut objects = [0; OBJECTS];
    let names: [&[u8]; OBJECTS] = [b"one\0", b"two\0"];
    for (n, object) in objects.iter_mut().enumerate() {
        let flags = u64::from(libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC);
        let name = names[n].as_ptr() as u64;
        *object = sys(libc::SYS_memfd_create, [name, flags, 0, 0, 0, 0]) as i32;
        for page in 0..files::SIZE.div_ceil(PAGE as usize) {
            let bytes = [files::content(n, page); PAGE as usize];
            let at = page * PAGE as usize;
            let len = (files::SIZE - at).min(PAGE as usize);
            let args = [
                *object as u64,
                bytes.as_ptr() as u64,
                len as u64,
                at as u64,
                0,
                0,
            ];
            sys(libc::SYS_pwrite64, args);
        }
    }
    let mut made = [-1; FILES.len()];
    for (fd, kind) in made.iter_mut().zip(FILES) {
        let Some(kind) = kind else { continue };
        let object = objects[kind.object];
        *fd = match kind.opened {
            Opened::ReadWrite => object,
            Opened::Read => reopen(object, libc::O_RDONLY),
            Opened::Write => reopen(object, libc::O_WRONLY),
        };
    }
    made
}

/// Opens what a descriptor below 100 names once more.
fn reopen(fd: i32, how: i32) -> i32 {
    let mut path = *b"/proc/self/fd/00\0";
    path[14] += (fd / 10) as u8;
    path[15] += (fd % 10) as u8;
    // One digit must not be two.
    if fd < 10 {
        path[14] = path[15];
        path[15] = 0;
    }
    let at = path.as_ptr() as u64;
    sys(
        libc::SYS_open,
        [at, (how | libc::O_CLOEXEC) as u64, 0, 0, 0, 0],
    ) as i32
}

impl Child {
    fn new(slot: Slot, unlockable: u64) -> Self {
        sys(libc::SYS_alarm, [30, 0, 0, 0, 0, 0]);
        prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0, 0);
        fault::catch_signals();
        limit(u64::from(libc::RLIMIT_STACK), STACK);
        limit(u64::from(libc::RLIMIT_MEMLOCK), MEMLOCK);
        limit(u64::from(libc::RLIMIT_DATA), u64::MAX);
        limit(u64::from(libc::RLIMIT_AS), u64::MAX);
        let files = make_files();
        if place_heap() != 0 || files[1..].iter().any(|fd| *fd < 0) {
            end(3);
        }
        if slot.user() == User::Nobody {
            let nobody = 65534;
            if sys(libc::SYS_setresuid, [nobody, nobody, nobody, 0, 0, 0]) != 0 {
                end(4);
            }
            // Its own files in /proc stay its own.
            prctl(libc::PR_SET_DUMPABLE, 1, 0, 0);
            prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0, 0);
        }
        let mut child = Self {
            slot,
            sink: SharedSink(slot),
            later: Later::default(),
            base: Base::default(),
            files,
            held: [(0, 0); MOST_HELD],
            holds: 0,
            depth: 0,
        };
        child.base = child.now();
        child.base.lockable = child.base.total - unlockable;
        slot.put_base(child.base);
        child
    }

    /// What the process had before its first step.
    pub fn base(&self) -> Base {
        self.base
    }

    /// The descriptor of a file.
    pub fn fd(&self, file: u64) -> i32 {
        self.files.get(file as usize).copied().unwrap_or(-1)
    }

    /// This process, or the first child that waits.
    pub fn process(&self, held: bool) -> i32 {
        match held && self.holds != 0 {
            true => self.held[0].0,
            false => sys(libc::SYS_getpid, [0; 6]) as i32,
        }
    }

    /// What it has now, as `status` says; `lockable` stands for what is locked.
    fn now(&mut self) -> Base {
        let text = self.read(b"/proc/self/status\0", |_| false);
        let pages = |key| procfs::field(text, key) / (PAGE / 1024);
        Base {
            total: pages(b"VmSize:"),
            lockable: pages(b"VmLck:"),
            data: pages(b"VmData:"),
            stack: pages(b"VmStk:"),
            exec: pages(b"VmLib:"),
        }
    }

    fn read(&self, path: &[u8], enough: impl Fn(&[u8]) -> bool) -> &[u8] {
        let fd = procfs::open(path);
        // SAFETY: what an earlier call gave is not used any more where this is called: its borrow of `self` is over, or it is a copy.
        let buffer = unsafe { self.slot.scratch() };
        let text = procfs::read_while(fd, buffer, enough);
        sys(libc::SYS_close, [fd as u64, 0, 0, 0, 0, 0]);
        text
    }

    fn run(&mut self) {
        let mut n = 0;
        while n < self.slot.ops() {
            let Some(op) = self.slot.op(n) else { break };
            let at = self.sink.open(Tag::Result);
            self.sink.push(n as u64);
            self.sink.push(self.depth);
            self.sink.push(0);
            let result = op.call.linux(self, &op.args);
            self.sink.set(at + 3, result as u64);
            self.sink.close(at);
            self.look_at_maps();
            let later = core::mem::take(&mut self.later);
            if later.memory {
                self.look_at_memory();
            }
            if later.counts {
                self.look_at_counts();
            }
            if later.pagemap {
                self.look_at_pagemap();
            }
            if later.fork.is_some_and(|kind| !self.fork(kind)) {
                break;
            }
            n += 1;
        }
        self.end();
    }

    /// Forks; false in a parent whose child went on with the sequence.
    fn fork(&mut self, kind: Fork) -> bool {
        let mut pipe = [0i32; 2];
        if kind == Fork::Hold {
            sys(libc::SYS_pipe, [(&raw mut pipe) as u64, 0, 0, 0, 0, 0]);
        }
        let process = fork();
        if process < 0 {
            end(5);
        }
        if process != 0 {
            if kind == Fork::Hold {
                self.hold(process, pipe[1]);
                return true;
            }
            let status = wait_for(process);
            if status != 0 {
                end(6);
            }
            return kind != Fork::Into;
        }
        prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0, 0);
        sys(libc::SYS_alarm, [30, 0, 0, 0, 0, 0]);
        self.depth += 1;
        self.holds = 0;
        if kind == Fork::Into {
            return true;
        }
        if kind == Fork::Hold {
            let mut byte = 0u8;
            let at = (&raw mut byte) as u64;
            sys(libc::SYS_read, [pipe[0] as u64, at, 1, 0, 0, 0]);
        }
        self.end();
        end(0);
    }

    fn hold(&mut self, process: i32, pipe: i32) {
        if let Some(held) = self.held.get_mut(self.holds) {
            *held = (process, pipe);
            self.holds += 1;
        } else {
            end(7);
        }
    }

    /// Looks at everything, then lets the held children do so.
    fn end(&mut self) {
        self.look_at_counts();
        self.look_at_maps();
        self.look_at_pagemap();
        self.look_at_memory();
        self.look_at_counts();
        for n in 0..core::mem::take(&mut self.holds) {
            let (process, pipe) = self.held[n];
            let byte = 0u8;
            let at = (&raw const byte) as u64;
            sys(libc::SYS_write, [pipe as u64, at, 1, 0, 0, 0]);
            if wait_for(process) != 0 {
                end(8);
            }
        }
    }

    /// Marks a fork that is to come when the step is written down.
    fn fork_later(&mut self, kind: Fork) -> i64 {
        self.later.fork = Some(kind);
        0
    }

    /// A child will show what it has.
    pub fn fork_show(&mut self) -> i64 {
        self.fork_later(Fork::Show)
    }

    /// A child will go on.
    pub fn fork_into(&mut self) -> i64 {
        self.fork_later(Fork::Into)
    }

    /// A child will wait.
    pub fn fork_hold(&mut self) -> i64 {
        self.fork_later(Fork::Hold)
    }

    fn look_at_maps(&mut self) {
        let mut sink = self.sink;
        let text = self.read(b"/proc/self/maps\0", procfs::has_arena);
        let at = sink.open(Tag::Maps);
        for line in procfs::areas(text) {
            line.words.iter().for_each(|word| sink.push(*word));
        }
        sink.close(at);
    }

    fn look_at_counts(&mut self) {
        let (now, base) = (self.now(), self.base);
        let at = self.sink.open(Tag::Counts);
        self.sink.push(now.total.wrapping_sub(base.total));
        self.sink.push(now.lockable & LOCKED_BITS);
        self.sink.push(now.data.wrapping_sub(base.data));
        self.sink.push(now.stack.wrapping_sub(base.stack));
        self.sink.push(now.exec.wrapping_sub(base.exec));
        self.sink.close(at);
        self.look_at_smaps();
    }

    fn look_at_smaps(&mut self) {
        let mut sink = self.sink;
        let text = self.read(b"/proc/self/smaps\0", procfs::has_arena_in_smaps);
        let at = sink.open(Tag::Smaps);
        smaps::figures(text, ARENA_END, &mut sink);
        sink.close(at);
    }

    fn look_at_pagemap(&mut self) {
        let mut areas = [(0, 0); MOST_AREAS];
        let count = self.areas(&mut areas);
        let fd = procfs::open(b"/proc/self/pagemap\0");
        let at = self.sink.open(Tag::Pagemap);
        for &(start, end) in &areas[..count] {
            let mut words = [0u64; LOOKED_AT as usize];
            let pages = ((end - start) / PAGE).min(LOOKED_AT);
            let to = words.as_mut_ptr() as u64;
            sys(
                libc::SYS_pread64,
                [fd as u64, to, pages * 8, start / PAGE * 8, 0, 0],
            );
            for word in &words[..pages as usize] {
                self.sink.push(word & PAGEMAP_BITS);
            }
        }
        self.sink.close(at);
        sys(libc::SYS_close, [fd as u64, 0, 0, 0, 0, 0]);
    }

    /// Where the areas lie that the sequence has made.
    fn areas(&self, areas: &mut [(u64, u64); MOST_AREAS]) -> usize {
        let text = self.read(b"/proc/self/maps\0", procfs::has_arena);
        let mut count = 0;
        for (area, Line { start, end, .. }) in areas.iter_mut().zip(procfs::areas(text)) {
            *area = (start, end);
            count += 1;
        }
        count
    }

    fn look_at_memory(&mut self) {
        let mut areas = [(0, 0); MOST_AREAS];
        let count = self.areas(&mut areas);
        let at = self.sink.open(Tag::Memory);
        for &(start, end) in &areas[..count] {
            for page in 0..((end - start) / PAGE).min(LOOKED_AT) {
                self.sink.push(page_hash(start + page * PAGE));
            }
        }
        self.sink.close(at);
        self.look_at_files();
    }

    fn look_at_files(&mut self) {
        let at = self.sink.open(Tag::Files);
        for fd in [self.files[1], self.files[3]] {
            let size = sys(
                libc::SYS_lseek,
                [fd as u64, 0, libc::SEEK_END as u64, 0, 0, 0],
            );
            self.sink.push(size as u64);
            for page in 0..(size as u64).div_ceil(PAGE).min(LOOKED_AT) {
                let mut bytes = [0u8; PAGE as usize];
                let to = bytes.as_mut_ptr() as u64;
                sys(libc::SYS_pread64, [fd as u64, to, PAGE, page * PAGE, 0, 0]);
                let mut hash = Hash::default();
                hash.bytes(&bytes);
                self.sink.push(hash.get());
            }
        }
        self.sink.close(at);
    }
}

/// The hash of a page, or the signal that a load from it ends in.
fn page_hash(at: u64) -> u64 {
    let first = fault::load(at);
    if first < 0 {
        return first as u64;
    }
    let mut hash = Hash::default();
    for word in 0..PAGE / 8 {
        hash.add(fault::word(at + word * 8));
    }
    hash.get()
}

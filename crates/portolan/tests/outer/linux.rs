//! The outer kernel's side: a child process does the calls for real and writes what it saw into a pipe.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use super::ops::{ARENA, BASE, Op, PAGE};

static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// What the outer kernel does with a sequence, a line a step.
pub fn run(ops: &[Op]) -> Vec<String> {
    let mut pipe = [0; 2];
    // SAFETY: a pipe, and a child that uses nothing of this process's threads: there is but one.
    let child = unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        libc::fork()
    };
    assert!(child >= 0, "fork");
    if child == 0 {
        // SAFETY: its own descriptors.
        let out = unsafe {
            libc::close(pipe[0]);
            File::from_raw_fd(pipe[1])
        };
        Outer::new(out).all(ops);
        // SAFETY: ends the process without running what the parent registered.
        unsafe { libc::_exit(0) };
    }
    let mut text = String::new();
    // SAFETY: its own descriptors.
    let mut input = unsafe {
        libc::close(pipe[1]);
        File::from_raw_fd(pipe[0])
    };
    input.read_to_string(&mut text).expect("the child's report");
    let mut status = 0;
    // SAFETY: waits for the child made above.
    unsafe { libc::waitpid(child, &mut status, 0) };
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    if status != 0 {
        lines.push(format!("the child ended with {status:#x}"));
    }
    lines
}

struct Outer {
    out: File,
    files: [i32; 4],
    held: Vec<(i32, i32)>,
}

extern "C" fn caught(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands in both; the faulting instruction is one of the two in `Outer`, 2 bytes each.
    unsafe {
        SIGNAL.store(signal * 100 + (*info).si_code, Ordering::Relaxed);
        let context = context.cast::<libc::ucontext_t>();
        (*context).uc_mcontext.gregs[libc::REG_RIP as usize] += 2;
    }
}

fn call(number: i64, args: [u64; 6]) -> Result<u64, i32> {
    // SAFETY: the calls touch only the arena, or what this process can do without.
    let result =
        unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]) };
    if result == -1 {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        Ok(result as u64)
    }
}

fn load(at: u64) -> Result<u8, i32> {
    SIGNAL.store(0, Ordering::Relaxed);
    let value: u8;
    // SAFETY: what is not mapped ends in `caught`.
    unsafe { core::arch::asm!("mov al, byte ptr [rdi]", in("rdi") at, out("al") value) };
    match SIGNAL.load(Ordering::Relaxed) {
        0 => Ok(value),
        signal => Err(signal),
    }
}

fn store(at: u64, value: u8) -> Result<(), i32> {
    SIGNAL.store(0, Ordering::Relaxed);
    // SAFETY: what is not mapped ends in `caught`; the arena is nobody else's.
    unsafe { core::arch::asm!("mov byte ptr [rdi], al", in("rdi") at, in("al") value) };
    match SIGNAL.load(Ordering::Relaxed) {
        0 => Ok(()),
        signal => Err(signal),
    }
}

fn memfd(name: &CStr, byte: u8) -> i32 {
    // SAFETY: makes a file of this process's own.
    let mut file = unsafe { File::from_raw_fd(libc::memfd_create(name.as_ptr(), 0)) };
    file.write_all(&super::content(byte)).expect("a file");
    std::os::fd::IntoRawFd::into_raw_fd(file)
}

impl Outer {
    fn new(out: File) -> Self {
        // SAFETY: a handler that only stores a number and skips an instruction of known length.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = caught as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGSEGV, &action, core::ptr::null_mut());
            libc::sigaction(libc::SIGBUS, &action, core::ptr::null_mut());
            let limit = libc::rlimit {
                rlim_cur: 8 << 20,
                rlim_max: libc::RLIM_INFINITY,
            };
            libc::setrlimit(libc::RLIMIT_STACK, &limit);
        }
        let first = memfd(c"one", 1);
        let path = std::ffi::CString::new(format!("/proc/self/fd/{first}")).expect("a path");
        // SAFETY: opens a file of this process's own.
        let second = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) };
        assert!(second >= 0);
        Self {
            out,
            files: [-1, first, second, memfd(c"three", 3)],
            held: Vec::new(),
        }
    }

    fn say(&mut self, text: &str) {
        self.out.write_all(text.as_bytes()).expect("the pipe");
    }

    fn all(&mut self, ops: &[Op]) {
        for (n, op) in ops.iter().enumerate() {
            match op {
                Op::ForkInto => {
                    // SAFETY: there is one thread.
                    let child = unsafe { libc::fork() };
                    if child == 0 {
                        self.say(&format!("forked{}\n", maps()));
                        self.held.clear();
                        return self.all(&ops[n + 1..]);
                    }
                    let mut status = 0;
                    // SAFETY: waits for the child.
                    unsafe { libc::waitpid(child, &mut status, 0) };
                    return self.end();
                }
                Op::ForkHold => self.hold(),
                Op::ForkShow => {
                    // SAFETY: there is one thread.
                    let child = unsafe { libc::fork() };
                    if child == 0 {
                        let text = format!("child {}{}\n", dump(), maps());
                        self.say(&text);
                        // SAFETY: ends the child.
                        unsafe { libc::_exit(0) };
                    }
                    let mut status = 0;
                    // SAFETY: waits for the child.
                    unsafe { libc::waitpid(child, &mut status, 0) };
                }
                op => {
                    let line = format!("{}{}\n", self.step(op), maps());
                    self.say(&line);
                }
            }
        }
        self.end();
    }

    fn hold(&mut self) {
        let mut pipe = [0; 2];
        // SAFETY: a pipe, and a child that waits on it.
        unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            let child = libc::fork();
            if child == 0 {
                libc::close(pipe[1]);
                let mut byte = 0u8;
                libc::read(pipe[0], (&raw mut byte).cast(), 1);
                let text = format!("held {}{}\n", dump(), maps());
                self.say(&text);
                libc::_exit(0);
            }
            libc::close(pipe[0]);
            self.held.push((child, pipe[1]));
        }
        self.say(&format!("hold{}\n", maps()));
    }

    fn end(&mut self) {
        let text = format!("end {}{}\n", dump(), maps());
        self.say(&text);
        for (child, go) in std::mem::take(&mut self.held) {
            let mut status = 0;
            // SAFETY: lets the held child go on, and waits for it.
            unsafe {
                libc::write(go, [0u8].as_ptr().cast(), 1);
                libc::waitpid(child, &mut status, 0);
            }
        }
    }

    fn step(&mut self, op: &Op) -> String {
        let shown = |result: Result<u64, i32>| match result {
            Ok(at) => super::place(at),
            Err(number) => format!("errno {number}"),
        };
        match *op {
            Op::Mmap {
                addr,
                len,
                prot,
                flags,
                file,
                offset,
            } => {
                let fd = self.files[file as usize];
                let result = call(
                    libc::SYS_mmap,
                    [
                        BASE + addr,
                        len,
                        prot as u64,
                        flags as u64,
                        fd as u64,
                        offset,
                    ],
                );
                if let Ok(at) = result
                    && super::is_outside(at)
                {
                    let _ = call(libc::SYS_munmap, [at, len, 0, 0, 0, 0]);
                }
                shown(result)
            }
            Op::Munmap { addr, len } => {
                shown(call(libc::SYS_munmap, [BASE + addr, len, 0, 0, 0, 0]))
            }
            Op::Mprotect { addr, len, prot } => shown(call(
                libc::SYS_mprotect,
                [BASE + addr, len, prot as u64, 0, 0, 0],
            )),
            Op::Mremap {
                addr,
                old,
                new,
                flags,
                to,
                back,
            } => {
                let result = call(
                    libc::SYS_mremap,
                    [BASE + addr, old, new, flags as u64, BASE + to, 0],
                );
                let mut text = shown(result);
                if let Ok(at) = result
                    && super::is_outside(at)
                {
                    let moved = call(libc::SYS_mremap, [at, new, new, 3, BASE + back, 0]);
                    text += &format!(" back {}", shown(moved));
                    if moved.is_err() {
                        let _ = call(libc::SYS_munmap, [at, new, 0, 0, 0, 0]);
                    }
                }
                text
            }
            Op::Madvise { addr, len, advice } => shown(call(
                libc::SYS_madvise,
                [BASE + addr, len, advice as u64, 0, 0, 0],
            )),
            Op::Msync { addr, len, flags } => shown(call(
                libc::SYS_msync,
                [BASE + addr, len, flags as u64, 0, 0, 0],
            )),
            Op::Load { addr } => format!("{:?}", load(BASE + addr)),
            Op::Store { addr, value } => format!("{:?}", store(BASE + addr, value)),
            Op::Fill { page, pages, value } => {
                let all = (page..page + pages)
                    .map(|page| store(BASE + page * PAGE, value).err().unwrap_or(0));
                format!("{:?}", all.collect::<Vec<_>>())
            }
            Op::Truncate { file, size } => shown(call(
                libc::SYS_ftruncate,
                [self.files[file as usize] as u64, size, 0, 0, 0, 0],
            )),
            Op::Pwrite {
                file,
                offset,
                value,
            } => {
                let byte = [value];
                shown(call(
                    libc::SYS_pwrite64,
                    [
                        self.files[file as usize] as u64,
                        byte.as_ptr() as u64,
                        1,
                        offset,
                        0,
                        0,
                    ],
                ))
            }
            Op::Dump => dump(),
            Op::ForkShow | Op::ForkInto | Op::ForkHold => String::new(),
        }
    }
}

fn dump() -> String {
    super::dump_with(load)
}

/// The lines of the arena in `/proc/self/maps`.
fn maps() -> String {
    let text = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let mut shown = String::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(perms), Some(offset)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        let number = |text| u64::from_str_radix(text, 16).unwrap_or(0);
        let (start, end) = (number(start), number(end));
        if end <= BASE - ARENA * PAGE || start >= BASE + 2 * ARENA * PAGE {
            continue;
        }
        let name = words.nth(2).unwrap_or("");
        let name = match name {
            "/memfd:one" => "1",
            "/memfd:three" => "3",
            "/dev/zero" => "z",
            other => other,
        };
        shown += &super::line(start, end, perms, number(offset), name);
    }
    shown
}

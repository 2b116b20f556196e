//! The Linux side. A small process, forked once, forks a fresh process for each sequence; that one does the calls for real and writes what it saw
//! into shared memory. Not for what the calls are ([`crate::calls`]).

mod child;
pub(crate) mod fault;
mod procfs;
mod shared;

use std::io;

pub use child::Child;
pub(crate) use child::limit;
pub use shared::{Base, MOST_OPS, SharedSink, Slot};

use crate::arena::{ARENA_END, BASE, TASK_END};
use crate::op::Sequence;

/// A system call: its result, or the negated errno.
#[inline]
pub(crate) fn sys(number: i64, a: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: what the call does to memory is the caller's business: only memory below the end of the arena, or buffers that outlive the call.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// How many sequences can be under way.
pub const SLOTS: usize = 2;

/// The process that makes the others.
#[derive(Debug)]
pub struct Linux {
    socket: i32,
    process: i32,
    slots: [Slot; SLOTS],
}

impl Linux {
    /// Starts it. Call it early: its address space is copied for every sequence.
    ///
    /// # Errors
    /// No process, or something lies where sequences work.
    pub fn start() -> io::Result<Self> {
        let slots = [Slot::new()?, Slot::new()?];
        let mut sockets = [0; 2];
        // SAFETY: two descriptors go into an array of two.
        let made = unsafe {
            libc::socketpair(
                libc::AF_UNIX,
                libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
                0,
                sockets.as_mut_ptr(),
            )
        };
        if made != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the child uses nothing of other threads, and ends with `_exit`.
        let process = unsafe { libc::fork() };
        match process {
            -1 => return Err(io::Error::last_os_error()),
            0 => {
                sys(libc::SYS_close, [sockets[0] as u64, 0, 0, 0, 0, 0]);
                child::serve(sockets[1], &slots)
            }
            _ => sys(libc::SYS_close, [sockets[1] as u64, 0, 0, 0, 0, 0]),
        };
        let linux = Self {
            socket: sockets[0],
            process,
            slots,
        };
        match linux.receive()? {
            0 => Ok(linux),
            _ => Err(io::Error::other(format!(
                "the addresses {BASE:#x} to {ARENA_END:#x}, and what lies below and up to {TASK_END:#x}, cannot be arranged"
            ))),
        }
    }

    /// Starts a sequence in a slot.
    ///
    /// # Errors
    /// The process is gone.
    pub fn begin(&self, slot: usize, sequence: &Sequence) -> io::Result<()> {
        self.slots[slot].put_sequence(sequence);
        let byte = slot as u8;
        let at = (&raw const byte) as u64;
        match sys(libc::SYS_write, [self.socket as u64, at, 1, 0, 0, 0]) {
            1 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error as i32)),
        }
    }

    /// Waits for the sequence begun first. Its trace is that of the slot; the number is how the process ended, 0 for well.
    ///
    /// # Errors
    /// The process is gone.
    pub fn finish(&self) -> io::Result<i32> {
        self.receive()
    }

    /// A slot.
    pub fn slot(&self, slot: usize) -> &Slot {
        &self.slots[slot]
    }

    fn receive(&self) -> io::Result<i32> {
        let mut status = 0i32;
        let at = (&raw mut status) as u64;
        loop {
            match sys(libc::SYS_read, [self.socket as u64, at, 4, 0, 0, 0]) {
                4 => return Ok(status),
                error if error == -i64::from(libc::EINTR) => {}
                error if error < 0 => return Err(io::Error::from_raw_os_error(-error as i32)),
                _ => return Err(io::Error::other("the process that makes processes is gone")),
            }
        }
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        let mut status = 0i32;
        sys(libc::SYS_close, [self.socket as u64, 0, 0, 0, 0, 0]);
        // SAFETY: waits for a process of our own, which ends when its socket does.
        unsafe { libc::waitpid(self.process, &mut status, 0) };
    }
}

/// Whether the outer kernel is the one that the library follows, in its default settings. The reason if not.
pub fn is_the_judge() -> Result<(), String> {
    let line = |path: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.trim().to_owned()
    };
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("this is not Linux on x86-64".to_owned());
    }
    let release = line("/proc/sys/kernel/osrelease");
    if !release.starts_with("6.18") {
        return Err(format!(
            "Linux here is {release}, and Portolan follows 6.18"
        ));
    }
    if line("/proc/sys/vm/overcommit_memory") != "0" {
        return Err("vm.overcommit_memory is not 0".to_owned());
    }
    // SAFETY: a call without arguments.
    if unsafe { libc::geteuid() } != 0 {
        return Err(
            "the heap of a process can only be placed, and a user be changed, as root".to_owned(),
        );
    }
    Ok(())
}

/// The settings of the outer kernel that calls depend on.
#[derive(Clone, Copy, Debug)]
pub struct HostSettings {
    /// The lowest address that a mapping gets without being fixed there, in bytes: the larger of `vm.mmap_min_addr` and
    /// `CONFIG_LSM_MMAP_MIN_ADDR`.
    pub min_addr: u64,
    /// `vm.max_map_count`.
    pub max_map_count: u64,
}

impl HostSettings {
    /// As they are now; Linux's defaults where they cannot be read.
    pub fn read() -> Self {
        let number = |path: &str, default| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.trim().parse().unwrap_or(default)
        };
        Self {
            min_addr: lowest_address().unwrap_or(65536),
            max_map_count: number("/proc/sys/vm/max_map_count", 65530),
        }
    }
}

/// Where a mapping lands that is hinted to the second page of all.
fn lowest_address() -> Option<u64> {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let at = sys(libc::SYS_mmap, [4096, 4096, 0, flags, u64::MAX, 0]);
    let at = u64::try_from(at).ok()?;
    sys(libc::SYS_munmap, [at, 4096, 0, 0, 0, 0]);
    (at <= 1 << 20).then_some(at)
}

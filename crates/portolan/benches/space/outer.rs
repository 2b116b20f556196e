//! The same work done by the kernel this runs on, through its own system calls, each net of an empty one.

use std::ptr::null_mut;
use std::time::Instant;

use super::table::{Timed, measure};

const PAGE: usize = 4096;

/// What the kernel's calls cost, in nanoseconds.
pub struct Outer {
    pub map_unmap: f64,
    pub map_touch_unmap: f64,
    pub protect: f64,
    pub fault: f64,
    pub unmap_page: f64,
    pub drop_page: f64,
    pub exit_page: f64,
    pub fork_exit_page: f64,
    pub move_aligned: f64,
}

fn map(pages: usize) -> *mut u8 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping touches no memory that is in use.
    let at = unsafe {
        libc::mmap(
            null_mut(),
            pages * PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    assert_ne!(at, libc::MAP_FAILED, "mmap failed");
    // SAFETY: the mapping just made; the advice only keeps large pages away, which Portolan does not have either.
    unsafe { libc::madvise(at, pages * PAGE, libc::MADV_NOHUGEPAGE) };
    at.cast()
}

fn map_plain() -> *mut u8 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping touches no memory that is in use.
    unsafe {
        libc::mmap(
            null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
        .cast()
    }
}

fn unmap(at: *mut u8, pages: usize) {
    // SAFETY: `at` came from `map` with this many pages and nothing refers to it.
    unsafe { libc::munmap(at.cast(), pages * PAGE) };
}

fn touch(at: *mut u8, pages: usize) {
    for page in 0..pages {
        // SAFETY: within the mapping of `pages` pages.
        unsafe { at.add(page * PAGE).write_volatile(1) };
    }
}

fn empty_call() -> f64 {
    measure(100_000, |turns| {
        for _ in 0..turns {
            // SAFETY: takes nothing and changes nothing.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
    })
}

fn protect(empty: f64) -> f64 {
    let at = map(3);
    touch(at, 3);
    // SAFETY: the middle page of the mapping above.
    let middle = unsafe { at.add(PAGE) };
    let cost = measure(20_000, |turns| {
        for _ in 0..turns {
            // SAFETY: the page is ours and not touched in between.
            unsafe {
                libc::mprotect(middle.cast(), PAGE, libc::PROT_READ);
                libc::mprotect(middle.cast(), PAGE, libc::PROT_READ | libc::PROT_WRITE);
            }
        }
    });
    unmap(at, 3);
    cost - 2.0 * empty
}

/// Moves `bytes` of touched memory between two places that are aligned alike.
fn move_aligned(bytes: usize) -> f64 {
    const HUGE: usize = 2 << 20;
    let room = map(2 * bytes / PAGE + 2 * HUGE / PAGE);
    let start = room.wrapping_add(room.align_offset(HUGE));
    touch(start, bytes / PAGE);
    let (mut at, mut to) = (start, start.wrapping_add(bytes));
    let cost = measure(16, |turns| {
        for _ in 0..turns {
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            // SAFETY: both places lie in the mapping above, which nothing else uses.
            let moved = unsafe { libc::mremap(at.cast(), bytes, bytes, flags, to) };
            assert_ne!(moved, libc::MAP_FAILED, "mremap failed");
            (at, to) = (to, at);
        }
    });
    unmap(room, 2 * bytes / PAGE + 2 * HUGE / PAGE);
    cost
}

fn fork_exit() -> f64 {
    measure(1, |_| {
        // SAFETY: the child only leaves; the parent waits for it.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(0);
            }
            libc::waitpid(child, null_mut(), 0);
        }
    })
}

fn drop_page(pages: u64) -> f64 {
    let at = map(pages as usize);
    let cost = measure(pages, |pages| {
        touch(at, pages as usize);
        let start = Instant::now();
        // SAFETY: the mapping above, whose contents nobody needs.
        unsafe { libc::madvise(at.cast(), pages as usize * PAGE, libc::MADV_DONTNEED) };
        Timed(start.elapsed())
    });
    unmap(at, pages as usize);
    cost
}

/// The cost of a page in exit: what `pages` pages that a child touches add to its end, without what touching them adds.
fn exit_page(pages: usize, fault: f64) -> f64 {
    let child = |pages: usize| {
        measure(1, |_| {
            // SAFETY: the child touches memory of its own and leaves; the parent waits for it.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    touch(map(pages), pages);
                    libc::_exit(0);
                }
                libc::waitpid(child, null_mut(), 0);
            }
        })
    };
    (child(pages) - child(1)) / pages as f64 - fault
}

/// The cost of a page in fork and exit: what `pages` touched pages add.
fn fork_exit_page(pages: usize) -> f64 {
    let without = fork_exit();
    let at = map(pages);
    touch(at, pages);
    let with = fork_exit();
    unmap(at, pages);
    (with - without) / pages as f64
}

/// Measures everything.
pub fn measure_all(pages: u64) -> Outer {
    let empty = empty_call();
    let map_unmap = measure(20_000, |turns| {
        (0..turns).for_each(|_| unmap(map_plain(), 1))
    });
    let map_touch_unmap = measure(20_000, |turns| {
        for _ in 0..turns {
            let at = map_plain();
            touch(at, 1);
            unmap(at, 1);
        }
    });
    let fault = measure(pages, |pages| {
        let at = map(pages as usize);
        let start = Instant::now();
        touch(at, pages as usize);
        let spent = start.elapsed();
        unmap(at, pages as usize);
        Timed(spent)
    });
    let unmap_page = measure(pages, |pages| {
        let at = map(pages as usize);
        touch(at, pages as usize);
        let start = Instant::now();
        unmap(at, pages as usize);
        Timed(start.elapsed())
    });
    Outer {
        map_unmap: map_unmap - 2.0 * empty,
        map_touch_unmap: map_touch_unmap - 2.0 * empty,
        protect: protect(empty),
        // A fault is no system call, but it enters and leaves the kernel as one does.
        fault: fault - empty,
        unmap_page,
        drop_page: drop_page(pages),
        exit_page: exit_page(pages as usize, fault),
        fork_exit_page: fork_exit_page(pages as usize),
        move_aligned: move_aligned(1 << 30) - empty,
    }
}

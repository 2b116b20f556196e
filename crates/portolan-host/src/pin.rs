//! Keeps a guest and the thread that drives it on one CPU: a stop then costs a switch on that CPU instead of waking another.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many guests are pinned to each CPU.
pub(crate) struct Loads(Vec<AtomicUsize>);

impl Loads {
    pub(crate) fn new() -> Loads {
        Loads(
            (0..libc::CPU_SETSIZE as usize)
                .map(|_| AtomicUsize::new(0))
                .collect(),
        )
    }

    /// The least loaded of the CPUs in `allowed`, the present one first among equals.
    fn choose(&self, allowed: &libc::cpu_set_t) -> Option<usize> {
        // SAFETY: the call takes no arguments and returns a number.
        let here = unsafe { libc::sched_getcpu() };
        let load = |cpu: usize| (self.0[cpu].load(Ordering::Relaxed), cpu as i32 != here);
        // SAFETY: `cpu` is below CPU_SETSIZE.
        (0..self.0.len())
            .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, allowed) })
            .min_by_key(|&cpu| load(cpu))
    }
}

/// The calling thread, and what it forks, held on one CPU until [`Pin::release`].
pub(crate) struct Pin {
    cpu: usize,
    before: libc::cpu_set_t,
    thread: std::thread::ThreadId,
}

impl Pin {
    /// Pins the calling thread; `None` where the system does not allow it, which costs only speed.
    pub(crate) fn here(loads: &Loads) -> Option<Pin> {
        // SAFETY: a set of bits, all zero is a value.
        let mut before: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: a pointer to a live local and its size.
        if unsafe { libc::sched_getaffinity(0, size_of_val(&before), &mut before) } != 0 {
            return None;
        }
        let cpu = loads.choose(&before)?;
        // SAFETY: a set of bits, all zero is a value; `cpu` is below CPU_SETSIZE.
        let only = unsafe {
            let mut only: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut only);
            only
        };
        // SAFETY: a pointer to a live local and its size.
        if unsafe { libc::sched_setaffinity(0, size_of_val(&only), &only) } != 0 {
            return None;
        }
        loads.0[cpu].fetch_add(1, Ordering::Relaxed);
        Some(Pin {
            cpu,
            before,
            thread: std::thread::current().id(),
        })
    }

    /// Lets the thread move again, if it is the calling one.
    pub(crate) fn release(self, loads: &Loads) {
        loads.0[self.cpu].fetch_sub(1, Ordering::Relaxed);
        if self.thread == std::thread::current().id() {
            // SAFETY: a pointer to a live value and its size.
            unsafe { libc::sched_setaffinity(0, size_of_val(&self.before), &self.before) };
        }
    }
}

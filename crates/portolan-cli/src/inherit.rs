//! What a program inherits from whoever started the command, besides its environment: resource limits, the personality, ignored
//! signals; and the signals that reach the command while the program runs, which are the program's.

use std::thread;

use nix::sys::personality;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};

/// ADDR_NO_RANDOMIZE.
pub const NO_RANDOMISATION: u32 = 0x4_0000;

/// Every resource limit by its number.
const LIMITS: [Resource; 16] = [
    Resource::RLIMIT_CPU,
    Resource::RLIMIT_FSIZE,
    Resource::RLIMIT_DATA,
    Resource::RLIMIT_STACK,
    Resource::RLIMIT_CORE,
    Resource::RLIMIT_RSS,
    Resource::RLIMIT_NPROC,
    Resource::RLIMIT_NOFILE,
    Resource::RLIMIT_MEMLOCK,
    Resource::RLIMIT_AS,
    Resource::RLIMIT_LOCKS,
    Resource::RLIMIT_SIGPENDING,
    Resource::RLIMIT_MSGQUEUE,
    Resource::RLIMIT_NICE,
    Resource::RLIMIT_RTPRIO,
    Resource::RLIMIT_RTTIME,
];

/// The signals that somebody may send to a program by way of the command.
const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Soft and hard limits by RLIMIT_* number; `None` where the system does not say.
pub fn limits() -> [Option<(u64, u64)>; 16] {
    LIMITS.map(|resource| getrlimit(resource).ok())
}

/// The personality, as a number.
pub fn personality() -> u32 {
    personality::get().map_or(0, |persona| persona.bits() as u32)
}

/// Whether this system randomises address spaces at all.
pub fn randomises() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/randomize_va_space")
        .map_or(true, |text| text.trim() != "0")
}

/// The signals that the invoker ignores, bit N-1 for signal N. SIGPIPE is left out: it is our own start-up code that ignores that one.
pub fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = field
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0);
    ignored & !(1 << (Signal::SIGPIPE as i32 - 1))
}

/// Holds back the signals that are meant for the program, on this thread and all that it starts from now on.
pub fn hold_signals() -> SigSet {
    let signals: SigSet = FORWARDED.into_iter().collect();
    // It fails for no argument that can be given here.
    let _ = signals.thread_block();
    signals
}

/// Hands each held signal to `deliver` as it arrives, until the command ends.
pub fn forward_signals(signals: SigSet, deliver: impl Fn(i32) + Send + 'static) {
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            deliver(signal as i32);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_stand_at_their_numbers() {
        let names = [
            "Max cpu time",
            "Max file size",
            "Max data size",
            "Max stack size",
            "Max core file size",
            "Max resident set",
            "Max processes",
            "Max open files",
            "Max locked memory",
            "Max address space",
            "Max file locks",
            "Max pending signals",
            "Max msgqueue size",
            "Max nice priority",
            "Max realtime priority",
            "Max realtime timeout",
        ];
        let text = std::fs::read_to_string("/proc/self/limits").expect("/proc/self/limits");
        for ((line, name), limit) in text.lines().skip(1).zip(names).zip(limits()) {
            let rest = line
                .strip_prefix(name)
                .unwrap_or_else(|| panic!("{name} is not {line}"));
            let soft = rest.split_whitespace().next().unwrap_or_default();
            let shown = limit.map(|(soft, _)| {
                if soft == u64::MAX {
                    "unlimited".to_owned()
                } else {
                    soft.to_string()
                }
            });
            assert_eq!(shown.as_deref(), Some(soft), "{name}");
        }
    }

    #[test]
    fn what_our_own_start_ignores_is_not_the_invokers_wish() {
        assert_eq!(ignored_signals() & 1 << 12, 0);
    }
}

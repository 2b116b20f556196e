//! What a person follows: a line for each memory call and fault in the style of strace, and what the kernel says of what it cannot do. Lines go
//! to sinks that the embedder supplies. Arguments are shown by the kinds that the table of system calls gives them.

use core::fmt;

use portolan::addr::VirtAddr;
use portolan::paging::Access;
use portolan::space::{FaultCode, FaultDone, FaultError, Signal};

use crate::syscall::{Arg, SyscallResult};

/// The ABI's symbols; what only x86-64 has is not there on every machine that this kernel is built for.
mod raw {
    pub use linux_raw_sys::general::*;

    pub const MAP_32BIT: u32 = 0x40;
}

/// Where trace lines go.
pub trait Sink: Send + Sync {
    /// Takes one line, without its end.
    fn line(&self, line: fmt::Arguments<'_>);
}

/// Where the kernel says what it cannot do.
pub trait Log: Send + Sync {
    /// Takes one message, a sentence without its end.
    fn note(&self, message: fmt::Arguments<'_>);
}

/// A log that keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Log for Silent {
    fn note(&self, _message: fmt::Arguments<'_>) {}
}

impl Sink for Silent {
    fn line(&self, _line: fmt::Arguments<'_>) {}
}

/// What a call returns, for those who print it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Returns {
    /// A number.
    Number,
    /// An address.
    Address,
}

/// A call with its result, as one line: `mmap(NULL, 8192, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f...`.
pub struct CallLine<'a> {
    /// Its name.
    pub name: &'static str,
    /// The kinds of its arguments.
    pub kinds: &'static [Arg],
    /// Its arguments.
    pub args: [u64; 6],
    /// What it returned.
    pub result: &'a SyscallResult,
    /// How that is shown.
    pub returns: Returns,
}

impl fmt::Display for CallLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}(", self.name)?;
        for (n, (&kind, &value)) in self.kinds.iter().zip(&self.args).enumerate() {
            if n != 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}", Value { kind, value })?;
        }
        f.write_str(") = ")?;
        match (self.result, self.returns) {
            (Ok(value), Returns::Number) => write!(f, "{}", *value as i64),
            (Ok(value), Returns::Address) => write!(f, "{value:#x}"),
            (Err(error), _) => write!(f, "-1 {} ({})", error.name(), error.message()),
        }
    }
}

/// A fault with its outcome, as one line.
pub struct FaultLine<'a> {
    /// What was accessed.
    pub addr: VirtAddr,
    /// How.
    pub access: Access,
    /// What came of it.
    pub result: &'a Result<FaultDone, FaultError>,
}

impl fmt::Display for FaultLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::Execute => "execute",
        };
        write!(f, "--- page fault {access} {:#x} -> ", self.addr)?;
        match self.result {
            Ok(FaultDone::Minor) => f.write_str("minor")?,
            Ok(FaultDone::Major) => f.write_str("major")?,
            Err(FaultError::OutOfMemory) => f.write_str("out of memory")?,
            Err(FaultError::Signal(fault)) => {
                let signal = if fault.signal == Signal::Segv {
                    "SIGSEGV"
                } else {
                    "SIGBUS"
                };
                let code = match fault.code {
                    FaultCode::NotMapped => "SEGV_MAPERR",
                    FaultCode::NotAllowed => "SEGV_ACCERR",
                    FaultCode::NoPage => "BUS_ADRERR",
                    FaultCode::Poisoned => "BUS_MCEERR_AR",
                };
                write!(f, "{signal} {code}")?;
            }
        }
        f.write_str(" ---")
    }
}

/// A signal that is delivered, as one line.
pub struct SignalLine {
    /// Its number.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
}

impl fmt::Display for SignalLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "--- {} si_code={} ---",
            SignalName(self.signal),
            self.code
        )
    }
}

/// A signal by its name, or number.
pub struct SignalName(pub i32);

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match crate::signal::name(self.0) {
            Some(name) => f.write_str(name),
            None if crate::signal::is_valid(self.0) => {
                write!(f, "SIGRT_{}", self.0 - crate::signal::SIGRTMIN)
            }
            None => write!(f, "{}", self.0),
        }
    }
}

/// An argument as strace shows it.
struct Value {
    kind: Arg,
    value: u64,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, low) = (self.value, self.value as u32);
        match self.kind {
            Arg::Int | Arg::Fd => write!(f, "{}", low as i32),
            Arg::DirFd if low as i32 == raw::AT_FDCWD => f.write_str("AT_FDCWD"),
            Arg::DirFd => write!(f, "{}", low as i32),
            Arg::Long => write!(f, "{}", value as i64),
            Arg::Size => write!(f, "{value}"),
            Arg::Hex if value == 0 => f.write_str("0"),
            Arg::Hex => write!(f, "{value:#x}"),
            Arg::Mode => write!(f, "{low:#o}"),
            Arg::Open => write!(f, "{low:#o}"),
            Arg::Pointer | Arg::Path if value == 0 => f.write_str("NULL"),
            Arg::Pointer | Arg::Path => write!(f, "{value:#x}"),
            Arg::Prot => bits(f, low, "PROT_NONE", &PROT),
            Arg::Map => map_flags(f, low),
            Arg::Remap => bits(f, low, "0", &REMAP),
            Arg::Sync => bits(f, low, "0", &SYNC),
            Arg::Advice => number(f, low, &ADVICE),
            Arg::Limit => number(f, low, &LIMITS),
            Arg::Signal => write!(f, "{}", SignalName(low as i32)),
        }
    }
}

/// A symbol of the ABI with its value.
type Symbol = (u32, &'static str);

macro_rules! symbols {
    ($name:ident: $($symbol:ident,)*) => {
        const $name: [Symbol; [$(raw::$symbol),*].len()] = [$((raw::$symbol, stringify!($symbol)),)*];
    };
}

symbols! { PROT: PROT_READ, PROT_WRITE, PROT_EXEC, PROT_SEM, PROT_GROWSDOWN, PROT_GROWSUP, }
symbols! { REMAP: MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP, }
symbols! { SYNC: MS_ASYNC, MS_INVALIDATE, MS_SYNC, }
symbols! { MAP_BITS:
    MAP_FIXED, MAP_ANONYMOUS, MAP_32BIT, MAP_NORESERVE, MAP_GROWSDOWN, MAP_DENYWRITE, MAP_EXECUTABLE, MAP_POPULATE, MAP_NONBLOCK,
    MAP_STACK, MAP_HUGETLB, MAP_SYNC, MAP_LOCKED, MAP_FIXED_NOREPLACE,
}
symbols! { ADVICE:
    MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED, MADV_FREE, MADV_REMOVE, MADV_DONTFORK, MADV_DOFORK,
    MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP, MADV_WIPEONFORK,
    MADV_KEEPONFORK, MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_DONTNEED_LOCKED, MADV_COLLAPSE,
    MADV_HWPOISON, MADV_SOFT_OFFLINE,
}
symbols! { LIMITS:
    RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_CORE, RLIMIT_RSS, RLIMIT_NPROC, RLIMIT_NOFILE, RLIMIT_MEMLOCK,
    RLIMIT_AS, RLIMIT_LOCKS, RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_RTPRIO, RLIMIT_RTTIME,
}

/// Set bits by name, joined by bars; what has no name in hexadecimal.
fn bits(f: &mut fmt::Formatter<'_>, value: u32, none: &str, symbols: &[Symbol]) -> fmt::Result {
    if value == 0 {
        return f.write_str(none);
    }
    let (mut left, mut separator) = (value, "");
    for &(bit, name) in symbols {
        if bit != 0 && left & bit == bit {
            write!(f, "{separator}{name}")?;
            (left, separator) = (left & !bit, "|");
        }
    }
    if left != 0 {
        write!(f, "{separator}{left:#x}")
    } else {
        Ok(())
    }
}

fn map_flags(f: &mut fmt::Formatter<'_>, value: u32) -> fmt::Result {
    match value & 0xf {
        1 => f.write_str("MAP_SHARED")?,
        2 => f.write_str("MAP_PRIVATE")?,
        3 => f.write_str("MAP_SHARED_VALIDATE")?,
        8 => f.write_str("MAP_DROPPABLE")?,
        other => write!(f, "{other:#x}")?,
    }
    if value & !0xf == 0 {
        return Ok(());
    }
    f.write_str("|")?;
    bits(f, value & !0xf, "", &MAP_BITS)
}

fn number(f: &mut fmt::Formatter<'_>, value: u32, symbols: &[Symbol]) -> fmt::Result {
    match symbols.iter().find(|&&(number, _)| number == value) {
        Some((_, name)) => f.write_str(name),
        None => write!(f, "{value:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use portolan::errno::Errno;

    use super::*;
    use crate::syscall::Arg;

    #[test]
    fn lines_look_like_strace() {
        let line = CallLine {
            name: "mmap",
            kinds: &[
                Arg::Pointer,
                Arg::Size,
                Arg::Prot,
                Arg::Map,
                Arg::Fd,
                Arg::Hex,
            ],
            args: [0, 8192, 3, 0x22, u64::MAX, 0x1000],
            result: &Ok(0x7f00_0000_0000),
            returns: Returns::Address,
        };
        let expected = "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0x1000) = 0x7f0000000000";
        assert_eq!(line.to_string(), expected);
        let args = [0x1000, 1, 0x8000_0000, 0x10_0052, 3, 0];
        let line = CallLine {
            args,
            result: &Err(Errno::EINVAL),
            ..line
        };
        let expected = "mmap(0x1000, 1, 0x80000000, MAP_PRIVATE|MAP_FIXED|MAP_32BIT|MAP_FIXED_NOREPLACE, 3, 0) = -1 EINVAL (Invalid argument)";
        assert_eq!(line.to_string(), expected);
    }

    #[test]
    fn advice_and_faults_have_names() {
        assert_eq!(
            Value {
                kind: Arg::Advice,
                value: 4
            }
            .to_string(),
            "MADV_DONTNEED"
        );
        assert_eq!(
            Value {
                kind: Arg::Prot,
                value: 0
            }
            .to_string(),
            "PROT_NONE"
        );
        assert_eq!(
            Value {
                kind: Arg::Advice,
                value: 99
            }
            .to_string(),
            "0x63"
        );
        let line = FaultLine {
            addr: VirtAddr::new(0x10),
            access: Access::Write,
            result: &Ok(FaultDone::Minor),
        };
        assert_eq!(line.to_string(), "--- page fault write 0x10 -> minor ---");
    }
}

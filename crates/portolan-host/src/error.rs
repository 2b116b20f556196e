//! Why the engine could not start a guest: one clear sentence each, with what the user can allow.
//! Not for what goes wrong inside the guest: that is a `Trap`.

use std::fmt;
use std::io;

/// Why the host engine cannot work here.
#[derive(Debug)]
#[non_exhaustive]
pub enum HostError {
    /// The memory file could not be made, sized or mapped.
    Memory(io::Error),
    /// `fork` failed.
    Fork(io::Error),
    /// The kernel refused to let this process trace its own child (EPERM or EACCES).
    TraceRefused(io::Error),
    /// `ptrace` works, but not `PTRACE_SYSEMU`.
    NoSysemu(io::Error),
    /// The child died or a step of its preparation failed. The text names the step.
    Child(&'static str, io::Error),
    /// The memory size is zero, not a whole number of pages, or does not fit the address space.
    BadMemorySize(u64),
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostError::Memory(why) => write!(f, "cannot make the guest's memory: {why}"),
            HostError::Fork(why) => write!(f, "cannot start a process for the guest: {why}"),
            HostError::TraceRefused(why) => write!(
                f,
                "this system does not let a process trace its own child (ptrace: {why}): allow ptrace \
                 (sysctl kernel.yama.ptrace_scope at most 1; in a container, --cap-add=SYS_PTRACE or a \
                 seccomp profile that permits ptrace)"
            ),
            HostError::NoSysemu(why) => write!(
                f,
                "this kernel has no PTRACE_SYSEMU ({why}): a Linux kernel on x86-64 is needed, not an \
                 emulation of its system calls"
            ),
            HostError::Child(step, why) => {
                write!(f, "cannot prepare the guest's process ({step}): {why}")
            }
            HostError::BadMemorySize(size) => write!(
                f,
                "{size} bytes is no size for the guest's memory: it must be a whole number of pages, more \
                 than none and less than the address space"
            ),
        }
    }
}

impl std::error::Error for HostError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            HostError::Memory(why)
            | HostError::Fork(why)
            | HostError::TraceRefused(why)
            | HostError::NoSysemu(why)
            | HostError::Child(_, why) => Some(why),
            HostError::BadMemorySize(_) => None,
        }
    }
}

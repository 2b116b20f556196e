//! The host engine of Portolan: runs a guest on any Linux with ptrace, without KVM, without root, with nothing to install.
//!
//! All frames lie in one memory file, so a physical address is an offset in it. Each guest thread is a traced process whose own address
//! space was emptied; its mappings are the TLB of that thread: a miss installs, a flush removes, and running out of room
//! drops everything and refills on demand. They are never the truth, which is the page tables of [`portolan`].
//!
//! No system call of a guest reaches the outer kernel: `PTRACE_SYSEMU` stops each one unexecuted, and behind it a seccomp filter kills
//! a process that makes one from anywhere but the engine's stub.
//!
//! | module | what it owns |
//! |---|---|
//! | `memory`, `stub`, `seccomp` | the memory file; the few bytes of ours in a guest's process; the filter |
//! | `child`, `tracee` | making, emptying, driving and ending one traced process |
//! | `tlb`, `fill`, `space` | what is installed; what a miss installs; flushes across vcpus |
//! | `decode`, `classify` | what a faulting instruction wanted; what a signal means |
//! | `vcpu` | the loop around all these |
//! | `platform`, `engine` | the traits of the library and of the kernel, for [`Host`] |
//! | `outside`, `files`, `interrupt` | real files and clocks, and how a wait in them is ended |
//!
//! x86-64 only.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod child;
mod classify;
mod decode;
mod engine;
mod error;
mod files;
mod fill;
mod interrupt;
mod memory;
mod outside;
mod pin;
mod platform;
mod seccomp;
mod space;
mod stub;
mod tlb;
mod tracee;
mod vcpu;

pub use error::HostError;
pub use platform::{Host, HostConfig, HostFlush, Placement};
pub use stub::GUEST_TOP;
pub use tracee::SecondWall;
pub use vcpu::Vcpu;

//! The reference kernel: just enough Linux around the library to run real programs.
//!
//! It owns tasks, the table of system calls, program loading, signals and a small file system layer. It owns no CPU and no device: an
//! [`engine::Engine`] runs user mode and reaches the outside. Memory is the library's; this crate touches a program's memory only
//! through [`portolan::space::MmUser`].
//!
//! | module | what it owns |
//! |---|---|
//! | [`engine`], [`outside`] | what an embedder supplies: a CPU, and the files and clock of the outside |
//! | [`kernel`] | the kernel itself: its machine, its processes, the loop that serves a task |
//! | [`task`] | a thread, its thread group, and what threads share |
//! | [`exec`], [`elf`] | loading a program |
//! | `coredump` | what a killed program leaves |
//! | [`signal`] | signals and their frames |
//! | [`syscall`] | the table of system calls and a handler each |
//! | [`fs`] | what a program sees of files |
//! | [`trace`], [`stats`] | what a person sees of all this |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod coredump;
pub mod elf;
pub mod engine;
pub mod exec;
pub mod fs;
pub mod kernel;
pub mod outside;
pub mod signal;
pub mod stats;
pub mod syscall;
pub mod task;
pub mod trace;

//! Portolan: the Linux virtual-memory subsystem as a library.
//!
//! Give it physical memory, a page-table format and a TLB (all through [`platform::Platform`]) and it gives `mmap` and
//! everything behind it, with the semantics of Linux down to the errno and the partial effect.
//!
//! Rooms, lower ones first; none imports one that stands after it:
//!
//! | module | what it owns |
//! |---|---|
//! | [`addr`], [`errno`] | addresses, frames, ranges with checked arithmetic; Linux's error numbers |
//! | [`platform`] | all that an embedder supplies |
//! | [`epoch`] | grace periods: when what a lock-free reader may still see can be freed |
//! | [`phys`] | frames: their metadata, the buddy allocator, owned references |
//! | [`percpu`], [`machine`] | per-CPU counters; one machine: its memory, its grace periods, its settings |
//! | [`paging`] | page tables of every format, range cursors, the flush batch |
//! | [`object`] | what can back a mapping: page cache, shared anonymous memory |
//! | [`device`] | the driver's side of a file |
//! | [`space`] | one address space and an operation a file |
//! | [`view`] | what people read: `/proc/PID/maps` and its kin |
#![cfg_attr(not(any(feature = "sim", test)), no_std)]
#![forbid(unsafe_op_in_unsafe_fn)]

extern crate alloc;

pub mod addr;
pub mod device;
pub mod epoch;
pub mod errno;
pub mod machine;
pub mod object;
pub mod paging;
pub mod percpu;
pub mod phys;
pub mod platform;
#[cfg(feature = "sim")]
pub mod sim;
pub mod space;
pub mod view;

/// The README's example, compiled and run with the tests.
#[cfg(all(doctest, feature = "sim"))]
#[doc = include_str!("../../../README.md")]
struct Readme;

//! Where the calls happen: a window of addresses that both sides keep alike. All that lies above it is filled, so that placement puts a mapping
//! without an address into the window or below it, on both sides at the same place.

/// Bytes of a page of the outer kernel.
pub const PAGE: u64 = 4096;
/// Pages that most calls are about.
pub const PAGES: u64 = 64;
/// The first address of the arena.
pub const BASE: u64 = 0x10_0000_0000;
/// Its end: from here up, everything is filled.
pub const ARENA_END: u64 = BASE + PAGES * PAGE;
/// The end of what a program may map: x86-64 with four levels.
pub const TASK_END: u64 = 0x7fff_ffff_f000;
/// Where the heap starts.
pub const HEAP: u64 = BASE + 44 * PAGE;
/// RLIMIT_MEMLOCK at the start of a sequence.
pub const MEMLOCK: u64 = 8 << 20;
/// RLIMIT_STACK, all the time.
pub const STACK: u64 = 8 << 20;
/// The most pages of one area that are looked at.
pub const LOOKED_AT: u64 = 96;
/// Where Linux starts to look for a place below 2 GiB is drawn anew each time, from here up to [`LOW_END`]: that is filled too.
pub const LOW_START: u64 = 0x4000_0000;
/// The end of that.
pub const LOW_END: u64 = 0x4200_0000;

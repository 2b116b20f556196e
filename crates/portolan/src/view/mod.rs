//! What people read of a space: the files of `/proc/PID`. Text only, in Linux's own format; who may read what is the embedder's.

mod maps;
mod pagemap;
mod smaps;

pub use maps::{write_maps, write_vsyscall};
pub use pagemap::{ShowFrames, read_pagemap};
pub use smaps::{write_smaps, write_smaps_rollup, write_smaps_vsyscall};

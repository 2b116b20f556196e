//! What people read of a space: the files of `/proc/PID`. Text only, in Linux's own format; who may read what is the embedder's.

mod build_id;
mod core;
mod maps;
mod numa_maps;
mod page_scan;
mod pagemap;
mod procmap;
mod smaps;
mod status;

pub use self::core::{CoreDump, CoreNote, CoreSink, Gate, write_core};
pub use build_id::BuildId;
pub use maps::{write_maps, write_vsyscall};
pub use numa_maps::write_numa_maps;
pub use page_scan::{PageCategories, PageRegion, PageScan, ScanFlags, scan_pages};
pub use pagemap::{ShowFrames, read_pagemap};
pub use procmap::{ProcmapAnswer, ProcmapFlags, ProcmapQuery, query_procmap};
pub use smaps::{write_smaps, write_smaps_rollup, write_smaps_vsyscall};
pub use status::{write_statm, write_status_memory};

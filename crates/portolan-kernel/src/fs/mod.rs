//! The file system a guest sees: the outer file tree through the page cache, an optional overlay, and the kernel's own /proc and /dev.
//!
//! | module | what it owns |
//! |---|---|
//! | [`path`] | paths as byte strings |
//! | [`inode`] | contents of regular files: one page cache per inode |
//! | [`memory`], [`overlay`] | files and changes that exist only in memory |
//! | [`pipe`] | pipes and event counters |
//! | [mod@file], [`fdtable`], `map` | open files; descriptors; open files as the library maps them |
//! | [`proc`], `render`, `pages`, `meminfo`, `sysctl`, [`dev`] | /proc and /dev |
//! | [`vfs`], [`outer`], [`names`], [`attributes`] | walking; opening; changing names; changing attributes |
//! | [`view`] | a task as files see it |

pub mod abi;
pub mod attributes;
pub mod dev;
pub mod fdtable;
pub mod file;
pub mod inode;
mod map;
mod meminfo;
pub mod memory;
pub mod names;
pub mod outer;
pub mod overlay;
mod pages;
pub mod path;
pub mod pipe;
pub mod poll;
pub mod proc;
mod render;
mod sysctl;
pub mod vfs;
pub mod view;

use portolan::platform::Platform;

pub use fdtable::{FdTable, OnExec, Place};
pub use file::OpenFile;
pub use pages::{pagemap_scan, procmap_query};
pub use proc::{SignalSets, TaskView};
pub use sysctl::Tunables;
pub use vfs::{Session, Vfs, Writes};
pub use view::{Boot, TaskOf};

/// How files of the outside are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Whether changes reach the outer tree.
    pub writes: Writes,
}

/// A lock under which outer calls may be made.
pub type Sleep<P, T> = lock_api::RwLock<<P as Platform>::RawRwLock, T>;

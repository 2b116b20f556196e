//! One address space: what is mapped where, and every operation on it.
//!
//! # What it owns
//! An [`Mm`] owns its VMAs (in the index), its page tables and, through them, a reference to every frame that is mapped.
//!
//! # How an operation runs
//! *Writers* (`mmap`, `munmap`, ...) hold the mmap lock for writing. They allocate all they need, then publish: VMAs are immutable once
//! published, so a change puts new ones in the place of old ones in one step (`edit`), marks the old ones detached, and only then
//! changes page-table entries. *Faults* look a VMA up without a lock under an epoch pin, prepare, take the lock of one page-table page,
//! check that the VMA is still attached and that no fork or move has closed the gate, and install. So a fault either sees the detach or is swept by
//! the change. Whatever a fault cannot finish that way (no VMA, wrong permission, I/O, a stack to grow, a closed gate) it repeats under the mmap lock.
//!
//! # Lock order
//!
//! | | lock | kind | held by |
//! |---|---|---|---|
//! | 1 | mmap lock of a space | sleeps | every operation; of two spaces (fork), the parent's first |
//! | 2 | the mappings of a file ([`crate::object::Cache`]) | sleeps | truncation, write-back, `mremap` while it moves entries |
//! | 3 | a page-table page | spins | faults, sweeps; one at a time, except parent then child in fork |
//! | 4 | the pages of a file | spins | lookups and insertions in the page cache |
//! | 5 | frames: per-CPU lists, then buddy | spins | allocation, free |

mod access;
mod account;
mod advise;
mod brk;
mod check;
mod clear_refs;
mod core_filter;
mod cow;
pub(crate) mod edit;
mod exit;
mod fault;
mod file_fault;
mod flags;
mod fork;
mod guard;
pub mod index;
mod layout;
mod lock;
mod map;
mod mincore;
mod mm;
mod pages;
mod policy;
mod populate;
mod process;
mod protect;
mod remap;
mod remap_file_pages;
mod rmap;
mod seal;
mod show;
mod stack;
mod sync;
mod unmap;
mod usage;
mod vma;

pub use access::{Partial, Translation};
pub use account::{Counts, Limits, Rss, RssKind, Statistics};
pub use clear_refs::ClearRefs;
pub use core_filter::{CoreFilter, CorePart};
pub use fault::{Fault, FaultCode, FaultDone, FaultError, Rights, Signal};
pub use flags::{Map, Prot};
pub use layout::{Layout, Placement};
pub use map::MapRequest;
pub use mm::{Mm, MmConfig, MmRef, MmUser, ReadImpliesExec};
pub use pages::{PageBits, PageRun, PageState};
pub use policy::{Mempolicy, NodeMask, PolicyMode};
pub use process::{Advised, Piece};
pub use show::{Area, AreaName, Find, Linked};
pub use usage::{AreaPages, AreaUsage, SHARE_SHIFT};
pub use vma::Vma;

//! Page tables: their formats, their locks, and how a range of them is read and changed.
//!
//! # What it owns
//! A [`PageTable`] owns the tree of page-table pages of one space. A present last-level entry of a frame that has a
//! [`crate::phys::Page`] owns one reference to it, unless the entry is [`LeafFlags::SPECIAL`].
//!
//! # Locks
//! Each page-table page has a lock. Its bit lives in the page itself (a bit of entry 0 that every format ignores), so that two
//! faults in different page-table pages share no cache line. Descent takes no lock. A child is linked into a table, and an entry
//! of a table is changed, only under that table's lock and after its holder has checked that the mapping it acts for is
//! still attached. A page-table page is unlinked only when no attached mapping lies in what it covers; it is freed after the
//! TLBs are flushed and a grace period has passed, so descent may walk into it but never into a reused frame.
//!
//! # Order
//! One table lock at a time, but for two pairs: the parent's and the child's in fork, the old place's and the new one's in a move, whose
//! holders have the space to themselves. A sweep that finds a table absent holds, for a moment, the lock under which it would be linked: whoever
//! links it afterwards sees that the mapping is gone.

mod aarch64;
mod absent;
mod cpus;
mod cursor;
mod entry;
mod flush;
mod format;
mod relocate;
mod retired;
mod table;
#[cfg(test)]
mod tests;
mod x86_64;

pub use aarch64::{Aarch64, Aarch64Granule, Aarch64Soft, Granule4K, Granule16K, Granule64K};
pub use cpus::ActiveCpus;
pub use cursor::Cursor;
pub use entry::{CacheMode, Entry, Leaf, LeafFlags, Marker, SwapEntry};
pub use flush::FlushBatch;
pub use format::{Access, Format};
pub use table::{LockedTable, PageTable, Sharing, TableRef};
pub use x86_64::{X86_64, X86_64La57};

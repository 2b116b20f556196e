//! What can back a mapping: files with their pages cached, and memory that is shared without a file. Not for private anonymous
//! memory, which belongs to one space (`space`), nor for what a driver maps (`device`).
//!
//! # What it owns
//! A [`Cache`] owns a reference to every page it holds, and knows who maps them. A [`File`] is one opening of a cache, or of a device.
//!
//! # Locks of a cache, in the order they are taken
//!
//! | lock | Linux | kind | held by |
//! |---|---|---|---|
//! | contents | `i_rwsem` | sleeps | `write`, `append`, and all that changes the size |
//! | write-back | `PG_writeback` | sleeps | one write-back at a time; all that drops dirty pages |
//! | fill | `invalidate_lock` | sleeps | shared: reading a page in; exclusive: taking pages out |
//! | mappings | `i_mmap_rwsem` | sleeps | shared: zap, write-protect; exclusive: mappings come, go, or move |
//! | pages | `xa_lock` | spins | a lookup, an insertion, a change of a tag |
//!
//! An mmap lock may be held by whoever calls; the lock of a page-table page only for [`Cache::lookup`], [`Cache::lookup_run`],
//! [`Cache::mark_dirty`], [`Cache::truncations`] and the sizes. The backing is called with any of the sleeping locks held, and so must not
//! call back.
//!
//! # A page leaves the cache
//! only with the fill lock held exclusively, so what was read from the backing is not stale when it is inserted; and only if no one
//! else refers to it, or after its entries were zapped. [`Cache::truncations`] changes before and after, with a zap after each: a fault that
//! compares it under the lock of the page-table page either sees the change or is swept.

mod allocate;
mod anon;
mod backing;
mod cache;
mod cachestat;
mod file;
mod fill;
mod flags;
mod mapping;
mod reclaim;
mod seal;
mod transfer;
mod tree;
mod truncate;
mod writeback;

#[cfg(test)]
mod tests;

pub use allocate::AllocatePastEnd;
pub use anon::Commit;
pub use backing::Backing;
pub use cache::{Cache, MAX_BYTES, MappingsLocked};
pub use cachestat::CacheStat;
pub use file::{File, FileIdentity, FileMode, FileSpec};
pub use flags::VmFlags;
pub use mapping::{Mapper, Mapping, MappingId, MappingKind, Residency, ZapReason};
pub use seal::Seals;

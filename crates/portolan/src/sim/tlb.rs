//! The TLB of one software CPU: translations that stay until they are flushed, whatever the tables say by then, and the cache of
//! page-table pages that a walk starts from, which only a flush for freed tables empties.

use std::collections::HashMap;

use crate::addr::{Pfn, VirtRange};
use crate::paging::{Access, Format};
use crate::platform::{Asid, FlushScope, Tables};

/// What the TLBs saw.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TlbCounts {
    /// Accesses through a cached translation.
    pub hits: u64,
    /// Walks.
    pub walks: u64,
    /// Flushes that reached a CPU.
    pub flushes: u64,
    /// Accesses through a cached translation, or walks from a cached page-table page, to a frame that had been freed, or that had become a
    /// page-table page. On real hardware each corrupts memory: a test asserts that there are none.
    pub stale: u64,
}

impl TlbCounts {
    pub(super) fn add(&mut self, other: &TlbCounts) {
        self.hits += other.hits;
        self.walks += other.walks;
        self.flushes += other.flushes;
        self.stale += other.stale;
    }
}

/// One cached translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cached {
    pub frame: Pfn,
    pub read: bool,
    /// Stores need no walk: allowed, and the entry is dirty.
    pub write: bool,
    pub execute: bool,
}

impl Cached {
    pub(super) fn allows(&self, access: Access) -> bool {
        match access {
            Access::Read => self.read,
            Access::Write => self.write,
            Access::Execute => self.execute,
        }
    }
}

/// The space, and the page's number or that of what a level-0 table covers.
type Key = (Asid, u64);

#[derive(Default)]
pub(super) struct Tlb {
    pages: HashMap<Key, Cached>,
    tables: HashMap<Key, Pfn>,
    capacity: Option<usize>,
    pub counts: TlbCounts,
}

impl Tlb {
    pub(super) fn set_capacity(&mut self, pages: usize) {
        self.capacity = Some(pages);
    }

    pub(super) fn page<F: Format>(&self, asid: Asid, addr: u64) -> Option<Cached> {
        self.pages.get(&(asid, addr >> F::GRANULE.shift())).copied()
    }

    pub(super) fn insert_page<F: Format>(&mut self, asid: Asid, addr: u64, cached: Cached) {
        if self.capacity.is_some_and(|most| self.pages.len() >= most)
            && let Some(&victim) = self.pages.keys().next()
        {
            self.pages.remove(&victim);
        }
        if self.capacity != Some(0) {
            self.pages
                .insert((asid, addr >> F::GRANULE.shift()), cached);
        }
    }

    pub(super) fn remove_page<F: Format>(&mut self, asid: Asid, addr: u64) {
        self.pages.remove(&(asid, addr >> F::GRANULE.shift()));
    }

    /// The level-0 table that an earlier walk for a neighbour came to.
    pub(super) fn table<F: Format>(&self, asid: Asid, addr: u64) -> Option<Pfn> {
        self.tables.get(&(asid, addr >> F::level_shift(1))).copied()
    }

    pub(super) fn insert_table<F: Format>(&mut self, asid: Asid, addr: u64, table: Pfn) {
        if self.capacity.is_some_and(|most| self.tables.len() >= most) {
            self.tables.clear();
        }
        self.tables.insert((asid, addr >> F::level_shift(1)), table);
    }

    pub(super) fn pages_of(&self, asid: Asid) -> usize {
        self.pages.keys().filter(|key| key.0 == asid).count()
    }

    pub(super) fn flush<F: Format>(&mut self, asid: Asid, scope: FlushScope, tables: Tables) {
        self.counts.flushes += 1;
        remove(&mut self.pages, asid, scope, F::GRANULE.shift());
        if tables == Tables::Freed {
            remove(&mut self.tables, asid, scope, F::level_shift(1));
        }
    }

    /// Forgets a space that nothing runs on any more.
    pub(super) fn forget(&mut self, asid: Asid) {
        self.pages.retain(|key, _| key.0 != asid);
        self.tables.retain(|key, _| key.0 != asid);
    }
}

/// Removes what lies in the scope; each key stands for `1 << shift` bytes.
fn remove<T>(map: &mut HashMap<Key, T>, asid: Asid, scope: FlushScope, shift: u32) {
    let FlushScope::Pages(range) = scope else {
        map.retain(|key, _| key.0 != asid);
        return;
    };
    let (first, end) = units(range, shift);
    if end - first > map.len() as u64 {
        map.retain(|key, _| key.0 != asid || key.1 < first || key.1 >= end);
        return;
    }
    for unit in first..end {
        map.remove(&(asid, unit));
    }
}

/// The units of `1 << shift` bytes that a range touches, as a half-open range.
fn units(range: VirtRange, shift: u32) -> (u64, u64) {
    let last = range.end().get().saturating_sub(1) >> shift;
    (range.start().get() >> shift, last + 1)
}

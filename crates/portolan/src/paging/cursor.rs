//! A walk over the level-0 page-table pages of a range, in order, past what is absent. Locks none of them; what is done with each is
//! the caller's. Not for creating page-table pages ([`PageTable::leaf_or_create`]).

use super::Format;
use super::table::{PageTable, TableRef};
use crate::addr::{Pfn, VirtAddr, VirtRange};
use crate::phys::Phys;
use crate::platform::Platform;

const MOST_LEVELS: usize = 5;

/// What a walk is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// Whoever links a table after this has passed by is told that its mapping is gone.
    Sweep,
    /// To see what is there now.
    Look,
}

/// An iterator over the present level-0 tables of a range, each with the part of the range that lies in it.
///
/// A sweep that follows a change of the mappings needs [`Cursor::new`]: where it finds a table absent it has held the lock under which that table
/// would be linked, so whoever links it later sees the change. Who only looks uses [`Cursor::reading`], which takes no lock.
#[derive(Debug)]
pub struct Cursor<'a, P: Platform> {
    at: u64,
    end: u64,
    /// The level of the lowest table in `path` that covers `at`.
    level: u8,
    /// Levels whose table in `path` has been locked once since the walk entered it, as bits.
    passed: u8,
    purpose: Purpose,
    path: [Pfn; MOST_LEVELS],
    phys: &'a Phys<P>,
}

impl<'a, P: Platform> Cursor<'a, P> {
    /// A walk to change what is in `range`. What lies beyond the format's addresses is left out.
    pub fn new(table: &'a PageTable<P>, phys: &'a Phys<P>, range: VirtRange) -> Self {
        Self::with_purpose(table, phys, range, Purpose::Sweep)
    }

    /// A walk to look at what is in `range`.
    pub fn reading(table: &'a PageTable<P>, phys: &'a Phys<P>, range: VirtRange) -> Self {
        Self::with_purpose(table, phys, range, Purpose::Look)
    }

    fn with_purpose(
        table: &'a PageTable<P>,
        phys: &'a Phys<P>,
        range: VirtRange,
        purpose: Purpose,
    ) -> Self {
        Self {
            at: P::Format::GRANULE.round_down(range.start().get()),
            end: range.end().get().min(1 << P::Format::VA_BITS),
            level: P::Format::LEVELS - 1,
            passed: 0,
            purpose,
            path: [table.root(); MOST_LEVELS],
            phys,
        }
    }

    /// The lowest table that covers `at`.
    #[inline(always)]
    fn table(&self) -> TableRef<'a, P> {
        TableRef::new(
            self.phys,
            self.path[self.level as usize],
            self.level,
            self.at,
        )
    }

    /// Goes to the next entry of the current table, or of the next one above that has one left.
    #[inline]
    fn advance(&mut self) {
        let bytes = 1u64 << P::Format::level_shift(self.level);
        self.at = (self.at | (bytes - 1)) + 1;
        while self.level + 1 < P::Format::LEVELS && P::Format::index(self.level, self.at) == 0 {
            self.level += 1;
        }
    }

    /// Holds the lock of the current table for a moment, the first time something is absent in it; true if it did.
    fn pass_lock(&mut self) -> bool {
        let bit = 1 << self.level;
        if self.purpose == Purpose::Look || self.passed & bit != 0 {
            return false;
        }
        self.passed |= bit;
        drop(self.table().lock());
        true
    }
}

impl<'a, P: Platform> Iterator for Cursor<'a, P> {
    type Item = (VirtRange, TableRef<'a, P>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.end {
            match self
                .table()
                .child(P::Format::index(self.level, self.at), self.at)
            {
                None => {
                    if !self.pass_lock() {
                        self.advance();
                    }
                }
                Some(leaf) if self.level == 1 => {
                    let start = VirtAddr::new(self.at);
                    self.advance();
                    let stop = leaf.covers().end().get().min(self.end);
                    return Some((VirtRange::new(start, VirtAddr::new(stop))?, leaf));
                }
                Some(next) => {
                    self.level -= 1;
                    self.path[self.level as usize] = next.frame();
                    self.passed &= !(1 << self.level);
                }
            }
        }
        None
    }
}

//! What happened, counted: calls by number, faults by kind, signals. For a person who asks what a program did to its memory.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use portolan::errno::Errno;
use portolan::paging::Access;
use portolan::space::{Counts, FaultDone, FaultError, Mm, Rss, Signal, Statistics};

use crate::engine::Engine;
use crate::syscall::{TABLE_SIZE, Table};

/// How often a call was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallCount {
    /// Its name.
    pub name: &'static str,
    /// How often.
    pub calls: u64,
    /// How often it failed.
    pub errors: u64,
}

/// How faults ended.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FaultCounts {
    /// Served from memory, by kind of access: read, write, execute.
    pub minor: [u64; 3],
    /// Served by reading a file, likewise.
    pub major: [u64; 3],
    /// Ended in SIGSEGV.
    pub segv: u64,
    /// Ended in SIGBUS.
    pub bus: u64,
    /// Ended for want of memory.
    pub out_of_memory: u64,
}

/// What a space looked like at its end.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SpaceSummary {
    /// The most pages that were resident.
    pub peak_rss: u64,
    /// Resident at the end.
    pub rss: Rss,
    /// Page counts at the end.
    pub counts: Counts,
    /// Bytes of page tables at the end.
    pub table_bytes: u64,
    /// Mappings at the end.
    pub mappings: u64,
    /// Events since the start.
    pub events: Statistics,
}

impl SpaceSummary {
    /// Of a space that still has its mappings.
    pub fn of<E: Engine>(mm: &Mm<E>) -> Self {
        Self {
            peak_rss: mm.peak_rss(),
            rss: mm.rss(),
            counts: mm.counts(),
            table_bytes: mm.table_bytes(),
            mappings: mm.map_count() as u64,
            events: mm.statistics(),
        }
    }
}

/// Everything that was counted.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// Calls that were made, most frequent first.
    pub calls: Vec<CallCount>,
    /// Calls that this kernel does not know.
    pub unknown_calls: u64,
    /// Faults that reached the kernel.
    pub faults: FaultCounts,
    /// Signals that were delivered.
    pub signals: u64,
    /// The program's space, once it ended.
    pub space: Option<SpaceSummary>,
}

#[derive(Default)]
struct Pair {
    calls: AtomicU64,
    errors: AtomicU64,
}

#[derive(Default)]
struct Faults {
    minor: [AtomicU64; 3],
    major: [AtomicU64; 3],
    segv: AtomicU64,
    bus: AtomicU64,
    out_of_memory: AtomicU64,
}

/// The counters.
pub struct Stats {
    calls: Vec<Pair>,
    unknown: AtomicU64,
    faults: Faults,
    signals: AtomicU64,
}

fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Stats {
    /// All zero.
    ///
    /// # Errors
    /// `ENOMEM`: no heap.
    pub fn new() -> Result<Self, Errno> {
        let mut calls = Vec::new();
        calls
            .try_reserve_exact(TABLE_SIZE)
            .map_err(|_| Errno::ENOMEM)?;
        calls.resize_with(TABLE_SIZE, Pair::default);
        Ok(Self {
            calls,
            unknown: AtomicU64::new(0),
            faults: Faults::default(),
            signals: AtomicU64::new(0),
        })
    }

    pub(crate) fn count_call(&self, number: u32, failed: bool) {
        let Some(pair) = self.calls.get(number as usize) else {
            return;
        };
        bump(&pair.calls);
        if failed {
            bump(&pair.errors);
        }
    }

    pub(crate) fn count_unknown_call(&self) {
        bump(&self.unknown);
    }

    pub(crate) fn count_signal(&self, _signal: i32) {
        bump(&self.signals);
    }

    pub(crate) fn count_fault(&self, access: Access, result: &Result<FaultDone, FaultError>) {
        let kind = match access {
            Access::Read => 0,
            Access::Write => 1,
            Access::Execute => 2,
        };
        bump(match result {
            Ok(FaultDone::Minor) => &self.faults.minor[kind],
            Ok(FaultDone::Major) => &self.faults.major[kind],
            // Counted where the program is killed for it.
            Err(FaultError::OutOfMemory) => return,
            Err(FaultError::Signal(fault)) if fault.signal == Signal::Bus => &self.faults.bus,
            Err(FaultError::Signal(_)) => &self.faults.segv,
        });
    }

    pub(crate) fn count_out_of_memory(&self) {
        bump(&self.faults.out_of_memory);
    }

    pub(crate) fn report<E: Engine>(
        &self,
        table: &Table<E>,
        space: Option<SpaceSummary>,
    ) -> Report {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let count = |name: &'static str, number: u32| {
            let pair = self.calls.get(number as usize)?;
            Some(CallCount {
                name,
                calls: load(&pair.calls),
                errors: load(&pair.errors),
            })
        };
        let counts = table
            .iter()
            .filter_map(|call| count(call.name, call.number));
        let mut calls: Vec<_> = counts.filter(|count| count.calls != 0).collect();
        calls.sort_by_key(|count| (core::cmp::Reverse(count.calls), count.name));
        let faults = FaultCounts {
            minor: core::array::from_fn(|kind| load(&self.faults.minor[kind])),
            major: core::array::from_fn(|kind| load(&self.faults.major[kind])),
            segv: load(&self.faults.segv),
            bus: load(&self.faults.bus),
            out_of_memory: load(&self.faults.out_of_memory),
        };
        Report {
            calls,
            unknown_calls: load(&self.unknown),
            faults,
            signals: load(&self.signals),
            space,
        }
    }
}

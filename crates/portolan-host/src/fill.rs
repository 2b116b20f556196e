//! From page tables to outer mappings: what the engine asks of an address space, and which neighbours of a missing page are
//! installed along with it.

use portolan::paging::Access;
use portolan::platform::Asid;

use crate::memory::PAGE;
use crate::seccomp::MEMORY_FD;
use crate::space::{LaneState, TOP_PAGE};
use crate::stub::Call;
use crate::tlb::{Rights, Run};

/// How a page may be installed now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Page {
    /// The page's number.
    pub(crate) page: u64,
    /// Its frame.
    pub(crate) frame: u64,
    /// What may be allowed without asking again.
    pub(crate) rights: Rights,
}

/// An address space's page tables, as a TLB walker sees them.
pub(crate) trait Tables {
    /// Whose they are.
    fn asid(&self) -> Asid;
    /// Walks for an access; marks the entry accessed, and dirty for a store. `None`: a fault, the kernel decides.
    fn translate(&self, address: u64, access: Access) -> Option<Page>;
    /// The present pages of `from..to` (page numbers), ascending, with what may be installed without marking them.
    fn present(&self, from: u64, to: u64, visit: &mut dyn FnMut(Page));
}

/// Pages around a miss that are looked at: an aligned window, as the fault-around of Linux.
const WINDOW: u64 = 32;
/// Outer mappings made ahead of need for one miss.
const MOST_AHEAD: usize = 16;
/// Outer mappings a process may have: below the kernel's 65,530, with room for the splits of one batch.
const MOST_RUNS: usize = 60_000;

/// What to install before guest code goes on.
#[derive(Default, Debug)]
pub(crate) struct Fill {
    /// The page that was missing.
    wanted: Option<Page>,
    /// It and its neighbours, ascending.
    pages: Vec<Page>,
    /// [`LaneState::flushes`] before the tables were read.
    pub(crate) flushes: u64,
}

impl Fill {
    /// Nothing to install.
    pub(crate) fn clear(&mut self) {
        self.wanted = None;
        self.pages.clear();
    }

    /// Reads the tables for a miss. Whether the access is allowed. `flushes` was read before.
    pub(crate) fn read(
        &mut self,
        tables: &dyn Tables,
        address: u64,
        access: Access,
        flushes: u64,
    ) -> bool {
        self.clear();
        self.flushes = flushes;
        if address / PAGE >= TOP_PAGE {
            return false;
        }
        let Some(wanted) = tables.translate(address, access) else {
            return false;
        };
        self.wanted = Some(wanted);
        let from = wanted.page & !(WINDOW - 1);
        let to = (from + WINDOW).min(TOP_PAGE);
        let pages = &mut self.pages;
        tables.present(from, to, &mut |page| {
            if page.page < wanted.page {
                pages.push(page);
            }
        });
        pages.push(wanted);
        if wanted.page + 1 < to {
            tables.present(wanted.page + 1, to, &mut |page| pages.push(page));
        }
        true
    }

    /// The runs to install given what already is, recorded as installed. `calls` gets what makes it so, after what is pending.
    pub(crate) fn commit(&self, state: &mut LaneState, calls: &mut Vec<Call>) {
        calls.clear();
        let Some(wanted) = self.wanted else {
            calls.extend(
                state
                    .pending
                    .drain(..)
                    .map(|(from, to)| Call::munmap(from * PAGE, to * PAGE)),
            );
            return;
        };
        if state.tlb.len() + MOST_AHEAD >= MOST_RUNS {
            state.drop_all();
        }
        let mut runs: [Option<Run>; MOST_AHEAD + 1] = [None; MOST_AHEAD + 1];
        let count = self.runs(state, wanted, &mut runs);
        // A mapping replaces what was there: no need to unmap it first.
        let replaced = |from: u64, to: u64| {
            runs[..count]
                .iter()
                .flatten()
                .any(|r| r.page <= from && to <= r.end())
        };
        for (from, to) in state.pending.drain(..) {
            if !replaced(from, to) {
                calls.push(Call::munmap(from * PAGE, to * PAGE));
            }
        }
        for run in runs[..count].iter().flatten() {
            state.tlb.insert(*run);
            calls.push(install(run));
        }
    }

    /// Only the wanted page, over an empty process: when the outer kernel has no room for more.
    pub(crate) fn commit_alone(&self, state: &mut LaneState, calls: &mut Vec<Call>) {
        state.drop_all();
        calls.clear();
        calls.extend(
            state
                .pending
                .drain(..)
                .map(|(from, to)| Call::munmap(from * PAGE, to * PAGE)),
        );
        if let Some(Page {
            page,
            frame,
            rights,
        }) = self.wanted
        {
            let run = Run {
                page,
                pages: 1,
                frame,
                rights,
            };
            state.tlb.insert(run);
            calls.push(install(&run));
        }
    }

    /// Joins the pages that are not yet installed into runs; the wanted page's is always among them.
    fn runs(
        &self,
        state: &LaneState,
        wanted: Page,
        runs: &mut [Option<Run>; MOST_AHEAD + 1],
    ) -> usize {
        let mut count = 0;
        let mut before_wanted = true;
        for &Page {
            page,
            frame,
            rights,
        } in &self.pages
        {
            let is_wanted = page == wanted.page;
            before_wanted &= !is_wanted;
            if !is_wanted && (rights.is_empty() || state.tlb.has(page, frame, rights)) {
                continue;
            }
            let next = Run {
                page,
                pages: 1,
                frame,
                rights,
            };
            if count > 0
                && runs[count - 1]
                    .as_mut()
                    .is_some_and(|last| last.absorb(&next))
            {
                continue;
            }
            // Half of the room is kept for the wanted page and what comes after it: programs go upwards.
            let room = if before_wanted {
                MOST_AHEAD / 2
            } else {
                MOST_AHEAD
            };
            if count < room || is_wanted {
                runs[count] = Some(next);
                count += 1;
            }
        }
        count
    }
}

fn install(run: &Run) -> Call {
    let mut prot = libc::PROT_READ;
    if run.rights.contains(Rights::WRITE) {
        prot |= libc::PROT_WRITE;
    }
    if run.rights.contains(Rights::EXEC) {
        prot |= libc::PROT_EXEC;
    }
    // A run of several pages is worth loading the processor's own tables for; for one page the miss that follows costs the same.
    let extra = if run.pages > 1 { libc::MAP_POPULATE } else { 0 };
    Call::mmap(
        run.page * PAGE,
        run.pages * PAGE,
        prot,
        extra,
        MEMORY_FD,
        run.frame * PAGE,
    )
}

//! Page faults: what happens when an access finds no entry, or one that does not allow it. The first try takes no lock but that of one
//! page-table page; what it cannot finish is repeated under the mmap lock, where the last word is spoken. Copy-on-write is in `cow`,
//! pages of files are in `file_fault`, growing stacks in `stack`.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use super::account::{RssKind, bump};
use super::flags::page_protection;
use super::mm::{Mm, MmState, MmUser};
use super::vma::Vma;
use crate::addr::VirtAddr;
use crate::object::{File, VmFlags};
use crate::paging::{Access, Entry, Format, Leaf, LeafFlags, LockedTable, Marker};
use crate::phys::{FrameKind, OutOfMemory};
use crate::platform::Platform;

/// Which signal a failed access brings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGSEGV.
    Segv,
    /// SIGBUS.
    Bus,
}

/// Why, as si_code says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultCode {
    /// SEGV_MAPERR: nothing is mapped there.
    NotMapped,
    /// SEGV_ACCERR: what is mapped does not allow it.
    NotAllowed,
    /// BUS_ADRERR: past the end of the file, or the file could not be read.
    NoPage,
    /// BUS_MCEERR_AR: the page is poisoned.
    Poisoned,
}

impl FaultCode {
    /// The number in `si_code`.
    pub const fn si_code(self) -> i32 {
        match self {
            FaultCode::NotMapped => 1,
            FaultCode::NotAllowed | FaultCode::NoPage => 2,
            FaultCode::Poisoned => 4,
        }
    }
}

/// An access that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The signal for the task.
    pub signal: Signal,
    /// `si_code`.
    pub code: FaultCode,
    /// `si_addr`: the address of the access.
    pub addr: VirtAddr,
}

/// How a fault failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// The task gets a signal.
    Signal(Fault),
    /// No frame is to be had: what could be reclaimed was. The embedder ends a task (`VM_FAULT_OOM`).
    OutOfMemory,
}

impl From<OutOfMemory> for FaultError {
    fn from(_: OutOfMemory) -> Self {
        FaultError::OutOfMemory
    }
}

/// How a fault was served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultDone {
    /// From memory.
    Minor,
    /// A file had to be read (`VM_FAULT_MAJOR`).
    Major,
}

/// How one try at a fault ended.
pub(super) enum Step<P: Platform> {
    /// The access may be repeated.
    Done,
    /// Something changed meanwhile, or the lock is needed: repeat under the mmap lock.
    Again,
    /// A page of a file must be read first, with nothing held.
    Load(Arc<File<P>>, u64),
}

/// What one try knows.
pub(super) struct Attempt<'a, P: Platform> {
    pub vma: &'a Vma<P>,
    /// The access as it was, for `si_addr`.
    pub addr: VirtAddr,
    pub access: Access,
    pub rights: Rights,
    /// The state under the mmap lock, when it is held for reading.
    pub state: Option<&'a MmState<P>>,
}

/// Whether what an area allows now binds an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// It does.
    Checked,
    /// Only what the area may become does: a debugger reads what is not readable and writes to private copies of what is not writable. `FOLL_FORCE`.
    Forced,
}

impl<P: Platform> Attempt<'_, P> {
    /// The start of the page.
    pub fn page(&self) -> VirtAddr {
        self.addr.page_down(P::Format::GRANULE)
    }

    /// The failure that the task is told of; without the mmap lock only a reason to take it.
    pub fn fail(&self, signal: Signal, code: FaultCode) -> Result<Step<P>, FaultError> {
        match self.state {
            Some(_) => Err(FaultError::Signal(Fault {
                signal,
                code,
                addr: self.addr,
            })),
            None => Ok(Step::Again),
        }
    }

    /// Permissions of the area with the marks of an access that is being made now.
    pub fn fresh_flags(&self) -> LeafFlags {
        let mut flags = page_protection(self.vma.flags()) | LeafFlags::ACCESSED;
        match self.access {
            Access::Write => flags |= LeafFlags::DIRTY | LeafFlags::SOFT_DIRTY,
            _ => flags &= !LeafFlags::WRITE,
        }
        flags
    }
}

/// Whether an area lets an access through. `access_error`.
fn permits(flags: VmFlags, access: Access) -> bool {
    match access {
        Access::Read => flags.intersects(VmFlags::ACCESS),
        Access::Write => flags.contains(VmFlags::WRITE),
        Access::Execute => flags.contains(VmFlags::EXEC),
    }
}

impl<P: Platform> MmUser<P> {
    /// Serves a page fault: after `Ok` the access may be repeated. `mm/memory.c: handle_mm_fault` with what surrounds it.
    ///
    /// The CPU that faulted must have dropped its own cached translation of the page, as x86-64 does by itself; entries are only ever made more
    /// permissive here without a flush. May sleep.
    ///
    /// # Errors
    /// [`FaultError::Signal`] with SIGSEGV or SIGBUS and its code; [`FaultError::OutOfMemory`] when no frame or heap is left and none could be
    /// reclaimed, with nothing changed.
    pub fn handle_fault(&self, addr: VirtAddr, access: Access) -> Result<FaultDone, FaultError> {
        self.handle_fault_with(addr, access, Rights::Checked)
    }

    /// The same with what the area allows checked by the caller.
    pub(super) fn handle_fault_with(
        &self,
        addr: VirtAddr,
        access: Access,
        rights: Rights,
    ) -> Result<FaultDone, FaultError> {
        let result = self
            .machine
            .with_reclaim(|| self.serve_fault(addr, access, rights));
        match result {
            Err(FaultError::Signal(_)) => self.count(|events| &events.failed_faults),
            Err(FaultError::OutOfMemory) => self.out_of_memory.store(true, Ordering::Relaxed),
            Ok(_) => {}
        }
        result
    }

    fn serve_fault(
        &self,
        addr: VirtAddr,
        access: Access,
        rights: Rights,
    ) -> Result<FaultDone, FaultError> {
        let mut done = FaultDone::Minor;
        let mut step = self.fault_unlocked(addr, access, rights)?;
        loop {
            match step {
                Step::Done => return Ok(done),
                Step::Again => {}
                Step::Load(file, index) => {
                    done = FaultDone::Major;
                    self.count(|events| &events.major_faults);
                    self.load_page(&file, index, addr)?;
                }
            }
            step = self.fault_locked(addr, access, rights)?;
        }
    }

    /// The first try: no lock, under an epoch pin.
    fn fault_unlocked(
        &self,
        addr: VirtAddr,
        access: Access,
        rights: Rights,
    ) -> Result<Step<P>, FaultError> {
        let guard = self.machine.pin();
        match self.reader.find(addr.get(), &guard) {
            Ok(Some(vma)) if vma.range().contains(addr) => self.fault_in(&Attempt {
                vma,
                addr,
                access,
                rights,
                state: None,
            }),
            _ => Ok(Step::Again),
        }
    }

    /// The try that decides: under the mmap lock for reading.
    fn fault_locked(
        &self,
        addr: VirtAddr,
        access: Access,
        rights: Rights,
    ) -> Result<Step<P>, FaultError> {
        self.count(|events| &events.locked_faults);
        let state = self.state.read();
        let unmapped = FaultError::Signal(Fault {
            signal: Signal::Segv,
            code: FaultCode::NotMapped,
            addr,
        });
        let Some(vma) = state.vmas.find(addr.get()) else {
            return Err(unmapped);
        };
        if vma.range().contains(addr) {
            return self.fault_in(&Attempt {
                vma,
                addr,
                access,
                rights,
                state: Some(&state),
            });
        }
        if !vma.flags().contains(VmFlags::GROWSDOWN) {
            return Err(unmapped);
        }
        drop(state);
        match self.grow_stack(addr) {
            Ok(()) => Ok(Step::Again),
            Err(_) => Err(unmapped),
        }
    }
}

impl<P: Platform> Mm<P> {
    /// Counts an event on this CPU.
    pub(super) fn count(&self, event: impl Fn(&super::account::Events) -> &AtomicU64) {
        bump(event(&self.tally.of(self.cpu()).events));
    }

    /// Whether a fault on `vma` may install an entry now. Asked under the lock of the page-table page.
    pub(super) fn may_install(&self, vma: &Vma<P>) -> bool {
        !vma.is_detached() && self.gate.load(Ordering::Acquire) == 0
    }

    /// One try at a fault in an area. `handle_pte_fault`.
    fn fault_in(&self, attempt: &Attempt<'_, P>) -> Result<Step<P>, FaultError> {
        if attempt.rights == Rights::Checked && !permits(attempt.vma.flags(), attempt.access) {
            return attempt.fail(Signal::Segv, FaultCode::NotAllowed);
        }
        let at = attempt.page();
        let entry = match self.table.leaf(self.machine.phys(), at) {
            Some(table) => table.peek(P::Format::index(0, at.get())),
            None => Entry::Absent,
        };
        match entry {
            Entry::Absent if attempt.vma.is_anonymous() => self.fault_anonymous(attempt),
            Entry::Absent => self.fault_file(attempt),
            Entry::Present(leaf)
                if attempt.access == Access::Write && !leaf.flags.contains(LeafFlags::WRITE) =>
            {
                self.fault_write_protected(attempt, leaf)
            }
            Entry::Present(leaf) => self.fault_present(attempt, leaf),
            Entry::Marker(Marker::Guard) => attempt.fail(Signal::Segv, FaultCode::NotMapped),
            Entry::Marker(Marker::Poison) => attempt.fail(Signal::Bus, FaultCode::Poisoned),
            // Nothing writes these yet: a table that holds one has been overwritten from outside.
            Entry::Marker(Marker::UffdWp) | Entry::Swap(_) | Entry::Table(_) => {
                attempt.fail(Signal::Bus, FaultCode::NoPage)
            }
        }
    }

    /// The entry is there and allows the access: another fault was first, or only its accessed and dirty state is missing.
    fn fault_present(&self, attempt: &Attempt<'_, P>, leaf: Leaf) -> Result<Step<P>, FaultError> {
        let mut flags = leaf.flags | LeafFlags::ACCESSED;
        if attempt.access == Access::Write {
            flags |= LeafFlags::DIRTY | LeafFlags::SOFT_DIRTY;
        }
        self.count(|events| &events.spurious_faults);
        if flags == leaf.flags {
            return Ok(Step::Done);
        }
        self.replace_entry(
            attempt,
            Entry::Present(leaf),
            Leaf { flags, ..leaf },
            |_| true,
        )
    }

    /// Memory of nobody yet. `do_anonymous_page`.
    fn fault_anonymous(&self, attempt: &Attempt<'_, P>) -> Result<Step<P>, FaultError> {
        let phys = self.machine.phys();
        let cache = attempt.vma.cache_mode();
        if attempt.access != Access::Write {
            let flags = attempt.fresh_flags() | LeafFlags::SPECIAL;
            let leaf = Leaf {
                frame: phys.zero_page(),
                flags,
                cache,
            };
            let step = self.replace_entry(attempt, Entry::Absent, leaf, |_| true)?;
            if let Step::Done = step {
                self.count(|events| &events.zero_page_faults);
            }
            return Ok(step);
        }
        if !self.prepare_anon(attempt) {
            return Ok(Step::Again);
        }
        let page = phys.alloc_zeroed(FrameKind::Anon)?;
        let leaf = Leaf {
            frame: page.pfn(),
            flags: attempt.fresh_flags(),
            cache,
        };
        let step = self.replace_entry(attempt, Entry::Absent, leaf, |_| true)?;
        if let Step::Done = step {
            page.into_raw();
            self.add_rss(RssKind::Anon, 1);
            self.count(|events| &events.anonymous_faults);
        }
        Ok(step)
    }

    /// Puts `new` where `expected` is, if it still is and the area still stands; `ready` has the last word, under the lock.
    ///
    /// The caller keeps the reference that the new entry will own until this says `Done`.
    pub(super) fn replace_entry(
        &self,
        attempt: &Attempt<'_, P>,
        expected: Entry,
        new: Leaf,
        ready: impl FnOnce(&mut LockedTable<'_, P>) -> bool,
    ) -> Result<Step<P>, FaultError> {
        let at = attempt.page();
        let attached = || self.may_install(attempt.vma);
        let Some(table) = self
            .table
            .leaf_or_create(self.machine.phys(), at, attached)?
        else {
            return Ok(Step::Again);
        };
        let index = P::Format::index(0, at.get());
        let mut locked = table.lock();
        if !attached() || locked.get(index) != expected || !ready(&mut locked) {
            return Ok(Step::Again);
        }
        // A hardware walker may have marked the entry since it was looked at.
        match locked.compare_set(index, expected, Entry::Present(new)) {
            true => Ok(Step::Done),
            false => Ok(Step::Again),
        }
    }

    /// Sees to it that the area has an anonymous reverse map root. False: not without the mmap lock. `anon_vma_prepare`.
    pub(super) fn prepare_anon(&self, attempt: &Attempt<'_, P>) -> bool {
        match attempt.state {
            _ if attempt.vma.has_anon() => true,
            Some(state) => {
                self.give_root(state, attempt.vma);
                true
            }
            None => false,
        }
    }

    /// Gives the area an anonymous reverse map root if it has none: a neighbour's where they could merge but for permissions. `__anon_vma_prepare`.
    pub(super) fn give_root(&self, state: &MmState<P>, vma: &Vma<P>) {
        if !vma.has_anon() {
            let root = super::edit::neighbour_root(state, vma)
                .unwrap_or_else(|| self.machine.new_anon_root());
            vma.set_anon(root);
        }
    }
}

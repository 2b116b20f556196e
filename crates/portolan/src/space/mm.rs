//! The space itself: what it holds, who keeps it alive. *Users* ([`MmUser`]) keep the mappings; *references* ([`MmRef`]) keep only the
//! structure, and must become users before they can touch a mapping. The last user gone tears every mapping down.

use alloc::sync::Arc;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::account::{Counts, Limits, Rss, RssKind, Statistics, Tally};
use super::edit::{AreaIndex, AreaReader};
use super::index::Index;
use super::layout::Layout;
use crate::addr::{Pfn, VirtRange};
use crate::errno::Errno;
use crate::machine::Machine;
use crate::object::VmFlags;
use crate::paging::{ActiveCpus, FlushBatch, Format, PageTable};
use crate::percpu::PerCpu;
use crate::phys::heap;
use crate::platform::{Asid, CpuId, Platform};

/// How a new space starts.
#[derive(Debug)]
pub struct MmConfig {
    /// Bounds and bases.
    pub layout: Layout,
    /// Limits and rights.
    pub limits: Limits,
}

impl MmConfig {
    /// The defaults for a format: its whole user half, Linux's default limits, no rights.
    pub fn new<F: Format>() -> Self {
        Self {
            layout: Layout::new::<F>(),
            limits: Limits::default(),
        }
    }
}

/// What the mmap lock guards.
pub(crate) struct MmState<P: Platform> {
    pub vmas: AreaIndex<P>,
    pub layout: Layout,
    pub counts: Counts,
    /// VM_LOCKED and VM_LOCKONFAULT for every later mapping. `def_flags`.
    pub def_flags: VmFlags,
    /// No growing area starts below this; `u64::MAX` while there never was one.
    pub lowest_stack: u64,
}

impl<P: Platform> MmState<P> {
    /// How many pages of `range` lie in areas whose flags have all of `flags`; the empty set asks for all that is mapped. `count_vma_pages_range`.
    pub fn pages_with(&self, range: VirtRange, flags: VmFlags) -> u64 {
        let areas = self
            .vmas
            .iter_range(range.start().get(), range.end().get())
            .filter(|vma| vma.flags().contains(flags));
        areas
            .filter_map(|vma| vma.range().intersection(range))
            .map(|part| part.pages(P::Format::GRANULE))
            .sum()
    }
}

/// `struct mm_struct`: one address space. Reached through [`MmUser`].
pub struct Mm<P: Platform> {
    pub(crate) machine: Machine<P>,
    pub(crate) asid: Asid,
    pub(crate) table: PageTable<P>,
    /// The lock-free side of the index in `state`.
    pub(crate) reader: AreaReader<P>,
    pub(crate) state: lock_api::RwLock<P::RawRwLock, MmState<P>>,
    /// Not zero while fork or a move works on entries of VMAs that stay attached: faults wait for the mmap lock.
    pub(crate) gate: AtomicU32,
    pub(crate) tally: PerCpu<Tally>,
    pub(crate) limits: Limits,
    pub(crate) read_implies_exec: AtomicBool,
    /// The most pages that were ever resident, as far as seen. `hiwater_rss`.
    pub(crate) peak_rss: AtomicU64,
    /// A fault found no memory since this was last asked.
    pub(crate) out_of_memory: AtomicBool,
    cpus: ActiveCpus,
    users: AtomicU32,
}

impl<P: Platform> fmt::Debug for Mm<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mm")
            .field("asid", &self.asid)
            .field("rss", &self.rss())
            .finish_non_exhaustive()
    }
}

impl<P: Platform> Mm<P> {
    /// An empty space with one user. `mm_alloc`.
    ///
    /// # Errors
    /// `ENOMEM`: no frame for the root table, or no heap.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(machine: &Machine<P>, config: MmConfig) -> Result<MmUser<P>, Errno> {
        let fail = machine.fail_point();
        let (vmas, reader) = Index::new(fail, machine.epoch())?;
        let state = MmState {
            vmas,
            layout: config.layout,
            counts: Counts::default(),
            def_flags: VmFlags::empty(),
            lowest_stack: u64::MAX,
        };
        let mm = Mm {
            machine: machine.clone(),
            asid: machine.new_asid(),
            table: machine.with_reclaim(|| PageTable::new(machine.phys()))?,
            reader,
            state: lock_api::RwLock::new(state),
            gate: AtomicU32::new(0),
            tally: PerCpu::for_space(machine.platform().cpus(), fail)?,
            limits: config.limits,
            read_implies_exec: AtomicBool::new(false),
            peak_rss: AtomicU64::new(0),
            out_of_memory: AtomicBool::new(false),
            cpus: ActiveCpus::new(),
            users: AtomicU32::new(1),
        };
        Ok(MmUser(heap::try_arc(fail, mm)?))
    }

    /// The machine it lives on.
    pub fn machine(&self) -> &Machine<P> {
        &self.machine
    }

    /// Its name to the TLB.
    pub fn asid(&self) -> Asid {
        self.asid
    }

    /// The root page-table page. `mm->pgd`.
    pub fn root(&self) -> Pfn {
        self.table.root()
    }

    /// Limits and rights, which may be changed at any time.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bounds and recorded places.
    pub fn layout(&self) -> Layout {
        self.state.read().layout
    }

    /// Changes bounds and recorded places. For exec and PR_SET_MM; nothing is checked or moved.
    pub fn set_layout(&self, change: impl FnOnce(&mut Layout)) {
        change(&mut self.state.write().layout);
    }

    /// The READ_IMPLIES_EXEC personality: from now on readable mappings are executable unless their mount forbids it.
    pub fn set_read_implies_exec(&self, on: ReadImpliesExec) {
        self.read_implies_exec
            .store(on == ReadImpliesExec::On, Ordering::Relaxed);
    }

    /// Page counts.
    pub fn counts(&self) -> Counts {
        self.state.read().counts
    }

    /// How many mappings there are. `map_count`.
    pub fn map_count(&self) -> usize {
        self.state.read().vmas.len()
    }

    /// The resident set; exact when no fault is under way.
    pub fn rss(&self) -> Rss {
        self.tally.rss()
    }

    /// The most pages that were ever resident. Updated when pages go, and by this call. `VmHWM`.
    pub fn peak_rss(&self) -> u64 {
        self.note_peak_rss();
        self.peak_rss.load(Ordering::Relaxed)
    }

    /// Whether a fault, of the task or of a copy to or from its memory, found no memory since this was last asked. Linux's killer would have
    /// chosen a task by then: an embedder asks after each system call, whatever that answered.
    pub fn take_out_of_memory(&self) -> bool {
        self.out_of_memory.swap(false, Ordering::Relaxed)
    }

    /// Event counts.
    pub fn statistics(&self) -> Statistics {
        self.tally.statistics()
    }

    /// Bytes of page tables. `mm_pgtables_bytes`, `VmPTE`.
    pub fn table_bytes(&self) -> u64 {
        self.table.table_bytes()
    }

    /// A CPU starts to run on this space, so flushes must reach it. `switch_mm`.
    pub fn activate(&self, cpu: CpuId) {
        self.cpus.insert(cpu);
    }

    /// A CPU has left this space and has dropped its translations.
    pub fn deactivate(&self, cpu: CpuId) {
        self.cpus.remove(cpu);
    }

    /// A batch for what this space unmaps.
    pub(crate) fn flush_batch(&self) -> FlushBatch<'_, P> {
        FlushBatch::new(
            self.machine.phys(),
            self.machine.epoch(),
            self.asid,
            &self.cpus,
        )
    }

    /// The CPU this runs on.
    pub(crate) fn cpu(&self) -> CpuId {
        self.machine.platform().cpu()
    }

    /// Adds resident pages of a kind.
    pub(crate) fn add_rss(&self, kind: RssKind, pages: i64) {
        self.tally.add_rss(self.cpu(), kind, pages);
    }

    /// Records the resident set if it is the largest yet. `update_hiwater_rss`.
    pub(crate) fn note_peak_rss(&self) {
        self.peak_rss
            .fetch_max(self.rss().total(), Ordering::Relaxed);
    }
}

/// Whether readable mappings become executable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadImpliesExec {
    /// As asked for.
    Off,
    /// PROT_READ brings PROT_EXEC.
    On,
}

/// A user of a space (`mm_users`): keeps its mappings. Clone is `mmget`, drop is `mmput`.
pub struct MmUser<P: Platform>(Arc<Mm<P>>);

impl<P: Platform> MmUser<P> {
    /// A reference to the structure alone. `mmgrab`.
    pub fn grab(&self) -> MmRef<P> {
        MmRef(self.0.clone())
    }

    /// The shared structure, for what registers itself with a file.
    pub(crate) fn shared(&self) -> &Arc<Mm<P>> {
        &self.0
    }
}

impl<P: Platform> Clone for MmUser<P> {
    fn clone(&self) -> Self {
        self.0.users.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl<P: Platform> Deref for MmUser<P> {
    type Target = Mm<P>;
    fn deref(&self) -> &Mm<P> {
        &self.0
    }
}

impl<P: Platform> Drop for MmUser<P> {
    fn drop(&mut self) {
        if self.0.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.exit();
        }
    }
}

impl<P: Platform> fmt::Debug for MmUser<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// A reference to a space's structure (`mm_count`): its mappings may be gone. Clone is `mmgrab`, drop is `mmdrop`.
pub struct MmRef<P: Platform>(Arc<Mm<P>>);

impl<P: Platform> MmRef<P> {
    /// Becomes a user, unless the last one is gone. `mmget_not_zero`.
    pub fn upgrade(&self) -> Option<MmUser<P>> {
        let more = |users| if users == 0 { None } else { Some(users + 1) };
        self.0
            .users
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, more)
            .ok()?;
        Some(MmUser(self.0.clone()))
    }

    /// The space's name to the TLB, which outlives its mappings.
    pub fn asid(&self) -> Asid {
        self.0.asid
    }
}

impl<P: Platform> Clone for MmRef<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Platform> fmt::Debug for MmRef<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MmRef").field(&self.asid()).finish()
    }
}

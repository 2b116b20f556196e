//! `fork` of a space: every mapping is copied, private pages are shared copy-on-write. While it works the gate is closed, so that a
//! store of another thread is either in the copy or waits until the copy is whole.

use core::sync::atomic::Ordering;

use super::account::RssKind;
use super::edit::Edit;
use super::mm::{Mm, MmConfig, MmState, MmUser};
use super::vma::{Vma, VmaFields};
use crate::addr::VirtRange;
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::{Cursor, FlushBatch, Leaf, LeafFlags, LockedTable, Sharing};
use crate::platform::Platform;

/// Keeps faults out of entries whose VMAs stay attached while they are worked on.
pub(super) struct ClosedGate<'a, P: Platform>(&'a Mm<P>);

impl<'a, P: Platform> ClosedGate<'a, P> {
    /// Closes the gate; the mmap lock must be held for writing.
    pub fn new(mm: &'a Mm<P>) -> Self {
        mm.gate.fetch_add(1, Ordering::SeqCst);
        Self(mm)
    }
}

impl<P: Platform> Drop for ClosedGate<'_, P> {
    fn drop(&mut self) {
        self.0.gate.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<P: Platform> MmUser<P> {
    /// `fork`: a new space with the same mappings. `kernel/fork.c: dup_mm`, `mm/mmap.c: dup_mmap`.
    ///
    /// Areas marked VM_DONTCOPY are left out, VM_WIPEONFORK ones are empty in the child, locks are not inherited. Costs a reference a mapped private page.
    ///
    /// # Errors
    /// `ENOMEM`: no frame, no heap or the commit limit. This space is as it was, but that private pages may fault once more when written.
    pub fn fork(&self) -> Result<MmUser<P>, Errno> {
        let mut state = self.state.write();
        let config = MmConfig {
            layout: state.layout,
            limits: self.limits.copied(),
        };
        let child = Mm::new(&self.machine, config)?;
        child.read_implies_exec.store(
            self.read_implies_exec.load(Ordering::Relaxed),
            Ordering::Relaxed,
        );
        let mut child_state = child.state.write();
        let gate = ClosedGate::new(self);
        let mut batch = self.flush_batch();
        let result = self.duplicate(&mut state, &child, &mut child_state, &mut batch);
        batch.finish();
        drop(gate);
        drop(child_state);
        drop(state);
        result?;
        Ok(child)
    }

    fn duplicate(
        &self,
        state: &mut MmState<P>,
        child: &MmUser<P>,
        child_state: &mut MmState<P>,
        batch: &mut FlushBatch<'_, P>,
    ) -> Result<(), Errno> {
        for vma in state.vmas.iter() {
            if vma.flags().contains(VmFlags::DONTCOPY) {
                continue;
            }
            let fields = self.inherited(vma);
            let (range, flags, pages) = (fields.range, fields.flags, fields.pages());
            let charged = if fields.is_accounted() { pages } else { 0 };
            if charged != 0 {
                self.charge_commit(state, charged)?;
            }
            let mut edit = Edit::new(child);
            let added = edit.add(fields).and_then(|()| {
                Ok(child_state
                    .vmas
                    .reserve(edit.len(), self.machine.fail_point())?)
            });
            if let Err(error) = added {
                self.machine.uncharge_commit(charged);
                return Err(error);
            }
            let nothing = edit.commit(child_state, range);
            child.retire(nothing);
            child_state.counts.add(flags, pages);
            if let Some(ops) = vma.operations() {
                ops.open(range);
            }
            if needs_copy(vma) {
                self.copy_pages(child, vma, batch)?;
            }
        }
        Ok(())
    }

    /// What the child's area says.
    fn inherited(&self, vma: &Vma<P>) -> VmaFields<P> {
        let mut fields = vma.fields();
        fields.flags &= !(VmFlags::LOCKED | VmFlags::LOCKONFAULT);
        if fields.flags.contains(VmFlags::WIPEONFORK) {
            (fields.anon, fields.anon_forked) = (0, false);
        } else if fields.anon != 0 {
            (fields.anon, fields.anon_forked) = (self.machine.new_anon_root(), true);
        }
        fields
    }

    /// Copies the entries of one area. `copy_page_range`.
    fn copy_pages(
        &self,
        child: &MmUser<P>,
        vma: &Vma<P>,
        batch: &mut FlushBatch<'_, P>,
    ) -> Result<(), Errno> {
        let phys = self.machine.phys();
        let sharing = if vma.is_cow() {
            Sharing::CopyOnWrite
        } else {
            Sharing::Shared
        };
        let mut copy = Copy {
            mm: self,
            sharing,
            anon: 0,
            file: 0,
            shmem: 0,
            protected: None,
        };
        // Before the file is locked: to find memory it may have to be reclaimed from.
        for (part, _) in Cursor::new(&self.table, phys, vma.range()) {
            self.machine
                .with_reclaim(|| child.table.leaf_or_create(phys, part.start(), || true))?;
        }
        // A truncation that has been at the child's area already, but not at this one, would miss what is copied now.
        let cache = vma.file().and_then(|file| file.cache());
        let _mappings = cache.map(|cache| cache.lock_mappings());
        for (part, table) in Cursor::new(&self.table, phys, vma.range()) {
            // None is missing: with the gate closed no table comes between the two walks.
            let Some(into) = child.table.leaf(phys, part.start()) else {
                continue;
            };
            copy.table(&mut table.lock(), &mut into.lock(), part);
        }
        child.add_rss(RssKind::Anon, copy.anon);
        child.add_rss(RssKind::File, copy.file);
        child.add_rss(RssKind::Shmem, copy.shmem);
        if let Some(range) = copy.protected {
            batch.note(range);
        }
        Ok(())
    }
}

/// Whether the child cannot get this area's pages by faulting. `vma_needs_copy`.
fn needs_copy<P: Platform>(vma: &Vma<P>) -> bool {
    let special = VmFlags::PFNMAP | VmFlags::MIXEDMAP | VmFlags::MAYBE_GUARD;
    !vma.flags().contains(VmFlags::WIPEONFORK)
        && (vma.has_anon() || vma.flags().intersects(special))
}

/// The copying of one area's entries.
struct Copy<'a, P: Platform> {
    mm: &'a Mm<P>,
    sharing: Sharing,
    anon: i64,
    file: i64,
    shmem: i64,
    /// The hull of what was write-protected in the parent and must be flushed.
    protected: Option<VirtRange>,
}

impl<P: Platform> Copy<'_, P> {
    /// Copies the entries of one page-table page that lie in `part`. `copy_pte_range`.
    fn table(
        &mut self,
        from: &mut LockedTable<'_, P>,
        into: &mut LockedTable<'_, P>,
        part: VirtRange,
    ) {
        let sharing = self.sharing;
        let tightened = from.copy_to(into, part, sharing, |leaf| self.share(leaf));
        if let Some(tightened) = tightened {
            let start = self
                .protected
                .map_or(tightened.start(), |range| range.start());
            self.protected = VirtRange::new(start, tightened.end());
        }
    }

    /// Takes the reference that the child's entry will own, and counts the page as resident there.
    fn share(&mut self, leaf: &Leaf) {
        if leaf.flags.contains(LeafFlags::SPECIAL) {
            return;
        }
        let Some(page) = self.mm.machine.phys().get(leaf.frame) else {
            return;
        };
        match RssKind::of(page.kind()) {
            Some(RssKind::Anon) => self.anon += 1,
            Some(RssKind::File) => self.file += 1,
            Some(RssKind::Shmem) => self.shmem += 1,
            Some(RssKind::Swap) | None => {}
        }
        page.into_raw();
    }
}

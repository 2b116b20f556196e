//! Write faults on entries that are there and not writable: copy-on-write, reuse of a page that nobody else has, and the
//! first store to a shared page of a file.

use super::account::RssKind;
use super::fault::{Attempt, FaultError, Rights, Step};
use super::mm::Mm;
use crate::addr::VirtAddr;
use crate::paging::{Access, Entry, Format, Leaf, LeafFlags};
use crate::phys::{FrameKind, PageRef};
use crate::platform::Platform;

/// What the page under a write-protected entry calls for.
enum Source<P: Platform> {
    /// The entry was made writable in place.
    Reused,
    /// A copy of this page.
    Copy(PageRef<P>),
    /// A page of zeros.
    Zero,
    /// The entry is another by now.
    Changed,
}

impl<P: Platform> Mm<P> {
    /// `do_wp_page`.
    pub(super) fn fault_write_protected(
        &self,
        attempt: &Attempt<'_, P>,
        leaf: Leaf,
    ) -> Result<Step<P>, FaultError> {
        if attempt.vma.is_shared() {
            return self.fault_shared_store(attempt, leaf);
        }
        if !self.prepare_anon(attempt) {
            return Ok(Step::Again);
        }
        let phys = self.machine.phys();
        let (new, from) = match self.reuse_or_source(attempt, leaf) {
            Source::Reused => {
                self.count(|events| &events.reuses);
                return Ok(Step::Done);
            }
            Source::Changed => return Ok(Step::Again),
            Source::Zero => (phys.alloc_zeroed(FrameKind::Anon)?, None),
            Source::Copy(from) => {
                let new = phys.alloc(FrameKind::Anon)?;
                new.copy_from(&from);
                (new, Some(from))
            }
        };
        let fresh = Leaf {
            frame: new.pfn(),
            flags: attempt.fresh_flags(),
            cache: leaf.cache,
        };
        if !self.put_copy(attempt, leaf, fresh) {
            return Ok(Step::Again);
        }
        new.into_raw();
        self.count_copy(from.as_ref());
        Ok(Step::Done)
    }

    /// Gives this space a page of its own in the place of an anonymous one that others map too, not writable yet: what a pinned page must be.
    /// `gup_must_unshare`, FAULT_FLAG_UNSHARE.
    ///
    /// # Errors
    /// No frame.
    pub(super) fn unshare(&self, addr: VirtAddr) -> Result<(), FaultError> {
        let phys = self.machine.phys();
        loop {
            let state = self.state.read();
            let Some(vma) = state.vmas.get(addr.get()).filter(|vma| vma.is_cow()) else {
                return Ok(());
            };
            let Some((leaf, from)) = self.shared_anonymous(addr) else {
                return Ok(());
            };
            let attempt = Attempt {
                vma,
                addr,
                access: Access::Read,
                rights: Rights::Checked,
                state: Some(&state),
            };
            let new = phys.alloc(FrameKind::Anon)?;
            new.copy_from(&from);
            let fresh = Leaf {
                frame: new.pfn(),
                flags: attempt.fresh_flags(),
                cache: leaf.cache,
            };
            if self.put_copy(&attempt, leaf, fresh) {
                new.into_raw();
                self.count_copy(Some(&from));
                return Ok(());
            }
        }
    }

    /// The entry of the page at `addr` and its page, if that is an anonymous one which others map too.
    fn shared_anonymous(&self, addr: VirtAddr) -> Option<(Leaf, PageRef<P>)> {
        let phys = self.machine.phys();
        let _guard = self.machine.pin();
        let table = self.table.locked_leaf(phys, addr)?;
        let Entry::Present(leaf) = table.get(P::Format::index(0, addr.get())) else {
            return None;
        };
        let page = phys.get(leaf.frame)?;
        // The entry's reference and the one just taken.
        let shared = page.kind() == FrameKind::Anon && page.count() > 2;
        shared.then_some((leaf, page))
    }

    /// Puts a copy in the place of `old` if that still stands there. No CPU reads the old page after another has written to the new one: the
    /// entry is empty while the TLBs are flushed.
    fn put_copy(&self, attempt: &Attempt<'_, P>, old: Leaf, new: Leaf) -> bool {
        let at = attempt.page();
        let Some(table) = self.table.leaf(self.machine.phys(), at) else {
            return false;
        };
        let index = P::Format::index(0, at.get());
        let mut batch = self.flush_batch();
        let mut locked = table.lock();
        if !self.may_install(attempt.vma) || locked.get(index) != Entry::Present(old) {
            return false;
        }
        batch.replace(&mut locked, index, Entry::Present(new));
        drop(locked);
        batch.finish();
        self.count(|events| &events.flushes);
        true
    }

    /// Makes the entry writable if the page is ours alone, else says what to copy. `wp_can_reuse_anon_folio`.
    fn reuse_or_source(&self, attempt: &Attempt<'_, P>, leaf: Leaf) -> Source<P> {
        let (phys, at) = (self.machine.phys(), attempt.page());
        let Some(table) = self.table.leaf(phys, at) else {
            return Source::Changed;
        };
        let index = P::Format::index(0, at.get());
        let mut locked = table.lock();
        if !self.may_install(attempt.vma) || locked.get(index) != Entry::Present(leaf) {
            return Source::Changed;
        }
        if leaf.flags.contains(LeafFlags::SPECIAL) && leaf.frame == phys.zero_page() {
            return Source::Zero;
        }
        let Some(page) = phys.get(leaf.frame) else {
            return Source::Zero;
        };
        // The entry's reference and the one just taken.
        if page.kind() == FrameKind::Anon && page.count() == 2 {
            locked.raise(index, attempt.fresh_flags());
            return Source::Reused;
        }
        Source::Copy(page)
    }

    /// Counts a page that was copied, or made from zeros.
    fn count_copy(&self, from: Option<&PageRef<P>>) {
        let Some(from) = from else {
            self.add_rss(RssKind::Anon, 1);
            self.count(|events| &events.anonymous_faults);
            return;
        };
        self.count(|events| &events.copies);
        match RssKind::of(from.kind()) {
            Some(RssKind::Anon) => {}
            Some(other) => {
                self.add_rss(other, -1);
                self.add_rss(RssKind::Anon, 1);
            }
            None => self.add_rss(RssKind::Anon, 1),
        }
    }

    /// The first store through this entry to a page that others see. `wp_page_shared`, `finish_mkwrite_fault`.
    fn fault_shared_store(
        &self,
        attempt: &Attempt<'_, P>,
        leaf: Leaf,
    ) -> Result<Step<P>, FaultError> {
        let Some(step) = self.before_shared_store(attempt)? else {
            let cache = attempt.vma.file().and_then(|file| file.cache());
            let index = attempt.vma.page_index(attempt.page());
            let flags = leaf.flags | attempt.fresh_flags();
            self.count(|events| &events.shared_write_faults);
            // Dirty in the cache before the entry is writable, and under its lock: write-back cleans first and protects after.
            return self.replace_entry(
                attempt,
                Entry::Present(leaf),
                Leaf { flags, ..leaf },
                |_| cache.is_none_or(|cache| cache.mark_dirty(index)),
            );
        };
        Ok(step)
    }

    /// `page_mkwrite`: asks the driver, which may sleep and so needs the mmap lock. `None`: go on.
    pub(super) fn before_shared_store(
        &self,
        attempt: &Attempt<'_, P>,
    ) -> Result<Option<Step<P>>, FaultError> {
        let Some(ops) = attempt.vma.operations() else {
            return Ok(None);
        };
        if attempt.state.is_none() {
            return Ok(Some(Step::Again));
        }
        match ops.page_mkwrite(attempt.vma.range(), attempt.vma.page_index(attempt.page())) {
            Ok(()) => Ok(None),
            Err(_) => attempt
                .fail(super::fault::Signal::Bus, super::fault::FaultCode::NoPage)
                .map(Some),
        }
    }
}

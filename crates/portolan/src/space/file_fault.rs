//! Faults on entries that are absent in mappings of files and of shared anonymous memory: the page comes from the page cache, or a copy
//! of it; pages cached next to it come along. Reading what is not cached is done with nothing held, by the caller's loop.

use alloc::sync::Arc;

use super::account::RssKind;
use super::fault::{Attempt, Fault, FaultCode, FaultError, Signal, Step};
use super::mm::Mm;
use crate::addr::{Pfn, VirtAddr, VirtRange};
use crate::device::{VmFault, VmFaultError};
use crate::errno::Errno;
use crate::object::{Cache, File, VmFlags};
use crate::paging::{Access, Entry, Format, Leaf, LeafFlags, LockedTable};
use crate::phys::{FrameKind, PageRef};
use crate::platform::Platform;
use core::sync::atomic::Ordering;

/// The most pages that a fault maps around itself.
const AROUND_MOST: usize = 16;

impl<P: Platform> Mm<P> {
    /// Reads a page of a file into its cache, with nothing held.
    pub(super) fn load_page(
        &self,
        file: &Arc<File<P>>,
        index: u64,
        addr: VirtAddr,
    ) -> Result<(), FaultError> {
        let bus = FaultError::Signal(Fault {
            signal: Signal::Bus,
            code: FaultCode::NoPage,
            addr,
        });
        let Some(cache) = file.cache() else {
            return Err(bus);
        };
        match cache.page(index) {
            Ok(_) => Ok(()),
            Err(Errno::ENOMEM) => Err(FaultError::OutOfMemory),
            Err(_) => Err(bus),
        }
    }

    /// `do_fault`.
    pub(super) fn fault_file(&self, attempt: &Attempt<'_, P>) -> Result<Step<P>, FaultError> {
        let Some((file, cache)) = attempt
            .vma
            .file()
            .and_then(|file| Some((file, file.cache()?)))
        else {
            return self.fault_driver(attempt);
        };
        let stores_privately = attempt.access == Access::Write && !attempt.vma.is_shared();
        // Before anything can fail, as in Linux: what merges later depends on it.
        if stores_privately && !self.prepare_anon(attempt) {
            return Ok(Step::Again);
        }
        let index = attempt.vma.page_index(attempt.page());
        let truncations = cache.truncations();
        if index >= cache.size_in_pages() {
            // What lies around is mapped before the page is missed, as in Linux.
            if attempt.access != Access::Write && attempt.state.is_some() {
                self.fault_around(attempt, cache, truncations)?;
            }
            return attempt.fail(Signal::Bus, FaultCode::NoPage);
        }
        let Some(page) = cache.lookup(index) else {
            return Ok(Step::Load(file.clone(), index));
        };
        let source = FilePage {
            cache,
            index,
            page,
            truncations,
        };
        match (attempt.access, attempt.vma.is_shared()) {
            (Access::Write, false) => self.fault_private_store(attempt, &source),
            (Access::Write, true) => self.fault_shared_first_store(attempt, source),
            _ => self.fault_file_read(attempt, source),
        }
    }

    /// A page that a driver hands out; it may sleep, so it is asked under the mmap lock. `__do_fault`.
    fn fault_driver(&self, attempt: &Attempt<'_, P>) -> Result<Step<P>, FaultError> {
        let Some(ops) = attempt.vma.operations() else {
            return attempt.fail(Signal::Bus, FaultCode::NoPage);
        };
        if attempt.state.is_none() {
            return Ok(Step::Again);
        }
        let (vma, access) = (attempt.vma, attempt.access);
        let index = vma.page_index(attempt.page());
        let fault = VmFault {
            range: vma.range(),
            flags: vma.flags(),
            addr: attempt.addr,
            index,
            access,
        };
        let mut page = match ops.fault(&fault) {
            Ok(page) => page,
            Err(VmFaultError::Retry) => return Ok(Step::Done),
            Err(VmFaultError::OutOfMemory) => return Err(FaultError::OutOfMemory),
            Err(VmFaultError::Segv) => return attempt.fail(Signal::Segv, FaultCode::NotMapped),
            Err(VmFaultError::Bus) => return attempt.fail(Signal::Bus, FaultCode::NoPage),
            Err(VmFaultError::Poisoned) => return attempt.fail(Signal::Bus, FaultCode::Poisoned),
        };
        if access == Access::Write && !vma.is_shared() {
            if !self.prepare_anon(attempt) {
                return Ok(Step::Again);
            }
            page = page.duplicate(FrameKind::Anon)?;
        } else if access == Access::Write && ops.page_mkwrite(vma.range(), index).is_err() {
            return attempt.fail(Signal::Bus, FaultCode::NoPage);
        }
        let leaf = Leaf {
            frame: page.pfn(),
            flags: attempt.fresh_flags(),
            cache: vma.cache_mode(),
        };
        let step = self.replace_entry(attempt, Entry::Absent, leaf, |_| true)?;
        if let Step::Done = step {
            self.keep(page);
        }
        Ok(step)
    }

    /// A store to a private mapping: straight to the copy. `do_cow_fault`.
    fn fault_private_store(
        &self,
        attempt: &Attempt<'_, P>,
        source: &FilePage<'_, P>,
    ) -> Result<Step<P>, FaultError> {
        let page = self.machine.phys().alloc(FrameKind::Anon)?;
        page.copy_from(&source.page);
        let leaf = Leaf {
            frame: page.pfn(),
            flags: attempt.fresh_flags(),
            cache: attempt.vma.cache_mode(),
        };
        let step = self.replace_entry(attempt, Entry::Absent, leaf, |_| source.is_current())?;
        if let Step::Done = step {
            page.into_raw();
            self.add_rss(RssKind::Anon, 1);
            self.count(|events| &events.file_copy_faults);
        }
        Ok(step)
    }

    /// A store to a shared mapping that has no entry yet. `do_shared_fault`.
    fn fault_shared_first_store(
        &self,
        attempt: &Attempt<'_, P>,
        source: FilePage<'_, P>,
    ) -> Result<Step<P>, FaultError> {
        if let Some(step) = self.before_shared_store(attempt)? {
            return Ok(step);
        }
        let leaf = Leaf {
            frame: source.page.pfn(),
            flags: attempt.fresh_flags(),
            cache: attempt.vma.cache_mode(),
        };
        let ready = |_: &mut LockedTable<'_, P>| {
            source.is_current() && source.cache.mark_dirty(source.index)
        };
        let step = self.replace_entry(attempt, Entry::Absent, leaf, ready)?;
        if let Step::Done = step {
            self.keep(source.page);
            self.count(|events| &events.shared_write_faults);
        }
        Ok(step)
    }

    /// A load or fetch: the cached page, and those around it. `do_read_fault`.
    fn fault_file_read(
        &self,
        attempt: &Attempt<'_, P>,
        source: FilePage<'_, P>,
    ) -> Result<Step<P>, FaultError> {
        let leaf = read_leaf(attempt, source.cache, source.page.pfn());
        let mut around = 0;
        let step = self.replace_entry(attempt, Entry::Absent, leaf, |table| {
            // Soft-dirty may have been cleared meanwhile, and then stores must fault.
            let tracked = !attempt.vma.flags().contains(VmFlags::SOFTDIRTY);
            let writable_at_once = leaf.flags.contains(LeafFlags::WRITE);
            source.is_current() && !(writable_at_once && tracked) && {
                around = self.map_around(attempt, source.cache, table);
                true
            }
        })?;
        if let Step::Done = step {
            self.keep(source.page);
            self.count(|events| &events.file_read_faults);
            self.tally
                .of(self.cpu())
                .events
                .faults_around
                .fetch_add(around, Ordering::Relaxed);
        }
        Ok(step)
    }

    /// Maps what is cached around a page that the file has not.
    fn fault_around(
        &self,
        attempt: &Attempt<'_, P>,
        cache: &Cache<P>,
        truncations: u64,
    ) -> Result<(), FaultError> {
        let attached = || self.may_install(attempt.vma);
        let phys = self.machine.phys();
        let table = self.table.leaf_or_create(phys, attempt.page(), attached)?;
        let Some(table) = table else {
            return Ok(());
        };
        let mut locked = table.lock();
        if attached() && cache.truncations() == truncations {
            self.map_around(attempt, cache, &mut locked);
        }
        Ok(())
    }

    /// Maps the cached neighbours of a faulting page where nothing is mapped yet; returns how many. `do_fault_around`.
    fn map_around(
        &self,
        attempt: &Attempt<'_, P>,
        cache: &Cache<P>,
        table: &mut LockedTable<'_, P>,
    ) -> u64 {
        let granule = P::Format::GRANULE;
        let Some(window) = self.around(attempt, table.covers()) else {
            return 0;
        };
        let first = attempt.vma.page_index(window.start());
        let count = (window.pages(granule) as usize).min(AROUND_MOST);
        let mut pages: [Option<PageRef<P>>; AROUND_MOST] = [const { None }; AROUND_MOST];
        cache.lookup_run(first, &mut pages[..count]);
        let mut mapped = 0;
        for (n, page) in pages.into_iter().enumerate() {
            let (Some(page), at) = (page, window.start().get() + ((n as u64) << granule.shift()))
            else {
                continue;
            };
            let index = P::Format::index(0, at);
            if at == attempt.page().get() || first + n as u64 >= cache.size_in_pages() {
                continue;
            }
            if table.get(index) == Entry::Absent {
                table.set(index, Entry::Present(read_leaf(attempt, cache, page.pfn())));
                self.keep(page);
                mapped += 1;
            }
        }
        mapped
    }

    /// The window around a fault: it starts aligned or with the area, and ends with the area or the page-table page. As in Linux, one that starts
    /// with the area is not shorter for that.
    fn around(&self, attempt: &Attempt<'_, P>, table: VirtRange) -> Option<VirtRange> {
        let granule = P::Format::GRANULE;
        let most = AROUND_MOST as u64 * granule.bytes();
        let bytes = self
            .machine
            .settings()
            .fault_around
            .load(Ordering::Relaxed)
            .min(most)
            .max(granule.bytes());
        let bytes = 1 << bytes.ilog2();
        let aligned = VirtAddr::new(attempt.page().get() & !(bytes - 1));
        let start = aligned.max(attempt.vma.range().start());
        VirtRange::with_len(start, bytes)?
            .intersection(attempt.vma.range())?
            .intersection(table)
    }

    /// Counts a page of a cache as resident; the entry that maps it owns the reference from now on.
    fn keep(&self, page: PageRef<P>) {
        if let Some(kind) = RssKind::of(page.kind()) {
            self.add_rss(kind, 1);
        }
        page.into_raw();
    }
}

/// The entry that a load puts in for a page of `cache`: writable at once where nobody need be told of the first store.
fn read_leaf<P: Platform>(attempt: &Attempt<'_, P>, cache: &Cache<P>, frame: Pfn) -> Leaf {
    let vma = attempt.vma;
    let mut flags = attempt.fresh_flags();
    let writable_at_once = vma.is_shared()
        && vma.flags().contains(VmFlags::WRITE | VmFlags::SOFTDIRTY)
        && vma.operations().is_none()
        && cache.is_shmem();
    flags.set(LeafFlags::WRITE, writable_at_once);
    Leaf {
        frame,
        flags,
        cache: vma.cache_mode(),
    }
}

/// A page of a file, and how to know that truncation has not taken it since.
struct FilePage<'a, P: Platform> {
    cache: &'a Arc<Cache<P>>,
    index: u64,
    page: PageRef<P>,
    truncations: u64,
}

impl<P: Platform> FilePage<'_, P> {
    /// Whether it is still the page of the file. Asked under the lock of a page-table page: a truncation that starts later
    /// sweeps the entry.
    fn is_current(&self) -> bool {
        self.cache.truncations() == self.truncations
    }
}

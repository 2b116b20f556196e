//! `madvise`. What is not built answers EINVAL, as a Linux without it does; nothing is accepted and then ignored, but for the advice
//! that Linux itself only stores.

use alloc::sync::Arc;

use super::edit::range as ordered;
use super::mm::{MmState, MmUser};
use super::populate::Populate;
use super::seal::check_discard;
use super::vma::{Name, Vma};
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::{File, VmFlags};
use crate::paging::{Access, Entry, Format, Leaf, LeafFlags};
use crate::phys::{FrameKind, PageFlags};
use crate::platform::Platform;
use linux_raw_sys::general as raw;

/// `MADV_GUARD_INSTALL`.
const MADV_GUARD_INSTALL: u32 = 102;
/// `MADV_GUARD_REMOVE`.
const MADV_GUARD_REMOVE: u32 = 103;

/// What an advice does to each area.
#[derive(Clone, Copy)]
enum Advice {
    /// Sets and clears flags of the area.
    Flags { set: VmFlags, clear: VmFlags },
    /// Gives the pages up.
    DontNeed { locked_too: LockedToo },
    /// Lets the pages go if memory is short, unless they are written again.
    Free,
    /// Reads a file ahead.
    WillNeed,
    /// Punches a hole in the file.
    Remove,
    /// Faults the pages in.
    Populate(Access),
    /// The pages were not used lately.
    Cold,
    /// The pages will not be used soon: what has another copy may go.
    PageOut,
    /// Makes the pages guards.
    GuardInstall,
    /// Takes guards away.
    GuardRemove,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum LockedToo {
    No,
    Yes,
}

impl Advice {
    fn parse(advice: u32) -> Result<Self, Errno> {
        let flags = |set, clear| Advice::Flags { set, clear };
        let none = VmFlags::empty();
        Ok(match advice {
            raw::MADV_NORMAL => flags(none, VmFlags::RAND_READ | VmFlags::SEQ_READ),
            raw::MADV_RANDOM => flags(VmFlags::RAND_READ, VmFlags::SEQ_READ),
            raw::MADV_SEQUENTIAL => flags(VmFlags::SEQ_READ, VmFlags::RAND_READ),
            raw::MADV_WILLNEED => Advice::WillNeed,
            raw::MADV_DONTNEED => Advice::DontNeed {
                locked_too: LockedToo::No,
            },
            raw::MADV_DONTNEED_LOCKED => Advice::DontNeed {
                locked_too: LockedToo::Yes,
            },
            raw::MADV_FREE => Advice::Free,
            raw::MADV_REMOVE => Advice::Remove,
            raw::MADV_DONTFORK => flags(VmFlags::DONTCOPY, none),
            raw::MADV_DOFORK => flags(none, VmFlags::DONTCOPY),
            raw::MADV_WIPEONFORK => flags(VmFlags::WIPEONFORK, none),
            raw::MADV_KEEPONFORK => flags(none, VmFlags::WIPEONFORK),
            raw::MADV_DONTDUMP => flags(VmFlags::DONTDUMP, none),
            raw::MADV_DODUMP => flags(none, VmFlags::DONTDUMP),
            raw::MADV_COLD => Advice::Cold,
            raw::MADV_PAGEOUT => Advice::PageOut,
            MADV_GUARD_INSTALL => Advice::GuardInstall,
            MADV_GUARD_REMOVE => Advice::GuardRemove,
            raw::MADV_POPULATE_READ => Advice::Populate(Access::Read),
            raw::MADV_POPULATE_WRITE => Advice::Populate(Access::Write),
            _ => return Err(Errno::EINVAL),
        })
    }
}

impl<P: Platform> MmUser<P> {
    /// `madvise`. `mm/madvise.c: do_madvise`.
    ///
    /// Built: NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED, DONTNEED_LOCKED, FREE, REMOVE, DONTFORK, DOFORK, WIPEONFORK, KEEPONFORK,
    /// DONTDUMP, DODUMP, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE, GUARD_INSTALL, GUARD_REMOVE.
    ///
    /// # Errors
    /// - `EINVAL`: unaligned, a length that overflows, an advice that is unknown or not built, or one that the area cannot take.
    /// - `ENOMEM`: a hole (the rest is advised all the same), or no frame. `EAGAIN`: too many mappings, or no heap. `EACCES`: REMOVE on what is not shared and writable.
    /// - `EPERM`: a discard in a sealed read-only mapping. `EFAULT`: POPULATE_* met SIGBUS.
    pub fn madvise(&self, addr: VirtAddr, len: u64, advice: u32) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        let advice = Advice::parse(advice)?;
        if !addr.is_aligned(granule) {
            return Err(Errno::EINVAL);
        }
        let len = granule.round_up(len).ok_or(Errno::EINVAL)?;
        let range = VirtRange::with_len(addr, len).ok_or(Errno::EINVAL)?;
        if range.is_empty() {
            return Ok(());
        }
        match advice {
            Advice::Populate(access) => self.populate_range(range, Populate::Strictly(access)),
            Advice::Flags { set, clear } => self.each_part(range, |state, part| {
                self.advise_flags(state, part, set, clear)
            }),
            Advice::GuardInstall => self.each_part(range, |state, part| {
                let vma = state.vmas.get(part.start().get()).ok_or(Errno::ENOMEM)?;
                check_discard(vma)?;
                self.guard_install(state, vma, part)
            }),
            _ => self.advise_shared(range, advice),
        }
    }

    /// Names anonymous memory, or takes the name away; shown as `[anon:name]`. `prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME)`,
    /// `mm/madvise.c: madvise_set_anon_name`. The caller has checked the length and the letters of the name.
    ///
    /// # Errors
    /// `EINVAL`: unaligned, or the range overflows. `ENOMEM`: a hole (the rest is named all the same). `EAGAIN`: too many mappings, or no heap. `EBADF`: memory of a file.
    pub fn set_anon_name(
        &self,
        addr: VirtAddr,
        len: u64,
        name: Option<Arc<str>>,
    ) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        let len = granule.round_up(len).ok_or(Errno::EINVAL)?;
        let range = VirtRange::with_len(addr, len).ok_or(Errno::EINVAL)?;
        if !addr.is_aligned(granule) {
            return Err(Errno::EINVAL);
        }
        let name = name.map(Name::Anonymous);
        self.each_part(range, |state, part| {
            let vma = state.vmas.get(part.start().get()).ok_or(Errno::ENOMEM)?;
            if vma
                .file()
                .is_some_and(|file| !file.cache().is_some_and(|cache| cache.is_shmem()))
            {
                return Err(Errno::EBADF);
            }
            let mut fields = vma.fields().cut(part);
            if fields.name == name {
                return Ok(());
            }
            fields.name = name.clone();
            self.modify(state, fields).map_err(try_again)
        })
    }

    /// Calls `change` for the part of each area that lies in `range`, under the mmap lock for writing. `madvise_walk_vmas`.
    fn each_part(
        &self,
        range: VirtRange,
        mut change: impl FnMut(&mut MmState<P>, VirtRange) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut state = self.state.write();
        let mut hole = Ok(());
        let mut at = range.start();
        while at < range.end() {
            let vma = state.vmas.find(at.get()).ok_or(Errno::ENOMEM)?;
            let part = vma
                .range()
                .intersection(ordered(at, range.end()))
                .ok_or(Errno::ENOMEM)?;
            if part.start() > at {
                hole = Err(Errno::ENOMEM);
            }
            change(&mut state, part)?;
            at = part.end();
        }
        hole
    }

    fn advise_flags(
        &self,
        state: &mut MmState<P>,
        part: VirtRange,
        set: VmFlags,
        clear: VmFlags,
    ) -> Result<(), Errno> {
        let vma = state.vmas.get(part.start().get()).ok_or(Errno::ENOMEM)?;
        let flags = vma.flags();
        if set.intersects(VmFlags::DONTCOPY | VmFlags::WIPEONFORK) {
            check_discard(vma)?;
        }
        let wipe = set.contains(VmFlags::WIPEONFORK) && (vma.file().is_some() || vma.is_shared());
        let keep = clear.contains(VmFlags::WIPEONFORK) && flags.contains(VmFlags::DROPPABLE);
        let dofork = clear.contains(VmFlags::DONTCOPY) && flags.contains(VmFlags::IO);
        let special = VmFlags::IO | VmFlags::DONTEXPAND | VmFlags::PFNMAP | VmFlags::MIXEDMAP;
        let dodump = clear.contains(VmFlags::DONTDUMP)
            && (flags.intersects(special) && vma.file().is_some()
                || flags.contains(VmFlags::DROPPABLE));
        if wipe || keep || dofork || dodump {
            return Err(Errno::EINVAL);
        }
        let changed = flags & !clear | set;
        if changed == flags {
            return Ok(());
        }
        let mut fields = vma.fields().cut(part);
        fields.flags = changed;
        self.modify(state, fields).map_err(try_again)
    }

    /// Advice that leaves areas as they are, under the mmap lock for reading.
    fn advise_shared(&self, range: VirtRange, advice: Advice) -> Result<(), Errno> {
        let mut hole = Ok(());
        let mut at = range.start();
        while at < range.end() {
            let state = self.state.read();
            let vma = state.vmas.find(at.get()).ok_or(Errno::ENOMEM)?;
            let part = vma
                .range()
                .intersection(ordered(at, range.end()))
                .ok_or(Errno::ENOMEM)?;
            if part.start() > at {
                hole = Err(Errno::ENOMEM);
            }
            match advice {
                Advice::DontNeed { locked_too } => self.advise_dontneed(vma, part, locked_too)?,
                Advice::Free => self.advise_free(vma, part)?,
                Advice::Cold => self.advise_cold(vma, part)?,
                Advice::PageOut => self.advise_page_out(vma, part)?,
                Advice::GuardRemove => self.guard_remove(vma, part)?,
                Advice::WillNeed | Advice::Remove => {
                    if let Advice::Remove = advice {
                        check_discard(vma)?;
                    }
                    let file = vma.file().cloned();
                    let (first, shared) = (vma.page_index(part.start()), vma.flags());
                    drop(state);
                    self.advise_file(file, first, part.pages(P::Format::GRANULE), shared, advice)?;
                }
                Advice::Flags { .. } | Advice::Populate(_) | Advice::GuardInstall => {}
            }
            at = part.end();
        }
        hole
    }

    /// `madvise_dontneed_single_vma`.
    fn advise_dontneed(
        &self,
        vma: &Vma<P>,
        part: VirtRange,
        locked_too: LockedToo,
    ) -> Result<(), Errno> {
        let mut refused = VmFlags::PFNMAP;
        refused.set(VmFlags::LOCKED, locked_too == LockedToo::No);
        check_discard(vma)?;
        if vma.flags().intersects(refused) {
            return Err(Errno::EINVAL);
        }
        let mut batch = self.flush_batch();
        self.zap_pages(&mut batch, part);
        batch.finish();
        Ok(())
    }

    /// The pages of `part` count as not used. `madvise_cold`.
    fn advise_cold(&self, vma: &Vma<P>, part: VirtRange) -> Result<(), Errno> {
        let refused = VmFlags::LOCKED | VmFlags::PFNMAP | VmFlags::HUGETLB;
        if vma.flags().intersects(refused) {
            return Err(Errno::EINVAL);
        }
        let mut batch = self.flush_batch();
        self.clear_accessed(&mut batch, part);
        batch.finish();
        Ok(())
    }

    /// What another copy exists of goes: clean pages of files that only this entry maps; anonymous memory has no other copy without swap, and
    /// stays. `madvise_pageout`.
    fn advise_page_out(&self, vma: &Vma<P>, part: VirtRange) -> Result<(), Errno> {
        self.advise_cold(vma, part)?;
        let phys = self.machine.phys();
        let mut batch = self.flush_batch();
        self.zap_pages_where(&mut batch, part, |leaf| {
            let page = phys.page(leaf.frame);
            let ours = page.is_some_and(|page| page.kind() == FrameKind::Cache && page.refs() == 2);
            ours && !leaf.flags.intersects(LeafFlags::DIRTY | LeafFlags::SPECIAL)
        });
        batch.finish();
        if let Some(cache) = vma.file().and_then(|file| file.cache()) {
            let first = vma.page_index(part.start());
            cache.reclaim_range(first..first.saturating_add(part.pages(P::Format::GRANULE)));
        }
        Ok(())
    }

    /// `madvise_free_single_vma`: the pages become clean; reclaim may drop what is not written again.
    fn advise_free(&self, vma: &Vma<P>, part: VirtRange) -> Result<(), Errno> {
        check_discard(vma)?;
        let refused = VmFlags::PFNMAP | VmFlags::LOCKED;
        if !vma.is_anonymous() || vma.is_shared() || vma.flags().intersects(refused) {
            return Err(Errno::EINVAL);
        }
        let mut batch = self.flush_batch();
        batch.change_range(&self.table, part, |_, leaf| {
            let page = self.machine.phys().page(leaf.frame);
            let anonymous = page.is_some_and(|page| page.kind() == FrameKind::Anon);
            let flags = leaf.flags & !(LeafFlags::DIRTY | LeafFlags::ACCESSED);
            if let Some(page) = page.filter(|page| anonymous && page.refs() == 1) {
                page.set_flags(PageFlags::LAZY_FREE);
            }
            (anonymous && flags != leaf.flags).then_some(Entry::Present(Leaf { flags, ..leaf }))
        });
        batch.finish();
        Ok(())
    }

    /// WILLNEED and REMOVE, which may sleep in the file.
    fn advise_file(
        &self,
        file: Option<Arc<File<P>>>,
        first: u64,
        pages: u64,
        flags: VmFlags,
        advice: Advice,
    ) -> Result<(), Errno> {
        if let Advice::WillNeed = advice {
            let Some(cache) = file.as_ref().and_then(|file| file.cache()) else {
                return Ok(());
            };
            // What was never written has nothing to be read from.
            if cache.is_shmem() {
                return Ok(());
            }
            let end = first.saturating_add(pages).min(cache.size_in_pages());
            // Reading ahead is a hint: what cannot be read shows when it is used.
            let _ = (first..end).try_for_each(|index| cache.page(index).map(drop));
            return Ok(());
        }
        if flags.intersects(VmFlags::LOCKED) {
            return Err(Errno::EINVAL);
        }
        let Some(file) = file else {
            return Err(Errno::EINVAL);
        };
        if !flags.contains(VmFlags::SHARED | VmFlags::MAYWRITE) {
            return Err(Errno::EACCES);
        }
        match file.cache() {
            Some(cache) => cache.punch_hole(first..first.saturating_add(pages)),
            None => Err(Errno::EINVAL),
        }
    }
}

/// Too many mappings, and no heap, are EAGAIN to those who advise on flags and names. `madvise_vma_behavior`.
fn try_again(error: Errno) -> Errno {
    match error {
        Errno::ENOMEM => Errno::EAGAIN,
        other => other,
    }
}

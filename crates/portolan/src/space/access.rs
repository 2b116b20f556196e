//! Reaching the memory of a space from outside it: a kernel's copies to and from user memory, and the translations that an engine
//! which is itself the TLB asks for. Faults are taken on the way where a copy needs them.

use core::sync::atomic::{AtomicU32, Ordering};

use super::fault::FaultError;
use super::mm::{Mm, MmUser};
use crate::addr::{Pfn, VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::paging::{Access, Cursor, Entry, Format, Leaf, LeafFlags};
use crate::phys::{FrameKind, PageFlags};
use crate::platform::Platform;

/// What a TLB may keep of one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The frame.
    pub frame: Pfn,
    /// Loads may go through.
    pub readable: bool,
    /// Stores may go through: the entry allows them and is already marked dirty.
    pub writable: bool,
    /// Fetches may go through.
    pub executable: bool,
}

impl Translation {
    fn of(leaf: &Leaf) -> Self {
        let writable = leaf.flags.contains(LeafFlags::WRITE | LeafFlags::DIRTY);
        let readable = leaf.flags.contains(LeafFlags::READ);
        Self {
            frame: leaf.frame,
            readable,
            writable,
            executable: leaf.flags.contains(LeafFlags::EXEC),
        }
    }
}

/// Whether an entry lets an access through.
pub(super) fn allows(leaf: &Leaf, access: Access) -> bool {
    leaf.flags.contains(match access {
        Access::Read => LeafFlags::READ,
        Access::Write => LeafFlags::READ | LeafFlags::WRITE,
        Access::Execute => LeafFlags::EXEC,
    })
}

impl<P: Platform> Mm<P> {
    /// What a page walk for `access` finds, with the accessed and dirty state set as a hardware walker would. `None`: a fault.
    pub fn translate(&self, addr: VirtAddr, access: Access) -> Option<Translation> {
        self.with_page(addr, access, Translation::of)
    }

    /// Shows the pages of `range` that are present and were used before, in order: what a TLB may load ahead without changing any state.
    ///
    /// Nothing is locked: a TLB must forget what it was shown if a flush of these pages was ordered since before this call.
    pub fn translate_present(
        &self,
        range: VirtRange,
        mut visit: impl FnMut(VirtAddr, Translation),
    ) {
        let granule = P::Format::GRANULE;
        let end = range.end().min(self.user_end()).page_down(granule);
        let Some(range) = VirtRange::new(range.start().page_down(granule), end) else {
            return;
        };
        let _guard = self.machine.pin();
        for (part, table) in Cursor::reading(&self.table, self.machine.phys(), range) {
            let first = P::Format::index(0, part.start().get());
            for n in 0..part.pages(granule) {
                let Entry::Present(leaf) = table.peek(first + n as usize) else {
                    continue;
                };
                if leaf.flags.contains(LeafFlags::ACCESSED) {
                    visit(
                        VirtAddr::new(part.start().get() + (n << granule.shift())),
                        Translation::of(&leaf),
                    );
                }
            }
        }
    }

    /// A page of shared memory that is reached for writing counts as written for all who map it, whatever comes of it.
    /// `unpin_user_pages_dirty_lock`.
    pub(super) fn mark_shared_written(&self, leaf: &Leaf) {
        let page = self.machine.phys().page(leaf.frame);
        if let Some(page) = page.filter(|page| page.kind() == FrameKind::Shmem) {
            page.set_flags(PageFlags::DIRTY);
        }
    }

    /// Runs `work` on the entry of the page at `addr` if it lets `access` through, under the lock of its page-table page, which keeps
    /// the frame in place.
    fn with_page<T>(
        &self,
        addr: VirtAddr,
        access: Access,
        work: impl FnOnce(&Leaf) -> T,
    ) -> Option<T> {
        self.with_page_if(addr, access, |leaf| allows(leaf, access), work)
    }

    /// The same, if `accepts` says so.
    pub(super) fn with_page_if<T>(
        &self,
        addr: VirtAddr,
        access: Access,
        accepts: impl FnOnce(&Leaf) -> bool,
        work: impl FnOnce(&Leaf) -> T,
    ) -> Option<T> {
        if addr >= self.user_end() {
            return None;
        }
        let _guard = self.machine.pin();
        let mut locked = self.table.locked_leaf(self.machine.phys(), addr)?;
        let index = P::Format::index(0, addr.get());
        let Entry::Present(mut leaf) = locked.get(index) else {
            return None;
        };
        if !accepts(&leaf) {
            return None;
        }
        let mut used = leaf.flags | LeafFlags::ACCESSED;
        if access == Access::Write {
            used |= LeafFlags::DIRTY | LeafFlags::SOFT_DIRTY;
        }
        if used != leaf.flags {
            leaf.flags = used;
            locked.raise(index, used);
        }
        Some(work(&leaf))
    }
}

/// How far a copy came, and why it went no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partial {
    /// Bytes copied.
    pub done: usize,
    /// What stopped it.
    pub error: FaultError,
}

impl<P: Platform> MmUser<P> {
    /// Copies from this space. `copy_from_user`.
    ///
    /// # Errors
    /// `EFAULT`: a part is not mapped or not readable. `ENOMEM`: no frame. `to` may be changed in part.
    pub fn copy_from_user(&self, from: VirtAddr, to: &mut [u8]) -> Result<(), Errno> {
        self.read_partly(from, to).map_err(errno_of)
    }

    /// Copies into this space. `copy_to_user`.
    ///
    /// # Errors
    /// `EFAULT`: a part is not mapped or not writable. `ENOMEM`: no frame. What came before is written.
    pub fn copy_to_user(&self, to: VirtAddr, from: &[u8]) -> Result<(), Errno> {
        self.write_partly(to, from).map_err(errno_of)
    }

    /// Copies from this space, as far as that goes.
    ///
    /// # Errors
    /// How far, and why no further.
    pub fn read_partly(&self, from: VirtAddr, to: &mut [u8]) -> Result<(), Partial> {
        self.each_page(from, to.len(), Access::Read, |leaf, offset, done, count| {
            if let Some(page) = self.machine.phys().get(leaf.frame) {
                page.read(offset, &mut to[done..done + count]);
            }
        })
    }

    /// Copies into this space, as far as that goes.
    ///
    /// # Errors
    /// How far, and why no further.
    pub fn write_partly(&self, to: VirtAddr, from: &[u8]) -> Result<(), Partial> {
        self.each_page(
            to,
            from.len(),
            Access::Write,
            |leaf, offset, done, count| {
                if let Some(page) = self.machine.phys().get(leaf.frame) {
                    page.write(offset, &from[done..done + count]);
                }
            },
        )
    }

    /// Fills a range with zeros. `clear_user`.
    ///
    /// # Errors
    /// `EFAULT`: a part is not mapped or not writable. `ENOMEM`: no frame.
    pub fn clear_user(&self, at: VirtAddr, len: usize) -> Result<(), Errno> {
        let zero = |leaf: &Leaf, offset, _, count| {
            if let Some(page) = self.machine.phys().get(leaf.frame) {
                page.fill(offset, count, 0);
            }
        };
        self.each_page(at, len, Access::Write, zero)
            .map_err(errno_of)
    }

    /// Copies a string up to and without its NUL into `to`; returns its length. `strncpy_from_user`.
    ///
    /// # Errors
    /// `EFAULT`: it is not readable up to its end. `ENAMETOOLONG`: no NUL in the first `to.len()` bytes.
    pub fn read_cstr(&self, from: VirtAddr, to: &mut [u8]) -> Result<usize, Errno> {
        let granule = P::Format::GRANULE;
        let mut done = 0;
        while done < to.len() {
            let at = from.checked_add(done as u64).ok_or(Errno::EFAULT)?;
            let in_page = (granule.bytes() - at.page_offset(granule)) as usize;
            let count = in_page.min(to.len() - done);
            let part = &mut to[done..done + count];
            self.copy_from_user(at, part)?;
            if let Some(end) = part.iter().position(|&byte| byte == 0) {
                return Ok(done + end);
            }
            done += count;
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Reads a naturally aligned 32-bit word with one load.
    ///
    /// # Errors
    /// `EFAULT`: unaligned or not readable. `ENOMEM`: no frame.
    pub fn load_u32(&self, at: VirtAddr) -> Result<u32, Errno> {
        let mut word = 0;
        self.with_word(at, Access::Read, |cell| word = cell.load(Ordering::SeqCst))?;
        Ok(word)
    }

    /// Changes a naturally aligned 32-bit word by compare-and-exchange; returns what was there.
    ///
    /// # Errors
    /// `EFAULT`: unaligned or not writable. `ENOMEM`: no frame.
    pub fn compare_exchange_u32(&self, at: VirtAddr, current: u32, new: u32) -> Result<u32, Errno> {
        let mut old = 0;
        self.with_word(at, Access::Write, |cell| {
            old = match cell.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(value) | Err(value) => value,
            };
        })?;
        Ok(old)
    }

    fn with_word(
        &self,
        at: VirtAddr,
        access: Access,
        mut work: impl FnMut(&AtomicU32),
    ) -> Result<(), Errno> {
        if !at.get().is_multiple_of(4) {
            return Err(Errno::EFAULT);
        }
        self.each_page(at, 4, access, |leaf, offset, _, _| {
            if let Some(page) = self.machine.phys().get(leaf.frame) {
                page.with_u32(offset, &mut work);
            }
        })
        .map_err(errno_of)
    }

    /// Calls `work` with the entry, the offset in the page, how much was done before and how much is to be done in it, for each page.
    pub(super) fn each_page(
        &self,
        at: VirtAddr,
        len: usize,
        access: Access,
        mut work: impl FnMut(&Leaf, usize, usize, usize),
    ) -> Result<(), Partial> {
        let granule = P::Format::GRANULE;
        let mut done = 0;
        while done < len {
            let unmapped = FaultError::Signal(super::fault::Fault {
                signal: super::fault::Signal::Segv,
                code: super::fault::FaultCode::NotMapped,
                addr: at,
            });
            let here = at.checked_add(done as u64).ok_or(Partial {
                done,
                error: unmapped,
            })?;
            let offset = here.page_offset(granule) as usize;
            let count = (granule.bytes() as usize - offset).min(len - done);
            if self
                .with_page(here, access, |leaf| work(leaf, offset, done, count))
                .is_some()
            {
                done += count;
                continue;
            }
            self.handle_fault(here, access)
                .map_err(|error| Partial { done, error })?;
        }
        Ok(())
    }
}

fn errno_of(partial: Partial) -> Errno {
    match partial.error {
        FaultError::OutOfMemory => Errno::ENOMEM,
        FaultError::Signal(_) => Errno::EFAULT,
    }
}

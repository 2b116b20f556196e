//! Faulting a range in ahead of use: MAP_POPULATE, locked mappings, MADV_POPULATE_*.

use super::fault::FaultError;
use super::mm::MmUser;
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::{Access, Entry, Format, LeafFlags};
use crate::phys::FrameKind;
use crate::platform::Platform;

/// What a failure does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Populate {
    /// It ends the work on that area, and nobody is told (`mm_populate`).
    Silently,
    /// It is the caller's result (`__mm_populate` for `mlock`). Holes are passed over.
    Locking,
    /// It is the caller's result (`madvise_populate`): for this access. A hole is a failure.
    Strictly(Access),
}

impl<P: Platform> MmUser<P> {
    /// `mm_populate`: faults in what is mapped in `range`, for writing where stores are private.
    pub(crate) fn populate(&self, range: VirtRange, how: Populate) {
        let _ = self.populate_range(range, how);
    }

    /// Faults in every page of `range`. `populate_vma_page_range`, `faultin_page_range`.
    ///
    /// # Errors
    /// `ENOMEM`: a hole or no memory. `EFAULT`: an access would bring a signal. `EINVAL`: an area does not allow it.
    pub(crate) fn populate_range(&self, range: VirtRange, how: Populate) -> Result<(), Errno> {
        let mut at = range.start();
        while at < range.end() {
            let (area, flags) = {
                let state = self.state.read();
                match state.vmas.find(at.get()) {
                    Some(vma) => (vma.range(), vma.flags()),
                    None => return hole(how),
                }
            };
            if area.start() > at {
                hole(how)?;
            }
            let Some(part) = area.intersection(super::edit::range(at, range.end())) else {
                return Ok(());
            };
            at = part.end();
            let done = self.populate_part(part, flags, how);
            if how != Populate::Silently {
                done?;
            }
        }
        Ok(())
    }

    /// Faults in the pages of one area, up to the first that cannot be.
    fn populate_part(&self, part: VirtRange, flags: VmFlags, how: Populate) -> Result<(), Errno> {
        let bare = flags.intersects(VmFlags::IO | VmFlags::PFNMAP);
        let access = match how {
            Populate::Strictly(Access::Write) if bare || !flags.contains(VmFlags::WRITE) => {
                return Err(Errno::EINVAL);
            }
            Populate::Strictly(Access::Read) if bare || !flags.contains(VmFlags::READ) => {
                return Err(Errno::EINVAL);
            }
            Populate::Strictly(access) => access,
            _ if bare || flags.contains(VmFlags::LOCKONFAULT) => return Ok(()),
            _ if !flags.intersects(VmFlags::ACCESS) => return Err(Errno::EFAULT),
            _ => silent_access(flags),
        };
        let mut at = part.start();
        while at < part.end() {
            self.populate_page(at, access)?;
            at = at
                .checked_add(P::Format::GRANULE.bytes())
                .ok_or(Errno::ENOMEM)?;
        }
        Ok(())
    }

    fn populate_page(&self, at: VirtAddr, access: Access) -> Result<(), Errno> {
        if self.is_populated(at, access) {
            return Ok(());
        }
        match self.handle_fault(at, access) {
            Ok(_) => Ok(()),
            Err(FaultError::OutOfMemory) => Err(Errno::ENOMEM),
            Err(FaultError::Signal(_)) => Err(Errno::EFAULT),
        }
    }

    fn is_populated(&self, at: VirtAddr, access: Access) -> bool {
        let _guard = self.machine.pin();
        let Some(table) = self.table.leaf(self.machine.phys(), at) else {
            return false;
        };
        let index = P::Format::index(0, at.get());
        if access != Access::Write {
            return matches!(table.peek(index), Entry::Present(_));
        }
        // Locked, so that the page stays while it is marked.
        let locked = table.lock();
        let Entry::Present(leaf) = locked.get(index) else {
            return false;
        };
        // What is writable already and was not written counts as written (`follow_page_pte` with FOLL_WRITE): shared memory for all who map it.
        let clean = !leaf.flags.contains(LeafFlags::DIRTY);
        let writable = leaf.flags.contains(LeafFlags::WRITE);
        if writable && clean {
            if self.kind_of(&leaf) == Some(FrameKind::Anon) {
                return false;
            }
            self.mark_shared_written(&leaf);
        }
        writable
    }
}

/// What a hole means.
fn hole(how: Populate) -> Result<(), Errno> {
    match how {
        Populate::Strictly(_) => Err(Errno::ENOMEM),
        Populate::Silently | Populate::Locking => Ok(()),
    }
}

/// How silent population touches an area: private writable memory is broken out of sharing at once.
fn silent_access(flags: VmFlags) -> Access {
    match flags & (VmFlags::WRITE | VmFlags::SHARED) {
        write if write == VmFlags::WRITE => Access::Write,
        _ if flags.intersects(VmFlags::READ | VmFlags::WRITE) => Access::Read,
        _ => Access::Execute,
    }
}

//! Faulting a range in ahead of use: MAP_POPULATE, locked mappings, MADV_POPULATE_*.

use super::fault::FaultError;
use super::mm::MmUser;
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::{Access, Entry, Format, LeafFlags};
use crate::platform::Platform;

/// What a failure does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Populate {
    /// It ends the work and nobody is told (`mm_populate`).
    Silently,
    /// It is the caller's result (`madvise_populate`): for this access.
    Strictly(Access),
}

impl<P: Platform> MmUser<P> {
    /// `mm_populate`: faults in what is mapped in `range`, for writing where stores are private.
    pub(crate) fn populate(&self, range: VirtRange, how: Populate) {
        let _ = self.populate_range(range, how);
    }

    /// Faults in every page of `range`, up to the first that cannot be. `populate_vma_page_range`, `faultin_page_range`.
    ///
    /// # Errors
    /// `ENOMEM`: a hole or no memory. `EFAULT`: an access would bring SIGBUS. `EINVAL`: an area does not allow it.
    pub(crate) fn populate_range(&self, range: VirtRange, how: Populate) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        let mut at = range.start();
        while at < range.end() {
            let (area, flags) = {
                let state = self.state.read();
                let vma = state.vmas.find(at.get()).ok_or(Errno::ENOMEM)?;
                (vma.range(), vma.flags())
            };
            if area.start() > at && how != Populate::Silently {
                return Err(Errno::ENOMEM);
            }
            let Some(part) = area.intersection(range) else {
                return Ok(());
            };
            at = part.start().max(at);
            let access = match how {
                Populate::Strictly(access) => access,
                Populate::Silently => silent_access(flags),
            };
            if !is_reachable(flags, how) {
                if how != Populate::Silently {
                    return Err(Errno::EINVAL);
                }
                at = part.end();
                continue;
            }
            while at < part.end() {
                self.populate_page(at, access)?;
                at = at.checked_add(granule.bytes()).ok_or(Errno::ENOMEM)?;
            }
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
        match table.peek(P::Format::index(0, at.get())) {
            Entry::Present(leaf) => {
                access != Access::Write || leaf.flags.contains(LeafFlags::WRITE)
            }
            _ => false,
        }
    }
}

/// Whether an area can be populated at all. `check_vma_flags`.
fn is_reachable(flags: VmFlags, how: Populate) -> bool {
    let needed = match how {
        Populate::Silently => VmFlags::ACCESS,
        Populate::Strictly(Access::Write) => VmFlags::WRITE,
        Populate::Strictly(_) => VmFlags::READ,
    };
    flags.intersects(needed) && !flags.intersects(VmFlags::IO | VmFlags::PFNMAP)
}

/// How silent population touches an area: private writable memory is broken out of sharing at once.
fn silent_access(flags: VmFlags) -> Access {
    match flags & (VmFlags::WRITE | VmFlags::SHARED) {
        write if write == VmFlags::WRITE => Access::Write,
        _ if flags.intersects(VmFlags::READ | VmFlags::WRITE) => Access::Read,
        _ => Access::Execute,
    }
}

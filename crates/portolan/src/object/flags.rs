//! `VmFlags`: what is true of one mapping, with Linux's names and numbers. Not for PROT_* and MAP_*, which `space` translates,
//! nor for the bits of page-table entries.

bitflags::bitflags! {
    /// VM_*: what is true of a mapping. The numbers are those of Linux 6.18 (`include/linux/mm.h`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
    pub struct VmFlags: u64 {
        /// Loads are allowed.
        const READ = 0x1;
        /// Stores are allowed.
        const WRITE = 0x2;
        /// Fetches are allowed.
        const EXEC = 0x4;
        /// Stores reach all who map the same. Clear on a shared mapping of a file that is not open for writing.
        const SHARED = 0x8;
        /// mprotect may allow loads. Always the matching access flag shifted left by 4.
        const MAYREAD = 0x10;
        /// mprotect may allow stores.
        const MAYWRITE = 0x20;
        /// mprotect may allow fetches.
        const MAYEXEC = 0x40;
        /// Was asked for as shared.
        const MAYSHARE = 0x80;
        /// A stack: an access just below makes it longer.
        const GROWSDOWN = 0x100;
        /// userfaultfd is told of faults on missing pages.
        const UFFD_MISSING = 0x200;
        /// Entries are bare frame numbers: not counted, never swapped, perhaps without a `Page`.
        const PFNMAP = 0x400;
        /// Holds guard pages, or once did (MADV_GUARD_INSTALL).
        const MAYBE_GUARD = 0x800;
        /// userfaultfd is told of stores to protected pages.
        const UFFD_WP = 0x1000;
        /// Pages stay in memory (mlock).
        const LOCKED = 0x2000;
        /// Device memory: not in core dumps, not for get_user_pages.
        const IO = 0x4000;
        /// Will be read in order (MADV_SEQUENTIAL).
        const SEQ_READ = 0x8000;
        /// Will be read in no order (MADV_RANDOM).
        const RAND_READ = 0x1_0000;
        /// Not copied by fork.
        const DONTCOPY = 0x2_0000;
        /// mremap may not make it longer.
        const DONTEXPAND = 0x4_0000;
        /// With LOCKED: pages are locked when they are faulted in (MLOCK_ONFAULT).
        const LOCKONFAULT = 0x8_0000;
        /// Charged to the commit limit.
        const ACCOUNT = 0x10_0000;
        /// Not to be charged (MAP_NORESERVE).
        const NORESERVE = 0x20_0000;
        /// Huge pages of the hugetlb pool.
        const HUGETLB = 0x40_0000;
        /// Synchronous faults of persistent memory (MAP_SYNC).
        const SYNC = 0x80_0000;
        /// The architecture's own.
        const ARCH_1 = 0x100_0000;
        /// Empty in the child after fork.
        const WIPEONFORK = 0x200_0000;
        /// Not in core dumps.
        const DONTDUMP = 0x400_0000;
        /// New, or written, since `/proc/PID/clear_refs` said 4.
        const SOFTDIRTY = 0x800_0000;
        /// Holds counted pages and bare frame numbers.
        const MIXEDMAP = 0x1000_0000;
        /// Large pages are wanted (MADV_HUGEPAGE).
        const HUGEPAGE = 0x2000_0000;
        /// Large pages are not wanted (MADV_NOHUGEPAGE).
        const NOHUGEPAGE = 0x4000_0000;
        /// Equal pages may be merged (MADV_MERGEABLE).
        const MERGEABLE = 0x8000_0000;
        /// Protection key, bit 0.
        const PKEY_BIT0 = 1 << 32;
        /// Protection key, bit 1.
        const PKEY_BIT1 = 1 << 33;
        /// Protection key, bit 2.
        const PKEY_BIT2 = 1 << 34;
        /// Protection key, bit 3.
        const PKEY_BIT3 = 1 << 35;
        /// A virtual machine may map it uncached (AArch64, VFIO).
        const ALLOW_ANY_UNCACHED = 1 << 39;
        /// Pages may be dropped when memory is short (MAP_DROPPABLE).
        const DROPPABLE = 1 << 40;
        /// userfaultfd is told of faults on pages that are cached and not mapped.
        const UFFD_MINOR = 1 << 41;
        /// May not be changed any more (mseal).
        const SEALED = 1 << 42;

        /// What a mapping allows now. `VM_ACCESS_FLAGS`.
        const ACCESS = Self::READ.bits() | Self::WRITE.bits() | Self::EXEC.bits();
        /// What mprotect may allow.
        const MAY = Self::MAYREAD.bits() | Self::MAYWRITE.bits() | Self::MAYEXEC.bits();
        /// Never merged and never locked. `VM_SPECIAL`.
        const SPECIAL = Self::IO.bits() | Self::DONTEXPAND.bits() | Self::PFNMAP.bits() | Self::MIXEDMAP.bits();
        /// Need not agree for areas to merge; what they merge to has those of either. `VM_STICKY`.
        const STICKY = Self::SOFTDIRTY.bits() | Self::MAYBE_GUARD.bits();
        /// Locked in either way. `VM_LOCKED_MASK`.
        const LOCKED_MASK = Self::LOCKED.bits() | Self::LOCKONFAULT.bits();
        /// Watched by userfaultfd. `__VM_UFFD_FLAGS`.
        const UFFD = Self::UFFD_MISSING.bits() | Self::UFFD_WP.bits() | Self::UFFD_MINOR.bits();
    }
}

impl VmFlags {
    /// The accesses that mprotect may allow: VM_MAYREAD, VM_MAYWRITE and VM_MAYEXEC as the flags they would become.
    pub const fn may_become(self) -> VmFlags {
        VmFlags::from_bits_truncate((self.bits() & Self::MAY.bits()) >> 4)
    }

    /// Whether stores go to private copies, now or after mprotect. `is_cow_mapping`.
    pub const fn is_cow(self) -> bool {
        self.bits() & (Self::SHARED.bits() | Self::MAYWRITE.bits()) == Self::MAYWRITE.bits()
    }

    /// Whether stores may reach others, now or after mprotect. `vma_is_shared_maywrite`.
    pub const fn is_shared_may_write(self) -> bool {
        let both = Self::SHARED.bits() | Self::MAYWRITE.bits();
        self.bits() & both == both
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_lie_four_bits_above_accesses() {
        assert_eq!(VmFlags::MAY.bits(), VmFlags::ACCESS.bits() << 4);
        assert_eq!(
            (VmFlags::MAYREAD | VmFlags::WRITE).may_become(),
            VmFlags::READ
        );
        assert_eq!(VmFlags::all().may_become(), VmFlags::ACCESS);
    }

    #[test]
    fn copy_on_write_is_private_and_may_be_written() {
        assert!(VmFlags::MAYWRITE.is_cow());
        assert!(!(VmFlags::MAYWRITE | VmFlags::SHARED).is_cow());
        assert!((VmFlags::MAYWRITE | VmFlags::SHARED).is_shared_may_write());
        assert!(!VmFlags::SHARED.is_shared_may_write());
    }
}

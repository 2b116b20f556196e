//! PROT_* and MAP_* as the caller hands them in, and what they become: VM_* flags and page protection. No state, no checks of rights.

use crate::object::VmFlags;
use crate::paging::LeafFlags;
use linux_raw_sys::general as raw;

bitflags::bitflags! {
    /// PROT_*: what a mapping allows.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Prot: u32 {
        /// Loads.
        const READ = raw::PROT_READ;
        /// Stores.
        const WRITE = raw::PROT_WRITE;
        /// Fetches.
        const EXEC = raw::PROT_EXEC;
        /// Accepted and without effect (atomic operations on the mapping).
        const SEM = raw::PROT_SEM;
        /// mprotect: from here down to the start of a stack.
        const GROWSDOWN = raw::PROT_GROWSDOWN;
        /// mprotect: from here up to the end of an upward stack.
        const GROWSUP = raw::PROT_GROWSUP;
    }
}

bitflags::bitflags! {
    /// MAP_*: how a mapping is made.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Map: u32 {
        /// Changes are seen by all who map the same.
        const SHARED = raw::MAP_SHARED;
        /// Changes are private, by copy-on-write.
        const PRIVATE = raw::MAP_PRIVATE;
        /// Exactly at the address, in place of what is there.
        const FIXED = raw::MAP_FIXED;
        /// No file.
        const ANONYMOUS = raw::MAP_ANONYMOUS;
        /// Below 2 GiB (x86-64).
        const LOW_32BIT = 0x40;
        /// Above 4 GiB (x86-64).
        const ABOVE4G = 0x80;
        /// A stack that grows down.
        const GROWSDOWN = raw::MAP_GROWSDOWN;
        /// Ignored.
        const DENYWRITE = raw::MAP_DENYWRITE;
        /// Ignored.
        const EXECUTABLE = raw::MAP_EXECUTABLE;
        /// As mlock.
        const LOCKED = raw::MAP_LOCKED;
        /// Do not charge the commit limit.
        const NORESERVE = raw::MAP_NORESERVE;
        /// Fault all of it in at once.
        const POPULATE = raw::MAP_POPULATE;
        /// With POPULATE: do not.
        const NONBLOCK = raw::MAP_NONBLOCK;
        /// Accepted and without effect.
        const STACK = raw::MAP_STACK;
        /// Huge pages of the hugetlb pool.
        const HUGETLB = raw::MAP_HUGETLB;
        /// Synchronous faults of persistent memory.
        const SYNC = raw::MAP_SYNC;
        /// Exactly at the address, or not at all.
        const FIXED_NOREPLACE = raw::MAP_FIXED_NOREPLACE;
    }
}

/// MAP_SHARED_VALIDATE: shared, with unknown flags refused.
pub(crate) const MAP_SHARED_VALIDATE: u32 = raw::MAP_SHARED_VALIDATE;
/// MAP_DROPPABLE: anonymous memory that may be dropped under pressure.
pub(crate) const MAP_DROPPABLE: u32 = 0x08;
/// The bits of `flags` that hold the type.
pub(crate) const MAP_TYPE: u32 = 0x0f;
/// Every flag that MAP_SHARED_VALIDATE accepts. `LEGACY_MAP_MASK`, to which a file's operations may add.
pub(crate) const LEGACY_MAP_MASK: u32 = raw::MAP_SHARED
    | raw::MAP_PRIVATE
    | raw::MAP_FIXED
    | raw::MAP_ANONYMOUS
    | raw::MAP_DENYWRITE
    | raw::MAP_EXECUTABLE
    | 0x40
    | 0x80
    | 0x4000000
    | raw::MAP_GROWSDOWN
    | raw::MAP_LOCKED
    | raw::MAP_NORESERVE
    | raw::MAP_POPULATE
    | raw::MAP_NONBLOCK
    | raw::MAP_STACK
    | raw::MAP_HUGETLB
    | (0x3f << 26);

/// VM_READ, VM_WRITE and VM_EXEC for PROT_*. `calc_vm_prot_bits`.
pub(crate) fn vm_flags_of_prot(prot: Prot) -> VmFlags {
    let mut flags = VmFlags::empty();
    flags.set(VmFlags::READ, prot.contains(Prot::READ));
    flags.set(VmFlags::WRITE, prot.contains(Prot::WRITE));
    flags.set(VmFlags::EXEC, prot.contains(Prot::EXEC));
    flags
}

/// The VM_* that MAP_* set directly. `calc_vm_flag_bits`.
pub(crate) fn vm_flags_of_map(map: Map) -> VmFlags {
    let mut flags = VmFlags::empty();
    flags.set(VmFlags::GROWSDOWN, map.contains(Map::GROWSDOWN));
    flags.set(VmFlags::LOCKED, map.contains(Map::LOCKED));
    flags.set(VmFlags::SYNC, map.contains(Map::SYNC));
    flags.set(VmFlags::NOHUGEPAGE, map.contains(Map::STACK));
    flags
}

/// What a present entry of an area with these flags allows at most. `vm_get_page_prot`: a writable or executable page is readable.
pub(crate) fn page_protection(flags: VmFlags) -> LeafFlags {
    let mut leaf = LeafFlags::USER;
    leaf.set(LeafFlags::READ, flags.intersects(VmFlags::ACCESS));
    leaf.set(LeafFlags::WRITE, flags.contains(VmFlags::WRITE));
    leaf.set(LeafFlags::EXEC, flags.contains(VmFlags::EXEC));
    leaf
}

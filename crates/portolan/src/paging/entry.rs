//! What a page-table entry can say, as a type. Only the formats know in which bits.

use crate::addr::Pfn;

/// One entry of a page table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing: a fault decides.
    Absent,
    /// A page-table page of the next level down.
    Table(Pfn),
    /// A mapped frame: a base page at level 0, a large one above.
    Present(Leaf),
    /// An anonymous page that was written out.
    Swap(SwapEntry),
    /// Not memory, but a fault means something.
    Marker(Marker),
}

/// A mapped frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The first frame.
    pub frame: Pfn,
    /// Permissions and state.
    pub flags: LeafFlags,
    /// How the CPU caches it.
    pub cache: CacheMode,
}

bitflags::bitflags! {
    /// Permissions and state of a mapped frame.
    ///
    /// The numbers are those of x86-64's bits where it has one, so that its entries need no shuffling; nothing else may rely on that.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct LeafFlags: u16 {
        /// Loads are allowed. A present entry without it is PROT_NONE: it maps a frame that no access reaches.
        const READ = 1 << 0;
        /// Stores are allowed.
        const WRITE = 1 << 1;
        /// User mode may use it.
        const USER = 1 << 2;
        /// Fetches are allowed.
        const EXEC = 1 << 3;
        /// Used since last cleared. A software-managed format faults on an entry without it.
        const ACCESSED = 1 << 5;
        /// Written since last cleared. A software-managed format faults on a store to an entry without it.
        const DIRTY = 1 << 6;
        /// The kernel's half: valid in every space. Not kept by an entry without READ.
        const GLOBAL = 1 << 8;
        /// The entry holds no reference: the zero page, or a frame that a driver mapped by number. `pte_special`.
        const SPECIAL = 1 << 9;
        /// Write-protected by userfaultfd.
        const UFFD_WP = 1 << 10;
        /// Written since soft-dirty was cleared (`/proc/PID/clear_refs`).
        const SOFT_DIRTY = 1 << 11;
    }
}

/// How the CPU caches a frame. x86-64 PAT, AArch64 MAIR index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheMode {
    /// Ordinary memory.
    WriteBack,
    /// `pgprot_writecombine`.
    WriteCombine,
    /// `pgprot_noncached`.
    Uncached,
    /// Device registers: no gathering, reordering or early acknowledgement (`pgprot_device`; x86-64 has uncached for it).
    Device,
}

/// Where a page was written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SwapEntry {
    /// Which swap area, below 32.
    pub area: u8,
    /// The slot in it, below 2^40.
    pub slot: u64,
    /// Soft-dirty when it went.
    pub soft_dirty: bool,
}

/// An absent entry with a meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marker {
    /// A guard page (MADV_GUARD_INSTALL): SIGSEGV.
    Guard,
    /// A poisoned page: SIGBUS with BUS_MCEERR_AR.
    Poison,
    /// Write-protected by userfaultfd before it was there.
    UffdWp,
}

//! The page tables of AArch64 (VMSAv8-64, stage 1, the half that TTBR0 translates), for each granule, with the access flag and dirty
//! state set by hardware (FEAT_HAFDBS) or by faults. Arm ARM D8.3 "Translation table descriptor formats". Bits as in Linux.
//!
//! | bit | leaf | table |
//! |---|---|---|
//! | 0 valid | READ; clear with bit 11 set: PROT_NONE | set |
//! | 1 | set at level 0 only | set |
//! | 2 to 4 AttrIndx | cache mode | 0 |
//! | 6 AP\[1\] | USER | 0 |
//! | 7 AP\[2\] | not (WRITE and DIRTY) | 0 |
//! | 8, 9 SH | inner shareable | 0 |
//! | 10 AF | ACCESSED | set |
//! | 11 nG | not GLOBAL | 0 |
//! | 12 to 47 | frame | frame |
//! | 51 DBM | WRITE | 0 |
//! | 53 PXN, 54 UXN | not EXEC, for the mode that USER names; set for the other | 0 |
//! | 55, 56, 58 | DIRTY, SPECIAL, UFFD_WP (software) | 0 |
//! | 57 | lock | lock |
//! | 63 | SOFT_DIRTY (ignored by hardware) | 0 |
//!
//! The contiguous bit (52) is not used. A writable clean entry is read-only to a walker that does not know DBM, so the first store
//! faults; one that knows it clears AP\[2\] instead, which reads as dirty.

use core::marker::PhantomData;

use super::absent::{SwapLayout, encode_marker};
use super::{Access, CacheMode, Entry, Format, Leaf, LeafFlags};
use crate::addr::{Granule, Pfn};

/// A granule with the geometry that Linux gives it.
pub trait Aarch64Granule: Copy + Send + Sync + 'static {
    /// The granule.
    const GRANULE: Granule;
    /// Levels of tables.
    const LEVELS: u8;
    /// Bits of a virtual address.
    const VA_BITS: u32;
    /// The format's name with the access flag and dirty state in hardware.
    const NAME: &'static str;
    /// The format's name with both by fault.
    const NAME_SOFT: &'static str;
}

/// 4 KiB: 48 bits in 4 levels.
#[derive(Clone, Copy, Debug)]
pub enum Granule4K {}

/// 16 KiB: 47 bits in 3 levels (`CONFIG_ARM64_VA_BITS_47`, the one size at which 16 KiB tables are all full).
#[derive(Clone, Copy, Debug)]
pub enum Granule16K {}

/// 64 KiB: 48 bits in 3 levels; the root has 64 entries.
#[derive(Clone, Copy, Debug)]
pub enum Granule64K {}

macro_rules! granule {
    ($type:ident, $granule:ident, $levels:literal, $bits:literal, $name:literal) => {
        impl Aarch64Granule for $type {
            const GRANULE: Granule = Granule::$granule;
            const LEVELS: u8 = $levels;
            const VA_BITS: u32 = $bits;
            const NAME: &'static str = $name;
            const NAME_SOFT: &'static str = concat!($name, "-soft");
        }
    };
}

granule!(Granule4K, K4, 4, 48, "aarch64-4k");
granule!(Granule16K, K16, 3, 47, "aarch64-16k");
granule!(Granule64K, K64, 3, 48, "aarch64-64k");

/// AArch64 whose walker sets the access flag and the dirty state (FEAT_HAFDBS with HA and HD on).
#[derive(Clone, Copy, Debug)]
pub struct Aarch64<G>(PhantomData<G>);

/// AArch64 whose walker sets neither: software does, in the fault that their absence brings.
#[derive(Clone, Copy, Debug)]
pub struct Aarch64Soft<G>(PhantomData<G>);

const VALID: u64 = 1 << 0;
const TABLE_OR_PAGE: u64 = 1 << 1;
const ATTR_SHIFT: u32 = 2;
const AP_USER: u64 = 1 << 6;
const AP_READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const AF: u64 = 1 << 10;
const NOT_GLOBAL: u64 = 1 << 11;
const DBM: u64 = 1 << 51;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
const DIRTY: u64 = 1 << 55;
const SPECIAL: u64 = 1 << 56;
const LOCK: u64 = 1 << 57;
const UFFD_WP: u64 = 1 << 58;
const SOFT_DIRTY: u64 = 1 << 63;
const PHYSICAL: u64 = (1 << 48) - 1;

/// A PROT_NONE entry is one that is not valid and has the bit that means "not global" in valid ones; `PTE_PRESENT_INVALID`.
const PROT_NONE: u64 = NOT_GLOBAL;

const SWAP: SwapLayout = SwapLayout {
    area_shift: 5,
    slot_shift: 12,
    slot_flip: 0,
};

/// The indices of Linux's MAIR: 0 normal, 2 normal non-cacheable, 3 device nGnRnE, 4 device nGnRE.
#[inline(always)]
const fn attribute(cache: CacheMode) -> u64 {
    match cache {
        CacheMode::WriteBack => 0,
        CacheMode::WriteCombine => 2,
        CacheMode::Uncached => 3,
        CacheMode::Device => 4,
    }
}

#[inline(always)]
const fn cache_mode(raw: u64) -> CacheMode {
    match raw >> ATTR_SHIFT & 7 {
        2 => CacheMode::WriteCombine,
        3 => CacheMode::Uncached,
        4 => CacheMode::Device,
        _ => CacheMode::WriteBack,
    }
}

/// `bit` if `flags` has all of `flag`.
#[inline(always)]
const fn put(flags: LeafFlags, flag: LeafFlags, bit: u64) -> u64 {
    if flags.contains(flag) { bit } else { 0 }
}

#[inline(always)]
const fn encode_flags(flags: LeafFlags) -> u64 {
    let dirty_and_writable = LeafFlags::WRITE.union(LeafFlags::DIRTY);
    let read_only = AP_READ_ONLY ^ put(flags, dirty_and_writable, AP_READ_ONLY);
    let never = match (
        flags.contains(LeafFlags::EXEC),
        flags.contains(LeafFlags::USER),
    ) {
        (false, _) => UXN | PXN,
        (true, true) => PXN,
        (true, false) => UXN,
    };
    let kind = if flags.contains(LeafFlags::READ) {
        VALID | NOT_GLOBAL ^ put(flags, LeafFlags::GLOBAL, NOT_GLOBAL)
    } else {
        PROT_NONE
    };
    kind | read_only
        | never
        | put(flags, LeafFlags::USER, AP_USER)
        | put(flags, LeafFlags::WRITE, DBM)
        | put(flags, LeafFlags::ACCESSED, AF)
        | put(flags, LeafFlags::DIRTY, DIRTY)
        | put(flags, LeafFlags::SPECIAL, SPECIAL)
        | put(flags, LeafFlags::UFFD_WP, UFFD_WP)
        | put(flags, LeafFlags::SOFT_DIRTY, SOFT_DIRTY)
}

#[inline(always)]
fn decode_flags(raw: u64) -> LeafFlags {
    let valid = raw & VALID != 0;
    let user = raw & AP_USER != 0;
    let mut flags = LeafFlags::empty();
    flags.set(LeafFlags::READ, valid);
    flags.set(LeafFlags::WRITE, raw & DBM != 0);
    flags.set(LeafFlags::EXEC, raw & (if user { UXN } else { PXN }) == 0);
    flags.set(LeafFlags::USER, user);
    flags.set(LeafFlags::ACCESSED, raw & AF != 0);
    let cleaned_by_walker = raw & (DBM | AP_READ_ONLY) == DBM;
    flags.set(LeafFlags::DIRTY, raw & DIRTY != 0 || cleaned_by_walker);
    flags.set(LeafFlags::SOFT_DIRTY, raw & SOFT_DIRTY != 0);
    flags.set(LeafFlags::UFFD_WP, raw & UFFD_WP != 0);
    flags.set(LeafFlags::SPECIAL, raw & SPECIAL != 0);
    flags.set(LeafFlags::GLOBAL, valid && raw & NOT_GLOBAL == 0);
    flags
}

/// The geometry and the bits of one granule; hardware or software makes no difference here.
struct Bits<G>(PhantomData<G>);

impl<G: Aarch64Granule> Bits<G> {
    const SHIFT: u32 = G::GRANULE.shift();
    const FRAME: u64 = PHYSICAL & !G::GRANULE.offset_mask();

    /// Level 1 with any granule; level 2 (1 GiB) with 4 KiB only, the others need 52-bit physical addresses.
    #[inline(always)]
    const fn has_large(level: u8) -> bool {
        level == 1 || level == 2 && matches!(G::GRANULE, Granule::K4)
    }

    #[inline(always)]
    const fn encode(level: u8, entry: Entry) -> u64 {
        match entry {
            Entry::Absent => 0,
            Entry::Table(_) if level == 0 => 0,
            Entry::Table(table) => Self::address(table) | VALID | TABLE_OR_PAGE | AF,
            Entry::Present(_) if level != 0 && !Self::has_large(level) => 0,
            Entry::Present(leaf) => {
                let page = if level == 0 { TABLE_OR_PAGE } else { 0 };
                let attribute = attribute(leaf.cache) << ATTR_SHIFT;
                Self::address(leaf.frame)
                    | page
                    | attribute
                    | INNER_SHAREABLE
                    | encode_flags(leaf.flags)
            }
            Entry::Swap(swap) => SWAP.encode_swap(swap),
            Entry::Marker(marker) => encode_marker(marker),
        }
    }

    #[inline(always)]
    const fn address(frame: Pfn) -> u64 {
        frame.get() << Self::SHIFT & Self::FRAME
    }

    #[inline(always)]
    fn decode(level: u8, raw: u64) -> Entry {
        if let Some(leaf) = Self::leaf_at(level, raw) {
            return Entry::Present(leaf);
        }
        if let Some(table) = Self::table_at(level, raw) {
            return Entry::Table(table);
        }
        let raw = raw & !LOCK;
        if raw & (VALID | PROT_NONE) != 0 {
            Entry::Absent
        } else {
            SWAP.decode(raw)
        }
    }

    #[inline(always)]
    fn table_at(level: u8, raw: u64) -> Option<Pfn> {
        let table = VALID | TABLE_OR_PAGE;
        (level != 0 && raw & table == table).then(|| Pfn::new((raw & Self::FRAME) >> Self::SHIFT))
    }

    #[inline(always)]
    fn is_leaf(level: u8, raw: u64) -> bool {
        let page = raw & TABLE_OR_PAGE != 0;
        raw & (VALID | PROT_NONE) != 0
            && if level == 0 {
                page
            } else {
                !page && Self::has_large(level)
            }
    }

    #[inline(always)]
    fn leaf_at(level: u8, raw: u64) -> Option<Leaf> {
        if !Self::is_leaf(level, raw) {
            return None;
        }
        let aligned = u64::MAX << ((Self::SHIFT - 3) * level as u32);
        Some(Leaf {
            frame: Pfn::new((raw & Self::FRAME) >> Self::SHIFT & aligned),
            flags: decode_flags(raw),
            cache: cache_mode(raw),
        })
    }

    /// Takes WRITE, ACCESSED and DIRTY away. What a walker noted in AP\[2\] alone goes over to the software bit with WRITE.
    #[inline(always)]
    fn without(mut raw: u64, flags: LeafFlags) -> u64 {
        if !Self::is_leaf(0, raw) {
            return raw;
        }
        if flags.contains(LeafFlags::WRITE) {
            let dirty = raw & (DBM | AP_READ_ONLY) == DBM;
            raw = raw & !DBM | AP_READ_ONLY | if dirty { DIRTY } else { 0 };
        }
        if flags.contains(LeafFlags::DIRTY) {
            raw = raw & !DIRTY | AP_READ_ONLY;
        }
        if flags.contains(LeafFlags::ACCESSED) {
            raw & !AF
        } else {
            raw
        }
    }

    /// Whether user mode may make this access, accessed and dirty state aside.
    #[inline(always)]
    fn permits(level: u8, raw: u64, access: Access) -> bool {
        let user = VALID | AP_USER;
        Self::is_leaf(level, raw)
            && raw & user == user
            && match access {
                Access::Read => true,
                Access::Write => raw & DBM != 0 || raw & AP_READ_ONLY == 0,
                Access::Execute => raw & UXN == 0,
            }
    }

    #[inline(always)]
    fn access_in_hardware(level: u8, raw: u64, access: Access) -> Option<u64> {
        if !Self::permits(level, raw, access) {
            return None;
        }
        let cleared = if access == Access::Write {
            AP_READ_ONLY
        } else {
            0
        };
        Some((raw | AF) & !cleared)
    }

    #[inline(always)]
    fn access_by_fault(level: u8, raw: u64, access: Access) -> Option<u64> {
        let clean = access == Access::Write && raw & AP_READ_ONLY != 0;
        (Self::permits(level, raw, access) && raw & AF != 0 && !clean).then_some(raw)
    }
}

macro_rules! format {
    ($type:ident, $name:ident, $hardware:literal, $access:ident) => {
        impl<G: Aarch64Granule> Format for $type<G> {
            const NAME: &'static str = G::$name;
            const GRANULE: Granule = G::GRANULE;
            const LEVELS: u8 = G::LEVELS;
            const VA_BITS: u32 = G::VA_BITS;
            const USER_BITS: u32 = G::VA_BITS;
            const HARDWARE_ACCESSED: bool = $hardware;
            const HARDWARE_DIRTY: bool = $hardware;
            const LOCK_BIT: u64 = LOCK;
            const ACCESSED_BIT: u64 = AF;

            fn has_large(level: u8) -> bool {
                Bits::<G>::has_large(level)
            }

            #[inline(always)]
            fn encode(level: u8, entry: Entry) -> u64 {
                Bits::<G>::encode(level, entry)
            }

            #[inline(always)]
            fn decode(level: u8, raw: u64) -> Entry {
                Bits::<G>::decode(level, raw)
            }

            #[inline(always)]
            fn hardware_access(level: u8, raw: u64, access: Access) -> Option<u64> {
                Bits::<G>::$access(level, raw, access)
            }

            #[inline(always)]
            fn walker_may_change(raw: u64) -> bool {
                let clean = DBM | AP_READ_ONLY;
                $hardware && raw & VALID != 0 && (raw & AF == 0 || raw & clean == clean)
            }

            #[inline(always)]
            fn table_at(level: u8, raw: u64) -> Option<Pfn> {
                Bits::<G>::table_at(level, raw)
            }

            #[inline(always)]
            fn leaf_at(level: u8, raw: u64) -> Option<Leaf> {
                Bits::<G>::leaf_at(level, raw)
            }

            #[inline(always)]
            fn without(raw: u64, flags: LeafFlags) -> u64 {
                Bits::<G>::without(raw, flags)
            }
        }
    };
}

format!(Aarch64, NAME, true, access_in_hardware);
format!(Aarch64Soft, NAME_SOFT, false, access_by_fault);

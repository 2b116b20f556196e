//! The page tables of x86-64, with 4 and with 5 levels: Intel SDM volume 3, 5.5 "4-level paging and 5-level paging". Software bits are
//! used as Linux uses them.
//!
//! | bit | leaf | table |
//! |---|---|---|
//! | 0 P, 1 RW, 2 US | READ, WRITE, USER | always set |
//! | 3 PWT, 4 PCD | cache mode | 0 |
//! | 5 A, 6 D | ACCESSED, DIRTY | always set |
//! | 7 PS | set above level 0 | 0 |
//! | 8 G | GLOBAL; with P clear: PROT_NONE | 0 |
//! | 9, 10, 11 | SPECIAL, UFFD_WP, SOFT_DIRTY | 0 |
//! | 12 to 51 | frame; flipped in PROT_NONE entries (L1TF) | frame |
//! | 57 | lock | lock |
//! | 63 NX | not EXEC | 0 |

use super::absent::{SwapLayout, encode_marker};
use super::{Access, CacheMode, Entry, Format, Leaf, LeafFlags};
use crate::addr::{Granule, Pfn};

/// x86-64 with 4 levels: 48-bit addresses, of which user mode has the lower half.
#[derive(Clone, Copy, Debug)]
pub enum X86_64 {}

/// x86-64 with 5 levels (LA57): 57-bit addresses, of which user mode has the lower half.
#[derive(Clone, Copy, Debug)]
pub enum X86_64La57 {}

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const US: u64 = 1 << 2;
const CACHE_SHIFT: u32 = 3;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
const LOCK: u64 = 1 << 57;
const NX_SHIFT: u32 = 63;
const NX: u64 = 1 << NX_SHIFT;
const FRAME: u64 = (1 << 52) - (1 << 12);

/// A PROT_NONE entry is one without P and with the bit that means "global" in valid ones; `_PAGE_PROTNONE`.
const PROT_NONE: u64 = G;

/// The flags that stand in an entry as they stand in [`LeafFlags`].
const SAME: LeafFlags = LeafFlags::all().difference(LeafFlags::EXEC);
const EXEC_SHIFT: u32 = LeafFlags::EXEC.bits().trailing_zeros();

const _: () = assert!(
    LeafFlags::READ.bits() as u64 == P
        && LeafFlags::WRITE.bits() as u64 == RW
        && LeafFlags::USER.bits() as u64 == US
        && LeafFlags::ACCESSED.bits() as u64 == A
        && LeafFlags::DIRTY.bits() as u64 == D
        && LeafFlags::GLOBAL.bits() as u64 == G
);

const SWAP: SwapLayout = SwapLayout {
    area_shift: 59,
    slot_shift: 14,
    slot_flip: u64::MAX,
};

/// The PAT entries that Linux programs: 0 write-back, 1 write-combining, 2 uncached unless an MTRR says otherwise, 3 uncached.
#[inline(always)]
const fn cache_bits(cache: CacheMode) -> u64 {
    let index = match cache {
        CacheMode::WriteBack => 0,
        CacheMode::WriteCombine => 1,
        CacheMode::Uncached => 2,
        CacheMode::Device => 3,
    };
    index << CACHE_SHIFT
}

#[inline(always)]
const fn cache_mode(raw: u64) -> CacheMode {
    match raw >> CACHE_SHIFT & 3 {
        0 => CacheMode::WriteBack,
        1 => CacheMode::WriteCombine,
        2 => CacheMode::Uncached,
        _ => CacheMode::Device,
    }
}

/// 1 GiB at most; no CPU maps 512 GiB at once.
#[inline(always)]
const fn has_large(level: u8) -> bool {
    level == 1 || level == 2
}

#[inline(always)]
const fn encode_leaf(level: u8, leaf: Leaf) -> u64 {
    if level != 0 && !has_large(level) {
        return 0;
    }
    let flags = leaf.flags.bits() as u64;
    let same = flags & SAME.bits() as u64;
    let not_exec = !flags >> EXEC_SHIFT & 1;
    let large = if level == 0 { 0 } else { PS };
    let frame = leaf.frame.get() << 12 & FRAME;
    let raw = same | cache_bits(leaf.cache) | large | not_exec << NX_SHIFT;
    if flags & P != 0 {
        raw | frame
    } else {
        raw | PROT_NONE | frame ^ FRAME
    }
}

#[inline(always)]
const fn encode(level: u8, entry: Entry) -> u64 {
    match entry {
        Entry::Absent => 0,
        Entry::Table(_) if level == 0 => 0,
        Entry::Table(table) => table.get() << 12 & FRAME | P | RW | US | A | D,
        Entry::Present(leaf) => encode_leaf(level, leaf),
        Entry::Swap(swap) => SWAP.encode_swap(swap),
        Entry::Marker(marker) => encode_marker(marker),
    }
}

#[inline(always)]
fn decode(level: u8, raw: u64) -> Entry {
    if let Some(leaf) = leaf_at(level, raw) {
        return Entry::Present(leaf);
    }
    if let Some(table) = table_at(level, raw) {
        return Entry::Table(table);
    }
    let raw = raw & !LOCK;
    if raw & (P | PROT_NONE) != 0 {
        Entry::Absent
    } else {
        SWAP.decode(raw)
    }
}

#[inline(always)]
fn table_at(level: u8, raw: u64) -> Option<Pfn> {
    (level != 0 && raw & (P | PS) == P).then(|| Pfn::new((raw & FRAME) >> 12))
}

#[inline(always)]
fn leaf_at(level: u8, raw: u64) -> Option<Leaf> {
    let maps = raw & (P | PROT_NONE) != 0;
    if !maps || level != 0 && (raw & PS == 0 || !has_large(level)) {
        return None;
    }
    let valid = raw & P != 0;
    let frame = if valid { raw & FRAME } else { !raw & FRAME };
    let low = if valid { raw } else { raw & !PROT_NONE };
    let exec = (!raw >> NX_SHIFT) << EXEC_SHIFT;
    Some(Leaf {
        frame: Pfn::new(frame >> 12 & (u64::MAX << (9 * level))),
        flags: LeafFlags::from_bits_retain((low & SAME.bits() as u64 | exec) as u16),
        cache: cache_mode(raw),
    })
}

#[inline(always)]
fn hardware_access(level: u8, raw: u64, access: Access) -> Option<u64> {
    let is_leaf = level == 0 || raw & PS != 0 && has_large(level);
    if !is_leaf || raw & (P | US) != P | US {
        return None;
    }
    match access {
        Access::Read => Some(raw | A),
        Access::Write if raw & RW != 0 => Some(raw | A | D),
        Access::Execute if raw & NX == 0 => Some(raw | A),
        _ => None,
    }
}

macro_rules! format {
    ($type:ident, $name:literal, $levels:literal, $bits:literal) => {
        impl Format for $type {
            const NAME: &'static str = $name;
            const GRANULE: Granule = Granule::K4;
            const LEVELS: u8 = $levels;
            const VA_BITS: u32 = $bits;
            const USER_BITS: u32 = $bits - 1;
            const HARDWARE_ACCESSED: bool = true;
            const HARDWARE_DIRTY: bool = true;
            const LOCK_BIT: u64 = LOCK;
            const ACCESSED_BIT: u64 = A;

            fn has_large(level: u8) -> bool {
                has_large(level)
            }

            #[inline(always)]
            fn encode(level: u8, entry: Entry) -> u64 {
                encode(level, entry)
            }

            #[inline(always)]
            fn decode(level: u8, raw: u64) -> Entry {
                decode(level, raw)
            }

            #[inline(always)]
            fn hardware_access(level: u8, raw: u64, access: Access) -> Option<u64> {
                hardware_access(level, raw, access)
            }

            #[inline(always)]
            fn walker_may_change(raw: u64) -> bool {
                raw & P != 0 && (raw & A == 0 || raw & (RW | D) == RW)
            }

            #[inline(always)]
            fn table_at(level: u8, raw: u64) -> Option<Pfn> {
                table_at(level, raw)
            }

            #[inline(always)]
            fn leaf_at(level: u8, raw: u64) -> Option<Leaf> {
                leaf_at(level, raw)
            }

            #[inline(always)]
            fn without(raw: u64, flags: LeafFlags) -> u64 {
                let cleared = flags.bits() as u64 & (RW | A | D);
                if raw & (P | PROT_NONE) != 0 {
                    raw & !cleared
                } else {
                    raw
                }
            }
        }
    };
}

format!(X86_64, "x86-64", 4, 48);
format!(X86_64La57, "x86-64-la57", 5, 57);

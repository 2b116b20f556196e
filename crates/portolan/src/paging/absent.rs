//! Entries that map nothing but say something: swap entries and markers, in bits that the formats share. Not for the entries of
//! PROT_NONE mappings, which map a frame and are each format's own.
//!
//! | bits | meaning |
//! |---|---|
//! | 0, 1 | zero: not valid to any walker |
//! | 2, 3 | 1: swap; 2: marker |
//! | 4 | swap: soft-dirty |
//! | 5, 6 | marker: which one |
//!
//! Where the swap area and slot lie differs ([`SwapLayout`]), since each format needs other bits to stay clear.

use super::{Entry, Marker, SwapEntry};

const KIND_SHIFT: u32 = 2;
const KIND_MASK: u64 = 3 << KIND_SHIFT;
const SWAP: u64 = 1 << KIND_SHIFT;
const MARKER: u64 = 2 << KIND_SHIFT;
const SOFT_DIRTY: u64 = 1 << 4;
const MARKER_SHIFT: u32 = 5;
const AREA_MASK: u64 = (1 << 5) - 1;
const SLOT_MASK: u64 = (1 << 40) - 1;

/// Where a format keeps the numbers of a swap entry.
pub(super) struct SwapLayout {
    /// First of 5 bits.
    pub area_shift: u32,
    /// First of 40 bits.
    pub slot_shift: u32,
    /// Exclusive-or'ed with the slot. All ones where a CPU may speculate through entries that are not valid (L1TF): then
    /// small slots look like frames beyond the end of memory.
    pub slot_flip: u64,
}

impl SwapLayout {
    pub(super) const fn encode_swap(&self, swap: SwapEntry) -> u64 {
        let slot = (swap.slot ^ self.slot_flip) & SLOT_MASK;
        let area = swap.area as u64 & AREA_MASK;
        let soft_dirty = if swap.soft_dirty { SOFT_DIRTY } else { 0 };
        SWAP | soft_dirty | area << self.area_shift | slot << self.slot_shift
    }

    /// What `raw`, without the lock bit and known to map nothing, says.
    pub(super) fn decode(&self, raw: u64) -> Entry {
        match raw & KIND_MASK {
            SWAP => Entry::Swap(SwapEntry {
                area: (raw >> self.area_shift & AREA_MASK) as u8,
                slot: (raw >> self.slot_shift ^ self.slot_flip) & SLOT_MASK,
                soft_dirty: raw & SOFT_DIRTY != 0,
            }),
            MARKER => match raw >> MARKER_SHIFT & 3 {
                0 => Entry::Marker(Marker::Guard),
                1 => Entry::Marker(Marker::Poison),
                2 => Entry::Marker(Marker::UffdWp),
                _ => Entry::Absent,
            },
            _ => Entry::Absent,
        }
    }
}

pub(super) const fn encode_marker(marker: Marker) -> u64 {
    let number = match marker {
        Marker::Guard => 0,
        Marker::Poison => 1,
        Marker::UffdWp => 2,
    };
    MARKER | number << MARKER_SHIFT
}

//! The trait a page-table format implements: its geometry and how an [`Entry`] is written in bits. Pure: no memory is touched here.

use super::{Entry, Leaf, LeafFlags};
use crate::addr::{Granule, Pfn};

/// What an access does to memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// A page-table format.
///
/// Levels count from 0 (the last, whose entries map base pages) to `LEVELS - 1` (the root). For every level and every entry that
/// `encode` accepts there, `decode(level, encode(level, entry)) == entry`. Raw 0 decodes to [`Entry::Absent`] at every level.
pub trait Format: Copy + Send + Sync + 'static {
    /// "x86-64", "aarch64-16k", ...
    const NAME: &'static str;
    /// The base page, which is also the size of a page-table page.
    const GRANULE: Granule;
    /// How many levels.
    const LEVELS: u8;
    /// Bits of a virtual address that are translated. The user half is `0 .. 1 << USER_BITS`.
    const VA_BITS: u32;
    /// log2 of the size of the user half: `VA_BITS - 1` on x86-64 (one tree for both halves), `VA_BITS` on AArch64 (TTBR0).
    const USER_BITS: u32;
    /// Whether the walker sets ACCESSED itself.
    const HARDWARE_ACCESSED: bool;
    /// Whether the walker sets DIRTY itself.
    const HARDWARE_DIRTY: bool;
    /// A bit that the walker ignores in every kind of entry at every level, and that `encode` never sets and `decode` never looks at.
    /// `paging` keeps the page-table page's lock there, in entry 0.
    const LOCK_BIT: u64;
    /// The bit a walker sets when it uses an entry (only where `HARDWARE_ACCESSED`).
    const ACCESSED_BIT: u64;

    /// log2 of how many entries a table has at most.
    const INDEX_BITS: u32 = Self::GRANULE.shift() - 3;

    /// log2 of the bytes that one entry at `level` covers.
    #[inline(always)]
    fn level_shift(level: u8) -> u32 {
        Self::GRANULE.shift() + level as u32 * Self::INDEX_BITS
    }

    /// Which entry of a table at `level` translates `address`; below the number of entries at that level.
    #[inline(always)]
    fn index(level: u8, address: u64) -> usize {
        let bits = if level + 1 == Self::LEVELS {
            Self::VA_BITS - Self::level_shift(level)
        } else {
            Self::INDEX_BITS
        };
        (address >> Self::level_shift(level)) as usize & ((1 << bits) - 1)
    }

    /// Whether an entry at `level` can map a large page.
    fn has_large(level: u8) -> bool;

    /// The bits that say `entry` at `level`. An entry that `level` cannot hold (a table at level 0, a large page where there is none)
    /// gives 0; bits of a frame number beyond what the format has room for are dropped.
    fn encode(level: u8, entry: Entry) -> u64;

    /// What the bits say at `level`. Bits that no `encode` produces give some entry, never a panic.
    fn decode(level: u8, raw: u64) -> Entry;

    /// What a hardware walker writes into a leaf for `access`, or `None` when it would fault instead (permission, or an accessed or
    /// dirty state that software must manage). `raw` is a present leaf. User-mode access.
    fn hardware_access(level: u8, raw: u64, access: Access) -> Option<u64>;

    /// Whether a hardware walker, or another CPU that still has the entry cached, may yet write to this leaf: it is valid and its
    /// accessed or dirty state is not at its end. Where it is false, whoever holds the lock may change the entry with a plain store.
    /// Saying true too often only costs time.
    #[inline(always)]
    fn walker_may_change(raw: u64) -> bool {
        let _ = raw;
        Self::HARDWARE_ACCESSED || Self::HARDWARE_DIRTY
    }

    /// The page-table page that `raw` at `level` points at: what a descent asks of [`Format::decode`].
    #[inline(always)]
    fn table_at(level: u8, raw: u64) -> Option<Pfn> {
        match Self::decode(level, raw) {
            Entry::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The frame that `raw` at `level` maps: what a sweep asks of [`Format::decode`].
    #[inline(always)]
    fn leaf_at(level: u8, raw: u64) -> Option<Leaf> {
        match Self::decode(level, raw) {
            Entry::Present(leaf) => Some(leaf),
            _ => None,
        }
    }

    /// A last-level leaf without some of WRITE, ACCESSED and DIRTY; other flags must not be asked for. What is no leaf stays as it is.
    #[inline(always)]
    fn without(raw: u64, flags: LeafFlags) -> u64 {
        match Self::leaf_at(0, raw) {
            Some(leaf) => {
                let flags = leaf.flags.difference(flags);
                Self::encode(0, Entry::Present(Leaf { flags, ..leaf })) | raw & Self::LOCK_BIT
            }
            None => raw,
        }
    }
}

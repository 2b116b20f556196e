//! Addresses, frames, page counts and ranges: the one place where arithmetic on what a caller hands in is done, all of it
//! checked. Not for: what lies at an address (`paging`) or whether a task may use it (`space`).

use core::fmt;

/// The size of a page: the granule of a page-table format. The architecture's base page, never a large one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Granule {
    /// 4 KiB pages.
    K4 = 12,
    /// 16 KiB pages (AArch64).
    K16 = 14,
    /// 64 KiB pages (AArch64).
    K64 = 16,
}

impl Granule {
    /// log2 of the page size. `PAGE_SHIFT`.
    pub const fn shift(self) -> u32 {
        self as u32
    }

    /// The page size in bytes. `PAGE_SIZE`.
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// The bits of an address that lie within a page.
    pub const fn offset_mask(self) -> u64 {
        self.bytes() - 1
    }

    /// `bytes` rounded up to whole pages, still in bytes; `None` if that overflows. `PAGE_ALIGN`.
    pub const fn round_up(self, bytes: u64) -> Option<u64> {
        match bytes.checked_add(self.offset_mask()) {
            Some(sum) => Some(sum & !self.offset_mask()),
            None => None,
        }
    }

    /// `bytes` rounded down to whole pages, still in bytes.
    pub const fn round_down(self, bytes: u64) -> u64 {
        bytes & !self.offset_mask()
    }

    /// Whether a byte count or address is a whole number of pages.
    pub const fn is_aligned(self, bytes: u64) -> bool {
        bytes & self.offset_mask() == 0
    }

    /// How many pages `bytes` touch when they start at a page boundary (rounded up).
    pub const fn pages(self, bytes: u64) -> u64 {
        bytes / self.bytes() + (bytes & self.offset_mask() != 0) as u64
    }
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a number; every value is allowed.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// This plus `bytes`; `None` on overflow.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) { Some(v) => Some(Self(v)), None => None }
            }

            /// This minus `bytes`; `None` below zero.
            pub const fn checked_sub(self, bytes: u64) -> Option<Self> {
                match self.0.checked_sub(bytes) { Some(v) => Some(Self(v)), None => None }
            }

            /// Whether it lies on a page boundary.
            pub const fn is_aligned(self, granule: Granule) -> bool {
                granule.is_aligned(self.0)
            }

            /// The start of its page.
            pub const fn page_down(self, granule: Granule) -> Self {
                Self(granule.round_down(self.0))
            }

            /// The first page boundary at or after it; `None` on overflow.
            pub const fn page_up(self, granule: Granule) -> Option<Self> {
                match granule.round_up(self.0) { Some(v) => Some(Self(v)), None => None }
            }

            /// Its offset within its page, in bytes.
            pub const fn page_offset(self, granule: Granule) -> u64 {
                self.0 & granule.offset_mask()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A virtual address, in bytes. Any 64-bit number: whether it is canonical or mapped is asked elsewhere.
    VirtAddr
}
address! {
    /// A physical address, in bytes.
    PhysAddr
}

/// A page frame number: a physical address in units of the granule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Pfn(u64);

impl Pfn {
    /// Wraps a frame number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The frame's first byte. `PFN_PHYS`.
    pub const fn addr(self, granule: Granule) -> PhysAddr {
        PhysAddr(self.0 << granule.shift())
    }

    /// The frame that holds a physical address. `PHYS_PFN`.
    pub const fn containing(at: PhysAddr, granule: Granule) -> Self {
        Self(at.0 >> granule.shift())
    }

    /// The frame `frames` after this one; `None` on overflow.
    pub const fn checked_add(self, frames: u64) -> Option<Self> {
        match self.0.checked_add(frames) {
            Some(v) => Some(Self(v)),
            None => None,
        }
    }
}

impl fmt::Debug for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

macro_rules! range {
    ($(#[$doc:meta])* $name:ident of $addr:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name {
            start: $addr,
            end: $addr,
        }

        impl $name {
            /// The range from `start` up to, not including, `end`; `None` when `end` lies before `start`.
            pub const fn new(start: $addr, end: $addr) -> Option<Self> {
                if start.0 <= end.0 { Some(Self { start, end }) } else { None }
            }

            /// `bytes` from `start` on; `None` when the end overflows.
            pub const fn with_len(start: $addr, bytes: u64) -> Option<Self> {
                match start.checked_add(bytes) { Some(end) => Some(Self { start, end }), None => None }
            }

            /// First byte.
            pub const fn start(self) -> $addr {
                self.start
            }

            /// First byte after it.
            pub const fn end(self) -> $addr {
                self.end
            }

            /// Length in bytes.
            pub const fn bytes(self) -> u64 {
                self.end.0 - self.start.0
            }

            /// Length in pages, for a page-aligned range.
            pub const fn pages(self, granule: Granule) -> u64 {
                self.bytes() >> granule.shift()
            }

            /// Whether nothing is in it.
            pub const fn is_empty(self) -> bool {
                self.start.0 == self.end.0
            }

            /// Whether `at` is in it.
            pub const fn contains(self, at: $addr) -> bool {
                self.start.0 <= at.0 && at.0 < self.end.0
            }

            /// Whether all of `other` is in it.
            pub const fn covers(self, other: Self) -> bool {
                self.start.0 <= other.start.0 && other.end.0 <= self.end.0
            }

            /// Whether the two share a byte.
            pub const fn overlaps(self, other: Self) -> bool {
                self.start.0 < other.end.0 && other.start.0 < self.end.0
            }

            /// What the two share; `None` when they share no byte.
            pub fn intersection(self, other: Self) -> Option<Self> {
                let (start, end) = (self.start.max(other.start), self.end.min(other.end));
                if start < end { Some(Self { start, end }) } else { None }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}..{:#x}", self.start.0, self.end.0)
            }
        }
    };
}

range! {
    /// A range of virtual addresses, `start <= end`.
    VirtRange of VirtAddr
}
range! {
    /// A range of physical addresses, `start <= end`.
    PhysRange of PhysAddr
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_never_wraps() {
        for granule in [Granule::K4, Granule::K16, Granule::K64] {
            assert_eq!(granule.round_up(u64::MAX), None);
            assert_eq!(granule.round_up(1), Some(granule.bytes()));
            assert_eq!(granule.round_up(granule.bytes()), Some(granule.bytes()));
            assert_eq!(granule.pages(u64::MAX), (u64::MAX >> granule.shift()) + 1);
            assert_eq!(granule.pages(0), 0);
        }
    }

    #[test]
    fn ranges_refuse_to_wrap_or_invert() {
        let at = VirtAddr::new(0x1000);
        assert_eq!(VirtRange::with_len(at, u64::MAX), None);
        assert_eq!(VirtRange::new(at, VirtAddr::new(0)), None);
        let range = VirtRange::with_len(at, 0x2000).unwrap();
        assert!(range.contains(at) && !range.contains(range.end()));
        assert_eq!(
            range.intersection(VirtRange::with_len(VirtAddr::new(0x3000), 1).unwrap()),
            None
        );
    }
}

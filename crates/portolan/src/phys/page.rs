//! `Page`: what the library knows of one frame, 32 bytes each. Layout, reference count, kind, flags.
//! Not for the frame's bytes (`bytes`, [`super::PageRef`]) nor for which frames are free (`buddy`, `percpu`).
//!
//! | offset | word | while the frame is in use | while it is free |
//! |---|---|---|---|
//! | 0 | `refs` | references: page-table entries, cache slots, [`super::PageRef`]s | 0 |
//! | 4 | `state` | order (bits 0-3), kind (8-15), [`PageFlags`] (16-31) | the same, and bit 7 on the first frame of a free block |
//! | 8 | `next` | unused; meant for an owner's list | next free block of the order, as index + 1 |
//! | 12 | `prev` | unused; meant for an owner's list | previous free block of the order, as index + 1 |
//! | 16 | `private` | the owner's: page-table page, cache or anonymous root; 0 when handed out | stale |
//! | 24 | `index` | the owner's: offset in its object, or a count; 0 when handed out | stale |
//!
//! Only the first frame of a free block has meaningful links, so that putting 4 MiB into the allocator writes one `Page`.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// What a frame is used for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// Never handed out: a hole in memory, or a frame that was free since the machine started.
    Reserved = 0,
    /// Free, and in use before.
    Free = 1,
    /// Anonymous memory. `PageAnon`.
    Anon = 2,
    /// Page cache of a file.
    Cache = 3,
    /// Shared anonymous memory. `PageSwapBacked` in the page cache.
    Shmem = 4,
    /// A page-table page. `PageTable`.
    Table = 5,
    /// The zero page. `is_zero_pfn`.
    Zero = 6,
    /// The kernel's own: slab, vmalloc, a driver's buffer.
    Kernel = 7,
}

impl FrameKind {
    fn from_bits(bits: u32) -> FrameKind {
        match bits & 0xff {
            1 => FrameKind::Free,
            2 => FrameKind::Anon,
            3 => FrameKind::Cache,
            4 => FrameKind::Shmem,
            5 => FrameKind::Table,
            6 => FrameKind::Zero,
            7 => FrameKind::Kernel,
            _ => FrameKind::Reserved,
        }
    }
}

bitflags::bitflags! {
    /// State that the owner of a frame keeps with it. `PG_*`. All clear when a frame is handed out.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PageFlags: u16 {
        /// Held by whoever does I/O on it or changes what it is. `PG_locked`.
        const LOCKED = 1 << 0;
        /// Its bytes are what the backing has, or newer. `PG_uptodate`.
        const UPTODATE = 1 << 1;
        /// Its bytes are newer than what the backing has. `PG_dirty`.
        const DIRTY = 1 << 2;
        /// It is being written to the backing. `PG_writeback`.
        const WRITEBACK = 1 << 3;
        /// Used since reclaim last looked. `PG_referenced`.
        const REFERENCED = 1 << 4;
        /// On the active list of reclaim. `PG_active`.
        const ACTIVE = 1 << 5;
        /// Anonymous and mapped by one space only, which may write it without a copy. `PG_anon_exclusive`.
        const EXCLUSIVE = 1 << 6;
        /// In a VM_LOCKED mapping. `PG_mlocked`.
        const MLOCKED = 1 << 7;
        /// Its memory is faulty. `PG_hwpoison`.
        const POISON = 1 << 8;
        /// Freed lazily (MADV_FREE): reclaim may drop it while it is clean. The opposite of `PG_swapbacked`.
        const LAZY_FREE = 1 << 9;
        /// Of shared memory, allocated ahead and neither mapped nor written since. The opposite of `PG_uptodate` of a folio that `fallocate` made.
        const UNUSED = 1 << 10;
    }
}

const ORDER_MASK: u32 = 0xf;
const FREE_HEAD: u32 = 1 << 7;
const KIND_SHIFT: u32 = 8;
const FLAGS_SHIFT: u32 = 16;
const ALLOCATOR_MASK: u32 = (1 << FLAGS_SHIFT) - 1;

/// Half way into the counts that no honest number of references reaches; `REFCOUNT_SATURATED`. A count that gets above
/// `i32::MAX` or below zero is put here and the frame is never freed: a leak instead of a use after free.
const SATURATED: u32 = 0xc000_0000;

/// `struct page`: the metadata of one frame. See the table at the top of `phys/page.rs` for the layout.
#[repr(C, align(32))]
pub struct Page {
    refs: AtomicU32,
    state: AtomicU32,
    next: AtomicU32,
    prev: AtomicU32,
    private: AtomicU64,
    index: AtomicU64,
}

const _: () = assert!(size_of::<Page>() == 32);

impl Page {
    /// How many references there are; 0 for a free frame, and for one in the middle of a [`super::Block`]. `page_count`.
    #[inline]
    pub fn refs(&self) -> u32 {
        self.refs.load(Ordering::Acquire)
    }

    /// What the frame is used for. Frames of a free block other than its first may still say [`FrameKind::Reserved`].
    #[inline]
    pub fn kind(&self) -> FrameKind {
        FrameKind::from_bits(self.state.load(Ordering::Relaxed) >> KIND_SHIFT)
    }

    /// log2 of the number of frames in the block that starts here. `compound_order`.
    #[inline]
    pub fn order(&self) -> u8 {
        (self.state.load(Ordering::Relaxed) & ORDER_MASK) as u8
    }

    /// The owner's word: a pointer, a root's number, whatever it needs. 0 when the frame is handed out. `page->private`.
    #[inline]
    pub fn private(&self) -> &AtomicU64 {
        &self.private
    }

    /// The owner's other word: the offset in its object in pages, or a count. 0 when the frame is handed out. `page->index`.
    #[inline]
    pub fn index(&self) -> &AtomicU64 {
        &self.index
    }

    /// The flags that are set.
    #[inline]
    pub fn flags(&self) -> PageFlags {
        Self::flags_of(self.state.load(Ordering::Acquire))
    }

    /// Sets `flags` and returns those that were set before: `TestSetPage*`. Acquires and releases.
    #[inline]
    pub fn set_flags(&self, flags: PageFlags) -> PageFlags {
        Self::flags_of(
            self.state
                .fetch_or((flags.bits() as u32) << FLAGS_SHIFT, Ordering::AcqRel),
        )
    }

    /// Clears `flags` and returns those that were set before: `TestClearPage*`. Acquires and releases.
    #[inline]
    pub fn clear_flags(&self, flags: PageFlags) -> PageFlags {
        Self::flags_of(
            self.state
                .fetch_and(!((flags.bits() as u32) << FLAGS_SHIFT), Ordering::AcqRel),
        )
    }

    fn flags_of(state: u32) -> PageFlags {
        PageFlags::from_bits_truncate((state >> FLAGS_SHIFT) as u16)
    }

    /// Adds a reference to a frame that has one. `get_page`.
    #[inline]
    pub(super) fn get(&self) {
        let old = self.refs.fetch_add(1, Ordering::Relaxed);
        if old as i32 <= 0 {
            self.saturate(old, "a reference was taken to a free frame");
        }
    }

    /// Adds a reference unless the frame is free. `get_page_unless_zero`.
    #[inline]
    pub(super) fn get_unless_zero(&self) -> bool {
        let mut now = self.refs.load(Ordering::Relaxed);
        while now != 0 {
            if now as i32 <= 0 {
                return true;
            }
            match self.refs.compare_exchange_weak(
                now,
                now + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(seen) => now = seen,
            }
        }
        false
    }

    /// Drops a reference; true if it was the last one, and then the caller must free the frame. `put_page_testzero`.
    #[inline]
    pub(super) fn put(&self) -> bool {
        let old = self.refs.fetch_sub(1, Ordering::Release);
        if old == 1 {
            fence(Ordering::Acquire);
            return true;
        }
        if old as i32 <= 0 {
            self.saturate(old, "a reference was dropped to a free frame");
        }
        false
    }

    #[cold]
    #[inline(never)]
    fn saturate(&self, old: u32, misuse: &str) {
        self.refs.store(SATURATED, Ordering::Relaxed);
        debug_assert!(old != 0, "{misuse}");
    }

    /// Makes a free frame an allocated one with one reference.
    #[inline]
    pub(super) fn hand_out(&self, order: u8, kind: FrameKind) {
        debug_assert!(
            self.refs.load(Ordering::Relaxed) == 0,
            "a frame was handed out that has references"
        );
        self.state.store(
            (kind as u32) << KIND_SHIFT | order as u32,
            Ordering::Relaxed,
        );
        self.private.store(0, Ordering::Relaxed);
        self.index.store(0, Ordering::Relaxed);
        self.refs.store(1, Ordering::Release);
    }

    /// Labels a frame within a block that has a reference count only at its head.
    pub(super) fn label(&self, kind: FrameKind) {
        self.state
            .store((kind as u32) << KIND_SHIFT, Ordering::Relaxed);
    }

    /// Makes the head of a block an ordinary frame, keeping its references.
    pub(super) fn forget_order(&self) {
        self.state.fetch_and(!ORDER_MASK, Ordering::Relaxed);
    }

    /// Marks a frame without references as free and returns the order it was handed out with.
    #[inline]
    pub(super) fn retire(&self) -> u8 {
        let order = self.order();
        self.label(FrameKind::Free);
        order
    }

    /// Makes it the first frame of a free block, at the front of its order's list, with `next` (an index + 1, or 0) after it.
    pub(super) fn set_free_head(&self, order: u8, next: u32) {
        self.next.store(next, Ordering::Relaxed);
        self.prev.store(0, Ordering::Relaxed);
        self.state.store(
            (FrameKind::Free as u32) << KIND_SHIFT | FREE_HEAD | order as u32,
            Ordering::Relaxed,
        );
    }

    /// Whether a free block of this order starts here; exact under the allocator's lock.
    pub(super) fn is_free_head(&self, order: u8) -> bool {
        let expected = (FrameKind::Free as u32) << KIND_SHIFT | FREE_HEAD | order as u32;
        self.state.load(Ordering::Relaxed) & ALLOCATOR_MASK == expected
    }

    /// The list links, as index + 1 or 0 for none.
    pub(super) fn links(&self) -> (&AtomicU32, &AtomicU32) {
        (&self.next, &self.prev)
    }

    #[cfg(test)]
    pub(super) fn set_refs(&self, refs: u32) {
        self.refs.store(refs, Ordering::Relaxed);
    }
}

impl core::fmt::Debug for Page {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Page")
            .field("refs", &self.refs())
            .field("kind", &self.kind())
            .field("order", &self.order())
            .field("flags", &self.flags())
            .field("private", &self.private)
            .field("index", &self.index)
            .finish()
    }
}

//! The memory of the machine: a zeroed piece of the heap, aligned to a frame.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

pub(super) struct Memory {
    /// What the heap gave.
    heap: *mut u8,
    layout: Layout,
    /// The first aligned byte in it.
    start: *mut u8,
}

// SAFETY: the memory is owned, and its bytes are accessed by whoever the library gives a frame to, on any thread.
unsafe impl Send for Memory {}
// SAFETY: a shared `Memory` gives out addresses only.
unsafe impl Sync for Memory {}

impl Memory {
    /// `bytes` zero bytes, aligned to `alignment`.
    ///
    /// Asked for with a small alignment and aligned here: for a large one, the system's allocator writes the zeros itself, all of them.
    pub(super) fn new(bytes: usize, alignment: usize) -> Self {
        let layout = Layout::from_size_align(bytes.saturating_add(alignment), 16)
            .expect("a size that the host can have");
        // SAFETY: the size is at least `alignment`, which is not zero.
        let heap = unsafe { alloc_zeroed(layout) };
        if heap.is_null() {
            handle_alloc_error(layout);
        }
        let skip = heap.align_offset(alignment);
        assert!(skip <= alignment, "the host's memory can be aligned");
        // SAFETY: at most `alignment` bytes are skipped, which were asked for on top.
        let start = unsafe { heap.add(skip) };
        Self {
            heap,
            layout,
            start,
        }
    }

    /// The address of a byte; one outside gives an address that must not be used.
    #[inline]
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        self.start.wrapping_add(offset)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.heap, self.layout) };
    }
}

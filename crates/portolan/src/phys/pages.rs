//! The memory of the `Page` array: one zeroed heap allocation that can fail, aligned so that no `Page` straddles a cache line.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ops::Deref;
use core::ptr::NonNull;

use super::heap::OutOfMemory;
use super::page::Page;

const CACHE_LINE: usize = 64;

/// The array; all zeros at first, which is a [`super::FrameKind::Reserved`] frame without references.
pub(super) struct Pages {
    first: NonNull<Page>,
    len: usize,
    /// What the heap gave; `first` is the first aligned address in it.
    memory: NonNull<u8>,
    layout: Layout,
}

impl Pages {
    pub(super) fn new(len: usize) -> Result<Pages, OutOfMemory> {
        let bytes = len
            .checked_mul(size_of::<Page>())
            .and_then(|bytes| bytes.checked_add(CACHE_LINE))
            .ok_or(OutOfMemory)?;
        // Asked for with a small alignment, since hosted allocators clear what they align themselves by writing all of it.
        let layout = Layout::from_size_align(bytes, align_of::<u64>()).map_err(|_| OutOfMemory)?;
        // SAFETY: the size is at least a cache line.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(OutOfMemory)?;
        let skip = memory.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE);
        // SAFETY: at most a cache line is skipped, which was asked for on top of the array.
        let first = unsafe { memory.add(skip) }.cast();
        Ok(Pages {
            first,
            len,
            memory,
            layout,
        })
    }
}

impl Deref for Pages {
    type Target = [Page];

    #[inline]
    fn deref(&self) -> &[Page] {
        // SAFETY: `len` pages from `first` on lie in the allocation, which lives as long as `self` and is aligned for them; zeroed memory is a
        // valid `Page`, all of whose fields are atomic integers.
        unsafe { core::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; `Page` has nothing to drop.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

//! `PageRef`: one owned reference to a frame, and the safe way at its bytes.
//! Not for blocks of several frames (`block`).

use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

use super::bytes;
use super::page::{FrameKind, Page};
use super::{OutOfMemory, Phys};
use crate::addr::Pfn;
use crate::paging::Format;
use crate::platform::Platform;

/// A reference to a frame: `get_page` and `put_page` as `Clone` and `Drop`. Whoever drops the last one frees the frame.
///
/// What it reads and writes is shared memory: user code and other threads may change the same bytes at the same time, and then a copy
/// is a mix of old and new.
pub struct PageRef<P: Platform> {
    phys: NonNull<Phys<P>>,
    page: NonNull<Page>,
}

const _: () = assert!(size_of::<usize>() != 8 || size_of::<(NonNull<u8>, NonNull<u8>)>() == 16);

// SAFETY: it gives shared access to `Phys`, which is `Sync`, and to `Page`, which is made of atomics; either may be used and the last
// reference be dropped on any thread.
unsafe impl<P: Platform> Send for PageRef<P> {}
// SAFETY: as for `Send`; frame bytes are accessed as by relaxed atomics.
unsafe impl<P: Platform> Sync for PageRef<P> {}

impl<P: Platform> PageRef<P> {
    /// Takes over one reference.
    #[inline]
    pub(super) fn new(phys: &Phys<P>, page: &Page) -> PageRef<P> {
        PageRef {
            phys: NonNull::from(phys),
            page: NonNull::from(page),
        }
    }

    /// The frame's metadata.
    #[inline]
    pub fn page(&self) -> &Page {
        // SAFETY: the metadata lives while a frame is out, and this one is until `self` is dropped.
        unsafe { self.page.as_ref() }
    }

    /// Whose frame it is.
    #[inline]
    pub(crate) fn phys(&self) -> &Phys<P> {
        // SAFETY: a `Phys` lives while one of its frames is out, and this one is until `self` is dropped.
        unsafe { self.phys.as_ref() }
    }

    /// The frame's number. `page_to_pfn`.
    #[inline]
    pub fn pfn(&self) -> Pfn {
        let phys = self.phys();
        phys.pfn_at(phys.index_of(self.page.as_ptr()))
    }

    /// How many references there are, this one too. Others may come and go meanwhile. `page_count`.
    #[inline]
    pub fn count(&self) -> u32 {
        self.page().refs()
    }

    /// Whether this is the only reference. It stays so while nobody can reach `self`, and no [`Phys::get`] meets the frame.
    #[inline]
    pub fn is_exclusive(&self) -> bool {
        self.count() == 1
    }

    /// What the frame was allocated for.
    #[inline]
    pub fn kind(&self) -> FrameKind {
        self.page().kind()
    }

    /// Gives the reference out as a bare number, to a page-table entry for instance; [`Phys::from_raw`] takes it back.
    #[inline]
    pub fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).pfn()
    }

    /// Where the frame's first byte can be reached.
    #[inline]
    pub fn ptr(&self) -> *mut u8 {
        self.phys().ptr(self.pfn())
    }

    /// Copies `to.len()` bytes out of the frame, from `offset` on.
    ///
    /// # Panics
    /// The bytes do not all lie in the frame.
    #[inline]
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        let frame = self.bytes_at(offset, to.len());
        // SAFETY: `bytes_at` checked that the bytes lie in this frame; `to` is exclusive and, being Rust's, not in a frame.
        unsafe { bytes::load(frame, to.as_mut_ptr(), to.len()) };
    }

    /// Copies `from` into the frame, from `offset` on.
    ///
    /// # Panics
    /// The bytes do not all lie in the frame.
    #[inline]
    pub fn write(&self, offset: usize, from: &[u8]) {
        let frame = self.bytes_at(offset, from.len());
        // SAFETY: `bytes_at` checked that the bytes lie in this frame; `from` is borrowed and, being Rust's, not in a frame.
        unsafe { bytes::store(frame, from.as_ptr(), from.len()) };
    }

    /// Sets `len` bytes of the frame, from `offset` on, to `value`.
    ///
    /// # Panics
    /// The bytes do not all lie in the frame.
    #[inline]
    pub fn fill(&self, offset: usize, len: usize, value: u8) {
        let frame = self.bytes_at(offset, len);
        // SAFETY: `bytes_at` checked that the bytes lie in this frame.
        unsafe { bytes::fill(frame, value, len) };
    }

    /// Shows an aligned word of the frame to `work` as the atomic it is to user code: what a futex needs.
    ///
    /// # Panics
    /// `offset` is not a multiple of 4, or the word does not lie in the frame.
    #[inline]
    pub fn with_u32<R>(&self, offset: usize, work: impl FnOnce(&AtomicU32) -> R) -> R {
        assert!(offset.is_multiple_of(4), "a word that is not aligned");
        let word = self.bytes_at(offset, 4).cast::<u32>();
        // SAFETY: `bytes_at` checked that the word lies in this frame, which `self` keeps until `work` returns; frames are aligned to
        // the granule, so it is aligned; all access to frame bytes is as if atomic.
        work(unsafe { AtomicU32::from_ptr(word) })
    }

    /// Copies all of another frame into this one. `copy_highpage`.
    #[inline]
    pub fn copy_from(&self, from: &PageRef<P>) {
        if self.page == from.page {
            return;
        }
        // SAFETY: both are frames that references keep, a granule long and aligned to it, and not the same one.
        unsafe { bytes::copy(from.ptr(), self.ptr(), P::Format::GRANULE.bytes() as usize) };
    }

    /// A new frame with the same bytes, of the given kind: what a copy-on-write break needs.
    ///
    /// # Errors
    /// As [`Phys::alloc`].
    pub fn duplicate(&self, kind: FrameKind) -> Result<PageRef<P>, OutOfMemory> {
        let copy = self.phys().alloc(kind)?;
        copy.copy_from(self);
        Ok(copy)
    }

    /// Where `len` bytes from `offset` on can be reached.
    #[inline]
    fn bytes_at(&self, offset: usize, len: usize) -> *mut u8 {
        let size = P::Format::GRANULE.bytes() as usize;
        assert!(
            offset <= size && len <= size - offset,
            "bytes beyond the end of a frame"
        );
        // SAFETY: the frame is memory and `offset` is at most its size, so the platform says that this is one allocation.
        unsafe { self.ptr().add(offset) }
    }
}

impl<P: Platform> Clone for PageRef<P> {
    #[inline]
    fn clone(&self) -> Self {
        self.page().get();
        PageRef {
            phys: self.phys,
            page: self.page,
        }
    }
}

impl<P: Platform> Drop for PageRef<P> {
    #[inline]
    fn drop(&mut self) {
        if self.page().put() {
            // SAFETY: both were valid as this reference was out, it was the last, and the frame is not yet counted as free.
            unsafe { Phys::release(self.phys, self.page) };
        }
    }
}

impl<P: Platform> PartialEq for PageRef<P> {
    /// Whether both refer to the same frame.
    fn eq(&self, other: &Self) -> bool {
        self.page == other.page
    }
}

impl<P: Platform> Eq for PageRef<P> {}

impl<P: Platform> core::fmt::Debug for PageRef<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PageRef")
            .field("pfn", &self.pfn())
            .field("page", self.page())
            .finish()
    }
}

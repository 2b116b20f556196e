//! `Block`: several frames in a row, owned as one, until they are split into references. Not for single frames (`pageref`).

use core::iter::FusedIterator;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use super::page::{FrameKind, Page};
use super::pageref::PageRef;
use super::{Phys, bytes};
use crate::addr::{Granule, Pfn};
use crate::paging::Format;
use crate::platform::Platform;

/// `1 << order` frames in a row, physically contiguous and aligned to their size. `alloc_pages` and `free_pages` as a value; dropping
/// it frees them.
pub struct Block<P: Platform> {
    phys: NonNull<Phys<P>>,
    head: NonNull<Page>,
}

// SAFETY: it owns its frames and gives shared access to `Phys`, which is `Sync`, and to metadata made of atomics.
unsafe impl<P: Platform> Send for Block<P> {}
// SAFETY: as for `Send`; frame bytes are accessed as by relaxed atomics.
unsafe impl<P: Platform> Sync for Block<P> {}

impl<P: Platform> Block<P> {
    const GRANULE: Granule = P::Format::GRANULE;

    /// Takes over the one reference of a block's first frame.
    pub(super) fn new(phys: &Phys<P>, head: &Page) -> Block<P> {
        Block {
            phys: NonNull::from(phys),
            head: NonNull::from(head),
        }
    }

    pub(super) fn from_page(page: PageRef<P>) -> Block<P> {
        let page = ManuallyDrop::new(page);
        Block::new(page.phys(), page.page())
    }

    fn phys(&self) -> &Phys<P> {
        // SAFETY: a `Phys` lives while its frames are out, and these are until `self` is dropped.
        unsafe { self.phys.as_ref() }
    }

    /// The metadata of the first frame; the references of the block are counted there.
    pub fn page(&self) -> &Page {
        // SAFETY: the metadata lives while a frame is out, and these are until `self` is dropped.
        unsafe { self.head.as_ref() }
    }

    /// log2 of the number of frames.
    pub fn order(&self) -> u8 {
        self.page().order()
    }

    /// The number of the first frame, a multiple of `1 << order`.
    pub fn pfn(&self) -> Pfn {
        let phys = self.phys();
        phys.pfn_at(phys.index_of(self.head.as_ptr()))
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        (Self::GRANULE.bytes() as usize) << self.order()
    }

    /// What it was allocated for.
    pub fn kind(&self) -> FrameKind {
        self.page().kind()
    }

    /// Gives the block out as the bare number of its first frame; [`Phys::block_from_raw`] takes it back.
    pub fn into_raw(self) -> Pfn {
        ManuallyDrop::new(self).pfn()
    }

    /// Makes single frames of it, each with a reference of its own. `split_page`.
    pub fn split(self) -> Frames<P> {
        let block = ManuallyDrop::new(self);
        let phys = block.phys();
        let (first, count) = (phys.index_of(block.head.as_ptr()), 1u32 << block.order());
        let kind = block.kind();
        for tail in &phys.pages[first as usize + 1..(first + count) as usize] {
            tail.hand_out(0, kind);
        }
        block.page().forget_order();
        Frames {
            phys: block.phys,
            next: first,
            end: first + count,
        }
    }

    /// Copies `to.len()` bytes out, from `offset` on.
    ///
    /// # Panics
    /// The bytes do not all lie in the block.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        self.each_part(offset, to.len(), |frame, done, len| {
            let part = &mut to[done..done + len];
            // SAFETY: `each_part` gives `len` bytes within a frame of this block; `part` is exclusive and, being Rust's, not in a frame.
            unsafe { bytes::load(frame, part.as_mut_ptr(), len) }
        });
    }

    /// Copies `from` in, from `offset` on.
    ///
    /// # Panics
    /// The bytes do not all lie in the block.
    pub fn write(&self, offset: usize, from: &[u8]) {
        self.each_part(offset, from.len(), |frame, done, len| {
            let part = &from[done..done + len];
            // SAFETY: `each_part` gives `len` bytes within a frame of this block; `part` is borrowed and, being Rust's, not in a frame.
            unsafe { bytes::store(frame, part.as_ptr(), len) }
        });
    }

    /// Sets `len` bytes, from `offset` on, to `value`.
    ///
    /// # Panics
    /// The bytes do not all lie in the block.
    pub fn fill(&self, offset: usize, len: usize, value: u8) {
        self.each_part(offset, len, |frame, _, len| {
            // SAFETY: `each_part` gives `len` bytes within a frame of this block.
            unsafe { bytes::fill(frame, value, len) }
        });
    }

    /// Shows `len` bytes from `offset` on frame by frame, since two frames in a row need not be so in the direct map: where the part can be
    /// reached, how many bytes came before it, how many it has.
    fn each_part(&self, offset: usize, len: usize, mut each: impl FnMut(*mut u8, usize, usize)) {
        assert!(
            offset <= self.bytes() && len <= self.bytes() - offset,
            "bytes beyond the end of a block"
        );
        let size = Self::GRANULE.bytes() as usize;
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let (frame, within) = (at / size, at % size);
            let part = (size - within).min(len - done);
            let start = self.phys().ptr(Pfn::new(self.pfn().get() + frame as u64));
            // SAFETY: the frame is memory and `within` is below its size, so the platform says that this is one allocation.
            each(unsafe { start.add(within) }, done, part);
            done += part;
        }
    }
}

impl<P: Platform> Drop for Block<P> {
    fn drop(&mut self) {
        if self.page().put() {
            // SAFETY: both were valid as the block was out, this was its last reference, and it is not yet counted as free.
            unsafe { Phys::release(self.phys, self.head) };
        }
    }
}

impl<P: Platform> core::fmt::Debug for Block<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Block")
            .field("pfn", &self.pfn())
            .field("order", &self.order())
            .field("kind", &self.kind())
            .finish()
    }
}

/// The frames of a block that was split, ascending. Those that are not taken are freed.
pub struct Frames<P: Platform> {
    phys: NonNull<Phys<P>>,
    next: u32,
    end: u32,
}

// SAFETY: it owns references, as many `PageRef`s would.
unsafe impl<P: Platform> Send for Frames<P> {}
// SAFETY: it has no methods on `&self` but its length.
unsafe impl<P: Platform> Sync for Frames<P> {}

impl<P: Platform> Iterator for Frames<P> {
    type Item = PageRef<P>;

    fn next(&mut self) -> Option<PageRef<P>> {
        if self.next == self.end {
            return None;
        }
        // SAFETY: a `Phys` lives while its frames are out, and `next..end` are.
        let phys = unsafe { self.phys.as_ref() };
        let page = &phys.pages[self.next as usize];
        self.next += 1;
        Some(PageRef::new(phys, page))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.end - self.next) as usize;
        (left, Some(left))
    }
}

impl<P: Platform> ExactSizeIterator for Frames<P> {}
impl<P: Platform> FusedIterator for Frames<P> {}

impl<P: Platform> Drop for Frames<P> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

impl<P: Platform> core::fmt::Debug for Frames<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Frames").field("left", &self.len()).finish()
    }
}

//! Page-table pages that were unlinked: until the flush, and from there on until no lock-free descent can still be in them.

use alloc::boxed::Box;

use crate::epoch::{Chain, Header, Retire};
use crate::phys::{FailPoint, PageRef, heap};
use crate::platform::Platform;

/// How many page-table pages one allocation holds.
const PAGES: usize = 29;

#[repr(C)]
struct Block<P: Platform> {
    header: Header,
    len: usize,
    pages: [Option<PageRef<P>>; PAGES],
}

// SAFETY: `repr(C)` with the header first; nothing else uses it.
unsafe impl<P: Platform> Retire for Block<P> {}

/// Unlinked page-table pages, in blocks. Dropping it without [`Retired::take`] leaks them.
pub(super) struct Retired<P: Platform> {
    open: Option<Box<Block<P>>>,
    full: Chain,
}

impl<P: Platform> Retired<P> {
    pub(super) const fn new() -> Self {
        Self {
            open: None,
            full: Chain::EMPTY,
        }
    }

    /// Adds one; gives it back when the heap is exhausted.
    pub(super) fn push(&mut self, fail: &FailPoint, page: PageRef<P>) -> Result<(), PageRef<P>> {
        if self.open.as_ref().is_some_and(|block| block.len == PAGES) {
            self.close();
        }
        if self.open.is_none() {
            let block = Block {
                header: Header::new(),
                len: 0,
                pages: [const { None }; PAGES],
            };
            self.open = heap::try_box(fail, block).ok();
        }
        let Some(block) = &mut self.open else {
            return Err(page);
        };
        block.pages[block.len] = Some(page);
        block.len += 1;
        Ok(())
    }

    fn close(&mut self) {
        if let Some(block) = self.open.take() {
            let block = core::ptr::NonNull::from(Box::leak(block));
            // SAFETY: a box that was just leaked; its page-table pages are unlinked, so only pinned descents may still be in them.
            unsafe { self.full.append_box(block) };
        }
    }

    /// All of them, to be retired after the flush.
    pub(super) fn take(&mut self) -> Chain {
        self.close();
        core::mem::replace(&mut self.full, Chain::EMPTY)
    }
}

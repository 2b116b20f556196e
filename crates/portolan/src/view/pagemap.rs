//! `/proc/PID/pagemap`: a 64-bit word for each page. `fs/proc/task_mmu.c: pagemap_read`.

use core::ops::ControlFlow;

use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::paging::Format;
use crate::platform::Platform;
use crate::space::{Mm, PageBits, PageState};

/// Bytes of a word.
const WORD: u64 = 8;
/// Pages looked at under one hold of the mmap lock. `PAGEMAP_WALK_SIZE`.
const CHUNK: u64 = 512;

/// Bits of a word and what they say. `PM_*`.
const BITS: [(PageBits, u64); 7] = [
    (PageBits::SOFT_DIRTY, 1 << 55),
    (PageBits::EXCLUSIVE, 1 << 56),
    (PageBits::UFFD_WP, 1 << 57),
    (PageBits::GUARD, 1 << 58),
    (PageBits::FILE, 1 << 61),
    (PageBits::SWAPPED, 1 << 62),
    (PageBits::PRESENT, 1 << 63),
];
/// The frame number, or area and slot. `PM_PFRAME_MASK`.
const NUMBER: u64 = (1 << 55) - 1;

/// Whether the reader may know where in memory pages lie: CAP_SYS_ADMIN when the file was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShowFrames {
    /// The numbers are 0.
    No,
    /// Frame numbers are shown.
    Yes,
}

/// Reads `/proc/PID/pagemap` from byte `offset` on: the word of page N is at byte 8 N. Returns how many bytes were read: fewer than asked for where
/// the space ends, none past its end.
///
/// # Errors
/// `EINVAL`: `offset` or the length is no multiple of 8.
pub fn read_pagemap<P: Platform>(
    mm: &Mm<P>,
    offset: u64,
    into: &mut [u8],
    frames: ShowFrames,
) -> Result<usize, Errno> {
    let granule = P::Format::GRANULE;
    if !offset.is_multiple_of(WORD) || !(into.len() as u64).is_multiple_of(WORD) {
        return Err(Errno::EINVAL);
    }
    let pages = mm.layout().task_size_max >> granule.shift();
    let first = (offset / WORD).min(pages);
    let end = first + (into.len() as u64 / WORD).min(pages - first);
    let mut words = into.chunks_exact_mut(WORD as usize);
    let mut page = first;
    while page < end {
        // To the next border of a chunk, as Linux lets go of the lock there.
        let stop = ((page / CHUNK + 1) * CHUNK).min(end);
        let at = |page: u64| VirtAddr::new(page << granule.shift());
        let range = VirtRange::new(at(page), at(stop)).ok_or(Errno::EINVAL)?;
        let _: ControlFlow<()> = mm.for_each_page_run(range, |run| {
            let value = word(run.state, frames);
            let count = run.range.pages(granule) as usize;
            for slot in words.by_ref().take(count) {
                slot.copy_from_slice(&value.to_ne_bytes());
            }
            ControlFlow::Continue(())
        });
        page = stop;
    }
    Ok(((end - first) * WORD) as usize)
}

fn word(state: PageState, frames: ShowFrames) -> u64 {
    let bits = BITS
        .iter()
        .filter(|(bit, _)| state.bits.contains(*bit))
        .fold(0, |word, (_, value)| word | value);
    match frames {
        ShowFrames::Yes => bits | state.number & NUMBER,
        ShowFrames::No => bits,
    }
}

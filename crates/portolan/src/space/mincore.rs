//! `mincore`: which pages of a range would be had without a fault that reads.

use super::mm::{MmState, MmUser};
use super::vma::Vma;
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::FileMode;
use crate::paging::{Cursor, Entry, Format};
use crate::platform::Platform;

/// How many pages are looked at under one hold of the mmap lock.
const CHUNK: usize = 1024;

impl<P: Platform> MmUser<P> {
    /// `mincore`. `mm/mincore.c`. Calls `tell` with a byte for each page, 1 for resident, a run at a time and without any lock held.
    ///
    /// A page of a file counts as resident when it is cached, mapped or not. Where the caller may not know that of a file (it neither owns it nor
    /// may write it, [`FileMode::OBSERVABLE`]), every page is said to be resident, as in Linux.
    ///
    /// # Errors
    /// `EINVAL`: unaligned. `ENOMEM`: beyond the space, or a hole: what lies before it has been told. What `tell` answers.
    pub fn mincore(
        &self,
        addr: VirtAddr,
        len: u64,
        mut tell: impl FnMut(&[u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        if !addr.is_aligned(granule) {
            return Err(Errno::EINVAL);
        }
        let len = granule.round_up(len).ok_or(Errno::ENOMEM)?;
        let range = VirtRange::with_len(addr, len).ok_or(Errno::ENOMEM)?;
        if range.end().get() > self.layout().task_size_max {
            return Err(Errno::ENOMEM);
        }
        let mut at = range.start();
        while at < range.end() {
            let mut resident = [0; CHUNK];
            let part = {
                let state = self.state.read();
                self.residency(&state, at, range.end(), &mut resident)?
            };
            tell(&resident[..part.pages(granule) as usize])?;
            at = part.end();
        }
        Ok(())
    }

    /// Looks at the pages from `at` on, as far as one area, `end` and the room go; returns which they were. `do_mincore`.
    fn residency(
        &self,
        state: &MmState<P>,
        at: VirtAddr,
        end: VirtAddr,
        resident: &mut [u8; CHUNK],
    ) -> Result<VirtRange, Errno> {
        let granule = P::Format::GRANULE;
        let vma = state.vmas.get(at.get()).ok_or(Errno::ENOMEM)?;
        let most = at.get().saturating_add((CHUNK as u64) << granule.shift());
        let end = end.min(vma.range().end()).min(VirtAddr::new(most));
        let part = VirtRange::new(at, end).ok_or(Errno::ENOMEM)?;
        match vma.file() {
            Some(file) if !file.mode().contains(FileMode::OBSERVABLE) => resident.fill(1),
            _ => self.look_at(vma, part, resident),
        }
        Ok(part)
    }

    fn look_at(&self, vma: &Vma<P>, part: VirtRange, resident: &mut [u8; CHUNK]) {
        let granule = P::Format::GRANULE;
        let number = |at: VirtAddr| ((at.get() - part.start().get()) >> granule.shift()) as usize;
        if let Some(cache) = vma.file().and_then(|file| file.cache()) {
            let first = vma.page_index(part.start());
            cache.mark_cached(first, &mut resident[..number(part.end())]);
        }
        for (piece, table) in Cursor::reading(&self.table, self.machine.phys(), part) {
            let first = P::Format::index(0, piece.start().get());
            for n in 0..piece.pages(granule) as usize {
                if let Entry::Present(_) = table.peek(first + n) {
                    resident[number(piece.start()) + n] = 1;
                }
            }
        }
    }
}

//! `Backing`: where the contents of a cached file come from and go to. Written by the embedder. Not for its name, rights or times.

use core::ops::Range;

use crate::errno::Errno;

/// Where the contents of a file live: `struct address_space_operations`, as far as a cache needs it.
///
/// Indices count pages of the machine's granule. Every call may sleep and may come from several threads at a time; the cache sees to it that
/// writes of one page, changes of the length and holes never overlap. A call must not call back into the cache.
pub trait Backing: Send + Sync {
    /// Reads one page, the whole of `page`; what lies past the end is zeros. `read_folio`.
    ///
    /// # Errors
    /// The outside's, usually `EIO`. The page is then not cached, and a fault on it is SIGBUS.
    fn read_page(&self, index: u64, page: &mut [u8]) -> Result<(), Errno>;

    /// Writes one page. `page` is a whole page, or shorter where the file ends in it: what it does not hold is not the file's. A file that
    /// was shorter grows to the end of `page`, with zeros in between. `writepages`.
    ///
    /// # Errors
    /// The outside's, `EIO` or `ENOSPC`. The page then stays dirty.
    fn write_page(&self, index: u64, page: &[u8]) -> Result<(), Errno>;

    /// Makes the file this long; what is new is zeros. `truncate`.
    ///
    /// # Errors
    /// The outside's; the file is then as it was, and so is the cache.
    fn set_len(&self, bytes: u64) -> Result<(), Errno>;

    /// Reads pages in a row; `pages` is a whole number of pages of `page_bytes` each. Worth its own method where one call for all is cheaper.
    ///
    /// # Errors
    /// As [`Backing::read_page`]; the cache then reads the one it needs by itself.
    fn read_pages(&self, first: u64, page_bytes: usize, pages: &mut [u8]) -> Result<(), Errno> {
        let parts = pages.chunks_mut(page_bytes);
        (first..)
            .zip(parts)
            .try_for_each(|(index, page)| self.read_page(index, page))
    }

    /// Writes pages in a row; the last may be short, as in [`Backing::write_page`].
    ///
    /// # Errors
    /// As [`Backing::write_page`]; the cache then writes them one by one.
    fn write_pages(&self, first: u64, page_bytes: usize, pages: &[u8]) -> Result<(), Errno> {
        let parts = pages.chunks(page_bytes);
        (first..)
            .zip(parts)
            .try_for_each(|(index, page)| self.write_page(index, page))
    }

    /// Gives up the space of whole pages, which read as zeros from then on; the length stays. `fallocate(FALLOC_FL_PUNCH_HOLE)`.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: it cannot (the default). The outside's; nothing has changed then.
    fn punch_hole(&self, pages: Range<u64>) -> Result<(), Errno> {
        let _ = pages;
        Err(Errno::EOPNOTSUPP)
    }

    /// Makes what was written durable. `fsync`.
    ///
    /// # Errors
    /// The outside's.
    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }
}

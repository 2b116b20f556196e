//! `remap_file_pages`, as Linux emulates it since 4.0: the range is mapped anew, with another offset. Not for the non-linear mappings that the call once made.

use alloc::sync::Arc;

use super::mm::{MmState, MmUser};
use super::populate::Populate;
use super::vma::Vma;
use super::{Map, MapRequest, Prot};
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::{File, VmFlags};
use crate::paging::Format;
use crate::platform::Platform;

impl<P: Platform> MmUser<P> {
    /// `remap_file_pages`. `mm/mmap.c`. Shows the pages of the file from `pgoff` on at `addr`, which lies in a shared mapping of it. Address and size are
    /// rounded down to whole pages; `prot` must be 0, and of `flags` only MAP_NONBLOCK is looked at.
    ///
    /// # Errors
    /// `EINVAL`: `prot`, an empty or wrapping range or offset, what is mapped there is not shared, or is not one run of the same file with the same flags.
    /// `EOVERFLOW`: the offset is beyond the file's largest. Else as [`MmUser::mmap`].
    pub fn remap_file_pages(
        &self,
        addr: VirtAddr,
        size: u64,
        prot: u64,
        pgoff: u64,
        flags: u32,
    ) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        let len = granule.round_down(size);
        let range = VirtRange::with_len(addr.page_down(granule), len)
            .filter(|range| !range.is_empty())
            .ok_or(Errno::EINVAL)?;
        if prot != 0 || pgoff.checked_add(range.pages(granule)).is_none() {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.write();
        let (file, now) = shared_run(&state, range)?;
        let offset = pgoff.checked_mul(granule.bytes()).ok_or(Errno::EOVERFLOW)?;
        let mut map = Map::SHARED | Map::FIXED | Map::POPULATE;
        map |= Map::from_bits_truncate(flags) & Map::NONBLOCK;
        map.set(Map::LOCKED, now.contains(VmFlags::LOCKED));
        let mut prot = Prot::empty();
        prot.set(Prot::READ, now.contains(VmFlags::READ));
        prot.set(Prot::WRITE, now.contains(VmFlags::WRITE));
        prot.set(Prot::EXEC, now.contains(VmFlags::EXEC));
        let request = MapRequest {
            addr: range.start(),
            len,
            prot: prot.bits(),
            flags: map.bits(),
            file: Some(file),
            offset,
        };
        self.map_locked(&mut state, &request)?;
        drop(state);
        if !map.contains(Map::NONBLOCK) || map.contains(Map::LOCKED) {
            self.populate(range, Populate::Silently);
        }
        Ok(())
    }
}

/// The file and flags of the areas that `range` lies in, which must be alike and without a hole.
fn shared_run<P: Platform>(
    state: &MmState<P>,
    range: VirtRange,
) -> Result<(Arc<File<P>>, VmFlags), Errno> {
    let area = |at: VirtAddr| state.vmas.get(at.get()).ok_or(Errno::EINVAL);
    let first = area(range.start())?;
    let file = first
        .file()
        .filter(|_| first.is_shared())
        .ok_or(Errno::EINVAL)?;
    let alike = |other: &Vma<P>| {
        other.file().is_some_and(|other| Arc::ptr_eq(other, file)) && other.flags() == first.flags()
    };
    let mut at = first.range().end();
    while at < range.end() {
        let next = area(at)?;
        if !alike(next) {
            return Err(Errno::EINVAL);
        }
        at = next.range().end();
    }
    Ok((file.clone(), first.flags()))
}

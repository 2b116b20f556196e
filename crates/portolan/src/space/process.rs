//! One process at the memory of another: `process_vm_readv` and its twin, `process_madvise`, and the accesses of a debugger. Whether it may is the
//! kernel's to check, and so are the vectors' limits. Not for a kernel's copies on behalf of the space itself, which are in `access`.

use super::access::allows;
use super::fault::{FaultError, Rights};
use super::mm::MmUser;
use crate::addr::VirtAddr;
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::{Access, Format, Leaf, LeafFlags};
use crate::phys::{FrameKind, PageRef};
use crate::platform::Platform;
use linux_raw_sys::general as raw;

/// How many pages of the other space are reached before any is copied. `PVM_MAX_KMALLOC_PAGES` pages of pointers.
const WINDOW: u64 = 1024;
/// Bytes that are carried at once between two frames.
const CARRIED: usize = 256;

/// One range of a vector. `struct iovec`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where it starts.
    pub addr: VirtAddr,
    /// Bytes.
    pub len: u64,
}

/// Whose memory `process_madvise` advises on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advised {
    /// The caller's own: all that `madvise` does.
    Own,
    /// Another's, by a caller with CAP_SYS_NICE: what destroys nothing.
    Other,
    /// Another's, by a caller without.
    OtherWithoutRight,
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// Out of the remote space.
    Read,
    /// Into it.
    Write,
}

impl<P: Platform> MmUser<P> {
    /// `process_vm_readv`: copies from `from` in this space to `to` in `local`, each vector in its order; returns how many bytes. `process_vm_rw_core`.
    ///
    /// # Errors
    /// `EFAULT`: the first byte could not be copied. A later one that could not ends the call with what came before.
    pub fn process_vm_read(
        &self,
        from: &[Piece],
        local: &MmUser<P>,
        to: &[Piece],
    ) -> Result<u64, Errno> {
        self.transfer(from, Local::new(local, to), Direction::Read)
    }

    /// `process_vm_writev`: copies from `from` in `local` to `to` in this space; returns how many bytes.
    ///
    /// # Errors
    /// As [`MmUser::process_vm_read`].
    pub fn process_vm_write(
        &self,
        to: &[Piece],
        local: &MmUser<P>,
        from: &[Piece],
    ) -> Result<u64, Errno> {
        self.transfer(to, Local::new(local, from), Direction::Write)
    }

    fn transfer(
        &self,
        remote: &[Piece],
        mut local: Local<'_, P>,
        direction: Direction,
    ) -> Result<u64, Errno> {
        let mut result = Ok(());
        for piece in remote {
            if result.is_err() || local.left() == 0 {
                break;
            }
            result = self.transfer_piece(*piece, &mut local, direction);
        }
        match (local.done, result) {
            (0, Err(error)) => Err(error),
            (done, _) => Ok(done),
        }
    }

    /// Copies one remote piece as far as it and the local ones go. `process_vm_rw_single_vec`: the pages of a window are brought in all before the
    /// first is copied, however few of them that will be.
    fn transfer_piece(
        &self,
        piece: Piece,
        local: &mut Local<'_, P>,
        direction: Direction,
    ) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        let (mut at, mut len) = (piece.addr, piece.len);
        while len != 0 && local.left() != 0 {
            let reached = self.reach_window(at, len, direction);
            if reached == 0 {
                return Err(Errno::EFAULT);
            }
            len -= reached;
            let end = at.checked_add(reached).ok_or(Errno::EFAULT)?;
            while at < end && local.left() != 0 {
                let here = (granule.bytes() - at.page_offset(granule)).min(end.get() - at.get());
                let (there, room) = local.next(here);
                self.carry(at, local.space, there, room, direction)?;
                local.advance(room);
                at = at.checked_add(room).ok_or(Errno::EFAULT)?;
            }
            at = end;
        }
        Ok(())
    }

    /// How many of the `len` bytes at `at` can be reached, up to a window; brings their pages in. `pin_user_pages_remote`.
    fn reach_window(&self, at: VirtAddr, len: u64, direction: Direction) -> u64 {
        let granule = P::Format::GRANULE;
        let access = match direction {
            Direction::Read => Access::Read,
            Direction::Write => Access::Write,
        };
        let most = (WINDOW << granule.shift()) - at.page_offset(granule);
        let wanted = len.min(most);
        let mut reached = 0;
        while reached < wanted {
            let Some(here) = at.checked_add(reached) else {
                break;
            };
            let pinned = self.with_remote(here, access, Rights::Checked, |leaf| {
                if direction == Direction::Write {
                    self.mark_shared_written(leaf);
                }
            });
            if pinned.is_err() || direction == Direction::Read && self.unshare(here).is_err() {
                break;
            }
            reached += granule.bytes() - here.page_offset(granule);
        }
        reached.min(wanted)
    }

    /// Copies `len` bytes, which lie in one page on both sides.
    fn carry(
        &self,
        remote: VirtAddr,
        local: &MmUser<P>,
        there: VirtAddr,
        len: u64,
        direction: Direction,
    ) -> Result<(), Errno> {
        let (phys, granule) = (self.machine.phys(), P::Format::GRANULE);
        let offset = remote.page_offset(granule) as usize;
        let mut source = None;
        if direction == Direction::Read {
            source = self.with_remote(remote, Access::Read, Rights::Checked, |leaf| {
                phys.get(leaf.frame)
            })?;
            let source = source.ok_or(Errno::EFAULT)?;
            let copy = |leaf: &Leaf, to, _, count| {
                if let Some(page) = phys.get(leaf.frame) {
                    copy_between(&source, offset, &page, to, count);
                }
            };
            return local
                .each_page(there, len as usize, Access::Write, copy)
                .map_err(|_| Errno::EFAULT);
        }
        local
            .each_page(there, len as usize, Access::Read, |leaf, _, _, _| {
                source = phys.get(leaf.frame);
            })
            .map_err(|_| Errno::EFAULT)?;
        let source = source.ok_or(Errno::EFAULT)?;
        let from = there.page_offset(granule) as usize;
        self.with_remote(remote, Access::Write, Rights::Checked, |leaf| {
            if let Some(page) = phys.get(leaf.frame) {
                copy_between(&source, from, &page, offset, len as usize);
            }
        })
    }

    /// Reads this space's memory for a debugger, as far as that goes; returns how many bytes. A stack grows where it must. `access_remote_vm`.
    ///
    /// With [`Rights::Forced`], as `/proc/PID/mem` has it, PROT_NONE is no obstacle. Device memory is never read.
    pub fn read_remote(&self, from: VirtAddr, to: &mut [u8], rights: Rights) -> usize {
        let len = to.len();
        self.each_remote(from, len, Access::Read, rights, |page, offset, part| {
            page.read(offset, &mut to[part]);
        })
    }

    /// Writes to this space's memory for a debugger, as far as that goes; returns how many bytes. A stack grows where it must. `access_remote_vm`.
    ///
    /// With [`Rights::Forced`] private mappings that are not writable get a copy of their own; shared ones refuse.
    pub fn write_remote(&self, to: VirtAddr, from: &[u8], rights: Rights) -> usize {
        let len = from.len();
        self.each_remote(to, len, Access::Write, rights, |page, offset, part| {
            page.write(offset, &from[part]);
        })
    }

    /// Calls `work` with each page, the offset in it and the part of the caller's bytes that belongs there; returns how many bytes that were.
    fn each_remote(
        &self,
        at: VirtAddr,
        len: usize,
        access: Access,
        rights: Rights,
        mut work: impl FnMut(&PageRef<P>, usize, core::ops::Range<usize>),
    ) -> usize {
        let granule = P::Format::GRANULE;
        let mut done = 0;
        while done < len {
            let Some(here) = at.checked_add(done as u64) else {
                break;
            };
            let offset = here.page_offset(granule) as usize;
            let count = (granule.bytes() as usize - offset).min(len - done);
            if !self.is_mapped(here) && self.grow_stack(here).is_err() {
                break;
            }
            let reached = self.with_remote(here, access, rights, |leaf| {
                let page = self.machine.phys().get(leaf.frame);
                page.map(|page| work(&page, offset, done..done + count))
            });
            if !matches!(reached, Ok(Some(()))) {
                break;
            }
            done += count;
        }
        done
    }

    fn is_mapped(&self, at: VirtAddr) -> bool {
        self.state.read().vmas.get(at.get()).is_some()
    }

    /// Runs `work` on the entry of the page at `at`, brought in if need be, with the frame kept in place. Stacks do not grow. `get_user_pages_remote`.
    ///
    /// # Errors
    /// `EFAULT`: nothing is mapped there, the area does not allow it, or the access would bring a signal. `ENOMEM`: no frame.
    pub(super) fn with_remote<T>(
        &self,
        at: VirtAddr,
        access: Access,
        rights: Rights,
        mut work: impl FnMut(&Leaf) -> T,
    ) -> Result<T, Errno> {
        loop {
            self.check_remote(at, access, rights)?;
            let accepts = |leaf: &Leaf| match rights {
                Rights::Checked => allows(leaf, access),
                Rights::Forced => self.lets_force(leaf, access),
            };
            if let Some(done) = self.with_page_if(at, access, accepts, &mut work) {
                return Ok(done);
            }
            match self.handle_fault_with(at, access, rights) {
                Ok(_) => {}
                Err(FaultError::OutOfMemory) => return Err(Errno::ENOMEM),
                Err(FaultError::Signal(_)) => return Err(Errno::EFAULT),
            }
        }
    }

    /// `check_vma_flags`.
    fn check_remote(&self, at: VirtAddr, access: Access, rights: Rights) -> Result<(), Errno> {
        let state = self.state.read();
        let vma = state.vmas.get(at.get()).ok_or(Errno::EFAULT)?;
        let flags = vma.flags();
        let forced = rights == Rights::Forced;
        let allowed = match access {
            Access::Write => flags.contains(VmFlags::WRITE) || forced && flags.is_cow(),
            _ => flags.contains(VmFlags::READ) || forced && flags.contains(VmFlags::MAYREAD),
        };
        match allowed && !flags.intersects(VmFlags::IO | VmFlags::PFNMAP) {
            true => Ok(()),
            false => Err(Errno::EFAULT),
        }
    }

    /// Whether an entry will do for a forced access: any for a load, for a store one that is writable or maps a private copy of this space's own.
    /// `can_follow_write_pte`.
    fn lets_force(&self, leaf: &Leaf, access: Access) -> bool {
        if access != Access::Write || leaf.flags.contains(LeafFlags::WRITE) {
            return true;
        }
        let page = self.machine.phys().page(leaf.frame);
        page.is_some_and(|page| page.kind() == FrameKind::Anon && page.refs() == 1)
    }

    /// `process_madvise`: the same advice for each of `pieces`, in order, up to the first that fails; returns the bytes of those before it.
    /// `mm/madvise.c: vector_madvise`.
    ///
    /// # Errors
    /// - `EINVAL`: advice on another's memory other than COLD, PAGEOUT and WILLNEED. `EPERM`: another's memory without the right.
    /// - As [`MmUser::madvise`] for the first piece.
    pub fn process_madvise(
        &self,
        pieces: &[Piece],
        advice: u32,
        whose: Advised,
    ) -> Result<u64, Errno> {
        let harmless = matches!(
            advice,
            raw::MADV_COLD | raw::MADV_PAGEOUT | raw::MADV_WILLNEED
        );
        match whose {
            Advised::Own => {}
            _ if !harmless => return Err(Errno::EINVAL),
            Advised::OtherWithoutRight => return Err(Errno::EPERM),
            Advised::Other => {}
        }
        let mut done = 0u64;
        for piece in pieces.iter().filter(|piece| piece.len != 0) {
            match self.madvise(piece.addr, piece.len, advice) {
                Ok(()) => done = done.saturating_add(piece.len),
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

/// The caller's side of a transfer.
struct Local<'a, P: Platform> {
    space: &'a MmUser<P>,
    pieces: &'a [Piece],
    /// Bytes of the first piece that are done.
    skipped: u64,
    /// Bytes done in all.
    done: u64,
}

impl<'a, P: Platform> Local<'a, P> {
    fn new(space: &'a MmUser<P>, pieces: &'a [Piece]) -> Self {
        let mut local = Self {
            space,
            pieces,
            skipped: 0,
            done: 0,
        };
        local.advance(0);
        local
    }

    /// Bytes left in the current piece; 0 when all are done.
    fn left(&self) -> u64 {
        self.pieces
            .first()
            .map_or(0, |piece| piece.len - self.skipped)
    }

    /// Where the next bytes are, and how many of `most` lie in one page there.
    fn next(&self, most: u64) -> (VirtAddr, u64) {
        let granule = P::Format::GRANULE;
        let start = self.pieces.first().map_or(0, |piece| piece.addr.get());
        let at = VirtAddr::new(start.wrapping_add(self.skipped));
        let here = granule.bytes() - at.page_offset(granule);
        (at, most.min(here).min(self.left()))
    }

    /// `bytes` more are done, which lie in the current piece.
    fn advance(&mut self, bytes: u64) {
        self.skipped += bytes;
        self.done += bytes;
        while let Some((first, rest)) = self.pieces.split_first()
            && first.len == self.skipped
        {
            (self.pieces, self.skipped) = (rest, 0);
        }
    }
}

/// Copies bytes of one frame to another.
fn copy_between<P: Platform>(
    from: &PageRef<P>,
    mut source: usize,
    to: &PageRef<P>,
    mut target: usize,
    mut count: usize,
) {
    let mut carried = [0; CARRIED];
    while count != 0 {
        let part = &mut carried[..count.min(CARRIED)];
        from.read(source, part);
        to.write(target, part);
        let moved = part.len();
        (source, target, count) = (source + moved, target + moved, count - moved);
    }
}

//! Seals of memory files: promises, kept for good, that the object will not shrink, grow or be written. The checks are made under the lock of the
//! contents by whatever would change it, and by `mmap`. Not for who may add them, which is a matter of descriptors.

use core::sync::atomic::Ordering;

use super::cache::Cache;
use super::flags::VmFlags;
use crate::errno::Errno;
use crate::platform::Platform;

bitflags::bitflags! {
    /// `F_SEAL_*`, with Linux's numbers.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Seals: u32 {
        /// No more seals. What memory that does not allow sealing starts with.
        const SEAL = 0x1;
        /// The object does not become shorter.
        const SHRINK = 0x2;
        /// It does not become longer.
        const GROW = 0x4;
        /// Nothing writes to it, and no mapping can.
        const WRITE = 0x8;
        /// Nothing new writes to it; mappings that can already go on.
        const FUTURE_WRITE = 0x10;
        /// Its execute permissions do not change.
        const EXEC = 0x20;
    }
}

impl Seals {
    /// Either seal against writing.
    const WRITES: Self = Self::WRITE.union(Self::FUTURE_WRITE);
}

impl<P: Platform> Cache<P> {
    /// The seals. `F_GET_SEALS`.
    pub fn seals(&self) -> Seals {
        Seals::from_bits_truncate(self.seals.load(Ordering::Acquire))
    }

    /// Lets seals be added, to these to begin with. For memory that nobody else knows yet. MFD_ALLOW_SEALING.
    pub fn allow_sealing(&self, first: Seals) {
        self.seals.store(first.bits(), Ordering::Release);
    }

    /// Adds seals. `F_ADD_SEALS`, `mm/memfd.c: memfd_add_seals`. The caller has the object open for writing.
    ///
    /// # Errors
    /// `EINVAL`: an unknown one, or the object is not memory alone. `EPERM`: sealed against it, or sealing is not allowed. `EBUSY`: [`Seals::WRITE`] while
    /// a shared mapping could write.
    pub fn add_seals(&self, bits: u32) -> Result<(), Errno> {
        let seals = Seals::from_bits(bits).ok_or(Errno::EINVAL)?;
        if !self.is_shmem() {
            return Err(Errno::EINVAL);
        }
        let _contents = self.contents.write();
        let now = self.seals();
        if now.contains(Seals::SEAL) {
            return Err(Errno::EPERM);
        }
        if seals.contains(Seals::WRITE) && !now.contains(Seals::WRITE) {
            self.deny_writable()?;
        }
        self.seals.store((now | seals).bits(), Ordering::Release);
        Ok(())
    }

    /// Whether bytes up to `end` may be written.
    ///
    /// # Errors
    /// `EPERM`: sealed against writing, or against growing and `end` lies past the end.
    pub(super) fn check_write_seals(&self, end: u64) -> Result<(), Errno> {
        let seals = self.seals();
        let grows = seals.contains(Seals::GROW) && end > self.size();
        if seals.intersects(Seals::WRITES) || grows {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// Whether the object may be `bytes` long.
    ///
    /// # Errors
    /// `EPERM`: sealed against the change.
    pub(super) fn check_resize_seals(&self, bytes: u64) -> Result<(), Errno> {
        let refused = match bytes.cmp(&self.size()) {
            core::cmp::Ordering::Less => Seals::SHRINK,
            core::cmp::Ordering::Greater => Seals::GROW,
            core::cmp::Ordering::Equal => return Ok(()),
        };
        if self.seals().intersects(refused) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// Whether a mapping with these flags may be made, and what they become: a shared one of write-sealed memory can never be written.
    /// `memfd_check_seals_mmap`.
    ///
    /// # Errors
    /// `EPERM`: it could be written at once.
    pub fn check_map_seals(&self, flags: VmFlags) -> Result<VmFlags, Errno> {
        if !flags.contains(VmFlags::SHARED) || !self.seals().intersects(Seals::WRITES) {
            return Ok(flags);
        }
        if flags.contains(VmFlags::WRITE) {
            return Err(Errno::EPERM);
        }
        Ok(flags & !VmFlags::MAYWRITE)
    }
}

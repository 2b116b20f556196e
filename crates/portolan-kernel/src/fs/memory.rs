//! Files that exist only in memory: memfd, and what a program makes under `--overlay`. Attributes, seals, a link's target; the
//! contents are an inode's page cache. Not for: directories (`overlay`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use lock_api::RwLock;
use portolan::errno::Errno;
use portolan::platform::Platform;

use super::inode::Inode;
use super::{Sleep, abi};
use crate::outside::{FileKind, Stat, Timestamp};

/// What a file in memory holds.
pub enum Contents<P: Platform> {
    /// Bytes.
    Regular(Arc<Inode<P>>),
    /// Where a symbolic link leads.
    Target(Vec<u8>),
    /// Nothing that can be opened: a named pipe, socket or device.
    Special,
}

/// A file in memory.
pub struct MemoryNode<P: Platform> {
    stat: Sleep<P, Stat>,
    /// What it holds.
    pub contents: Contents<P>,
    /// `F_SEAL_*`; `F_SEAL_SEAL` alone where sealing was not allowed.
    seals: AtomicU32,
}

impl<P: Platform> MemoryNode<P> {
    /// A file with these attributes.
    pub fn new(stat: Stat, contents: Contents<P>) -> Self {
        Self {
            stat: RwLock::new(stat),
            contents,
            seals: AtomicU32::new(abi::F_SEAL_SEAL),
        }
    }

    /// The same, with these seals to begin with.
    pub fn with_seals(self, seals: u32) -> Self {
        self.seals.store(seals, Ordering::Relaxed);
        self
    }

    /// Attributes as they are now.
    pub fn stat(&self) -> Stat {
        let mut stat = *self.stat.read();
        match &self.contents {
            Contents::Regular(inode) => {
                stat.size = inode.size();
                stat.blocks = inode.size().div_ceil(4096) * 8;
            }
            Contents::Target(target) => stat.size = target.len() as u64,
            Contents::Special => {}
        }
        stat
    }

    /// Changes attributes.
    pub fn change(&self, change: impl FnOnce(&mut Stat)) {
        change(&mut self.stat.write());
    }

    /// The contents changed at `now`.
    pub fn touch(&self, now: Timestamp) {
        self.change(|stat| (stat.mtime, stat.ctime) = (now, now));
    }

    /// The seals. `F_GET_SEALS`.
    pub fn seals(&self) -> u32 {
        self.seals.load(Ordering::Acquire)
    }

    /// Adds seals. `F_ADD_SEALS`.
    ///
    /// # Errors
    /// `EINVAL`: unknown ones. `EPERM`: sealed against it. `EBUSY`: F_SEAL_WRITE while writable shared mappings exist.
    pub fn add_seals(&self, seals: u32) -> Result<(), Errno> {
        const ALL: u32 = 0x3f;
        if seals & !ALL != 0 {
            return Err(Errno::EINVAL);
        }
        if self.seals() & abi::F_SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        let Contents::Regular(inode) = &self.contents else {
            return Err(Errno::EINVAL);
        };
        let mut seals = seals;
        if seals & abi::F_SEAL_EXEC != 0 && self.stat.read().mode & 0o111 != 0 {
            seals |= abi::F_SEAL_SHRINK
                | abi::F_SEAL_GROW
                | abi::F_SEAL_WRITE
                | abi::F_SEAL_FUTURE_WRITE;
        }
        if seals & abi::F_SEAL_WRITE != 0 && self.seals() & abi::F_SEAL_WRITE == 0 {
            inode.cache().deny_writable()?;
        }
        self.seals.fetch_or(seals, Ordering::AcqRel);
        Ok(())
    }

    /// Whether the seals allow a write there.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn check_write(&self, offset: u64, bytes: u64) -> Result<(), Errno> {
        let seals = self.seals();
        if seals & (abi::F_SEAL_WRITE | abi::F_SEAL_FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        let grows = offset.saturating_add(bytes) > self.stat().size;
        if grows && seals & abi::F_SEAL_GROW != 0 {
            Err(Errno::EPERM)
        } else {
            Ok(())
        }
    }

    /// Whether the seals allow a change of size.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn check_resize(&self, from: u64, to: u64) -> Result<(), Errno> {
        let seals = self.seals();
        let shrunk = to < from && seals & abi::F_SEAL_SHRINK != 0;
        let grown = to > from && seals & abi::F_SEAL_GROW != 0;
        if shrunk || grown {
            Err(Errno::EPERM)
        } else {
            Ok(())
        }
    }

    /// What kind of file it is.
    pub fn kind(&self) -> FileKind {
        self.stat.read().kind()
    }
}

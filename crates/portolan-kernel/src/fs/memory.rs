//! Files that exist only in memory: memfd, and what a program makes under `--overlay`. Attributes, a link's target; the
//! contents are an inode's page cache. Not for: directories (`overlay`).

use alloc::sync::Arc;
use alloc::vec::Vec;

use lock_api::RwLock;
use portolan::errno::Errno;
use portolan::object::Seals;
use portolan::paging::Format;
use portolan::platform::Platform;

use super::Sleep;
use super::attributes::Change;
use super::inode::Inode;
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
}

impl<P: Platform> MemoryNode<P> {
    /// A file with these attributes.
    pub fn new(stat: Stat, contents: Contents<P>) -> Self {
        Self {
            stat: RwLock::new(stat),
            contents,
        }
    }

    /// Attributes as they are now.
    pub fn stat(&self) -> Stat {
        let mut stat = *self.stat.read();
        match &self.contents {
            Contents::Regular(inode) => {
                stat.size = inode.size();
                stat.blocks = inode.cache().cached_pages() * (P::Format::GRANULE.bytes() / 512);
            }
            Contents::Target(target) => stat.size = target.len() as u64,
            Contents::Special => {}
        }
        stat
    }

    /// Whether the seals allow a change: F_SEAL_EXEC keeps who may execute it. `shmem_setattr`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn check_change(&self, change: Change) -> Result<(), Errno> {
        let now = self.stat.read().mode;
        match change {
            Change::Mode(mode)
                if (mode ^ now) & 0o111 != 0 && self.seals().contains(Seals::EXEC) =>
            {
                Err(Errno::EPERM)
            }
            _ => Ok(()),
        }
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
    pub fn seals(&self) -> Seals {
        match &self.contents {
            Contents::Regular(inode) => inode.cache().seals(),
            _ => Seals::SEAL,
        }
    }

    /// Adds seals. `F_ADD_SEALS`. F_SEAL_EXEC on what can be executed brings all that keep it from being changed.
    ///
    /// # Errors
    /// `EINVAL`: unknown ones. `EPERM`: sealed against it. `EBUSY`: F_SEAL_WRITE while writable shared mappings exist.
    pub fn add_seals(&self, bits: u32) -> Result<(), Errno> {
        let Contents::Regular(inode) = &self.contents else {
            return Err(Errno::EINVAL);
        };
        let executable = self.stat.read().mode & 0o111 != 0;
        let unchanging = Seals::SHRINK | Seals::GROW | Seals::WRITE | Seals::FUTURE_WRITE;
        let more = match executable && bits & Seals::EXEC.bits() != 0 {
            true => unchanging.bits(),
            false => 0,
        };
        inode.cache().add_seals(bits | more)
    }

    /// What kind of file it is.
    pub fn kind(&self) -> FileKind {
        self.stat.read().kind()
    }
}

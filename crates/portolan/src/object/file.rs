//! `File`: one opening of something that can be mapped. Not for descriptors and positions, which a kernel keeps, nor for rights, which it
//! has checked when it made this.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::cache::Cache;
use crate::device::{FileOperations, PageCacheFile};
use crate::errno::Errno;
use crate::machine::Machine;
use crate::phys::heap;
use crate::platform::Platform;

bitflags::bitflags! {
    /// How a file was opened, and what its mount and inode forbid. `f_mode`, and what `mmap` asks of mount and inode.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct FileMode: u32 {
        /// Open for reading. `FMODE_READ`.
        const READ = 1 << 0;
        /// Open for writing. `FMODE_WRITE`.
        const WRITE = 1 << 1;
        /// Writes go to the end. `O_APPEND`.
        const APPEND = 1 << 2;
        /// The inode may only be appended to (chattr +a). `S_APPEND`.
        const APPEND_ONLY = 1 << 3;
        /// It lies on a mount from which nothing is executed. `MNT_NOEXEC`.
        const NOEXEC = 1 << 4;
        /// The opener owns it or may write it, and so may learn which of its pages are cached. `can_do_mincore`.
        const OBSERVABLE = 1 << 5;
    }
}

/// Which file it is, as `/proc/PID/maps` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct FileIdentity {
    /// Major number of the device it lies on.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Inode number.
    pub inode: u64,
}

/// What a [`File`] is made from.
pub struct FileSpec<P: Platform> {
    /// Its pages; `None` for what has none, a device for instance.
    pub cache: Option<Arc<Cache<P>>>,
    /// How it is open.
    pub mode: FileMode,
    /// Which file it is.
    pub identity: FileIdentity,
    /// Its path as `/proc/PID/maps` shows it, without any escapes; " (deleted)" is part of it.
    pub path: Vec<u8>,
    /// The driver's or file system's side of `mmap`; `None` for an ordinary file, whose pages are in its cache.
    pub operations: Option<Arc<dyn FileOperations<P>>>,
}

/// `struct file`: one opening of a file, as far as mapping it needs.
pub struct File<P: Platform> {
    spec: FileSpec<P>,
}

impl<P: Platform> File<P> {
    /// A file; with a cache and open for writing it counts as a writer of that until it is dropped.
    ///
    /// # Errors
    /// `ETXTBSY`: writing is denied. `ENOMEM`: no heap.
    pub fn new(machine: &Machine<P>, spec: FileSpec<P>) -> Result<Arc<Self>, Errno> {
        if let Some(cache) = writer_of(&spec) {
            cache.get_write_access()?;
        }
        Ok(heap::try_arc(machine.fail_point(), Self { spec })?)
    }

    /// Its pages. `f_mapping`.
    pub fn cache(&self) -> Option<&Arc<Cache<P>>> {
        self.spec.cache.as_ref()
    }

    /// How it is open.
    pub fn mode(&self) -> FileMode {
        self.spec.mode
    }

    /// Whether it is open for reading.
    pub fn is_readable(&self) -> bool {
        self.spec.mode.contains(FileMode::READ)
    }

    /// Whether it is open for writing.
    pub fn is_writable(&self) -> bool {
        self.spec.mode.contains(FileMode::WRITE)
    }

    /// Whether its inode may only be appended to. `IS_APPEND`; not O_APPEND, with which a file can be mapped.
    pub fn is_append_only(&self) -> bool {
        self.spec.mode.contains(FileMode::APPEND_ONLY)
    }

    /// Whether its mount forbids execution. `path_noexec`.
    pub fn is_noexec(&self) -> bool {
        self.spec.mode.contains(FileMode::NOEXEC)
    }

    /// Which file it is.
    pub fn identity(&self) -> FileIdentity {
        self.spec.identity
    }

    /// Its path, as bytes, without escapes.
    pub fn path(&self) -> &[u8] {
        &self.spec.path
    }

    /// The driver's or file system's side of `mmap`. `f_op`.
    pub fn operations(&self) -> &dyn FileOperations<P> {
        match &self.spec.operations {
            Some(operations) => &**operations,
            None => &PageCacheFile,
        }
    }
}

/// The cache that such a file counts as a writer of.
fn writer_of<P: Platform>(spec: &FileSpec<P>) -> Option<&Arc<Cache<P>>> {
    spec.cache
        .as_ref()
        .filter(|_| spec.mode.contains(FileMode::WRITE))
}

impl<P: Platform> Drop for File<P> {
    fn drop(&mut self) {
        if let Some(cache) = writer_of(&self.spec) {
            cache.put_write_access();
        }
    }
}

impl<P: Platform> fmt::Debug for File<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("mode", &self.spec.mode)
            .field("identity", &self.spec.identity)
            .field(
                "path",
                &self.spec.path.utf8_chunks().next().map(|part| part.valid()),
            )
            .finish_non_exhaustive()
    }
}

//! Open files as the library maps them: for each open file one `object::File`, with the inode's page cache behind it, or with operations
//! of its own (`/dev/zero`, memory). Not for the call `mmap` (`syscall`).

use alloc::sync::Arc;

use portolan::device::{FileOperations, VmaDraft};
use portolan::errno::Errno;
use portolan::machine::Machine;
use portolan::object::{Cache, File, FileIdentity, FileMode, FileSpec, VmFlags};
use portolan::platform::Platform;

use super::abi;
use super::dev::Device;
use super::file::{Body, OpenFile, Regular};
use super::inode::Inode;
use super::memory::MemoryNode;
use super::vfs::Session;
use crate::outside::{Stat, dev_major, dev_minor};

/// `/dev/zero`: private it is anonymous memory, shared it is shared memory of its own. `mmap_zero`.
struct ZeroDevice<P: Platform> {
    machine: Machine<P>,
}

impl<P: Platform> FileOperations<P> for ZeroDevice<P> {
    fn can_mmap(&self, _file: &Arc<File<P>>) -> bool {
        true
    }

    fn mmap(&self, _file: &Arc<File<P>>, draft: &mut VmaDraft<P>) -> Result<(), Errno> {
        if draft.flags().contains(VmFlags::SHARED) {
            draft.set_file(Cache::shared_zero_file(
                &self.machine,
                draft.range().bytes(),
            )?);
        } else {
            draft.make_anonymous();
        }
        Ok(())
    }
}

/// A file in memory.
struct MemoryFile<P: Platform> {
    memory: Arc<MemoryNode<P>>,
    /// Kept so that the inode lives as long as what is mapped.
    _inode: Arc<Inode<P>>,
}

impl<P: Platform> FileOperations<P> for MemoryFile<P> {
    fn has_no_name(&self) -> bool {
        self.memory.stat().nlink == 0
    }
}

impl<P: Platform> OpenFile<P> {
    /// What the library maps for this open file: the same one every time, so that its mappings merge.
    ///
    /// # Errors
    /// `ENODEV`: it cannot be mapped. `EBADF`: opened with O_PATH. `ENOMEM`: no heap. Those of fstat(2).
    pub fn map_file(&self, session: &Session<'_, P>) -> Result<Arc<File<P>>, Errno> {
        if let Some(file) = &*self.map_file.read() {
            return Ok(file.clone());
        }
        let stat = match &self.body {
            Body::Regular(_) | Body::Device(Device::Zero) => self.stat(session)?,
            Body::Path(..) => return Err(Errno::EBADF),
            _ => return Err(Errno::ENODEV),
        };
        let machine = &session.vfs.machine;
        let (cache, operations): (_, Arc<dyn FileOperations<P>>) = match &self.body {
            Body::Regular(regular) => (
                Some(regular.inode.cache().clone()),
                regular.mapping_operations(),
            ),
            _ => (
                None,
                Arc::new(ZeroDevice {
                    machine: machine.clone(),
                }),
            ),
        };
        if let Body::Regular(regular) = &self.body
            && self.is_writable()
        {
            regular.find_writer(session);
        }
        let identity = FileIdentity {
            major: dev_major(stat.dev),
            minor: dev_minor(stat.dev),
            inode: stat.ino,
        };
        // A file that never had a name is opened by one that says so; the views say it themselves.
        let path = match self.path.strip_suffix(b" (deleted)") {
            Some(path) if operations.has_no_name() => path.to_vec(),
            _ => self.path.clone(),
        };
        let spec = FileSpec {
            cache,
            mode: self.mode(session, &stat),
            identity,
            path,
            operations: Some(operations),
        };
        let mut slot = self.map_file.write();
        if let Some(file) = &*slot {
            return Ok(file.clone());
        }
        let file = File::new(machine, spec)?;
        *slot = Some(file.clone());
        Ok(file)
    }

    fn mode(&self, session: &Session<'_, P>, stat: &Stat) -> FileMode {
        const ST_NOEXEC: u64 = 8;
        let user = session.vfs.identity().uid[1];
        let mut mode = FileMode::empty();
        mode.set(FileMode::READ, self.is_readable());
        mode.set(FileMode::WRITE, self.is_writable());
        mode.set(FileMode::APPEND, self.appends());
        mode.set(
            FileMode::OBSERVABLE,
            user == 0 || user == stat.uid || self.is_writable(),
        );
        let mount = self.outer().and_then(|outer| outer.stat_fs().ok());
        mode.set(
            FileMode::NOEXEC,
            mount.is_some_and(|mount| mount.flags & ST_NOEXEC != 0),
        );
        mode
    }
}

impl<P: Platform> Regular<P> {
    fn mapping_operations(&self) -> Arc<dyn FileOperations<P>> {
        match &self.memory {
            Some(memory) => Arc::new(MemoryFile {
                memory: memory.clone(),
                _inode: self.inode.clone(),
            }),
            None => self.inode.clone(),
        }
    }

    /// Pages are written back through a handle that does not append: when there is none yet, the file is opened once more. Where that is
    /// refused, write-back will say so.
    fn find_writer(&self, session: &Session<'_, P>) {
        if self.inode.has_writer() {
            return;
        }
        let again = self
            .outer
            .as_ref()
            .and_then(|outer| outer.reopen(session.outer_flags(abi::O_RDWR)).ok());
        if let Some(outer) = again {
            self.inode.attach(&Arc::from(outer), abi::O_RDWR);
        }
    }
}

//! Open files (`struct file`): position, status flags, and what read, write, seek and their kin mean for each kind. Not for:
//! descriptors (`fdtable`), names (`vfs`), user memory (`syscall`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use lock_api::RwLock;
use portolan::errno::Errno;
use portolan::platform::Platform;

use super::dev::Device;
use super::inode::{Inode, WriteAccess};
use super::memory::MemoryNode;
use super::pipe::{End, EventCounter, PipeEnd};
use super::poll::{POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};
use super::proc::ProcNode;
use super::vfs::{Object, Session};
use super::{Sleep, abi};
use crate::outside::{DirEntry, FileKind, OuterFile, Stat, SyncKind};

/// Who keeps the position of a regular file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Position {
    /// The open file here.
    Here,
    /// The outer open file, which others may share (inherited descriptors) or which appends.
    Outside,
}

/// An open regular file.
pub struct Regular<P: Platform> {
    /// Its contents.
    pub inode: Arc<Inode<P>>,
    /// The outer file, unless all of it is in memory.
    pub outer: Option<Arc<dyn OuterFile>>,
    /// Attributes of a file that is only in memory.
    pub memory: Option<Arc<MemoryNode<P>>>,
    /// Who keeps its position.
    pub position: Position,
    _writing: Option<WriteAccess<P>>,
}

/// An open directory.
pub struct Directory<P: Platform> {
    /// Which one.
    pub object: Object<P>,
    /// The outer directory, if there is one behind it.
    pub outer: Option<Arc<dyn OuterFile>>,
    /// What was listed at the last rewind.
    pub listing: Sleep<P, Option<Vec<DirEntry>>>,
}

/// A file of /proc: rendered when it is read from its start.
pub struct Text<P: Platform> {
    /// Which one.
    pub node: ProcNode,
    /// What was rendered last.
    pub rendered: Sleep<P, Vec<u8>>,
}

/// What an open file is.
pub enum Body<P: Platform> {
    /// A regular file.
    Regular(Regular<P>),
    /// A directory.
    Directory(Directory<P>),
    /// A terminal, pipe, socket or device of the outside.
    Stream(Arc<dyn OuterFile>),
    /// A pipe of ours.
    Pipe(PipeEnd<P>),
    /// An event counter.
    Event(EventCounter<P>),
    /// A device of ours.
    Device(Device),
    /// A file of /proc.
    Text(Text<P>),
    /// Opened with O_PATH: a place, nothing to read.
    Path(Object<P>, Stat),
}

/// `struct file`: an open file description.
pub struct OpenFile<P: Platform> {
    /// What it is.
    pub body: Body<P>,
    /// The canonical path it was opened by, or a name like `pipe:[7]`.
    pub path: Vec<u8>,
    flags: AtomicU32,
    position: Sleep<P, u64>,
    lease: AtomicU64,
    pub(super) map_file: Sleep<P, Option<Arc<portolan::object::File<P>>>>,
}

impl<P: Platform> OpenFile<P> {
    /// An open file; `flags` are its `O_*` bits.
    pub fn new(body: Body<P>, path: Vec<u8>, flags: u32) -> Self {
        let flags =
            flags & !(abi::O_CREAT | abi::O_EXCL | abi::O_NOCTTY | abi::O_TRUNC | abi::O_CLOEXEC);
        Self {
            body,
            path,
            flags: AtomicU32::new(flags),
            position: RwLock::new(0),
            lease: AtomicU64::new(0),
            map_file: RwLock::new(None),
        }
    }

    /// The status flags and access mode. `F_GETFL`.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Changes the status flags that can be changed. `F_SETFL`.
    ///
    /// # Errors
    /// Those of the outer file.
    pub fn set_flags(&self, flags: u32) -> Result<(), Errno> {
        const CHANGEABLE: u32 =
            abi::O_APPEND | abi::O_NONBLOCK | abi::O_ASYNC | abi::O_DIRECT | abi::O_NOATIME;
        match &self.body {
            Body::Stream(outer) => outer.set_status_flags(flags & CHANGEABLE)?,
            Body::Regular(Regular {
                outer: Some(outer),
                position: Position::Outside,
                ..
            }) => {
                outer.set_status_flags(flags & CHANGEABLE)?;
            }
            _ => {}
        }
        let now = self.flags() & !CHANGEABLE | flags & CHANGEABLE;
        self.flags.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it was opened for reading. `FMODE_READ`.
    pub fn is_readable(&self) -> bool {
        self.flags() & abi::O_PATH == 0
            && matches!(self.flags() & abi::O_ACCMODE, abi::O_RDONLY | abi::O_RDWR)
    }

    /// Whether it was opened for writing. `FMODE_WRITE`.
    pub fn is_writable(&self) -> bool {
        self.flags() & abi::O_PATH == 0
            && matches!(self.flags() & abi::O_ACCMODE, abi::O_WRONLY | abi::O_RDWR)
    }

    /// Whether calls on it must not wait.
    pub fn is_nonblocking(&self) -> bool {
        self.flags() & abi::O_NONBLOCK != 0
    }

    /// Whether every write goes to the end.
    pub fn appends(&self) -> bool {
        self.flags() & abi::O_APPEND != 0
    }

    /// Whether reading and writing know offsets.
    pub fn is_seekable(&self) -> bool {
        matches!(
            self.body,
            Body::Regular(_) | Body::Text(_) | Body::Device(_) | Body::Directory(_)
        )
    }

    /// The directory it is, for calls relative to it.
    ///
    /// # Errors
    /// `ENOTDIR`: it is none.
    pub fn directory_path(&self) -> Result<&[u8], Errno> {
        match &self.body {
            Body::Directory(_) => Ok(&self.path),
            Body::Path(_, stat) if stat.is_dir() => Ok(&self.path),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The regular file it is, for calls that want one.
    pub fn regular(&self) -> Option<&Regular<P>> {
        match &self.body {
            Body::Regular(regular) => Some(regular),
            _ => None,
        }
    }

    /// The outer file behind it.
    pub fn outer(&self) -> Option<&Arc<dyn OuterFile>> {
        match &self.body {
            Body::Regular(regular) => regular.outer.as_ref(),
            Body::Directory(directory) => directory.outer.as_ref(),
            Body::Stream(outer) => Some(outer),
            _ => None,
        }
    }

    fn check_readable(&self) -> Result<(), Errno> {
        if self.is_readable() {
            Ok(())
        } else {
            Err(Errno::EBADF)
        }
    }

    fn check_writable(&self) -> Result<(), Errno> {
        if self.is_writable() {
            Ok(())
        } else {
            Err(Errno::EBADF)
        }
    }

    /// Reads at the position and moves it. One call of this may return less than the file has; 0 only at the end.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn read(&self, session: &Session<'_, P>, into: &mut [u8]) -> Result<usize, Errno> {
        self.check_readable()?;
        match &self.body {
            Body::Regular(Regular {
                inode,
                outer: Some(outer),
                position: Position::Outside,
                ..
            }) => {
                let at = outer.seek(0, abi::SEEK_CUR)?;
                let count = inode.read(at, into)?;
                outer.seek(at.saturating_add(count as u64) as i64, abi::SEEK_SET)?;
                Ok(count)
            }
            Body::Stream(outer) => outer.read(into),
            Body::Pipe(pipe) => self.waiting(session, || pipe.read(into)),
            Body::Event(event) => self.waiting(session, || event.read(into)),
            Body::Path(..) => Err(Errno::EBADF),
            _ => {
                let mut position = self.position.write();
                let count = self.read_here(session, *position, into)?;
                *position += count as u64;
                Ok(count)
            }
        }
    }

    /// Reads at an offset; the position stays.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read_at(
        &self,
        session: &Session<'_, P>,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, Errno> {
        if !self.is_seekable() && !matches!(self.body, Body::Path(..)) {
            return Err(Errno::ESPIPE);
        }
        self.check_readable()?;
        self.read_here(session, offset, into)
    }

    fn read_here(
        &self,
        session: &Session<'_, P>,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, Errno> {
        match &self.body {
            Body::Regular(regular) => regular.inode.read(offset, into),
            Body::Directory(_) => Err(Errno::EISDIR),
            Body::Device(device) => device.read(session.out, into),
            Body::Text(text) => text.read(session, offset, into),
            _ => Err(Errno::ESPIPE),
        }
    }

    /// Writes at the position, or at the end, and moves it.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn write(&self, session: &Session<'_, P>, from: &[u8]) -> Result<usize, Errno> {
        self.check_writable()?;
        match &self.body {
            Body::Regular(regular) => self.write_regular(session, regular, from),
            Body::Stream(outer) => outer.write(from),
            Body::Pipe(pipe) => self.waiting(session, || pipe.write(from)),
            Body::Event(event) => self.waiting(session, || event.write(from)),
            Body::Device(device) => device.write(from),
            Body::Text(text) => {
                let mut position = self.position.write();
                let count = text.write(session, *position, from)?;
                if text.is_setting() {
                    *position += count as u64;
                }
                Ok(count)
            }
            Body::Directory(_) | Body::Path(..) => Err(Errno::EBADF),
        }
    }

    fn write_regular(
        &self,
        session: &Session<'_, P>,
        regular: &Regular<P>,
        from: &[u8],
    ) -> Result<usize, Errno> {
        if let (Position::Outside, Some(outer)) = (regular.position, &regular.outer) {
            let count = outer.write(from)?;
            let end = outer.seek(0, abi::SEEK_CUR)?;
            regular
                .inode
                .note_written(end.saturating_sub(count as u64), &from[..count])?;
            return Ok(count);
        }
        let mut position = self.position.write();
        let at = if self.appends() {
            regular.inode.size()
        } else {
            *position
        };
        let count = regular.write_at(session, at, from)?;
        *position = at + count as u64;
        Ok(count)
    }

    /// Writes at an offset; the position stays. As in Linux a file that appends appends.
    ///
    /// # Errors
    /// Those of pwrite(2).
    pub fn write_at(
        &self,
        session: &Session<'_, P>,
        offset: u64,
        from: &[u8],
    ) -> Result<usize, Errno> {
        if !self.is_seekable() && !matches!(self.body, Body::Path(..)) {
            return Err(Errno::ESPIPE);
        }
        self.check_writable()?;
        match &self.body {
            Body::Regular(regular) if self.appends() => match (regular.position, &regular.outer) {
                (Position::Outside, Some(outer)) => {
                    let back = outer.seek(0, abi::SEEK_CUR)?;
                    let count = self.write_regular(session, regular, from)?;
                    outer.seek(back as i64, abi::SEEK_SET)?;
                    Ok(count)
                }
                _ => regular.write_at(session, regular.inode.size(), from),
            },
            Body::Regular(regular) => regular.write_at(session, offset, from),
            Body::Device(device) => device.write(from),
            Body::Text(text) => text.write(session, offset, from),
            _ => Err(Errno::EBADF),
        }
    }

    /// A call on a pipe or counter of ours: with one task, what would block can only be ended by a signal.
    fn waiting(
        &self,
        session: &Session<'_, P>,
        mut call: impl FnMut() -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        loop {
            match call() {
                Err(Errno::EAGAIN) if !self.is_nonblocking() => session.out.poll(&mut [], None)?,
                other => return other,
            };
        }
    }

    /// Moves the position. `lseek`.
    ///
    /// # Errors
    /// `ESPIPE`: a stream. `EINVAL`: bad `whence`, or before the start. `ENXIO`: SEEK_DATA or SEEK_HOLE beyond the end. `EBADF`: O_PATH.
    pub fn seek(&self, session: &Session<'_, P>, offset: i64, whence: u32) -> Result<u64, Errno> {
        match &self.body {
            Body::Path(..) => return Err(Errno::EBADF),
            Body::Regular(Regular {
                outer: Some(outer),
                position: Position::Outside,
                ..
            }) => {
                return outer.seek(offset, whence);
            }
            Body::Stream(outer) => return outer.seek(offset, whence),
            Body::Pipe(_) => return Err(Errno::ESPIPE),
            Body::Event(_) => return Ok(0),
            Body::Device(device) if device.ignores_seek() => return Ok(0),
            _ => {}
        }
        let mut position = self.position.write();
        let base = match whence {
            abi::SEEK_SET => 0,
            abi::SEEK_CUR => *position,
            abi::SEEK_END => self.end(session)?,
            abi::SEEK_DATA | abi::SEEK_HOLE => {
                *position = self.seek_hole(offset, whence)?;
                return Ok(*position);
            }
            _ => return Err(Errno::EINVAL),
        };
        let target = (base as i64).checked_add(offset).ok_or(Errno::EOVERFLOW)?;
        *position = u64::try_from(target).map_err(|_| Errno::EINVAL)?;
        if let Body::Directory(directory) = &self.body
            && *position == 0
        {
            *directory.listing.write() = None;
        }
        Ok(*position)
    }

    /// The size that SEEK_END counts from.
    fn end(&self, session: &Session<'_, P>) -> Result<u64, Errno> {
        match &self.body {
            Body::Regular(_) => Ok(self.stat(session)?.size),
            Body::Directory(_) => Ok(i64::MAX as u64),
            Body::Text(_) => Err(Errno::EINVAL),
            _ => Ok(0),
        }
    }

    fn seek_hole(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        let Some(regular) = self.regular() else {
            return Err(Errno::EINVAL);
        };
        let size = regular.inode.size();
        let at = u64::try_from(offset)
            .ok()
            .filter(|&at| at < size)
            .ok_or(Errno::ENXIO)?;
        match &regular.outer {
            // What is dirty in memory counts as data, which the outer file may not know: written back, it does.
            Some(outer) if !regular.inode.is_changed() => {
                regular.inode.write_back()?;
                outer.seek(offset, whence)
            }
            _ if regular.memory.is_some() => match whence {
                abi::SEEK_DATA => regular.inode.cache().seek_data(at),
                _ => regular.inode.cache().seek_hole(at),
            },
            _ if whence == abi::SEEK_DATA => Ok(at),
            _ => Ok(size),
        }
    }

    /// Attributes. `fstat`.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn stat(&self, session: &Session<'_, P>) -> Result<Stat, Errno> {
        match &self.body {
            Body::Regular(regular) => regular.stat(session),
            Body::Directory(directory) => match &directory.outer {
                Some(outer) => session.vfs.adjusted(outer.stat()?),
                None => session.stat_object(&directory.object),
            },
            Body::Stream(outer) => outer.stat(),
            Body::Pipe(pipe) => Ok(session
                .vfs
                .kernel_stat(FileKind::Fifo.mode_bits() | 0o600, pipe.ino())),
            Body::Event(_) => Ok(session.vfs.kernel_stat(0o600, 1)),
            Body::Device(device) => Ok(device.stat()),
            Body::Text(text) => Ok(text.node.stat(session)),
            Body::Path(object, stat) => session.stat_object(object).or(Ok(*stat)),
        }
    }

    /// Brings what was written to the storage. `fsync` and its kin.
    ///
    /// # Errors
    /// `EINVAL`: it has no storage. Those of the outer file.
    pub fn sync(&self, kind: SyncKind) -> Result<(), Errno> {
        match &self.body {
            Body::Regular(regular) => {
                regular.inode.write_back()?;
                match &regular.outer {
                    Some(outer) if !regular.inode.is_changed() => outer.sync(kind),
                    _ => Ok(()),
                }
            }
            Body::Directory(Directory {
                outer: Some(outer), ..
            })
            | Body::Stream(outer) => outer.sync(kind),
            Body::Directory(_) => Ok(()),
            Body::Path(..) => Err(Errno::EBADF),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The poll events that are true now; `None` for a stream, of which only the outside knows.
    pub fn ready(&self) -> Option<u16> {
        match &self.body {
            Body::Stream(_) => None,
            Body::Pipe(pipe) => Some(pipe.ready()),
            Body::Event(event) => Some(event.ready()),
            _ => Some(POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM),
        }
    }

    /// Bytes that can be read without waiting. `FIONREAD`.
    ///
    /// # Errors
    /// `ENOTTY`: not a kind that knows.
    pub fn waiting_bytes(&self) -> Result<u64, Errno> {
        match &self.body {
            Body::Regular(regular) => {
                Ok(regular.inode.size().saturating_sub(*self.position.read()))
            }
            Body::Pipe(pipe) => Ok(pipe.waiting() as u64),
            _ => Err(Errno::ENOTTY),
        }
    }

    /// The next entries of a directory, each shown to `take` with the position after it, until that says it has no room.
    ///
    /// # Errors
    /// `ENOTDIR`: not a directory. `ENOENT`: it was removed. Those of the outer directory.
    pub fn entries(
        &self,
        session: &Session<'_, P>,
        mut take: impl FnMut(&DirEntry, u64) -> Result<Room, Errno>,
    ) -> Result<(), Errno> {
        let Body::Directory(directory) = &self.body else {
            return Err(Errno::ENOTDIR);
        };
        let mut position = self.position.write();
        let mut listing = directory.listing.write();
        if listing.is_none() {
            *listing = Some(session.list(&directory.object, directory.outer.as_ref())?);
        }
        for entry in listing
            .iter()
            .flatten()
            .skip(usize::try_from(*position).unwrap_or(usize::MAX))
        {
            if take(entry, *position + 1)? == Room::None {
                break;
            }
            *position += 1;
        }
        Ok(())
    }

    /// The position, for /proc/self/fdinfo.
    pub fn position(&self) -> u64 {
        match &self.body {
            Body::Regular(Regular {
                outer: Some(outer),
                position: Position::Outside,
                ..
            }) => outer.seek(0, abi::SEEK_CUR).unwrap_or(0),
            _ => *self.position.read(),
        }
    }

    /// Remembers the kind of record lock or owner a program set, which nobody else could contend for.
    pub fn set_owner_mark(&self, mark: u64) {
        self.lease.store(mark, Ordering::Relaxed);
    }

    /// What [`OpenFile::set_owner_mark`] last remembered.
    pub fn owner_mark(&self) -> u64 {
        self.lease.load(Ordering::Relaxed)
    }

    /// Opens the same file anew. What following `/proc/self/fd/N` does.
    ///
    /// # Errors
    /// `EACCES`: rights it does not give. `ENXIO`: a kind that cannot be opened. Those of open(2).
    pub fn reopen(
        self: &Arc<Self>,
        session: &Session<'_, P>,
        flags: u32,
    ) -> Result<OpenFile<P>, Errno> {
        let body = match &self.body {
            Body::Regular(Regular {
                inode,
                memory: Some(memory),
                ..
            }) => {
                let again = Regular::new(
                    inode.clone(),
                    None,
                    Some(memory.clone()),
                    Position::Here,
                    flags,
                )?;
                if flags & abi::O_TRUNC != 0 {
                    again.truncate(session, 0)?;
                }
                Body::Regular(again)
            }
            Body::Regular(Regular {
                outer: Some(outer), ..
            }) => {
                return session.adopt(
                    outer.reopen(session.outer_flags(flags))?,
                    self.path.clone(),
                    flags,
                );
            }
            Body::Stream(outer) => {
                return session.adopt(outer.reopen(flags)?, self.path.clone(), flags);
            }
            Body::Pipe(pipe) => match flags & abi::O_ACCMODE {
                abi::O_RDONLY => Body::Pipe(pipe.another(End::Read)),
                abi::O_WRONLY => Body::Pipe(pipe.another(End::Write)),
                _ => return Err(Errno::EINVAL),
            },
            Body::Device(device) => Body::Device(*device),
            Body::Event(_) => return Err(Errno::ENXIO),
            Body::Regular(_) | Body::Directory(_) | Body::Text(_) | Body::Path(..) => {
                return session.open_path(&self.path, flags & !abi::O_NOFOLLOW, 0);
            }
        };
        Ok(OpenFile::new(body, self.path.clone(), flags))
    }
}

/// Whether a taker of directory entries had room for one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// It took it.
    Enough,
    /// It did not; the entry comes again next time.
    None,
}

impl<P: Platform> Regular<P> {
    /// A regular file opened with these `O_*` flags.
    ///
    /// # Errors
    /// `ETXTBSY`: opened for writing, and it runs.
    pub fn new(
        inode: Arc<Inode<P>>,
        outer: Option<Arc<dyn OuterFile>>,
        memory: Option<Arc<MemoryNode<P>>>,
        position: Position,
        flags: u32,
    ) -> Result<Self, Errno> {
        let writes = flags & abi::O_ACCMODE != abi::O_RDONLY;
        let writing = if writes {
            Some(WriteAccess::take(&inode)?)
        } else {
            None
        };
        Ok(Self {
            inode,
            outer,
            memory,
            position,
            _writing: writing,
        })
    }

    /// Attributes: of the outer file as far as it counts.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn stat(&self, session: &Session<'_, P>) -> Result<Stat, Errno> {
        match (&self.memory, &self.outer) {
            (Some(memory), _) => Ok(memory.stat()),
            (None, Some(outer)) => {
                let stat = outer.stat()?;
                if stat.size != self.inode.size() {
                    self.inode.revalidate(&stat)?;
                }
                session.vfs.adjusted(stat)
            }
            (None, None) => Err(Errno::EIO),
        }
    }

    fn write_at(&self, session: &Session<'_, P>, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        let count = self.inode.write(offset, from)?;
        self.touched(session);
        Ok(count)
    }

    /// The contents changed: where the times are ours, they follow.
    pub fn touched(&self, session: &Session<'_, P>) {
        if let Some(memory) = &self.memory {
            memory.touch(session.now());
        } else if self.inode.is_changed() {
            session.vfs.touch(self.inode.key(), session.now());
        }
    }

    /// Sets the size. `ftruncate`.
    ///
    /// # Errors
    /// `EPERM`: sealed. Those of ftruncate(2).
    pub fn truncate(&self, session: &Session<'_, P>, size: u64) -> Result<(), Errno> {
        self.inode.truncate(size)?;
        self.touched(session);
        Ok(())
    }
}

//! Opening: what a path names becomes an open file, with the invoking user's rights where the outer tree is concerned. Not for: the walk
//! (`vfs`), reading and writing (`file`).

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use lock_api::RwLock;
use portolan::errno::Errno;
use portolan::platform::Platform;

use super::dev::DevNode;
use super::fdtable::{FdTable, OnExec};
use super::file::{Body, Directory, OpenFile, Position, Regular, Text};
use super::inode::{Changes, Inode};
use super::memory::{Contents, MemoryNode};
use super::overlay::OVERLAY_DEV;
use super::proc::ProcNode;
use super::vfs::{Ending, Missing, Object, Session, Vfs, Walked};
use super::{abi, path};
use crate::outside::{AccessAs, FileKind, Follow, OuterFile, Outside, Stat};

/// The right to read, as `access` has it.
pub const MAY_READ: u32 = 4;
/// The right to write.
pub const MAY_WRITE: u32 = 2;
/// The right to execute or search.
pub const MAY_EXEC: u32 = 1;

fn wanted_rights(flags: u32) -> u32 {
    let truncate = if flags & abi::O_TRUNC != 0 {
        MAY_WRITE
    } else {
        0
    };
    truncate
        | match flags & abi::O_ACCMODE {
            abi::O_RDONLY => MAY_READ,
            abi::O_WRONLY => MAY_WRITE,
            _ => MAY_READ | MAY_WRITE,
        }
}

fn mode_to_create(mode: u32, umask: u32) -> u32 {
    mode & 0o7777 & !umask
}

impl<P: Platform> Vfs<P> {
    fn regular(
        &self,
        outer: Arc<dyn OuterFile>,
        stat: &Stat,
        flags: u32,
        position: Position,
    ) -> Result<Regular<P>, Errno> {
        let inode = self.inodes.get(&self.machine, stat, self.changes())?;
        inode.attach(&outer, flags);
        Regular::new(inode, Some(outer), None, position, flags)
    }

    /// The standard file `number` that the invoker passed on, as the guest's.
    ///
    /// # Errors
    /// `EBADF`: it is closed. `ENOMEM`: no heap.
    pub fn standard(&self, out: &dyn Outside, number: u32) -> Result<OpenFile<P>, Errno> {
        let outer: Arc<dyn OuterFile> = Arc::from(out.standard(number)?);
        let flags = outer.status_flags()?;
        let stat = outer.stat()?;
        let path = out
            .read_link(&alloc::format!("/proc/self/fd/{number}").into_bytes())
            .unwrap_or_default();
        let body = match stat.kind() {
            FileKind::Regular => {
                Body::Regular(self.regular(outer, &stat, flags, Position::Outside)?)
            }
            FileKind::Directory => {
                let object = Object::Lower(path.clone());
                Body::Directory(Directory {
                    object,
                    outer: Some(outer),
                    listing: RwLock::new(None),
                })
            }
            _ => Body::Stream(outer),
        };
        Ok(OpenFile::new(body, path, flags))
    }

    /// The descriptors that a program starts with: those of the standard files that are open outside.
    ///
    /// # Errors
    /// `ENOMEM`: no heap.
    pub fn standard_files(&self, out: &dyn Outside, limit: u32) -> Result<FdTable<P>, Errno> {
        let mut table = FdTable::new(limit);
        for number in 0..3 {
            match self.standard(out, number) {
                Ok(file) => drop(table.replace(number, Arc::new(file), OnExec::Keep)?),
                Err(Errno::EBADF) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(table)
    }
}

impl<P: Platform> Session<'_, P> {
    /// Opens a path relative to the working directory. `open`.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open_path(&self, path: &[u8], flags: u32, mode: u32) -> Result<OpenFile<P>, Errno> {
        self.open(&self.task.place().cwd, path, flags, mode)
    }

    /// Opens a path relative to `base`. `do_filp_open`.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(
        &self,
        base: &[u8],
        path: &[u8],
        flags: u32,
        mode: u32,
    ) -> Result<OpenFile<P>, Errno> {
        let flags = checked_flags(flags)?;
        let exclusive = flags & abi::O_CREAT != 0 && flags & abi::O_EXCL != 0;
        let follow = if exclusive || flags & abi::O_NOFOLLOW != 0 {
            Follow::No
        } else {
            Follow::Yes
        };
        let missing = if flags & abi::O_CREAT != 0 {
            Missing::Allowed
        } else {
            Missing::Error
        };
        let found = self.walk(base, path, follow, missing)?;
        let Some(object) = &found.object else {
            return self.create(&found, flags, mode);
        };
        if exclusive {
            return Err(Errno::EEXIST);
        }
        self.check_kind(&found, flags)?;
        if flags & abi::O_PATH != 0 {
            return Ok(OpenFile::new(
                Body::Path(object.clone(), found.stat),
                found.path,
                flags,
            ));
        }
        if flags & abi::O_TMPFILE_BIT != 0 {
            return self.open_temporary(object, found.path, flags, mode);
        }
        self.open_object(object, &found.stat, found.path.clone(), flags)
    }

    fn check_kind(&self, found: &Walked<P>, flags: u32) -> Result<(), Errno> {
        let kind = found.stat.kind();
        if kind == FileKind::Symlink && flags & abi::O_PATH == 0 {
            return Err(if flags & abi::O_DIRECTORY != 0 {
                Errno::ENOTDIR
            } else {
                Errno::ELOOP
            });
        }
        if flags & abi::O_DIRECTORY != 0 && kind != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        let changes = flags & abi::O_CREAT != 0 || wanted_rights(flags) & MAY_WRITE != 0;
        let plain = flags & (abi::O_PATH | abi::O_TMPFILE_BIT) == 0;
        if kind == FileKind::Directory && plain && changes {
            Err(Errno::EISDIR)
        } else {
            Ok(())
        }
    }

    fn open_object(
        &self,
        object: &Object<P>,
        stat: &Stat,
        path: Vec<u8>,
        flags: u32,
    ) -> Result<OpenFile<P>, Errno> {
        if stat.is_dir() {
            return self.open_directory(object, stat, path, flags);
        }
        let body = match object {
            Object::Lower(lower)
                if self.vfs.changes() == Changes::Kept && stat.kind() == FileKind::Regular =>
            {
                return self.open_kept(lower, stat, path, flags);
            }
            Object::Lower(lower) => {
                let outer = self
                    .out
                    .open(lower, self.outer_flags(flags) | abi::O_NOFOLLOW, 0)?;
                return self.adopt(outer, path, flags);
            }
            Object::Memory(node) => {
                self.check_rights(stat, wanted_rights(flags))?;
                return self.open_memory(node, path, flags);
            }
            Object::Dev(DevNode::Device(device)) => Body::Device(*device),
            Object::Dev(DevNode::Tty) => {
                return self.adopt(
                    self.out.open(b"/dev/tty", self.outer_flags(flags), 0)?,
                    path,
                    flags,
                );
            }
            Object::Proc(node) => {
                self.check_rights(stat, wanted_rights(flags))?;
                if let ProcNode::Setting(setting) = node {
                    setting.check_rights(self.vfs.identity.uid[1], wanted_rights(flags))?;
                }
                Body::Text(Text {
                    node: *node,
                    rendered: RwLock::new(Vec::new()),
                })
            }
            Object::Open(file) => return file.reopen(self, flags),
            Object::MadeDir(_) | Object::Dev(_) => return Err(Errno::ENXIO),
        };
        Ok(OpenFile::new(body, path, flags))
    }

    fn open_directory(
        &self,
        object: &Object<P>,
        stat: &Stat,
        path: Vec<u8>,
        flags: u32,
    ) -> Result<OpenFile<P>, Errno> {
        let outer = match object {
            Object::Lower(lower) => {
                let flags = abi::O_RDONLY | abi::O_DIRECTORY | abi::O_NOFOLLOW | abi::O_NONBLOCK;
                Some(Arc::from(self.out.open(lower, flags, 0)?))
            }
            Object::MadeDir(_) => {
                self.check_rights(stat, MAY_READ)?;
                None
            }
            _ => None,
        };
        let directory = Directory {
            object: object.clone(),
            outer,
            listing: RwLock::new(None),
        };
        Ok(OpenFile::new(
            Body::Directory(directory),
            path,
            flags | abi::O_DIRECTORY,
        ))
    }

    /// The flags that an outer file is opened with: direct I/O would ask for aligned buffers that only the program has.
    pub(super) fn outer_flags(&self, flags: u32) -> u32 {
        flags & !(abi::O_DIRECT | abi::O_ASYNC | abi::O_PATH | abi::O_CREAT | abi::O_EXCL)
    }

    /// Makes an open file of an outer one that was opened with `flags`.
    ///
    /// # Errors
    /// `ENOMEM`: no heap. Those of fstat(2).
    pub(super) fn adopt(
        &self,
        outer: Box<dyn OuterFile>,
        path: Vec<u8>,
        flags: u32,
    ) -> Result<OpenFile<P>, Errno> {
        let outer: Arc<dyn OuterFile> = Arc::from(outer);
        let stat = outer.stat()?;
        let body = match stat.kind() {
            FileKind::Regular => {
                let appends = flags & abi::O_APPEND != 0;
                let position = if appends {
                    Position::Outside
                } else {
                    Position::Here
                };
                Body::Regular(self.vfs.regular(outer, &stat, flags, position)?)
            }
            FileKind::Directory => {
                let object = Object::Lower(path.clone());
                Body::Directory(Directory {
                    object,
                    outer: Some(outer),
                    listing: RwLock::new(None),
                })
            }
            _ => Body::Stream(outer),
        };
        Ok(OpenFile::new(body, path, flags))
    }

    /// Opens an outer regular file whose changes stay here.
    fn open_kept(
        &self,
        lower: &[u8],
        stat: &Stat,
        path: Vec<u8>,
        flags: u32,
    ) -> Result<OpenFile<P>, Errno> {
        self.check_lower_rights(lower, stat, wanted_rights(flags))?;
        let outer: Arc<dyn OuterFile> =
            Arc::from(self.out.open(lower, abi::O_RDONLY | abi::O_NOFOLLOW, 0)?);
        let inode = self
            .vfs
            .inodes
            .get(&self.vfs.machine, &outer.stat()?, Changes::Kept)?;
        inode.attach(&outer, abi::O_RDONLY);
        if wanted_rights(flags) & MAY_WRITE != 0 {
            self.overlay()?.keep(&inode);
        }
        let regular = Regular::new(inode, Some(outer), None, Position::Here, flags)?;
        if flags & abi::O_TRUNC != 0 {
            regular.truncate(self, 0)?;
        }
        Ok(OpenFile::new(Body::Regular(regular), path, flags))
    }

    fn open_memory(
        &self,
        node: &Arc<MemoryNode<P>>,
        path: Vec<u8>,
        flags: u32,
    ) -> Result<OpenFile<P>, Errno> {
        let Contents::Regular(inode) = &node.contents else {
            return Err(Errno::ENXIO);
        };
        let regular = Regular::new(
            inode.clone(),
            None,
            Some(node.clone()),
            Position::Here,
            flags,
        )?;
        if flags & abi::O_TRUNC != 0 {
            regular.truncate(self, 0)?;
        }
        Ok(OpenFile::new(Body::Regular(regular), path, flags))
    }

    fn create(&self, found: &Walked<P>, flags: u32, mode: u32) -> Result<OpenFile<P>, Errno> {
        if found.ending != Ending::Name {
            return Err(Errno::EISDIR);
        }
        let mode = mode_to_create(mode, self.task.place().umask);
        match &found.parent {
            Object::Lower(dir) if self.vfs.overlay.is_none() => {
                let create = flags & (abi::O_CREAT | abi::O_EXCL) | abi::O_NOFOLLOW;
                let path = path::join(dir, found.name());
                let outer = self
                    .out
                    .open(&path, self.outer_flags(flags) | create, mode)?;
                self.adopt(outer, found.path.clone(), flags)
            }
            Object::Lower(_) | Object::MadeDir(_) => {
                self.check_dir_writable(&found.parent)?;
                let node = Arc::new(self.new_regular(mode)?);
                self.overlay()?
                    .put(&found.parent, found.name(), Object::Memory(node.clone()))?;
                self.open_memory(&node, found.path.clone(), flags)
            }
            Object::Proc(_) => Err(Errno::ENOENT),
            _ => Err(Errno::EACCES),
        }
    }

    fn open_temporary(
        &self,
        dir: &Object<P>,
        path: Vec<u8>,
        flags: u32,
        mode: u32,
    ) -> Result<OpenFile<P>, Errno> {
        let mode = mode_to_create(mode, self.task.place().umask);
        match dir {
            Object::Lower(lower) if self.vfs.overlay.is_none() => self.adopt(
                self.out.open(lower, self.outer_flags(flags), mode)?,
                path,
                flags,
            ),
            Object::Lower(_) | Object::MadeDir(_) => {
                self.check_dir_writable(dir)?;
                let node = Arc::new(self.new_regular(mode)?);
                node.change(|stat| stat.nlink = 0);
                self.open_memory(&node, path, flags)
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// An empty regular file of the overlay.
    pub(super) fn new_regular(&self, permissions: u32) -> Result<MemoryNode<P>, Errno> {
        let stat = self.new_stat(FileKind::Regular, permissions)?;
        let inode = Arc::new(Inode::overlaid(&self.vfs.machine, (stat.dev, stat.ino))?);
        Ok(MemoryNode::new(stat, Contents::Regular(inode)))
    }

    /// Attributes of a new file of the overlay.
    pub(super) fn new_stat(&self, kind: FileKind, permissions: u32) -> Result<Stat, Errno> {
        let now = self.now();
        Ok(Stat {
            dev: OVERLAY_DEV,
            ino: self.overlay()?.new_ino(),
            mode: kind.mode_bits() | permissions,
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            uid: self.vfs.identity.uid[1],
            gid: self.vfs.identity.gid[1],
            block_size: 4096,
            atime: now,
            mtime: now,
            ctime: now,
            btime: Some(now),
            ..Stat::default()
        })
    }

    /// Whether the user may use a file with these attributes so. `generic_permission`.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn check_rights(&self, stat: &Stat, mask: u32) -> Result<(), Errno> {
        let identity = &self.vfs.identity;
        let (uid, gid) = (identity.uid[1], identity.gid[1]);
        if uid == 0 {
            let executable = stat.is_dir() || stat.mode & 0o111 != 0;
            return if mask & MAY_EXEC != 0 && !executable {
                Err(Errno::EACCES)
            } else {
                Ok(())
            };
        }
        let bits = match () {
            () if stat.uid == uid => stat.mode >> 6,
            () if stat.gid == gid || identity.groups.contains(&stat.gid) => stat.mode >> 3,
            () => stat.mode,
        };
        if mask & !bits & 7 != 0 {
            Err(Errno::EACCES)
        } else {
            Ok(())
        }
    }

    /// Whether the user may use an outer file so, in an overlay: a read-only mount does not matter, changed permissions do.
    pub(super) fn check_lower_rights(
        &self,
        lower: &[u8],
        stat: &Stat,
        mask: u32,
    ) -> Result<(), Errno> {
        let outer = self.out.stat(lower, Follow::No)?;
        let same = outer.mode == stat.mode && outer.uid == stat.uid && outer.gid == stat.gid;
        if !same {
            return self.check_rights(stat, mask);
        }
        match self
            .out
            .access(lower, mask, AccessAs::Effective, Follow::No)
        {
            Err(Errno::EROFS) => self.check_rights(stat, mask),
            other => other,
        }
    }

    /// Whether names in a directory may change, in an overlay.
    pub(super) fn check_dir_writable(&self, dir: &Object<P>) -> Result<(), Errno> {
        let stat = self.stat_object(dir)?;
        match dir {
            Object::Lower(lower) => self.check_lower_rights(lower, &stat, MAY_WRITE | MAY_EXEC),
            _ => self.check_rights(&stat, MAY_WRITE | MAY_EXEC),
        }
    }
}

/// `build_open_flags`.
fn checked_flags(flags: u32) -> Result<u32, Errno> {
    if flags & abi::O_PATH != 0 {
        return Ok(flags & (abi::O_PATH | abi::O_DIRECTORY | abi::O_NOFOLLOW | abi::O_CLOEXEC));
    }
    if flags & abi::O_TMPFILE_BIT != 0 {
        let complete = flags & abi::O_TMPFILE == abi::O_TMPFILE;
        let writable = flags & abi::O_ACCMODE != abi::O_RDONLY;
        return if complete && writable && flags & abi::O_CREAT == 0 {
            Ok(flags)
        } else {
            Err(Errno::EINVAL)
        };
    }
    if flags & abi::O_CREAT != 0 && flags & abi::O_DIRECTORY != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(flags)
}

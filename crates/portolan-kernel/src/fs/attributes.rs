//! Calls that look at or change attributes: chmod, chown, times, access, truncate, statfs, extended attributes; by path or by open file.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portolan::errno::Errno;
use portolan::platform::Platform;

use super::abi;
use super::file::{Body, OpenFile};
use super::inode::Key;
use super::outer::MAY_WRITE;
use super::overlay::Override;
use super::vfs::{Missing, Object, Session, Walked};
use crate::outside::{AccessAs, FileKind, Follow, OuterFile, SetTime, Stat, StatFs};

/// A change of attributes. `struct iattr`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Permission bits.
    Mode(u32),
    /// User and group; `u32::MAX` leaves one.
    Owner(u32, u32),
    /// Access and modification time.
    Times(SetTime, SetTime),
}

/// What a call on attributes is about.
pub enum Target<'a, P: Platform> {
    /// What a walk found.
    Found(&'a Walked<P>),
    /// An open file.
    Open(&'a Arc<OpenFile<P>>),
}

const TMPFS_MAGIC: u64 = 0x0102_1994;
const PROC_MAGIC: u64 = 0x9fa0;
const PIPEFS_MAGIC: u64 = 0x5049_5045;

impl<P: Platform> Session<'_, P> {
    /// Changes attributes of what a walk or a descriptor led to.
    ///
    /// # Errors
    /// `EPERM`: not the user's. `EROFS`: /proc and /dev do not change. Those of chmod(2), chown(2), utimensat(2).
    pub fn change(&self, target: Target<'_, P>, change: Change) -> Result<(), Errno> {
        match target {
            Target::Found(found) => self.change_object(found.found()?, &found.stat, change),
            Target::Open(file) => self.change_open(file, change),
        }
    }

    fn change_object(&self, object: &Object<P>, stat: &Stat, change: Change) -> Result<(), Errno> {
        match object {
            Object::Lower(path) if self.vfs.overlay.is_none() => match change {
                Change::Mode(_) if stat.kind() == FileKind::Symlink => Err(Errno::EOPNOTSUPP),
                Change::Mode(mode) => self.out.set_mode(path, mode & 0o7777),
                Change::Owner(uid, gid) => self.out.set_owner(path, uid, gid, Follow::No),
                Change::Times(atime, mtime) => self.out.set_times(path, atime, mtime, Follow::No),
            },
            Object::Lower(_) => self.change_kept(stat, change),
            Object::Memory(node) => {
                self.check_owner(&node.stat(), change)?;
                node.check_change(change)?;
                node.change(|stat| self.apply(stat, change));
                Ok(())
            }
            Object::MadeDir(number) => {
                let node = self.overlay()?.made_dir(*number)?;
                self.check_owner(&node.stat(), change)?;
                node.change(|stat| self.apply(stat, change));
                Ok(())
            }
            Object::Open(file) => self.change_open(file, change),
            Object::Proc(_) | Object::Dev(_) => Err(Errno::EPERM),
        }
    }

    fn change_open(&self, file: &Arc<OpenFile<P>>, change: Change) -> Result<(), Errno> {
        match &file.body {
            Body::Regular(regular) => match (&regular.memory, &regular.outer) {
                (Some(memory), _) => {
                    self.change_object(&Object::Memory(memory.clone()), &memory.stat(), change)
                }
                (None, Some(outer)) => self.change_outer(outer, change),
                (None, None) => Err(Errno::EIO),
            },
            Body::Directory(directory) => match &directory.outer {
                Some(outer) => self.change_outer(outer, change),
                None => self.change_object(&directory.object, &file.stat(self)?, change),
            },
            Body::Stream(outer) => change_outside(outer, change),
            Body::Path(..) => Err(Errno::EBADF),
            Body::Pipe(_) | Body::Event(_) => Ok(()),
            Body::Device(_) | Body::Text(_) => Err(Errno::EPERM),
        }
    }

    fn change_outer(&self, outer: &Arc<dyn OuterFile>, change: Change) -> Result<(), Errno> {
        if self.vfs.overlay.is_none() {
            return change_outside(outer, change);
        }
        let stat = self.vfs.adjusted(outer.stat()?)?;
        self.change_kept(&stat, change)
    }

    fn change_kept(&self, stat: &Stat, change: Change) -> Result<(), Errno> {
        self.check_owner(stat, change)?;
        let mut after = *stat;
        self.apply(&mut after, change);
        let key: Key = (stat.dev, stat.ino);
        self.overlay()?.change(key, |known| {
            let links = known.links;
            *known = Override {
                mode: Some(after.mode),
                uid: Some(after.uid),
                gid: Some(after.gid),
                atime: Some(after.atime),
                mtime: Some(after.mtime),
                ctime: Some(after.ctime),
                links,
            };
        });
        Ok(())
    }

    /// `setattr_prepare`: whether the user may make this change.
    fn check_owner(&self, stat: &Stat, change: Change) -> Result<(), Errno> {
        let identity = &self.vfs.identity;
        let owner = stat.uid == identity.uid[1];
        let allowed = match change {
            _ if identity.uid[1] == 0 => true,
            Change::Mode(_) => owner,
            Change::Owner(uid, gid) => {
                let member =
                    gid == u32::MAX || gid == identity.gid[1] || identity.groups.contains(&gid);
                owner && (uid == u32::MAX || uid == stat.uid) && member
            }
            Change::Times(SetTime::Now, SetTime::Now) if !owner => {
                return self.check_rights(stat, MAY_WRITE);
            }
            Change::Times(..) => owner,
        };
        if allowed { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn apply(&self, stat: &mut Stat, change: Change) {
        let now = self.now();
        match change {
            Change::Mode(mode) => stat.mode = stat.mode & !0o7777 | mode & 0o7777,
            Change::Owner(uid, gid) => {
                stat.uid = if uid == u32::MAX { stat.uid } else { uid };
                stat.gid = if gid == u32::MAX { stat.gid } else { gid };
                if !stat.is_dir() {
                    stat.mode &= if stat.mode & 0o010 != 0 {
                        !0o6000
                    } else {
                        !0o4000
                    };
                }
            }
            Change::Times(atime, mtime) => {
                for (slot, time) in [(&mut stat.atime, atime), (&mut stat.mtime, mtime)] {
                    match time {
                        SetTime::Keep => {}
                        SetTime::Now => *slot = now,
                        SetTime::At(time) => *slot = time,
                    }
                }
            }
        }
        stat.ctime = now;
    }

    /// `faccessat2`.
    ///
    /// # Errors
    /// Those of access(2).
    pub fn access(&self, found: &Walked<P>, mask: u32, who: AccessAs) -> Result<(), Errno> {
        match found.found()? {
            Object::Lower(path) if self.vfs.overlay.is_none() => {
                self.out.access(path, mask, who, Follow::No)
            }
            Object::Lower(path) => self.check_lower_rights(path, &found.stat, mask),
            _ => self.check_rights(&found.stat, mask),
        }
    }

    /// `truncate`.
    ///
    /// # Errors
    /// Those of truncate(2).
    pub fn truncate(&self, base: &[u8], path: &[u8], size: u64) -> Result<(), Errno> {
        let found = self.walk(base, path, Follow::Yes, Missing::Error)?;
        match found.stat.kind() {
            FileKind::Directory => return Err(Errno::EISDIR),
            FileKind::Regular => {}
            _ => return Err(Errno::EINVAL),
        }
        let file = match found.found()? {
            Object::Open(file) => file.reopen(self, abi::O_WRONLY)?,
            _ => self.open(b"/", &found.path, abi::O_WRONLY, 0)?,
        };
        file.regular().ok_or(Errno::EINVAL)?.truncate(self, size)
    }

    /// `statfs` of what a walk or a descriptor led to.
    ///
    /// # Errors
    /// Those of statfs(2).
    pub fn stat_fs(&self, target: Target<'_, P>) -> Result<StatFs, Errno> {
        let made = |kind| StatFs {
            kind,
            block_size: 4096,
            name_length: 255,
            fragment_size: 4096,
            ..StatFs::default()
        };
        match target {
            Target::Open(file) => match (&file.body, file.outer()) {
                (_, Some(outer)) => outer.stat_fs(),
                (Body::Path(Object::Lower(path), _), _) => self.out.stat_fs(path),
                (Body::Text(_), _)
                | (
                    Body::Directory(super::file::Directory {
                        object: Object::Proc(_),
                        ..
                    }),
                    _,
                ) => Ok(made(PROC_MAGIC)),
                (Body::Pipe(_), _) => Ok(made(PIPEFS_MAGIC)),
                _ => Ok(made(TMPFS_MAGIC)),
            },
            Target::Found(found) => match found.found()? {
                Object::Lower(path) => self.out.stat_fs(path),
                Object::Proc(_) => Ok(made(PROC_MAGIC)),
                Object::Open(file) => self.stat_fs(Target::Open(file)),
                _ => Ok(made(TMPFS_MAGIC)),
            },
        }
    }

    /// The value of an extended attribute, or with `None` the names of all.
    ///
    /// # Errors
    /// `ENODATA`: not there. Those of getxattr(2).
    pub fn xattr(&self, target: Target<'_, P>, name: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        // A file in memory could have attributes, and has none; other files of ours never do.
        let none = |error| {
            if name.is_some() {
                Err(error)
            } else {
                Ok(Vec::new())
            }
        };
        match target {
            Target::Open(file) => match (file.outer(), name, &file.body) {
                (_, _, Body::Path(..)) => Err(Errno::EBADF),
                (Some(outer), Some(name), _) => outer.get_xattr(name),
                (Some(outer), None, _) => outer.list_xattr(),
                (None, _, Body::Regular(_) | Body::Directory(_)) => none(Errno::ENODATA),
                (None, _, _) => none(Errno::EOPNOTSUPP),
            },
            Target::Found(found) => match (found.found()?, name) {
                (Object::Lower(path), Some(name)) => self.out.get_xattr(path, name, Follow::No),
                (Object::Lower(path), None) => self.out.list_xattr(path, Follow::No),
                (Object::Open(file), _) => self.xattr(Target::Open(file), name),
                (Object::Memory(_) | Object::MadeDir(_), _) => none(Errno::ENODATA),
                _ => none(Errno::EOPNOTSUPP),
            },
        }
    }
}

fn change_outside(outer: &Arc<dyn OuterFile>, change: Change) -> Result<(), Errno> {
    match change {
        Change::Mode(mode) => outer.set_mode(mode & 0o7777),
        Change::Owner(uid, gid) => outer.set_owner(uid, gid),
        Change::Times(atime, mtime) => outer.set_times(atime, mtime),
    }
}

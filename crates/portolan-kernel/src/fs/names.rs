//! Calls that change names: mkdir, rmdir, mknod, unlink, link, symlink, rename; in the outer tree, or in the overlay. Each path is
//! relative to a base, a canonical directory path.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portolan::errno::Errno;
use portolan::platform::Platform;

use super::memory::{Contents, MemoryNode};
use super::vfs::{Ending, Missing, Object, Session, Walked};
use super::{abi, path};
use crate::outside::{FileKind, Follow};

impl<P: Platform> Session<'_, P> {
    /// The place of a name that is about to be made; `EEXIST` when it is taken.
    fn free_name(&self, base: &[u8], path: &[u8]) -> Result<Walked<P>, Errno> {
        let found = self.walk(base, path, Follow::No, Missing::Allowed)?;
        if found.object.is_some() {
            Err(Errno::EEXIST)
        } else {
            Ok(found)
        }
    }

    /// Where the outer tree has a name, when it is the outer tree that changes.
    fn outer_place(&self, found: &Walked<P>) -> Result<Option<Vec<u8>>, Errno> {
        match &found.parent {
            Object::Lower(dir) if self.vfs.overlay.is_none() => {
                Ok(Some(path::join(dir, found.name())))
            }
            Object::Lower(_) | Object::MadeDir(_) => {
                self.check_dir_writable(&found.parent)?;
                Ok(None)
            }
            Object::Proc(_) => Err(if found.object.is_some() {
                Errno::EPERM
            } else {
                Errno::ENOENT
            }),
            _ => Err(Errno::EACCES),
        }
    }

    /// `mkdir`; the mode before the mask.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn make_dir(&self, base: &[u8], path: &[u8], mode: u32) -> Result<(), Errno> {
        let found = self.free_name(base, path)?;
        let mode = mode & 0o1777 & !self.task.place().umask;
        if let Some(lower) = self.outer_place(&found)? {
            return self.out.make_dir(&lower, mode);
        }
        let node = MemoryNode::new(self.new_stat(FileKind::Directory, mode)?, Contents::Special);
        let overlay = self.overlay()?;
        overlay.put(&found.parent, found.name(), overlay.make_dir(node))
    }

    /// `mknod`.
    ///
    /// # Errors
    /// Those of mknod(2).
    pub fn make_node(&self, base: &[u8], path: &[u8], mode: u32, dev: u64) -> Result<(), Errno> {
        let kind = match mode & 0o170000 {
            0 => FileKind::Regular,
            0o040000 => return Err(Errno::EPERM),
            0o120000 => return Err(Errno::EINVAL),
            bits if FileKind::from_mode(bits).mode_bits() == bits => FileKind::from_mode(bits),
            _ => return Err(Errno::EINVAL),
        };
        let found = self.free_name(base, path)?;
        if found.ending == Ending::Slash {
            return Err(Errno::ENOENT);
        }
        let permissions = mode & 0o7777 & !self.task.place().umask;
        if let Some(lower) = self.outer_place(&found)? {
            return self
                .out
                .make_node(&lower, kind.mode_bits() | permissions, dev);
        }
        let node = match kind {
            FileKind::Regular => self.new_regular(permissions)?,
            _ => MemoryNode::new(self.new_stat(kind, permissions)?, Contents::Special),
        };
        node.change(|stat| stat.rdev = dev);
        self.overlay()?
            .put(&found.parent, found.name(), Object::Memory(Arc::new(node)))
    }

    /// `symlink`: `path` will say `target`.
    ///
    /// # Errors
    /// Those of symlink(2).
    pub fn symlink(&self, target: &[u8], base: &[u8], path: &[u8]) -> Result<(), Errno> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target.len() >= path::PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let found = self.free_name(base, path)?;
        if found.ending == Ending::Slash {
            return Err(Errno::ENOENT);
        }
        if let Some(lower) = self.outer_place(&found)? {
            return self.out.symlink(target, &lower);
        }
        let node = MemoryNode::new(
            self.new_stat(FileKind::Symlink, 0o777)?,
            Contents::Target(target.to_vec()),
        );
        self.overlay()?
            .put(&found.parent, found.name(), Object::Memory(Arc::new(node)))
    }

    /// `link`: `to` becomes another name of what `from` names.
    ///
    /// # Errors
    /// Those of link(2).
    pub fn link(
        &self,
        from: (&[u8], &[u8]),
        to: (&[u8], &[u8]),
        follow: Follow,
    ) -> Result<(), Errno> {
        let old = self.walk(from.0, from.1, follow, Missing::Error)?;
        let found = self.free_name(to.0, to.1)?;
        if found.ending == Ending::Slash {
            return Err(Errno::ENOENT);
        }
        if old.stat.is_dir() {
            return Err(Errno::EPERM);
        }
        let lower = self.outer_place(&found)?;
        match (old.found()?, lower) {
            (Object::Lower(from), Some(to)) => self.out.link(from, &to),
            (Object::Lower(_) | Object::Memory(_), None) => {
                self.overlay()?
                    .put(&found.parent, found.name(), old.found()?.clone())?;
                self.count_link(&old, 1)
            }
            _ => Err(Errno::EXDEV),
        }
    }

    fn count_link(&self, found: &Walked<P>, by: i64) -> Result<(), Errno> {
        let now = self.now();
        match found.found()? {
            Object::Memory(node) => node.change(|stat| {
                stat.nlink = stat.nlink.saturating_add_signed(by);
                stat.ctime = now;
            }),
            _ => {
                let key = (found.stat.dev, found.stat.ino);
                self.overlay()?.change(key, |changed| {
                    changed.links += by;
                    changed.ctime = Some(now);
                });
                if found.stat.nlink.saturating_add_signed(by) == 0 {
                    self.vfs.inodes.forget_name(key);
                }
            }
        }
        Ok(())
    }

    /// `unlink`.
    ///
    /// # Errors
    /// Those of unlink(2).
    pub fn unlink(&self, base: &[u8], path: &[u8]) -> Result<(), Errno> {
        let found = self.walk(base, path, Follow::No, Missing::Error)?;
        if found.stat.is_dir() {
            return Err(Errno::EISDIR);
        }
        if let Some(lower) = self.outer_place(&found)? {
            return self.out.unlink(&lower);
        }
        self.overlay()?.remove(&found.parent, found.name())?;
        self.count_link(&found, -1)
    }

    /// `rmdir`.
    ///
    /// # Errors
    /// Those of rmdir(2).
    pub fn remove_dir(&self, base: &[u8], path: &[u8]) -> Result<(), Errno> {
        let found = self.walk(base, path, Follow::No, Missing::Error)?;
        match found.ending {
            Ending::Dot => return Err(Errno::EINVAL),
            Ending::DotDot => return Err(Errno::ENOTEMPTY),
            Ending::Root => return Err(Errno::EBUSY),
            Ending::Name | Ending::Slash => {}
        }
        if !found.stat.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if matches!(found.path.as_slice(), b"/proc" | b"/dev" | b"/dev/shm") {
            return Err(Errno::EBUSY);
        }
        if let Some(lower) = self.outer_place(&found)? {
            return self.out.remove_dir(&lower);
        }
        self.check_empty(&found)?;
        self.overlay()?.remove(&found.parent, found.name())
    }

    fn check_empty(&self, found: &Walked<P>) -> Result<(), Errno> {
        let dir = self.open(b"/", &found.path, abi::O_RDONLY | abi::O_DIRECTORY, 0)?;
        let names = self.list(found.found()?, dir.outer())?;
        let empty = names
            .iter()
            .all(|entry| matches!(entry.name.as_slice(), b"." | b".."));
        if empty { Ok(()) } else { Err(Errno::ENOTEMPTY) }
    }

    /// `renameat2`.
    ///
    /// # Errors
    /// Those of rename(2).
    pub fn rename(
        &self,
        from: (&[u8], &[u8]),
        to: (&[u8], &[u8]),
        flags: u32,
    ) -> Result<(), Errno> {
        const KNOWN: u32 = abi::RENAME_NOREPLACE | abi::RENAME_EXCHANGE | abi::RENAME_WHITEOUT;
        let exchange = flags & abi::RENAME_EXCHANGE != 0;
        if flags & !KNOWN != 0
            || exchange && flags & (abi::RENAME_NOREPLACE | abi::RENAME_WHITEOUT) != 0
        {
            return Err(Errno::EINVAL);
        }
        let old = self.walk(from.0, from.1, Follow::No, Missing::Allowed)?;
        let new = self.walk(to.0, to.1, Follow::No, Missing::Allowed)?;
        for walked in [&old, &new] {
            if matches!(walked.ending, Ending::Dot | Ending::DotDot | Ending::Root) {
                return Err(Errno::EBUSY);
            }
        }
        old.found()?;
        if new.object.is_some() && flags & abi::RENAME_NOREPLACE != 0 {
            return Err(Errno::EEXIST);
        }
        if new.object.is_none() && new.ending == Ending::Slash && !old.stat.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        match (self.outer_place(&old), self.outer_place(&new)) {
            (Ok(Some(old)), Ok(Some(new))) => self.out.rename(&old, &new, flags),
            (Ok(None), Ok(None)) if flags & abi::RENAME_WHITEOUT != 0 => Err(Errno::EINVAL),
            (Ok(None), Ok(None)) => self.rename_kept(&old, &new, exchange),
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => Err(Errno::EXDEV),
        }
    }

    fn rename_kept(&self, old: &Walked<P>, new: &Walked<P>, exchange: bool) -> Result<(), Errno> {
        if old.stat.is_dir() && path::lies_within(&new.path, &old.path) && old.path != new.path {
            return Err(Errno::EINVAL);
        }
        let overlay = self.overlay()?;
        let moved = old.found()?.clone();
        let Some(target) = &new.object else {
            if exchange {
                return Err(Errno::ENOENT);
            }
            overlay.put(&new.parent, new.name(), moved)?;
            return overlay.remove(&old.parent, old.name());
        };
        if (old.stat.dev, old.stat.ino) == (new.stat.dev, new.stat.ino) {
            return Ok(());
        }
        if exchange {
            if new.stat.is_dir() && path::lies_within(&old.path, &new.path) {
                return Err(Errno::EINVAL);
            }
            overlay.put(&new.parent, new.name(), moved)?;
            return overlay.put(&old.parent, old.name(), target.clone());
        }
        match (old.stat.is_dir(), new.stat.is_dir()) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            (true, true) if path::lies_within(&old.path, &new.path) => {
                return Err(Errno::ENOTEMPTY);
            }
            (true, true) => self.check_empty(new)?,
            (false, false) => self.count_link(new, -1)?,
        }
        overlay.put(&new.parent, new.name(), moved)?;
        overlay.remove(&old.parent, old.name())
    }
}

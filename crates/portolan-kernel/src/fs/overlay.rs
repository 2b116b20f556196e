//! `--overlay`: every change to the file tree is kept in memory, the outer tree never changes. A directory's changes are its names that
//! differ from the outer directory's: gone (a whiteout), or here (made, linked or moved). Not for: contents (`inode`), walking (`vfs`).

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::sync::Arc;
use alloc::vec::Vec;

use lock_api::RwLock;
use portolan::errno::Errno;
use portolan::platform::Platform;

use super::Sleep;
use super::inode::{Inode, Key};
use super::memory::MemoryNode;
use super::vfs::Object;
use crate::outside::{DirEntry, Stat, Timestamp, make_dev};

/// The device number of what is made in the overlay.
pub const OVERLAY_DEV: u64 = make_dev(0, 0xffe);

/// A directory: an outer one by its path, which stays its name here however it is moved, or one that was made here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum DirId {
    Lower(Vec<u8>),
    Made(u64),
}

/// Attributes of an outer file that were changed here.
#[derive(Clone, Copy, Default, Debug)]
pub struct Override {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<Timestamp>,
    /// Modification time.
    pub mtime: Option<Timestamp>,
    /// Change time.
    pub ctime: Option<Timestamp>,
    /// Names gained less names lost.
    pub links: i64,
}

/// What the overlay knows of a name.
pub enum Known<P: Platform> {
    /// It was removed.
    Gone,
    /// It is this.
    Here(Object<P>),
    /// Nothing: the outer directory decides.
    Nothing,
}

struct Tree<P: Platform> {
    changes: BTreeMap<DirId, BTreeMap<Vec<u8>, Option<Object<P>>>>,
    made: BTreeMap<u64, Arc<MemoryNode<P>>>,
    overrides: BTreeMap<Key, Override>,
    files: BTreeMap<Key, Arc<Inode<P>>>,
    next: u64,
}

/// The changes of one run.
pub struct Overlay<P: Platform> {
    tree: Sleep<P, Tree<P>>,
}

fn id_of<P: Platform>(dir: &Object<P>) -> Result<DirId, Errno> {
    match dir {
        Object::Lower(path) => Ok(DirId::Lower(path.clone())),
        Object::MadeDir(number) => Ok(DirId::Made(*number)),
        _ => Err(Errno::EROFS),
    }
}

impl<P: Platform> Default for Overlay<P> {
    fn default() -> Self {
        let (changes, made, overrides, files) = Default::default();
        Self {
            tree: RwLock::new(Tree {
                changes,
                made,
                overrides,
                files,
                next: 2,
            }),
        }
    }
}

impl<P: Platform> Overlay<P> {
    /// What it knows of a name in a directory.
    pub fn lookup(&self, dir: &Object<P>, name: &[u8]) -> Known<P> {
        let Ok(id) = id_of(dir) else {
            return Known::Nothing;
        };
        match self
            .tree
            .read()
            .changes
            .get(&id)
            .and_then(|names| names.get(name))
        {
            Some(Some(object)) => Known::Here(object.clone()),
            Some(None) => Known::Gone,
            None if matches!(id, DirId::Made(_)) => Known::Gone,
            None => Known::Nothing,
        }
    }

    /// Makes `name` mean `object`.
    ///
    /// # Errors
    /// `EROFS`: not a directory that can change.
    pub fn put(&self, dir: &Object<P>, name: &[u8], object: Object<P>) -> Result<(), Errno> {
        let mut tree = self.tree.write();
        tree.changes
            .entry(id_of(dir)?)
            .or_default()
            .insert(name.to_vec(), Some(object));
        Ok(())
    }

    /// Makes `name` mean nothing: a whiteout is left where the outer directory may have the name.
    ///
    /// # Errors
    /// `EROFS`: not a directory that can change.
    pub fn remove(&self, dir: &Object<P>, name: &[u8]) -> Result<(), Errno> {
        let id = id_of(dir)?;
        let mut tree = self.tree.write();
        let lower = matches!(id, DirId::Lower(_));
        let names = tree.changes.entry(id).or_default();
        if lower {
            names.insert(name.to_vec(), None);
        } else {
            names.remove(name);
        }
        Ok(())
    }

    /// A number for a new file.
    pub fn new_ino(&self) -> u64 {
        let mut tree = self.tree.write();
        tree.next += 1;
        tree.next
    }

    /// A new directory with these attributes, whose `ino` came from [`Overlay::new_ino`].
    pub fn make_dir(&self, node: MemoryNode<P>) -> Object<P> {
        let ino = node.stat().ino;
        self.tree.write().made.insert(ino, Arc::new(node));
        Object::MadeDir(ino)
    }

    /// The attributes of a directory that was made here.
    ///
    /// # Errors
    /// `ENOENT`: no such directory.
    pub fn made_dir(&self, number: u64) -> Result<Arc<MemoryNode<P>>, Errno> {
        self.tree
            .read()
            .made
            .get(&number)
            .cloned()
            .ok_or(Errno::ENOENT)
    }

    /// The entries of a directory: the outer ones, less what is gone, and what is here.
    pub fn merge(
        &self,
        dir: &Object<P>,
        lower: Vec<DirEntry>,
        stat: impl Fn(&Object<P>) -> Option<Stat>,
    ) -> Vec<DirEntry> {
        let Ok(id) = id_of(dir) else { return lower };
        let names = self
            .tree
            .read()
            .changes
            .get(&id)
            .cloned()
            .unwrap_or_default();
        let mut entries: Vec<_> = lower
            .into_iter()
            .filter(|entry| !names.contains_key(&entry.name))
            .collect();
        for (name, object) in names
            .into_iter()
            .filter_map(|(name, object)| Some((name, object?)))
        {
            let stat = stat(&object).unwrap_or_default();
            entries.push(DirEntry {
                ino: stat.ino,
                kind: Some(stat.kind()),
                name,
            });
        }
        entries
    }

    /// Changes what is recorded of an outer file's attributes.
    pub fn change(&self, key: Key, change: impl FnOnce(&mut Override)) {
        change(self.tree.write().overrides.entry(key).or_default());
    }

    /// The outer file's contents are changed here: its inode stays until the run ends.
    pub fn keep(&self, inode: &Arc<Inode<P>>) {
        if let Entry::Vacant(free) = self.tree.write().files.entry(inode.key()) {
            free.insert(inode.clone());
        }
    }

    /// An outer file's attributes as they are here.
    pub fn adjusted(&self, mut stat: Stat) -> Stat {
        let key = (stat.dev, stat.ino);
        let tree = self.tree.read();
        if let Some(inode) = tree.files.get(&key).filter(|inode| inode.is_changed()) {
            stat.size = inode.size();
            stat.blocks = inode.size().div_ceil(4096) * 8;
        }
        let Some(changed) = tree.overrides.get(&key) else {
            return stat;
        };
        stat.mode = changed
            .mode
            .map_or(stat.mode, |mode| stat.mode & !0o7777 | mode & 0o7777);
        stat.uid = changed.uid.unwrap_or(stat.uid);
        stat.gid = changed.gid.unwrap_or(stat.gid);
        stat.atime = changed.atime.unwrap_or(stat.atime);
        stat.mtime = changed.mtime.unwrap_or(stat.mtime);
        stat.ctime = changed.ctime.unwrap_or(stat.ctime);
        stat.nlink = stat.nlink.saturating_add_signed(changed.links);
        stat
    }
}

//! From a path to what it names: the walk, and looking at what was found. Opening is in `outer`, changes in `names` and `attributes`.
//! Directories are known by canonical paths; whoever renames an ancestor of a directory in use, inside or outside, makes that path stale.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use lock_api::RwLock;
use portolan::errno::Errno;
use portolan::machine::Machine;
use portolan::platform::Platform;

use super::Sleep;
use super::dev::DevNode;
use super::file::OpenFile;
use super::inode::{Changes, InodeTable, Key};
use super::memory::{Contents, MemoryNode};
use super::overlay::{Known, Overlay};
use super::path;
use super::proc::{Link, ProcNode, TaskView};
use super::sysctl::Tunables;
use crate::outside::{
    DirEntry, FileKind, Follow, Identity, OuterFile, Outside, Stat, Timestamp, make_dev,
};

/// What a name leads to.
pub enum Object<P: Platform> {
    /// The outer file with this path, of whatever kind.
    Lower(Vec<u8>),
    /// A directory made in the overlay.
    MadeDir(u64),
    /// Another file made in the overlay.
    Memory(Arc<MemoryNode<P>>),
    /// Something in /proc.
    Proc(ProcNode),
    /// Something in /dev.
    Dev(DevNode),
    /// An open file, reached through /proc/self/fd.
    Open(Arc<OpenFile<P>>),
}

impl<P: Platform> Clone for Object<P> {
    fn clone(&self) -> Self {
        match self {
            Object::Lower(path) => Object::Lower(path.clone()),
            Object::MadeDir(number) => Object::MadeDir(*number),
            Object::Memory(node) => Object::Memory(node.clone()),
            Object::Proc(node) => Object::Proc(*node),
            Object::Dev(node) => Object::Dev(*node),
            Object::Open(file) => Object::Open(file.clone()),
        }
    }
}

/// Whether changes reach the outer tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writes {
    /// They do.
    Outside,
    /// They stay in memory. `--overlay`.
    Kept,
}

/// The file tree of one kernel.
pub struct Vfs<P: Platform> {
    pub(super) machine: Machine<P>,
    pub(super) inodes: InodeTable<P>,
    pub(super) overlay: Option<Overlay<P>>,
    pub(super) identity: Identity,
    pub(super) tunables: Tunables,
    numbers: AtomicU64,
    buffers: Sleep<P, Vec<Vec<u8>>>,
}

/// The device number of pipes and other nameless files.
const KERNEL_DEV: u64 = make_dev(0, 0xffd);
/// The size of a transfer buffer, bytes.
pub const BUFFER: usize = 256 * 1024;

impl<P: Platform> Vfs<P> {
    /// The tree as `outside` shows it.
    pub fn new(machine: &Machine<P>, outside: &dyn Outside, writes: Writes) -> Self {
        Self {
            machine: machine.clone(),
            inodes: InodeTable::new(),
            overlay: (writes == Writes::Kept).then(Overlay::default),
            identity: outside.identity(),
            tunables: Tunables::default(),
            numbers: AtomicU64::new(2),
            buffers: RwLock::new(Vec::new()),
        }
    }

    /// The invoking user.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Settings under /proc/sys/vm that are this kernel's own.
    pub fn tunables(&self) -> &Tunables {
        &self.tunables
    }

    /// All inodes in use, for sync and for statistics.
    pub fn inodes(&self) -> &InodeTable<P> {
        &self.inodes
    }

    /// A number for a nameless file.
    pub fn new_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Attributes of a nameless file of ours.
    pub fn kernel_stat(&self, mode: u32, ino: u64) -> Stat {
        let (uid, gid) = (self.identity.uid[1], self.identity.gid[1]);
        Stat {
            dev: KERNEL_DEV,
            ino,
            mode,
            nlink: 1,
            uid,
            gid,
            block_size: 4096,
            ..Stat::default()
        }
    }

    /// An outer file's attributes as the guest sees them.
    ///
    /// # Errors
    /// None; a result for the callers' chains.
    pub fn adjusted(&self, stat: Stat) -> Result<Stat, Errno> {
        Ok(self
            .overlay
            .as_ref()
            .map_or(stat, |overlay| overlay.adjusted(stat)))
    }

    /// The contents of an outer file that is changed only here changed at `now`.
    pub fn touch(&self, key: Key, now: Timestamp) {
        if let Some(overlay) = &self.overlay {
            overlay.change(key, |changed| {
                (changed.mtime, changed.ctime) = (Some(now), Some(now))
            });
        }
    }

    /// Whether changes reach the outer tree.
    pub fn writes(&self) -> Writes {
        if self.overlay.is_some() {
            Writes::Kept
        } else {
            Writes::Outside
        }
    }

    pub(super) fn changes(&self) -> Changes {
        if self.overlay.is_some() {
            Changes::Kept
        } else {
            Changes::Outside
        }
    }

    /// Drops clean cached pages that nobody maps, about `pages` of them; returns how many went. For whoever finds memory exhausted.
    pub fn reclaim(&self, pages: u64) -> u64 {
        let mut freed = 0;
        for inode in self.inodes.all() {
            if freed >= pages {
                break;
            }
            freed += inode.cache().reclaim(pages - freed);
        }
        freed
    }

    /// Reclaims a batch when less than a sixteenth of memory is free, so that reading a file larger than memory goes on.
    pub fn relieve(&self) {
        const BATCH: u64 = 1024;
        let phys = self.machine.phys();
        if phys.free_frames() < phys.total_frames() / 16 {
            self.reclaim(BATCH.min(phys.total_frames() / 16));
        }
    }

    /// A transfer buffer of [`BUFFER`] bytes with anything in it.
    pub fn take_buffer(&self) -> Vec<u8> {
        self.buffers
            .write()
            .pop()
            .unwrap_or_else(|| alloc::vec![0; BUFFER])
    }

    /// Gives one back.
    pub fn give_buffer(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.write();
        if buffers.len() < 8 {
            buffers.push(buffer);
        }
    }
}

/// What a call on files needs: the tree, the outside, and the task that asks.
#[derive(Clone, Copy)]
pub struct Session<'a, P: Platform> {
    /// The tree.
    pub vfs: &'a Vfs<P>,
    /// The outside.
    pub out: &'a dyn Outside,
    /// Who asks.
    pub task: &'a dyn TaskView<P>,
}

/// Whether the last component may be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// Then the walk ends with no object.
    Allowed,
    /// Then the walk fails.
    Error,
}

/// How a path ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// With a name.
    Name,
    /// With a name and a slash.
    Slash,
    /// With "."
    Dot,
    /// With ".."
    DotDot,
    /// It is the root.
    Root,
}

/// Where a walk ended.
pub struct Walked<P: Platform> {
    /// The canonical path.
    pub path: Vec<u8>,
    /// What is there; `None` when it is missing, which was allowed.
    pub object: Option<Object<P>>,
    /// Its attributes.
    pub stat: Stat,
    /// The directory that holds the last name.
    pub parent: Object<P>,
    /// How the path ended.
    pub ending: Ending,
}

impl<P: Platform> Walked<P> {
    /// The last name.
    pub fn name(&self) -> &[u8] {
        path::name(&self.path)
    }

    /// What is there.
    ///
    /// # Errors
    /// `ENOENT`: nothing.
    pub fn found(&self) -> Result<&Object<P>, Errno> {
        self.object.as_ref().ok_or(Errno::ENOENT)
    }
}

struct Walk<P: Platform> {
    at: Vec<u8>,
    object: Object<P>,
    stat: Option<Stat>,
    parent: Object<P>,
    /// Components still to walk, the next one last.
    rest: Vec<Vec<u8>>,
    links: usize,
    ending: Ending,
}

impl<P: Platform> Walk<P> {
    fn push(&mut self, target: &[u8]) {
        self.rest
            .extend(path::components(target).rev().map(<[u8]>::to_vec));
    }
}

enum Step<P: Platform> {
    On,
    Missing,
    /// An open file that is no directory.
    Arrived(Arc<OpenFile<P>>),
}

impl<P: Platform> Session<'_, P> {
    /// The time that files are stamped with.
    pub fn now(&self) -> Timestamp {
        let now = self.out.realtime();
        Timestamp {
            seconds: now.as_secs() as i64,
            nanoseconds: now.subsec_nanos(),
        }
    }

    /// Walks `path` from `base`, a canonical directory path.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP`, `ENAMETOOLONG`, `EACCES` as path_resolution(7) has them; those of the outer tree.
    pub fn walk(
        &self,
        base: &[u8],
        path: &[u8],
        follow: Follow,
        missing: Missing,
    ) -> Result<Walked<P>, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        path::check(path)?;
        let start = if path[0] == b'/' { b"/" } else { base };
        let object = self.object_at(start)?;
        let (parent, ending) = (object.clone(), Ending::Root);
        let mut walk = Walk {
            at: start.to_vec(),
            object,
            stat: None,
            parent,
            rest: Vec::new(),
            links: 0,
            ending,
        };
        walk.push(path);
        let mut slash = path.ends_with(b"/");
        while let Some(name) = walk.rest.pop() {
            let last = walk.rest.is_empty();
            match self.step(&mut walk, &name, follow, &mut slash)? {
                Step::On => {}
                Step::Missing if last && missing == Missing::Allowed && walk.rest.is_empty() => {
                    let ending = if slash { Ending::Slash } else { Ending::Name };
                    let at = path::join(&walk.at, &name);
                    return Ok(Walked {
                        path: at,
                        object: None,
                        stat: Stat::default(),
                        parent: walk.object,
                        ending,
                    });
                }
                Step::Missing => return Err(Errno::ENOENT),
                Step::Arrived(_) if !walk.rest.is_empty() || slash => return Err(Errno::ENOTDIR),
                Step::Arrived(file) => {
                    let (path, stat, parent) = (file.path.clone(), file.stat(self)?, walk.object);
                    return Ok(Walked {
                        path,
                        object: Some(Object::Open(file)),
                        stat,
                        parent,
                        ending: Ending::Name,
                    });
                }
            }
        }
        let stat = match walk.stat {
            Some(stat) => stat,
            None => self.stat_object(&walk.object)?,
        };
        if slash && !stat.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        let ending = if slash && walk.ending == Ending::Name {
            Ending::Slash
        } else {
            walk.ending
        };
        Ok(Walked {
            path: walk.at,
            object: Some(walk.object),
            stat,
            parent: walk.parent,
            ending,
        })
    }

    fn step(
        &self,
        walk: &mut Walk<P>,
        name: &[u8],
        follow: Follow,
        slash: &mut bool,
    ) -> Result<Step<P>, Errno> {
        if walk.stat.is_some_and(|stat| !stat.is_dir()) {
            return Err(Errno::ENOTDIR);
        }
        if name == b"." {
            walk.ending = Ending::Dot;
            return Ok(Step::On);
        }
        if name == b".." {
            walk.at = path::parent(&walk.at).to_vec();
            walk.object = self.object_at(&walk.at)?;
            (walk.stat, walk.ending) = (None, Ending::DotDot);
            return Ok(Step::On);
        }
        let at = path::join(&walk.at, name);
        let found = self
            .child(&walk.object, &at, name)
            .and_then(|object| Ok((self.stat_object(&object)?, object)));
        let (stat, object) = match found {
            Err(Errno::ENOENT) => return Ok(Step::Missing),
            other => other?,
        };
        let last = walk.rest.is_empty();
        if stat.kind() != FileKind::Symlink || last && follow == Follow::No && !*slash {
            walk.parent = core::mem::replace(&mut walk.object, object);
            (walk.at, walk.stat, walk.ending) = (at, Some(stat), Ending::Name);
            return Ok(Step::On);
        }
        walk.links += 1;
        if walk.links > path::MAX_LINKS {
            return Err(Errno::ELOOP);
        }
        self.follow(walk, &object, slash)
    }

    fn follow(
        &self,
        walk: &mut Walk<P>,
        link: &Object<P>,
        slash: &mut bool,
    ) -> Result<Step<P>, Errno> {
        let target = match self.link_target(link)? {
            Link::Path(target) => target,
            Link::File(file) => match file.directory_path() {
                Ok(path) => path.to_vec(),
                Err(_) => return Ok(Step::Arrived(file)),
            },
        };
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target[0] == b'/' {
            walk.at = b"/".to_vec();
            walk.object = self.object_at(b"/")?;
            (walk.stat, walk.ending) = (None, Ending::Root);
        }
        if walk.rest.is_empty() {
            *slash |= target.ends_with(b"/");
        }
        walk.push(&target);
        Ok(Step::On)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// `EINVAL`: not a link. Those of readlink(2).
    pub fn link_target(&self, link: &Object<P>) -> Result<Link<P>, Errno> {
        match link {
            Object::Lower(path) => self.out.read_link(path).map(Link::Path),
            Object::Memory(node) => match &node.contents {
                Contents::Target(target) => Ok(Link::Path(target.clone())),
                _ => Err(Errno::EINVAL),
            },
            Object::Proc(node) => node.link(self),
            Object::Dev(DevNode::Link(target)) => Ok(Link::Path(target.to_vec())),
            Object::MadeDir(_) | Object::Dev(_) | Object::Open(_) => Err(Errno::EINVAL),
        }
    }

    /// What a canonical path of a directory means, without asking the outside.
    ///
    /// # Errors
    /// `ENOENT`: the overlay or /proc no longer has it.
    pub fn object_at(&self, at: &[u8]) -> Result<Object<P>, Errno> {
        let special = path::lies_within(at, b"/proc") || path::lies_within(at, b"/dev");
        if self.vfs.overlay.is_none() && !special {
            return Ok(Object::Lower(at.to_vec()));
        }
        let mut object = Object::Lower(b"/".to_vec());
        let mut here = b"/".to_vec();
        for name in path::components(at) {
            here = path::join(&here, name);
            object = self.child(&object, &here, name)?;
        }
        Ok(object)
    }

    /// What `name` in a directory means; `at` is its whole path. The outer tree is not asked whether it exists there.
    fn child(&self, dir: &Object<P>, at: &[u8], name: &[u8]) -> Result<Object<P>, Errno> {
        match dir {
            Object::Lower(_) if at == b"/proc" => return Ok(Object::Proc(ProcNode::Root)),
            Object::Lower(_) if at == b"/dev" => return Ok(Object::Dev(DevNode::Root)),
            Object::Proc(node) => return node.lookup(self, name).map(Object::Proc),
            Object::Dev(node) => {
                return Ok(match node.lookup(name)? {
                    DevNode::Shm => Object::Lower(b"/dev/shm".to_vec()),
                    other => Object::Dev(other),
                });
            }
            Object::Lower(_) | Object::MadeDir(_) => {}
            Object::Memory(_) | Object::Open(_) => return Err(Errno::ENOTDIR),
        }
        let known = self
            .vfs
            .overlay
            .as_ref()
            .map_or(Known::Nothing, |overlay| overlay.lookup(dir, name));
        match (known, dir) {
            (Known::Here(object), _) => Ok(object),
            (Known::Nothing, Object::Lower(path)) => Ok(Object::Lower(path::join(path, name))),
            _ => Err(Errno::ENOENT),
        }
    }

    /// Attributes of what was found; a final link is not followed.
    ///
    /// # Errors
    /// Those of lstat(2).
    pub fn stat_object(&self, object: &Object<P>) -> Result<Stat, Errno> {
        match object {
            Object::Lower(path) => self.vfs.adjusted(self.out.stat(path, Follow::No)?),
            Object::MadeDir(number) => Ok(self.overlay()?.made_dir(*number)?.stat()),
            Object::Memory(node) => Ok(node.stat()),
            Object::Proc(node) => Ok(node.stat(self)),
            Object::Dev(node) => Ok(node.stat()),
            Object::Open(file) => file.stat(self),
        }
    }

    /// The overlay.
    ///
    /// # Errors
    /// `EROFS`: there is none, so that what would need it cannot change.
    pub(super) fn overlay(&self) -> Result<&Overlay<P>, Errno> {
        self.vfs.overlay.as_ref().ok_or(Errno::EROFS)
    }

    /// The entries of a directory.
    ///
    /// # Errors
    /// `ENOENT`: it was removed. Those of the outer directory.
    pub fn list(
        &self,
        dir: &Object<P>,
        outer: Option<&Arc<dyn OuterFile>>,
    ) -> Result<Vec<DirEntry>, Errno> {
        match dir {
            Object::Proc(node) => Ok(node.list(self)),
            Object::Dev(_) => Ok(DevNode::list()),
            Object::Lower(_) | Object::MadeDir(_) => {
                let lower = match (dir, outer) {
                    (Object::Lower(_), Some(outer)) => outer.read_dir()?,
                    _ => self.made_dots(dir),
                };
                let Some(overlay) = &self.vfs.overlay else {
                    return Ok(lower);
                };
                Ok(overlay.merge(dir, lower, |object| self.stat_object(object).ok()))
            }
            Object::Memory(_) | Object::Open(_) => Err(Errno::ENOTDIR),
        }
    }

    fn made_dots(&self, dir: &Object<P>) -> Vec<DirEntry> {
        let ino = self.stat_object(dir).map_or(1, |stat| stat.ino);
        let dot = |name: &[u8]| DirEntry {
            ino,
            kind: Some(FileKind::Directory),
            name: name.to_vec(),
        };
        alloc::vec![dot(b"."), dot(b"..")]
    }
}

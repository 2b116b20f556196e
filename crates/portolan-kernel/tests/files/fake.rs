//! An outside that lives in memory: a small file system with one user, a clock that stands still, and a terminal that is never there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use portolan::errno::Errno;
use portolan_kernel::fs::abi;
use portolan_kernel::outside::{
    AccessAs, DirEntry, FileKind, Follow, Identity, OuterFile, Outside, PollItem, SetTime, Stat,
    StatFs, SyncKind, Timestamp,
};

#[derive(Clone, Default)]
struct Node {
    stat: Stat,
    data: Vec<u8>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<Vec<u8>, u64>,
    nodes: BTreeMap<u64, Node>,
    next: u64,
    clock: i64,
    /// Calls that changed something, by name.
    changes: Vec<&'static str>,
}

/// The file system; copies are the same one.
#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<State>>);

const DEV: u64 = 0x801;

fn parent(path: &[u8]) -> Vec<u8> {
    let slash = path.iter().rposition(|&byte| byte == b'/').unwrap();
    path[..slash.max(1)].to_vec()
}

impl State {
    fn add(&mut self, path: &[u8], mode: u32, data: &[u8]) -> u64 {
        self.next += 1;
        self.clock += 1;
        let time = Timestamp {
            seconds: self.clock,
            nanoseconds: 0,
        };
        let ino = self.next;
        let (size, nlink) = (data.len() as u64, 1);
        let stat = Stat {
            dev: DEV,
            ino,
            mode,
            nlink,
            size,
            block_size: 4096,
            mtime: time,
            ctime: time,
            ..Stat::default()
        };
        self.nodes.insert(
            ino,
            Node {
                stat,
                data: data.to_vec(),
            },
        );
        self.names.insert(path.to_vec(), ino);
        ino
    }

    fn find(&self, path: &[u8]) -> Result<u64, Errno> {
        self.names.get(path).copied().ok_or(Errno::ENOENT)
    }

    fn free(&self, path: &[u8]) -> Result<(), Errno> {
        self.find(&parent(path))?;
        if self.names.contains_key(path) {
            Err(Errno::EEXIST)
        } else {
            Ok(())
        }
    }

    fn touched(&mut self, ino: u64) {
        self.clock += 1;
        let node = self.nodes.get_mut(&ino).unwrap();
        node.stat.size = node.data.len() as u64;
        node.stat.mtime = Timestamp {
            seconds: self.clock,
            nanoseconds: 0,
        };
    }

    fn children(&self, path: &[u8]) -> Vec<(Vec<u8>, u64)> {
        let inside = |name: &&Vec<u8>| parent(name) == path && name.as_slice() != b"/";
        self.names
            .keys()
            .filter(inside)
            .map(|name| (name.clone(), self.names[name]))
            .collect()
    }
}

impl Fake {
    /// A tree with a root directory.
    pub fn new() -> Self {
        let fake = Self::default();
        fake.state().add(b"/", 0o40755, b"");
        fake.dir("/dev");
        fake.dir("/dev/shm");
        fake.dir("/proc");
        fake
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Makes a directory.
    pub fn dir(&self, path: &str) {
        self.state().add(path.as_bytes(), 0o40755, b"");
    }

    /// Makes or replaces a file, as another process would.
    pub fn file(&self, path: &str, data: &[u8]) {
        let mut state = self.state();
        match state.find(path.as_bytes()) {
            Ok(ino) => {
                state.nodes.get_mut(&ino).unwrap().data = data.to_vec();
                state.touched(ino);
            }
            Err(_) => drop(state.add(path.as_bytes(), 0o100644, data)),
        }
    }

    /// Makes a symbolic link.
    pub fn link_to(&self, path: &str, target: &str) {
        self.state()
            .add(path.as_bytes(), 0o120777, target.as_bytes());
    }

    /// What a file holds outside.
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state
            .find(path.as_bytes())
            .ok()
            .map(|ino| state.nodes[&ino].data.clone())
    }

    /// Calls that changed something so far.
    pub fn changes(&self) -> Vec<&'static str> {
        self.state().changes.clone()
    }

    fn handle(&self, ino: u64, path: &[u8], flags: u32) -> Box<dyn OuterFile> {
        let place = Mutex::new(0);
        Box::new(Handle {
            fake: self.clone(),
            ino,
            path: path.to_vec(),
            flags,
            place,
        })
    }
}

impl Outside for Fake {
    fn open(&self, path: &[u8], flags: u32, mode: u32) -> Result<Box<dyn OuterFile>, Errno> {
        let mut state = self.state();
        let ino = match state.find(path) {
            Ok(_) if flags & abi::O_EXCL != 0 => return Err(Errno::EEXIST),
            Ok(ino) => ino,
            Err(_) if flags & abi::O_CREAT != 0 => {
                state.free(path)?;
                state.changes.push("create");
                state.add(path, 0o100000 | mode, b"")
            }
            Err(error) => return Err(error),
        };
        if flags & abi::O_TRUNC != 0 {
            state.changes.push("truncate");
            state.nodes.get_mut(&ino).unwrap().data.clear();
            state.touched(ino);
        }
        drop(state);
        Ok(self.handle(ino, path, flags))
    }

    fn stat(&self, path: &[u8], _: Follow) -> Result<Stat, Errno> {
        let state = self.state();
        state.find(path).map(|ino| state.nodes[&ino].stat)
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let state = self.state();
        let node = &state.nodes[&state.find(path)?];
        if node.stat.kind() == FileKind::Symlink {
            Ok(node.data.clone())
        } else {
            Err(Errno::EINVAL)
        }
    }

    fn make_dir(&self, path: &[u8], mode: u32) -> Result<(), Errno> {
        let mut state = self.state();
        state.free(path)?;
        state.changes.push("mkdir");
        state.add(path, 0o40000 | mode, b"");
        Ok(())
    }

    fn remove_dir(&self, path: &[u8]) -> Result<(), Errno> {
        let mut state = self.state();
        if !state.children(path).is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        state.changes.push("rmdir");
        state.names.remove(path).map(drop).ok_or(Errno::ENOENT)
    }

    fn make_node(&self, path: &[u8], mode: u32, _: u64) -> Result<(), Errno> {
        let mut state = self.state();
        state.free(path)?;
        state.changes.push("mknod");
        state.add(path, mode, b"");
        Ok(())
    }

    fn unlink(&self, path: &[u8]) -> Result<(), Errno> {
        let mut state = self.state();
        state.changes.push("unlink");
        let ino = state.names.remove(path).ok_or(Errno::ENOENT)?;
        state.nodes.get_mut(&ino).unwrap().stat.nlink -= 1;
        Ok(())
    }

    fn rename(&self, from: &[u8], to: &[u8], _: u32) -> Result<(), Errno> {
        let mut state = self.state();
        state.changes.push("rename");
        let ino = state.names.remove(from).ok_or(Errno::ENOENT)?;
        state.names.insert(to.to_vec(), ino);
        Ok(())
    }

    fn link(&self, from: &[u8], to: &[u8]) -> Result<(), Errno> {
        let mut state = self.state();
        state.free(to)?;
        state.changes.push("link");
        let ino = state.find(from)?;
        state.nodes.get_mut(&ino).unwrap().stat.nlink += 1;
        state.names.insert(to.to_vec(), ino);
        Ok(())
    }

    fn symlink(&self, target: &[u8], path: &[u8]) -> Result<(), Errno> {
        let mut state = self.state();
        state.free(path)?;
        state.changes.push("symlink");
        state.add(path, 0o120777, target);
        Ok(())
    }

    fn set_mode(&self, path: &[u8], mode: u32) -> Result<(), Errno> {
        let mut state = self.state();
        state.changes.push("chmod");
        let ino = state.find(path)?;
        let stat = &mut state.nodes.get_mut(&ino).unwrap().stat;
        stat.mode = stat.mode & !0o7777 | mode;
        Ok(())
    }

    fn set_owner(&self, _: &[u8], _: u32, _: u32, _: Follow) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }

    fn set_times(&self, _: &[u8], _: SetTime, _: SetTime, _: Follow) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }

    fn access(&self, path: &[u8], _: u32, _: AccessAs, _: Follow) -> Result<(), Errno> {
        self.state().find(path).map(drop)
    }

    fn stat_fs(&self, _: &[u8]) -> Result<StatFs, Errno> {
        Ok(StatFs::default())
    }

    fn get_xattr(&self, _: &[u8], _: &[u8], _: Follow) -> Result<Vec<u8>, Errno> {
        Err(Errno::ENODATA)
    }

    fn list_xattr(&self, _: &[u8], _: Follow) -> Result<Vec<u8>, Errno> {
        Ok(Vec::new())
    }

    fn sync(&self) {}

    fn standard(&self, number: u32) -> Result<Box<dyn OuterFile>, Errno> {
        let path = format!("/standard{number}").into_bytes();
        let ino = self.state().find(&path).map_err(|_| Errno::EBADF)?;
        Ok(self.handle(ino, &path, abi::O_RDWR))
    }

    fn poll(&self, _: &mut [PollItem], _: Option<Duration>) -> Result<usize, Errno> {
        Err(Errno::EINTR)
    }

    fn realtime(&self) -> Duration {
        Duration::from_secs(1_000_000)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn boottime(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn cpu_time(&self) -> (Duration, Duration) {
        (Duration::ZERO, Duration::ZERO)
    }

    fn random(&self, into: &mut [u8]) {
        into.fill(4);
    }

    fn identity(&self) -> Identity {
        Identity {
            umask: 0o022,
            pid: 77,
            ppid: 1,
            ..Identity::default()
        }
    }

    fn sleep(&self, _: Duration) -> Result<(), Errno> {
        Ok(())
    }
}

struct Handle {
    fake: Fake,
    ino: u64,
    path: Vec<u8>,
    flags: u32,
    place: Mutex<usize>,
}

impl Handle {
    fn put(&self, at: usize, from: &[u8]) -> usize {
        let mut state = self.fake.state();
        state.changes.push("write");
        let data = &mut state.nodes.get_mut(&self.ino).unwrap().data;
        data.resize(data.len().max(at + from.len()), 0);
        data[at..at + from.len()].copy_from_slice(from);
        state.touched(self.ino);
        from.len()
    }

    fn len(&self) -> usize {
        self.fake.state().nodes[&self.ino].data.len()
    }
}

impl OuterFile for Handle {
    fn handle(&self) -> u64 {
        self.ino
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(self.fake.state().nodes[&self.ino].stat)
    }

    fn status_flags(&self) -> Result<u32, Errno> {
        Ok(self.flags)
    }

    fn set_status_flags(&self, _: u32) -> Result<(), Errno> {
        Ok(())
    }

    fn reopen(&self, flags: u32) -> Result<Box<dyn OuterFile>, Errno> {
        Ok(self.fake.handle(self.ino, &self.path, flags))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        if self.flags & abi::O_ACCMODE == abi::O_WRONLY {
            return Err(Errno::EBADF);
        }
        let state = self.fake.state();
        let data = &state.nodes[&self.ino].data;
        let from = &data[(offset as usize).min(data.len())..];
        let count = from.len().min(into.len());
        into[..count].copy_from_slice(&from[..count]);
        Ok(count)
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        if self.flags & abi::O_ACCMODE == abi::O_RDONLY {
            return Err(Errno::EBADF);
        }
        Ok(self.put(offset as usize, from))
    }

    fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        let mut place = self.place.lock().unwrap();
        let count = self.read_at(*place as u64, into)?;
        *place += count;
        Ok(count)
    }

    fn write(&self, from: &[u8]) -> Result<usize, Errno> {
        let mut place = self.place.lock().unwrap();
        if self.flags & abi::O_APPEND != 0 {
            *place = self.len();
        }
        *place += self.put(*place, from);
        Ok(from.len())
    }

    fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        let mut place = self.place.lock().unwrap();
        let base = match whence {
            abi::SEEK_SET => 0,
            abi::SEEK_CUR => *place,
            _ => self.len(),
        };
        *place = usize::try_from(base as i64 + offset).map_err(|_| Errno::EINVAL)?;
        Ok(*place as u64)
    }

    fn set_len(&self, bytes: u64) -> Result<(), Errno> {
        let mut state = self.fake.state();
        state.changes.push("truncate");
        state
            .nodes
            .get_mut(&self.ino)
            .unwrap()
            .data
            .resize(bytes as usize, 0);
        state.touched(self.ino);
        Ok(())
    }

    fn allocate(&self, _: u32, _: u64, _: u64) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    fn sync(&self, _: SyncKind) -> Result<(), Errno> {
        Ok(())
    }

    fn read_dir(&self) -> Result<Vec<DirEntry>, Errno> {
        let state = self.fake.state();
        let entry = |(path, ino): (Vec<u8>, u64)| {
            let name = path.rsplit(|&byte| byte == b'/').next().unwrap().to_vec();
            DirEntry {
                ino,
                kind: Some(state.nodes[&ino].stat.kind()),
                name,
            }
        };
        Ok(state.children(&self.path).into_iter().map(entry).collect())
    }

    fn set_mode(&self, mode: u32) -> Result<(), Errno> {
        self.fake.set_mode(&self.path, mode)
    }

    fn set_owner(&self, _: u32, _: u32) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }

    fn set_times(&self, _: SetTime, _: SetTime) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }

    fn stat_fs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs::default())
    }

    fn get_xattr(&self, _: &[u8]) -> Result<Vec<u8>, Errno> {
        Err(Errno::ENODATA)
    }

    fn list_xattr(&self) -> Result<Vec<u8>, Errno> {
        Ok(Vec::new())
    }

    fn lock(&self, _: u32) -> Result<(), Errno> {
        Ok(())
    }

    fn ioctl(&self, _: u32, _: &mut [u8]) -> Result<u64, Errno> {
        Err(Errno::ENOTTY)
    }
}

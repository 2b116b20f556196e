//! /proc: the tree, its links, and how one of its files is read. What the files say is in `render`. Shown are the asking task, and of the
//! system what programs look at; all else of the outer /proc is hidden, because it speaks of the outer kernel's processes.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portolan::errno::Errno;
use portolan::platform::Platform;
use portolan::space::MmUser;

use super::fdtable::{OnExec, Place};
use super::file::{OpenFile, Text};
use super::path;
use super::sysctl::Setting;
use super::vfs::Session;
use crate::outside::{DirEntry, FileKind, Stat, Timestamp, make_dev};

/// The signal sets that /proc/PID/status shows, bit N-1 for signal N.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SignalSets {
    /// Pending for the thread.
    pub pending: u64,
    /// Pending for the process.
    pub shared_pending: u64,
    /// Blocked.
    pub blocked: u64,
    /// Ignored.
    pub ignored: u64,
    /// With a handler.
    pub caught: u64,
}

/// What files, and above all /proc, ask about the task that uses them.
pub trait TaskView<P: Platform> {
    /// The thread group's id.
    fn pid(&self) -> u32;
    /// The thread's id.
    fn tid(&self) -> u32;
    /// Parent, process group, session.
    fn family(&self) -> [u32; 3];
    /// The thread's name.
    fn name(&self) -> Vec<u8>;
    /// The path of the executable.
    fn exe(&self) -> Vec<u8>;
    /// Where it stands in the file tree.
    fn place(&self) -> Place;
    /// Its descriptors.
    fn descriptors(&self) -> BTreeMap<u32, (Arc<OpenFile<P>>, OnExec)>;
    /// One of them.
    ///
    /// # Errors
    /// `EBADF`: not open.
    fn descriptor(&self, fd: u32) -> Result<Arc<OpenFile<P>>, Errno>;
    /// Its address space; `None` before it has one.
    fn mm(&self) -> Option<&MmUser<P>>;
    /// The auxiliary vector as it lies in memory.
    fn auxv(&self) -> Vec<u64>;
    /// Soft and hard limit by `RLIMIT_*` number.
    fn limits(&self) -> [(u64, u64); 16];
    /// Its signals.
    fn signals(&self) -> SignalSets;
    /// Minor and major faults.
    fn faults(&self) -> [u64; 2];
    /// How many threads its group has.
    fn threads(&self) -> usize;
    /// `personality`.
    fn personality(&self) -> u32;
    /// What its core dump holds: bits of `coredump_filter`.
    fn core_filter(&self) -> u32;
    /// Changes that.
    fn set_core_filter(&self, bits: u32);
    /// Whether addresses are randomised: 0, 1 or 2.
    fn randomize(&self) -> u32;
}

/// Where a link of /proc leads.
pub enum Link<P: Platform> {
    /// To a path.
    Path(Vec<u8>),
    /// To an open file, whatever its path.
    File(Arc<OpenFile<P>>),
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident in $table:ident as $text:literal, $mode:literal;)*) => {
        /// A file of /proc.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum TextFile { $($(#[$doc])* $name,)* }

        impl TextFile {
            const fn mode(self) -> u32 {
                match self { $(TextFile::$name => $mode,)* }
            }
        }

        const TEXTS: &[(Dir, &[u8], TextFile)] = &[$((Dir::$table, $text, TextFile::$name),)*];
    };
}

/// A directory of /proc.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dir {
    /// /proc.
    Root,
    /// /proc/PID, and /proc/PID/task/TID.
    Task,
    /// /proc/PID/task.
    Threads,
    /// /proc/PID/fd.
    Fd,
    /// /proc/PID/fdinfo.
    FdInfo,
    /// /proc/sys.
    Sys,
    /// /proc/sys/vm.
    SysVm,
    /// /proc/sys/kernel.
    SysKernel,
    /// /proc/sys/fs.
    SysFs,
}

texts! {
    /// Mappings.
    Maps in Task as b"maps", 0o444;
    /// Mappings, with what of each is in memory.
    Smaps in Task as b"smaps", 0o444;
    /// The sums over all mappings.
    SmapsRollup in Task as b"smaps_rollup", 0o444;
    /// Mappings and the nodes their pages lie on.
    NumaMaps in Task as b"numa_maps", 0o444;
    /// A word for each page.
    Pagemap in Task as b"pagemap", 0o400;
    /// Forgets which pages were used or written.
    ClearRefs in Task as b"clear_refs", 0o200;
    /// What a core dump holds.
    CoredumpFilter in Task as b"coredump_filter", 0o644;
    /// State in words.
    Status in Task as b"status", 0o444;
    /// Sizes in pages.
    Statm in Task as b"statm", 0o444;
    /// State in numbers.
    Stat in Task as b"stat", 0o444;
    /// The auxiliary vector.
    Auxv in Task as b"auxv", 0o400;
    /// The arguments.
    Cmdline in Task as b"cmdline", 0o444;
    /// The name.
    Comm in Task as b"comm", 0o644;
    /// The environment.
    Environ in Task as b"environ", 0o400;
    /// Resource limits.
    Limits in Task as b"limits", 0o444;
    /// Mounts, as /etc/mtab has them.
    Mounts in Task as b"mounts", 0o444;
    /// Mounts in full.
    MountInfo in Task as b"mountinfo", 0o444;
    /// Personality bits.
    Personality in Task as b"personality", 0o400;
    /// Badness for the out-of-memory killer.
    OomScore in Task as b"oom_score", 0o444;
    /// Its adjustment.
    OomScoreAdj in Task as b"oom_score_adj", 0o444;
    /// Control groups.
    Cgroup in Task as b"cgroup", 0o444;
    /// Memory of the machine.
    MemInfo in Root as b"meminfo", 0o444;
    /// Processors.
    CpuInfo in Root as b"cpuinfo", 0o444;
    /// Counters of the system.
    SystemStat in Root as b"stat", 0o444;
    /// Seconds since the start.
    Uptime in Root as b"uptime", 0o444;
    /// The kernel's version.
    Version in Root as b"version", 0o444;
    /// File systems.
    FileSystems in Root as b"filesystems", 0o444;
    /// Load.
    LoadAvg in Root as b"loadavg", 0o444;
    /// kernel.osrelease.
    OsRelease in SysKernel as b"osrelease", 0o444;
    /// kernel.ostype.
    OsType in SysKernel as b"ostype", 0o444;
    /// kernel.version.
    OsVersion in SysKernel as b"version", 0o444;
    /// kernel.core_pattern.
    CorePattern in SysKernel as b"core_pattern", 0o444;
    /// kernel.hostname.
    HostName in SysKernel as b"hostname", 0o444;
    /// kernel.randomize_va_space.
    RandomizeVaSpace in SysKernel as b"randomize_va_space", 0o444;
    /// kernel.pid_max.
    PidMax in SysKernel as b"pid_max", 0o444;
    /// kernel.cap_last_cap.
    CapLastCap in SysKernel as b"cap_last_cap", 0o444;
    /// kernel.threads-max.
    ThreadsMax in SysKernel as b"threads-max", 0o444;
    /// fs.file-max.
    FileMax in SysFs as b"file-max", 0o444;
    /// fs.nr_open.
    NrOpen in SysFs as b"nr_open", 0o444;
    /// fs.pipe-max-size.
    PipeMaxSize in SysFs as b"pipe-max-size", 0o444;
}

/// Something in /proc.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProcNode {
    /// /proc.
    Root,
    /// A directory below it.
    Dir(Dir),
    /// A file.
    Text(TextFile),
    /// A setting below /proc/sys/vm.
    Setting(Setting),
    /// /proc/PID/fdinfo/N.
    FdInfo(u32),
    /// /proc/PID/fd/N.
    Fd(u32),
    /// A link that everyone sees alike.
    Link(ProcLink),
}

/// A symbolic link of /proc.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProcLink {
    /// /proc/self.
    SelfPid,
    /// /proc/thread-self.
    ThreadSelf,
    /// /proc/mounts.
    Mounts,
    /// /proc/PID/exe.
    Exe,
    /// /proc/PID/cwd.
    Cwd,
    /// /proc/PID/root.
    Root,
}

const DIRS: &[(Dir, &[u8], Dir)] = &[
    (Dir::Root, b"sys", Dir::Sys),
    (Dir::Sys, b"fs", Dir::SysFs),
    (Dir::Sys, b"kernel", Dir::SysKernel),
    (Dir::Sys, b"vm", Dir::SysVm),
    (Dir::Task, b"task", Dir::Threads),
    (Dir::Task, b"fd", Dir::Fd),
    (Dir::Task, b"fdinfo", Dir::FdInfo),
];

const LINKS: &[(Dir, &[u8], ProcLink)] = &[
    (Dir::Root, b"self", ProcLink::SelfPid),
    (Dir::Root, b"thread-self", ProcLink::ThreadSelf),
    (Dir::Root, b"mounts", ProcLink::Mounts),
    (Dir::Task, b"cwd", ProcLink::Cwd),
    (Dir::Task, b"root", ProcLink::Root),
    (Dir::Task, b"exe", ProcLink::Exe),
];

/// The device number of /proc.
const DEV: u64 = make_dev(0, 0xffc);

fn named<T: Copy>(table: &[(Dir, &[u8], T)], dir: Dir, name: &[u8]) -> Option<T> {
    table
        .iter()
        .find(|&&(within, known, _)| within == dir && known == name)
        .map(|&(_, _, node)| node)
}

impl ProcNode {
    const fn dir(self) -> Option<Dir> {
        match self {
            ProcNode::Root => Some(Dir::Root),
            ProcNode::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    /// What a name in this directory is.
    ///
    /// # Errors
    /// `ENOENT`: nothing that is shown. `ENOTDIR`: this is no directory.
    pub fn lookup<P: Platform>(
        self,
        session: &Session<'_, P>,
        name: &[u8],
    ) -> Result<ProcNode, Errno> {
        let dir = self.dir().ok_or(Errno::ENOTDIR)?;
        let task = session.task;
        let numbered = path::number(name);
        match (dir, numbered) {
            (Dir::Root, Some(number)) if number == task.pid() || number == task.tid() => {
                return Ok(ProcNode::Dir(Dir::Task));
            }
            (Dir::Threads, Some(number)) if number == task.tid() => {
                return Ok(ProcNode::Dir(Dir::Task));
            }
            (Dir::Fd, Some(fd)) if task.descriptor(fd).is_ok() => return Ok(ProcNode::Fd(fd)),
            (Dir::FdInfo, Some(fd)) if task.descriptor(fd).is_ok() => {
                return Ok(ProcNode::FdInfo(fd));
            }
            _ => {}
        }
        if dir == Dir::SysVm {
            let setting = Setting::named(name);
            return setting.map(ProcNode::Setting).ok_or(Errno::ENOENT);
        }
        let text = named(TEXTS, dir, name).map(ProcNode::Text);
        let found = text.or_else(|| named(DIRS, dir, name).map(ProcNode::Dir));
        found
            .or_else(|| named(LINKS, dir, name).map(ProcNode::Link))
            .ok_or(Errno::ENOENT)
    }

    /// Where a link leads.
    ///
    /// # Errors
    /// `EINVAL`: not a link. `ENOENT`: the descriptor is closed by now.
    pub fn link<P: Platform>(self, session: &Session<'_, P>) -> Result<Link<P>, Errno> {
        let task = session.task;
        let target = match self {
            ProcNode::Fd(fd) => {
                return task
                    .descriptor(fd)
                    .map(Link::File)
                    .map_err(|_| Errno::ENOENT);
            }
            ProcNode::Link(link) => match link {
                ProcLink::SelfPid => task.pid().to_string().into_bytes(),
                ProcLink::ThreadSelf => format!("{}/task/{}", task.pid(), task.tid()).into_bytes(),
                ProcLink::Mounts => b"self/mounts".to_vec(),
                ProcLink::Exe => task.exe(),
                ProcLink::Cwd => task.place().cwd,
                ProcLink::Root => b"/".to_vec(),
            },
            _ => return Err(Errno::EINVAL),
        };
        Ok(Link::Path(target))
    }

    /// What readlink says of a link: for an open file its path, marked when the file has no name any more.
    ///
    /// # Errors
    /// As for [`ProcNode::link`].
    pub fn link_text<P: Platform>(self, session: &Session<'_, P>) -> Result<Vec<u8>, Errno> {
        match self.link(session)? {
            Link::Path(target) => Ok(target),
            Link::File(file) => {
                let mut text = file.path.clone();
                let gone = text.first() == Some(&b'/')
                    && file.stat(session).is_ok_and(|stat| stat.nlink == 0);
                if gone && !text.ends_with(b" (deleted)") {
                    text.extend_from_slice(b" (deleted)");
                }
                Ok(text)
            }
        }
    }

    /// Attributes.
    pub fn stat<P: Platform>(self, session: &Session<'_, P>) -> Stat {
        let mode = match self {
            ProcNode::Root | ProcNode::Dir(Dir::Task | Dir::Threads | Dir::Sys | Dir::SysVm) => {
                0o040555
            }
            ProcNode::Dir(Dir::Fd) => 0o040500,
            ProcNode::Dir(_) => 0o040555,
            ProcNode::Text(text) => 0o100000 | text.mode(),
            ProcNode::Setting(setting) => 0o100000 | setting.mode(),
            ProcNode::FdInfo(_) => 0o100444,
            ProcNode::Fd(fd) => 0o120000 | fd_link_mode(session, fd),
            ProcNode::Link(_) => 0o120777,
        };
        let own = !matches!(
            self,
            ProcNode::Root
                | ProcNode::Setting(_)
                | ProcNode::Dir(Dir::Sys | Dir::SysVm | Dir::SysKernel | Dir::SysFs)
        );
        let identity = session.vfs.identity();
        let (uid, gid) = if own {
            (identity.uid[1], identity.gid[1])
        } else {
            (0, 0)
        };
        let nlink = if self.dir().is_some() { 2 } else { 1 };
        let now: Timestamp = session.now();
        let size = if matches!(self, ProcNode::Fd(_)) {
            64
        } else {
            0
        };
        Stat {
            dev: DEV,
            ino: self.number(),
            mode,
            nlink,
            uid,
            gid,
            size,
            block_size: 1024,
            atime: now,
            mtime: now,
            ctime: now,
            ..Stat::default()
        }
    }

    /// An inode number: the same for the same node.
    const fn number(self) -> u64 {
        match self {
            ProcNode::Root => 1,
            ProcNode::Dir(dir) => 0x100 + dir as u64,
            ProcNode::Text(text) => 0x200 + text as u64,
            ProcNode::Link(link) => 0x300 + link as u64,
            ProcNode::Setting(setting) => 0x400 + setting as u64,
            ProcNode::Fd(fd) => 0x1_0000_0000 + fd as u64,
            ProcNode::FdInfo(fd) => 0x2_0000_0000 + fd as u64,
        }
    }

    /// The entries of this directory.
    pub fn list<P: Platform>(self, session: &Session<'_, P>) -> Vec<DirEntry> {
        let entry = |name: &[u8], node: ProcNode| {
            let kind = match node {
                ProcNode::Fd(_) | ProcNode::Link(_) => FileKind::Symlink,
                ProcNode::Text(_) | ProcNode::Setting(_) | ProcNode::FdInfo(_) => FileKind::Regular,
                ProcNode::Root | ProcNode::Dir(_) => FileKind::Directory,
            };
            DirEntry {
                ino: node.number(),
                kind: Some(kind),
                name: name.to_vec(),
            }
        };
        let Some(dir) = self.dir() else {
            return Vec::new();
        };
        let mut entries = alloc::vec![entry(b".", self), entry(b"..", ProcNode::Root)];
        entries.extend(
            DIRS.iter()
                .filter(|row| row.0 == dir)
                .map(|row| entry(row.1, ProcNode::Dir(row.2))),
        );
        entries.extend(
            LINKS
                .iter()
                .filter(|row| row.0 == dir)
                .map(|row| entry(row.1, ProcNode::Link(row.2))),
        );
        entries.extend(
            TEXTS
                .iter()
                .filter(|row| row.0 == dir)
                .map(|row| entry(row.1, ProcNode::Text(row.2))),
        );
        let number = |number: u32| number.to_string().into_bytes();
        match dir {
            Dir::Root => entries.push(entry(&number(session.task.pid()), ProcNode::Dir(Dir::Task))),
            Dir::SysVm => entries.extend(
                Setting::ALL
                    .iter()
                    .map(|&setting| entry(setting.name(), ProcNode::Setting(setting))),
            ),
            Dir::Threads => {
                entries.push(entry(&number(session.task.tid()), ProcNode::Dir(Dir::Task)))
            }
            Dir::Fd | Dir::FdInfo => {
                let make = if dir == Dir::Fd {
                    ProcNode::Fd
                } else {
                    ProcNode::FdInfo
                };
                entries.extend(
                    session
                        .task
                        .descriptors()
                        .into_keys()
                        .map(|fd| entry(&number(fd), make(fd))),
                );
            }
            _ => {}
        }
        entries
    }
}

fn fd_link_mode<P: Platform>(session: &Session<'_, P>, fd: u32) -> u32 {
    let Ok(file) = session.task.descriptor(fd) else {
        return 0;
    };
    let read = if file.is_readable() { 0o500 } else { 0 };
    let write = if file.is_writable() { 0o300 } else { 0 };
    read | write
}

impl<P: Platform> Text<P> {
    /// Whether it is a setting: writing moves the position.
    pub fn is_setting(&self) -> bool {
        matches!(self.node, ProcNode::Setting(_))
    }

    /// Reads: from the start it is rendered anew, from elsewhere the reader goes on in what it began.
    ///
    /// # Errors
    /// `EFAULT` and others of what it shows.
    pub fn read(
        &self,
        session: &Session<'_, P>,
        offset: u64,
        into: &mut [u8],
    ) -> Result<usize, Errno> {
        if self.node == ProcNode::Text(TextFile::Pagemap) {
            return super::pages::read_pagemap(session, offset, into);
        }
        if let ProcNode::Setting(setting) = self.node {
            let text = setting.read(session, offset);
            let count = text.len().min(into.len());
            into[..count].copy_from_slice(&text[..count]);
            return Ok(count);
        }
        let mut rendered = self.rendered.write();
        if offset == 0 || rendered.is_empty() {
            *rendered = super::render::render(session, self.node)?;
        }
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(rendered.len());
        let part = &rendered[start..];
        let count = part.len().min(into.len());
        into[..count].copy_from_slice(&part[..count]);
        Ok(count)
    }

    /// Writes: the settings under /proc/sys/vm can be changed, and what files of the task are there to be told.
    ///
    /// # Errors
    /// `EINVAL`: not a number, or not one of its values. `EPERM`: cannot be changed.
    pub fn write(
        &self,
        session: &Session<'_, P>,
        offset: u64,
        from: &[u8],
    ) -> Result<usize, Errno> {
        if let ProcNode::Setting(setting) = self.node {
            return setting.write(session, offset, from);
        }
        let ProcNode::Text(file) = self.node else {
            return Err(Errno::EINVAL);
        };
        super::render::store(session, file, from)?;
        Ok(from.len())
    }
}

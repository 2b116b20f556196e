//! What a reference kernel asks of the world around it: files, the terminal, the clock, and who the user is. The engine
//! implements it with real system calls under the invoking user's rights. Not for: memory and the CPU (`engine`), nor for
//! what a guest sees of these files, which `fs` decides (page cache, overlay, /proc, /dev).
//!
//! Numbers of the ABI (`O_*`, `S_*`, `SEEK_*`, `RENAME_*`, poll events, ioctl requests) are those of Linux on x86-64. Errors are
//! the `Errno` the outer call gave. A call that blocks may return `EINTR` when the engine was asked to interrupt the task.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use portolan::errno::Errno;

/// Whether a final symbolic link is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Follow {
    /// The link's target is meant.
    Yes,
    /// The link itself is meant. `AT_SYMLINK_NOFOLLOW`.
    No,
}

/// Whose rights `access` checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessAs {
    /// The real user and group, as access(2).
    Real,
    /// The effective ones. `AT_EACCESS`.
    Effective,
}

/// What a sync covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncKind {
    /// Contents and attributes. `fsync`.
    Full,
    /// Contents, and the attributes needed to read them. `fdatasync`.
    Data,
    /// The whole file system the file lies on. `syncfs`.
    FileSystem,
}

/// A moment of a file system's clock. `struct timespec64`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Timestamp {
    /// Seconds since 1970, may be negative.
    pub seconds: i64,
    /// Nanoseconds, below 10^9.
    pub nanoseconds: u32,
}

/// One of the two times `utimensat` sets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// Left as it is. `UTIME_OMIT`.
    Keep,
    /// Now. `UTIME_NOW`.
    Now,
    /// This moment.
    At(Timestamp),
}

/// What kind of thing a file is: the type bits of its mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device; a terminal is one.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A pipe or named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileKind {
    /// The kind that the `S_IFMT` bits of a mode say. Nonsense counts as a socket: something that is neither read at an offset nor mapped.
    pub const fn from_mode(mode: u32) -> FileKind {
        match mode & 0o170000 {
            0o100000 => FileKind::Regular,
            0o040000 => FileKind::Directory,
            0o120000 => FileKind::Symlink,
            0o020000 => FileKind::CharDevice,
            0o060000 => FileKind::BlockDevice,
            0o010000 => FileKind::Fifo,
            _ => FileKind::Socket,
        }
    }

    /// The `S_IFMT` bits. A directory entry's `d_type` is this shifted right by 12.
    pub const fn mode_bits(self) -> u32 {
        match self {
            FileKind::Regular => 0o100000,
            FileKind::Directory => 0o040000,
            FileKind::Symlink => 0o120000,
            FileKind::CharDevice => 0o020000,
            FileKind::BlockDevice => 0o060000,
            FileKind::Fifo => 0o010000,
            FileKind::Socket => 0o140000,
        }
    }
}

/// A file's attributes. `struct statx`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stat {
    /// Device it lies on, as `stat.st_dev` encodes it.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Number of names.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// For a device file, which device; encoded as `dev`.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Preferred size of a read or write, bytes.
    pub block_size: u64,
    /// Space taken, in units of 512 bytes.
    pub blocks: u64,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of the contents.
    pub mtime: Timestamp,
    /// Last change of contents or attributes.
    pub ctime: Timestamp,
    /// Creation, where the file system records it.
    pub btime: Option<Timestamp>,
    /// `stx_mnt_id`, 0 when not known.
    pub mount_id: u64,
}

impl Stat {
    /// The kind that `mode` says.
    pub const fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode)
    }

    /// Whether it is a directory.
    pub const fn is_dir(&self) -> bool {
        matches!(self.kind(), FileKind::Directory)
    }
}

/// The major number of a device as `stat` encodes it. `gnu_dev_major`.
pub const fn dev_major(dev: u64) -> u32 {
    ((dev >> 8) & 0xfff | (dev >> 32) & !0xfff) as u32
}

/// The minor number of a device as `stat` encodes it. `gnu_dev_minor`.
pub const fn dev_minor(dev: u64) -> u32 {
    (dev & 0xff | (dev >> 12) & !0xff) as u32
}

/// The encoding of a device number. `gnu_dev_makedev`.
pub const fn make_dev(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    (major & 0xfff) << 8 | (major & !0xfff) << 32 | minor & 0xff | (minor & !0xff) << 12
}

/// What a file system says of itself. `struct statfs`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StatFs {
    /// Magic number of its type.
    pub kind: u64,
    /// Block size for the counts below, bytes.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for an ordinary user.
    pub available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// File system id.
    pub fsid: [u32; 2],
    /// Longest name, bytes.
    pub name_length: u64,
    /// Fragment size, bytes.
    pub fragment_size: u64,
    /// `ST_*` mount flags.
    pub flags: u64,
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Inode number.
    pub ino: u64,
    /// What it is; `None` when the file system does not say (`DT_UNKNOWN`).
    pub kind: Option<FileKind>,
    /// The name, without NUL or slash.
    pub name: Vec<u8>,
}

/// One file among those `Outside::poll` waits for. `struct pollfd`.
#[derive(Debug)]
pub struct PollItem {
    /// [`OuterFile::handle`] of the file.
    pub handle: u64,
    /// `POLL*` events asked for.
    pub events: u16,
    /// `POLL*` events that happened; set by the call.
    pub revents: u16,
}

/// The names `uname` gives. `struct new_utsname`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SystemNames {
    /// "Linux".
    pub sysname: Vec<u8>,
    /// Host name.
    pub nodename: Vec<u8>,
    /// Kernel release.
    pub release: Vec<u8>,
    /// Kernel version.
    pub version: Vec<u8>,
    /// Hardware name.
    pub machine: Vec<u8>,
    /// NIS domain.
    pub domainname: Vec<u8>,
}

/// Who the invoking user is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Identity {
    /// Real, effective and saved user.
    pub uid: [u32; 3],
    /// Real, effective and saved group.
    pub gid: [u32; 3],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The file mode creation mask that the guest starts with.
    pub umask: u32,
    /// Process id that the guest is told as its own.
    pub pid: u32,
    /// Its parent.
    pub ppid: u32,
    /// Its process group.
    pub pgid: u32,
    /// Its session.
    pub sid: u32,
    /// What `uname` answers.
    pub names: SystemNames,
}

/// The files, the clock and the user of the outside.
///
/// Paths are absolute byte strings without NUL, at most `PATH_MAX` long. A mode given to a call that creates a file is final:
/// the implementation must not apply a umask of its own, because the guest's umask is applied by the caller.
pub trait Outside: Send + Sync {
    /// Opens or creates a file. `flags` are `O_*` bits; the implementation adds `O_CLOEXEC | O_NOCTTY`.
    ///
    /// # Errors
    /// Those of open(2).
    fn open(&self, path: &[u8], flags: u32, mode: u32) -> Result<Box<dyn OuterFile>, Errno>;

    /// Attributes of what a path names.
    ///
    /// # Errors
    /// Those of stat(2).
    fn stat(&self, path: &[u8], follow: Follow) -> Result<Stat, Errno>;

    /// The target of a symbolic link, whole.
    ///
    /// # Errors
    /// Those of readlink(2).
    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, Errno>;

    /// Makes a directory.
    ///
    /// # Errors
    /// Those of mkdir(2).
    fn make_dir(&self, path: &[u8], mode: u32) -> Result<(), Errno>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Those of rmdir(2).
    fn remove_dir(&self, path: &[u8]) -> Result<(), Errno>;

    /// Makes a named pipe, socket, device or empty regular file.
    ///
    /// # Errors
    /// Those of mknod(2).
    fn make_node(&self, path: &[u8], mode: u32, dev: u64) -> Result<(), Errno>;

    /// Removes a name that is not a directory.
    ///
    /// # Errors
    /// Those of unlink(2).
    fn unlink(&self, path: &[u8]) -> Result<(), Errno>;

    /// Renames; `flags` are `RENAME_*` bits.
    ///
    /// # Errors
    /// Those of renameat2(2).
    fn rename(&self, from: &[u8], to: &[u8], flags: u32) -> Result<(), Errno>;

    /// Gives the file at `from` (a final link is not followed) the further name `to`.
    ///
    /// # Errors
    /// Those of link(2).
    fn link(&self, from: &[u8], to: &[u8]) -> Result<(), Errno>;

    /// Makes a symbolic link at `path` that says `target`.
    ///
    /// # Errors
    /// Those of symlink(2).
    fn symlink(&self, target: &[u8], path: &[u8]) -> Result<(), Errno>;

    /// Sets permission bits (follows a final link).
    ///
    /// # Errors
    /// Those of chmod(2).
    fn set_mode(&self, path: &[u8], mode: u32) -> Result<(), Errno>;

    /// Sets owner and group; `u32::MAX` leaves one as it is.
    ///
    /// # Errors
    /// Those of chown(2).
    fn set_owner(&self, path: &[u8], uid: u32, gid: u32, follow: Follow) -> Result<(), Errno>;

    /// Sets access and modification time.
    ///
    /// # Errors
    /// Those of utimensat(2).
    fn set_times(
        &self,
        path: &[u8],
        atime: SetTime,
        mtime: SetTime,
        follow: Follow,
    ) -> Result<(), Errno>;

    /// Whether the file may be used so; `mask` is `R_OK | W_OK | X_OK` (4, 2, 1) or 0.
    ///
    /// # Errors
    /// Those of faccessat2(2).
    fn access(&self, path: &[u8], mask: u32, who: AccessAs, follow: Follow) -> Result<(), Errno>;

    /// The file system a path lies on.
    ///
    /// # Errors
    /// Those of statfs(2).
    fn stat_fs(&self, path: &[u8]) -> Result<StatFs, Errno>;

    /// An extended attribute's value, whole.
    ///
    /// # Errors
    /// Those of getxattr(2), `ERANGE` apart.
    fn get_xattr(&self, path: &[u8], name: &[u8], follow: Follow) -> Result<Vec<u8>, Errno>;

    /// The names of the extended attributes, each ended by a NUL.
    ///
    /// # Errors
    /// Those of listxattr(2), `ERANGE` apart.
    fn list_xattr(&self, path: &[u8], follow: Follow) -> Result<Vec<u8>, Errno>;

    /// Writes all file systems back. `sync`.
    fn sync(&self);

    /// The standard file `number` (0, 1 or 2) that the invoker passed on.
    ///
    /// # Errors
    /// `EBADF` when that descriptor is closed.
    fn standard(&self, number: u32) -> Result<Box<dyn OuterFile>, Errno>;

    /// Waits until one of the files is ready, or for `timeout` (`None`: without limit). Returns how many are ready.
    ///
    /// # Errors
    /// `EINTR` when the task was interrupted.
    fn poll(&self, items: &mut [PollItem], timeout: Option<Duration>) -> Result<usize, Errno>;

    /// Time since 1970. `CLOCK_REALTIME`.
    fn realtime(&self) -> Duration;

    /// `CLOCK_MONOTONIC`.
    fn monotonic(&self) -> Duration;

    /// `CLOCK_BOOTTIME`.
    fn boottime(&self) -> Duration;

    /// Processor time of the guest so far: in user mode, and in the kernel for it.
    fn cpu_time(&self) -> (Duration, Duration);

    /// Fills a buffer with random bytes. `getrandom`.
    fn random(&self, into: &mut [u8]);

    /// Who the invoking user is. Constant.
    fn identity(&self) -> Identity;

    /// Sleeps.
    ///
    /// # Errors
    /// `EINTR` when the task was interrupted before the time was over.
    fn sleep(&self, time: Duration) -> Result<(), Errno>;
}

/// An open file of the outside. Dropping it closes it.
pub trait OuterFile: Send + Sync {
    /// A number by which [`Outside::poll`] knows it; unique among open files.
    fn handle(&self) -> u64;

    /// Attributes.
    ///
    /// # Errors
    /// Those of fstat(2).
    fn stat(&self) -> Result<Stat, Errno>;

    /// Its status flags: access mode, `O_APPEND`, `O_NONBLOCK`. `F_GETFL`.
    ///
    /// # Errors
    /// Those of fcntl(2).
    fn status_flags(&self) -> Result<u32, Errno>;

    /// Sets `O_APPEND` and `O_NONBLOCK`. `F_SETFL`.
    ///
    /// # Errors
    /// Those of fcntl(2).
    fn set_status_flags(&self, flags: u32) -> Result<(), Errno>;

    /// Opens the same file anew, with other flags. What opening `/proc/self/fd/N` does.
    ///
    /// # Errors
    /// Those of open(2).
    fn reopen(&self, flags: u32) -> Result<Box<dyn OuterFile>, Errno>;

    /// Reads at an offset without moving the file's position; fewer bytes than asked for only at the end of the file. `pread`.
    ///
    /// # Errors
    /// Those of pread(2).
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno>;

    /// Writes at an offset without moving the file's position. `pwrite`. The file must not be open with `O_APPEND`.
    ///
    /// # Errors
    /// Those of pwrite(2).
    fn write_at(&self, offset: u64, from: &[u8]) -> Result<usize, Errno>;

    /// Reads at the file's own position and moves it, or from a stream. May block. `read`.
    ///
    /// # Errors
    /// Those of read(2).
    fn read(&self, into: &mut [u8]) -> Result<usize, Errno>;

    /// Writes at the file's own position (or its end with `O_APPEND`) and moves it, or to a stream. May block. `write`.
    ///
    /// # Errors
    /// Those of write(2). On `EPIPE` the outer process gets no signal; the caller raises the guest's.
    fn write(&self, from: &[u8]) -> Result<usize, Errno>;

    /// Moves the file's own position; `whence` is a `SEEK_*` number, `SEEK_DATA` and `SEEK_HOLE` included.
    ///
    /// # Errors
    /// Those of lseek(2).
    fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno>;

    /// Sets the length. `ftruncate`.
    ///
    /// # Errors
    /// Those of ftruncate(2).
    fn set_len(&self, bytes: u64) -> Result<(), Errno>;

    /// Allocates or releases space; `mode` are `FALLOC_FL_*` bits. `fallocate`.
    ///
    /// # Errors
    /// Those of fallocate(2).
    fn allocate(&self, mode: u32, offset: u64, bytes: u64) -> Result<(), Errno>;

    /// Brings what was written to the storage.
    ///
    /// # Errors
    /// Those of fsync(2).
    fn sync(&self, kind: SyncKind) -> Result<(), Errno>;

    /// All entries of a directory, in the directory's own order, `.` and `..` included; each call reads anew.
    ///
    /// # Errors
    /// Those of getdents64(2).
    fn read_dir(&self) -> Result<Vec<DirEntry>, Errno>;

    /// Sets permission bits. `fchmod`.
    ///
    /// # Errors
    /// Those of fchmod(2).
    fn set_mode(&self, mode: u32) -> Result<(), Errno>;

    /// Sets owner and group; `u32::MAX` leaves one as it is. `fchown`.
    ///
    /// # Errors
    /// Those of fchown(2).
    fn set_owner(&self, uid: u32, gid: u32) -> Result<(), Errno>;

    /// Sets access and modification time. `futimens`.
    ///
    /// # Errors
    /// Those of utimensat(2).
    fn set_times(&self, atime: SetTime, mtime: SetTime) -> Result<(), Errno>;

    /// The file system it lies on. `fstatfs`.
    ///
    /// # Errors
    /// Those of fstatfs(2).
    fn stat_fs(&self) -> Result<StatFs, Errno>;

    /// An extended attribute's value, whole. `fgetxattr`.
    ///
    /// # Errors
    /// Those of fgetxattr(2), `ERANGE` apart.
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno>;

    /// The names of the extended attributes, each ended by a NUL. `flistxattr`.
    ///
    /// # Errors
    /// Those of flistxattr(2), `ERANGE` apart.
    fn list_xattr(&self) -> Result<Vec<u8>, Errno>;

    /// Takes or releases an advisory lock on the whole file; `operation` are `LOCK_*` bits.
    ///
    /// # Errors
    /// Those of flock(2).
    fn lock(&self, operation: u32) -> Result<(), Errno>;

    /// A terminal's or stream's request. The caller knows the request and passes a buffer of the size of its argument, which
    /// the call reads and fills; empty when the request takes none.
    ///
    /// # Errors
    /// Those of ioctl(2); `ENOTTY` for one the file does not know.
    fn ioctl(&self, request: u32, data: &mut [u8]) -> Result<u64, Errno>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_their_encoding() {
        for (major, minor) in [
            (0, 0),
            (8, 1),
            (0xfff, 0xff),
            (0x1234, 0x5_4321),
            (u32::MAX, u32::MAX),
        ] {
            let dev = make_dev(major, minor);
            assert_eq!((dev_major(dev), dev_minor(dev)), (major, minor));
        }
        assert_eq!(make_dev(1, 3), 0x103);
    }

    #[test]
    fn kinds_are_the_mode_bits() {
        for kind in [
            FileKind::Regular,
            FileKind::Directory,
            FileKind::Symlink,
            FileKind::CharDevice,
            FileKind::BlockDevice,
            FileKind::Fifo,
            FileKind::Socket,
        ] {
            assert_eq!(FileKind::from_mode(kind.mode_bits() | 0o644), kind);
        }
    }
}

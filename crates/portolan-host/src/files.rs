//! An open file of the outside: a descriptor. Its lifetime is the value's.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use portolan::errno::Errno;
use portolan_kernel::outside::{DirEntry, FileKind, OuterFile, SetTime, Stat, StatFs, SyncKind};

use crate::interrupt::{self, last_errno, retry};
use crate::outside::{check, file_system, own_path, owned, stat_at, time_to_set, whole_value};

/// What a pipe takes at once without blocking when poll says that it is ready to be written.
const PIPE_BUF: usize = 4096;

/// An open file.
pub(crate) struct HostFile {
    fd: OwnedFd,
    /// Whether reads and writes may block for long: not a regular file, directory or block device.
    waits: OnceLock<bool>,
}

impl HostFile {
    pub(crate) fn new(fd: OwnedFd) -> HostFile {
        HostFile {
            fd,
            waits: OnceLock::new(),
        }
    }

    fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Whether a read or write must first wait where a kick can end the wait.
    fn must_wait(&self) -> bool {
        let waits = *self.waits.get_or_init(|| {
            let kind = self.stat().map(|stat| stat.kind());
            matches!(
                kind,
                Ok(FileKind::CharDevice | FileKind::Fifo | FileKind::Socket)
            )
        });
        // The guest's kernel, or another process that shares the file, can change the flag at any time.
        waits
            && self
                .status_flags()
                .is_ok_and(|flags| flags & libc::O_NONBLOCK as u32 == 0)
    }
}

fn offset_of(offset: u64) -> Result<i64, Errno> {
    i64::try_from(offset).map_err(|_| Errno::EINVAL)
}

impl OuterFile for HostFile {
    fn handle(&self) -> u64 {
        self.raw() as u64
    }

    fn stat(&self) -> Result<Stat, Errno> {
        stat_at(self.raw(), c"", libc::AT_EMPTY_PATH)
    }

    fn status_flags(&self) -> Result<u32, Errno> {
        // SAFETY: a call on numbers.
        retry(|| unsafe { libc::fcntl(self.raw(), libc::F_GETFL) } as isize)
            .map(|flags| flags as u32)
    }

    fn set_status_flags(&self, flags: u32) -> Result<(), Errno> {
        // SAFETY: a call on numbers.
        retry(|| unsafe { libc::fcntl(self.raw(), libc::F_SETFL, flags) } as isize).map(drop)
    }

    fn reopen(&self, flags: u32) -> Result<Box<dyn OuterFile>, Errno> {
        let path = own_path(&self.fd).map_err(|_| Errno::ENOENT)?;
        let flags = flags as libc::c_int | libc::O_CLOEXEC | libc::O_NOCTTY;
        // SAFETY: a NUL-terminated path.
        let fd = retry(|| unsafe { libc::open(path.as_ptr(), flags) } as isize)?;
        Ok(Box::new(HostFile::new(owned(fd)?)))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < into.len() {
            let rest = &mut into[done..];
            let at = offset_of(offset.checked_add(done as u64).ok_or(Errno::EINVAL)?)?;
            // SAFETY: a live buffer with its size.
            let got = retry(|| unsafe {
                libc::pread(self.raw(), rest.as_mut_ptr().cast(), rest.len(), at)
            });
            match got {
                Ok(0) => break,
                Ok(got) => done += got,
                Err(_) if done > 0 => break,
                Err(why) => return Err(why),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        let at = offset_of(offset)?;
        // SAFETY: a live buffer with its size.
        retry(|| unsafe { libc::pwrite(self.raw(), from.as_ptr().cast(), from.len(), at) })
    }

    fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        if self.must_wait() {
            interrupt::wait_ready(self.raw(), libc::POLLIN)?;
        }
        // SAFETY: a live buffer with its size.
        retry(|| unsafe { libc::read(self.raw(), into.as_mut_ptr().cast(), into.len()) })
    }

    fn write(&self, from: &[u8]) -> Result<usize, Errno> {
        let write = |part: &[u8]| {
            // SAFETY: a live buffer with its size.
            retry(|| unsafe { libc::write(self.raw(), part.as_ptr().cast(), part.len()) })
        };
        if from.is_empty() || !self.must_wait() {
            return write(from);
        }
        // In parts that cannot block once poll says ready, so that a kick is noticed between them.
        let mut done = 0;
        while done < from.len() {
            let part = &from[done..from.len().min(done + PIPE_BUF)];
            match interrupt::wait_ready(self.raw(), libc::POLLOUT).and_then(|()| write(part)) {
                Ok(count) => done += count,
                Err(_) if done > 0 => break,
                Err(why) => return Err(why),
            }
        }
        Ok(done)
    }

    fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        // SAFETY: a call on numbers.
        let at = unsafe { libc::lseek(self.raw(), offset, whence as libc::c_int) };
        u64::try_from(at).map_err(|_| last_errno())
    }

    fn set_len(&self, bytes: u64) -> Result<(), Errno> {
        let bytes = offset_of(bytes)?;
        // SAFETY: a call on numbers.
        retry(|| unsafe { libc::ftruncate(self.raw(), bytes) } as isize).map(drop)
    }

    fn allocate(&self, mode: u32, offset: u64, bytes: u64) -> Result<(), Errno> {
        let (offset, bytes) = (offset_of(offset)?, offset_of(bytes)?);
        // SAFETY: a call on numbers.
        retry(
            || unsafe { libc::fallocate(self.raw(), mode as libc::c_int, offset, bytes) } as isize,
        )
        .map(drop)
    }

    fn sync(&self, kind: SyncKind) -> Result<(), Errno> {
        // SAFETY: calls on a number.
        check(unsafe {
            match kind {
                SyncKind::Full => libc::fsync(self.raw()),
                SyncKind::Data => libc::fdatasync(self.raw()),
                SyncKind::FileSystem => libc::syncfs(self.raw()),
            }
        })
    }

    fn read_dir(&self) -> Result<Vec<DirEntry>, Errno> {
        self.seek(0, libc::SEEK_SET as u32)?;
        let mut entries = Vec::new();
        let mut buffer = vec![0_u8; 32 << 10];
        loop {
            // SAFETY: a live buffer with its size.
            let got = retry(|| unsafe {
                libc::syscall(
                    libc::SYS_getdents64,
                    self.raw(),
                    buffer.as_mut_ptr(),
                    buffer.len(),
                ) as isize
            })?;
            if got == 0 {
                return Ok(entries);
            }
            let mut rest = &buffer[..got];
            while let Some((entry, length)) = parse_entry(rest) {
                entries.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                entries.push(entry);
                rest = &rest[length..];
            }
        }
    }

    fn set_mode(&self, mode: u32) -> Result<(), Errno> {
        // SAFETY: a call on numbers.
        check(unsafe { libc::fchmod(self.raw(), mode) })
    }

    fn set_owner(&self, uid: u32, gid: u32) -> Result<(), Errno> {
        // SAFETY: a call on numbers.
        check(unsafe { libc::fchown(self.raw(), uid, gid) })
    }

    fn set_times(&self, atime: SetTime, mtime: SetTime) -> Result<(), Errno> {
        let times = [time_to_set(atime), time_to_set(mtime)];
        // SAFETY: an array of two times.
        check(unsafe { libc::futimens(self.raw(), times.as_ptr()) })
    }

    fn stat_fs(&self) -> Result<StatFs, Errno> {
        // SAFETY: plain numbers, all zero is a value.
        let mut found: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: a pointer to a live local.
        check(unsafe { libc::fstatfs(self.raw(), &mut found) })?;
        Ok(file_system(&found))
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let name = std::ffi::CString::new(name).map_err(|_| Errno::EINVAL)?;
        // SAFETY: a NUL-terminated name, and a live buffer with its size.
        whole_value(|into, room| unsafe { libc::fgetxattr(self.raw(), name.as_ptr(), into, room) })
    }

    fn list_xattr(&self) -> Result<Vec<u8>, Errno> {
        // SAFETY: a live buffer with its size.
        whole_value(|into, room| unsafe { libc::flistxattr(self.raw(), into.cast(), room) })
    }

    fn lock(&self, operation: u32) -> Result<(), Errno> {
        // SAFETY: a call on numbers.
        retry(|| unsafe { libc::flock(self.raw(), operation as libc::c_int) } as isize).map(drop)
    }

    fn ioctl(&self, request: u32, data: &mut [u8]) -> Result<u64, Errno> {
        let argument = match Argument::of(request).ok_or(Errno::ENOTTY)? {
            Argument::Value => value_of(data),
            Argument::Buffer(bytes) if data.len() >= bytes => data.as_mut_ptr() as u64,
            Argument::Buffer(_) => return Err(Errno::EINVAL),
        };
        // SAFETY: the request is one of the table, which reads and writes no more than the size checked above, or takes a number.
        retry(
            || unsafe { libc::ioctl(self.raw(), libc::c_ulong::from(request), argument) } as isize,
        )
        .map(|result| result as u64)
    }
}

/// What a request's argument is.
enum Argument {
    /// A number.
    Value,
    /// A buffer of at least so many bytes.
    Buffer(usize),
}

impl Argument {
    /// The argument of a request that is passed on; `None` for all others, whose size nobody here knows.
    fn of(request: u32) -> Option<Argument> {
        const TERMIOS: usize = 36;
        const TERMIOS2: usize = 44;
        Some(match libc::c_ulong::from(request) {
            libc::TCGETS | libc::TCSETS | libc::TCSETSW | libc::TCSETSF => {
                Argument::Buffer(TERMIOS)
            }
            libc::TCGETS2 | libc::TCSETS2 | libc::TCSETSW2 | libc::TCSETSF2 => {
                Argument::Buffer(TERMIOS2)
            }
            libc::TIOCGWINSZ | libc::TIOCSWINSZ => Argument::Buffer(8),
            libc::TIOCGPGRP | libc::TIOCSPGRP | libc::TIOCGSID => Argument::Buffer(4),
            libc::FIONREAD | libc::TIOCOUTQ | libc::FIONBIO => Argument::Buffer(4),
            libc::TIOCGETD | libc::TIOCMGET => Argument::Buffer(4),
            libc::TCSBRK | libc::TCSBRKP | libc::TCXONC | libc::TCFLSH => Argument::Value,
            libc::TIOCSCTTY | libc::TIOCNOTTY | libc::TIOCEXCL | libc::TIOCNXCL => Argument::Value,
            _ => return None,
        })
    }
}

/// A number passed as up to eight bytes.
fn value_of(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = data.len().min(8);
    bytes[..length].copy_from_slice(&data[..length]);
    u64::from_le_bytes(bytes)
}

/// The first `struct linux_dirent64` of `bytes`, and its length there.
fn parse_entry(bytes: &[u8]) -> Option<(DirEntry, usize)> {
    const NAME: usize = 19;
    let ino = u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?);
    let length = usize::from(u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?));
    let kind = u32::from(*bytes.get(18)?);
    let name = bytes
        .get(NAME..length)?
        .split(|&byte| byte == 0)
        .next()?
        .to_vec();
    let kind = (kind != u32::from(libc::DT_UNKNOWN)).then(|| FileKind::from_mode(kind << 12));
    Some((DirEntry { ino, kind, name }, length))
}

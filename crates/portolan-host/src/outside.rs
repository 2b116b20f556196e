//! The files, the clock and the user of the outside, by real system calls under the invoking user's rights.
//! Not for open files (`files`), nor for what a guest sees of all this: that is its kernel's.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use portolan::errno::Errno;
use portolan_kernel::outside::{
    AccessAs, Follow, Identity, OuterFile, Outside, PollItem, SetTime, Stat, StatFs, SystemNames,
    Timestamp,
};

use crate::files::HostFile;
use crate::interrupt::{self, last_errno};

/// Whatever a link or attribute holds is at most this long.
const LONGEST_VALUE: usize = 1 << 20;

/// The outside as this process sees it.
pub(crate) struct HostOutside {
    identity: Identity,
}

impl HostOutside {
    pub(crate) fn new() -> HostOutside {
        HostOutside {
            identity: identity(),
        }
    }
}

/// The result of a call that gives 0 or -1.
pub(crate) fn check(result: libc::c_int) -> Result<(), Errno> {
    if result == 0 {
        Ok(())
    } else {
        Err(last_errno())
    }
}

/// The descriptor a call gave.
pub(crate) fn owned(fd: usize) -> Result<OwnedFd, Errno> {
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: every caller passes what a successful call has just returned, and keeps no other copy.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn path_of(path: &[u8]) -> Result<CString, Errno> {
    CString::new(path).map_err(|_| Errno::ENOENT)
}

fn at_flags(follow: Follow) -> libc::c_int {
    match follow {
        Follow::Yes => 0,
        Follow::No => libc::AT_SYMLINK_NOFOLLOW,
    }
}

/// Makes sure that the calling thread creates files with exactly the mode it is given. The mask is the thread's own from then on,
/// so the rest of the process keeps its own.
fn without_umask() {
    thread_local! {
        static DONE: () = {
            // SAFETY: calls on numbers. Without a mask of its own the whole process loses its mask.
            unsafe {
                libc::unshare(libc::CLONE_FS);
                libc::umask(0);
            }
        };
    }
    DONE.with(|()| ());
}

/// Attributes of a path below `dir`, or of `dir` itself with `AT_EMPTY_PATH`.
pub(crate) fn stat_at(dir: RawFd, path: &CStr, flags: libc::c_int) -> Result<Stat, Errno> {
    const MOUNT_ID: u32 = 0x1000;
    let mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME | MOUNT_ID;
    // SAFETY: plain numbers, all zero is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated path and a live local.
    check(unsafe { libc::statx(dir, path.as_ptr(), flags, mask, &mut found) })?;
    let time = |at: libc::statx_timestamp| Timestamp {
        seconds: at.tv_sec,
        nanoseconds: at.tv_nsec,
    };
    Ok(Stat {
        dev: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        mode: found.stx_mode.into(),
        nlink: found.stx_nlink.into(),
        uid: found.stx_uid,
        gid: found.stx_gid,
        rdev: libc::makedev(found.stx_rdev_major, found.stx_rdev_minor),
        size: found.stx_size,
        block_size: found.stx_blksize.into(),
        blocks: found.stx_blocks,
        atime: time(found.stx_atime),
        mtime: time(found.stx_mtime),
        ctime: time(found.stx_ctime),
        btime: (found.stx_mask & libc::STATX_BTIME != 0).then(|| time(found.stx_btime)),
        mount_id: if found.stx_mask & MOUNT_ID != 0 {
            found.stx_mnt_id
        } else {
            0
        },
    })
}

/// What the kernel says of a file system.
pub(crate) fn file_system(found: &libc::statfs) -> StatFs {
    const WORDS: usize = size_of::<libc::statfs>() / 8;
    // SAFETY: plain numbers of the same size. The `libc` crate hides two of the fields.
    let words: [u64; WORDS] = unsafe { std::mem::transmute_copy(found) };
    let (fsid, flags) = (words[7], words[11]);
    StatFs {
        kind: found.f_type as u64,
        block_size: found.f_bsize as u64,
        blocks: found.f_blocks,
        free: found.f_bfree,
        available: found.f_bavail,
        files: found.f_files,
        files_free: found.f_ffree,
        fsid: [fsid as u32, (fsid >> 32) as u32],
        name_length: found.f_namelen as u64,
        fragment_size: found.f_frsize as u64,
        flags,
    }
}

/// A time to set, as `utimensat` takes it.
pub(crate) fn time_to_set(time: SetTime) -> libc::timespec {
    match time {
        SetTime::Keep => libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_OMIT,
        },
        SetTime::Now => libc::timespec {
            tv_sec: 0,
            tv_nsec: libc::UTIME_NOW,
        },
        SetTime::At(at) => libc::timespec {
            tv_sec: at.seconds,
            tv_nsec: at.nanoseconds.into(),
        },
    }
}

/// Calls `read` with growing buffers until the value fits; `read` returns as `getxattr` does.
pub(crate) fn whole_value(
    mut read: impl FnMut(*mut libc::c_void, usize) -> isize,
) -> Result<Vec<u8>, Errno> {
    let mut value = Vec::new();
    let mut room = 256;
    loop {
        value.try_reserve_exact(room).map_err(|_| Errno::ENOMEM)?;
        value.resize(room, 0);
        match usize::try_from(read(value.as_mut_ptr().cast(), room)) {
            Ok(length) => {
                value.truncate(length);
                return Ok(value);
            }
            Err(_) => match last_errno() {
                Errno::ERANGE if room < LONGEST_VALUE => room *= 4,
                why => return Err(why),
            },
        }
    }
}

fn clock(which: libc::clockid_t) -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a pointer to a live local. On an unknown clock it stays zero.
    unsafe { libc::clock_gettime(which, &mut now) };
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), now.tv_nsec as u32)
}

impl Outside for HostOutside {
    fn open(&self, path: &[u8], flags: u32, mode: u32) -> Result<Box<dyn OuterFile>, Errno> {
        let path = path_of(path)?;
        let flags = flags as libc::c_int | libc::O_CLOEXEC | libc::O_NOCTTY;
        if flags & (libc::O_CREAT | libc::O_TMPFILE) != 0 {
            without_umask();
        }
        // SAFETY: a NUL-terminated path.
        let fd = interrupt::retry(|| unsafe { libc::open(path.as_ptr(), flags, mode) } as isize)?;
        Ok(Box::new(HostFile::new(owned(fd)?)))
    }

    fn stat(&self, path: &[u8], follow: Follow) -> Result<Stat, Errno> {
        stat_at(
            libc::AT_FDCWD,
            &path_of(path)?,
            at_flags(follow) | libc::AT_NO_AUTOMOUNT,
        )
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        let path = path_of(path)?;
        let mut target = vec![0; libc::PATH_MAX as usize];
        // SAFETY: a NUL-terminated path, and a live buffer with its size.
        let length =
            unsafe { libc::readlink(path.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
        target.truncate(usize::try_from(length).map_err(|_| last_errno())?);
        Ok(target)
    }

    fn make_dir(&self, path: &[u8], mode: u32) -> Result<(), Errno> {
        let path = path_of(path)?;
        without_umask();
        // SAFETY: a NUL-terminated path.
        check(unsafe { libc::mkdir(path.as_ptr(), mode) })
    }

    fn remove_dir(&self, path: &[u8]) -> Result<(), Errno> {
        let path = path_of(path)?;
        // SAFETY: a NUL-terminated path.
        check(unsafe { libc::rmdir(path.as_ptr()) })
    }

    fn make_node(&self, path: &[u8], mode: u32, dev: u64) -> Result<(), Errno> {
        let path = path_of(path)?;
        without_umask();
        // SAFETY: a NUL-terminated path.
        check(unsafe { libc::mknod(path.as_ptr(), mode, dev) })
    }

    fn unlink(&self, path: &[u8]) -> Result<(), Errno> {
        let path = path_of(path)?;
        // SAFETY: a NUL-terminated path.
        check(unsafe { libc::unlink(path.as_ptr()) })
    }

    fn rename(&self, from: &[u8], to: &[u8], flags: u32) -> Result<(), Errno> {
        let (from, to) = (path_of(from)?, path_of(to)?);
        let here = libc::AT_FDCWD;
        // SAFETY: NUL-terminated paths.
        let result = unsafe {
            libc::syscall(
                libc::SYS_renameat2,
                here,
                from.as_ptr(),
                here,
                to.as_ptr(),
                flags,
            )
        };
        check(result as libc::c_int)
    }

    fn link(&self, from: &[u8], to: &[u8]) -> Result<(), Errno> {
        let (from, to) = (path_of(from)?, path_of(to)?);
        // SAFETY: NUL-terminated paths.
        check(unsafe {
            libc::linkat(
                libc::AT_FDCWD,
                from.as_ptr(),
                libc::AT_FDCWD,
                to.as_ptr(),
                0,
            )
        })
    }

    fn symlink(&self, target: &[u8], path: &[u8]) -> Result<(), Errno> {
        let (target, path) = (path_of(target)?, path_of(path)?);
        // SAFETY: NUL-terminated paths.
        check(unsafe { libc::symlink(target.as_ptr(), path.as_ptr()) })
    }

    fn set_mode(&self, path: &[u8], mode: u32) -> Result<(), Errno> {
        let path = path_of(path)?;
        // SAFETY: a NUL-terminated path.
        check(unsafe { libc::chmod(path.as_ptr(), mode) })
    }

    fn set_owner(&self, path: &[u8], uid: u32, gid: u32, follow: Follow) -> Result<(), Errno> {
        let path = path_of(path)?;
        // SAFETY: a NUL-terminated path.
        check(unsafe { libc::fchownat(libc::AT_FDCWD, path.as_ptr(), uid, gid, at_flags(follow)) })
    }

    fn set_times(
        &self,
        path: &[u8],
        atime: SetTime,
        mtime: SetTime,
        follow: Follow,
    ) -> Result<(), Errno> {
        let path = path_of(path)?;
        let times = [time_to_set(atime), time_to_set(mtime)];
        // SAFETY: a NUL-terminated path and an array of two times.
        check(unsafe {
            libc::utimensat(
                libc::AT_FDCWD,
                path.as_ptr(),
                times.as_ptr(),
                at_flags(follow),
            )
        })
    }

    fn access(&self, path: &[u8], mask: u32, who: AccessAs, follow: Follow) -> Result<(), Errno> {
        let path = path_of(path)?;
        let who = match who {
            AccessAs::Real => 0,
            AccessAs::Effective => libc::AT_EACCESS,
        };
        let flags = at_flags(follow) | who;
        // SAFETY: a NUL-terminated path.
        check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mask as libc::c_int, flags) })
    }

    fn stat_fs(&self, path: &[u8]) -> Result<StatFs, Errno> {
        let path = path_of(path)?;
        // SAFETY: plain numbers, all zero is a value.
        let mut found: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: a NUL-terminated path and a live local.
        check(unsafe { libc::statfs(path.as_ptr(), &mut found) })?;
        Ok(file_system(&found))
    }

    fn get_xattr(&self, path: &[u8], name: &[u8], follow: Follow) -> Result<Vec<u8>, Errno> {
        let (path, name) = (path_of(path)?, path_of(name)?);
        // SAFETY: NUL-terminated strings, and a live buffer with its size.
        whole_value(|into, room| unsafe {
            match follow {
                Follow::Yes => libc::getxattr(path.as_ptr(), name.as_ptr(), into, room),
                Follow::No => libc::lgetxattr(path.as_ptr(), name.as_ptr(), into, room),
            }
        })
    }

    fn list_xattr(&self, path: &[u8], follow: Follow) -> Result<Vec<u8>, Errno> {
        let path = path_of(path)?;
        // SAFETY: a NUL-terminated string, and a live buffer with its size.
        whole_value(|into, room| unsafe {
            match follow {
                Follow::Yes => libc::listxattr(path.as_ptr(), into.cast(), room),
                Follow::No => libc::llistxattr(path.as_ptr(), into.cast(), room),
            }
        })
    }

    fn sync(&self) {
        // SAFETY: takes nothing and changes no memory.
        unsafe { libc::sync() };
    }

    fn standard(&self, number: u32) -> Result<Box<dyn OuterFile>, Errno> {
        if number > 2 {
            return Err(Errno::EBADF);
        }
        // SAFETY: a call on numbers.
        let fd =
            interrupt::retry(
                || unsafe { libc::fcntl(number as RawFd, libc::F_DUPFD_CLOEXEC, 3) } as isize,
            )?;
        Ok(Box::new(HostFile::new(owned(fd)?)))
    }

    fn poll(&self, items: &mut [PollItem], timeout: Option<Duration>) -> Result<usize, Errno> {
        let mut files = Vec::new();
        files
            .try_reserve_exact(items.len())
            .map_err(|_| Errno::ENOMEM)?;
        files.extend(items.iter().map(|item| libc::pollfd {
            fd: RawFd::try_from(item.handle).unwrap_or(-1),
            events: item.events as i16,
            revents: 0,
        }));
        let ready = interrupt::poll(&mut files, timeout)?;
        for (item, file) in items.iter_mut().zip(&files) {
            item.revents = file.revents as u16;
        }
        Ok(ready)
    }

    fn realtime(&self) -> Duration {
        clock(libc::CLOCK_REALTIME)
    }

    fn monotonic(&self) -> Duration {
        clock(libc::CLOCK_MONOTONIC)
    }

    fn boottime(&self) -> Duration {
        clock(libc::CLOCK_BOOTTIME)
    }

    fn cpu_time(&self) -> (Duration, Duration) {
        let Some(pid) = interrupt::current_process() else {
            return (Duration::ZERO, Duration::ZERO);
        };
        let mut which = 0;
        // SAFETY: a number and a pointer to a live local.
        let known = unsafe { libc::clock_getcpuclockid(pid, &mut which) } == 0;
        (
            if known { clock(which) } else { Duration::ZERO },
            clock(libc::CLOCK_THREAD_CPUTIME_ID),
        )
    }

    fn random(&self, into: &mut [u8]) {
        let mut rest = into;
        while !rest.is_empty() {
            // SAFETY: a live buffer with its size.
            let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
            let Ok(got) = usize::try_from(got) else {
                if last_errno() == Errno::EINTR {
                    continue;
                }
                return;
            };
            rest = &mut rest[got..];
        }
    }

    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn sleep(&self, time: Duration) -> Result<(), Errno> {
        interrupt::poll(&mut [], Some(time)).map(drop)
    }
}

fn identity() -> Identity {
    let (mut uid, mut gid) = ([0; 3], [0; 3]);
    // SAFETY: calls on numbers, and pointers to live locals.
    unsafe {
        let [real, effective, saved] = &mut uid;
        libc::getresuid(real, effective, saved);
        let [real, effective, saved] = &mut gid;
        libc::getresgid(real, effective, saved);
        Identity {
            uid,
            gid,
            groups: groups(),
            umask: umask(),
            pid: libc::getpid() as u32,
            ppid: libc::getppid() as u32,
            pgid: libc::getpgrp() as u32,
            sid: libc::getsid(0) as u32,
            names: names(),
        }
    }
}

fn groups() -> Vec<u32> {
    // SAFETY: with size 0 nothing is written.
    let count = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
    let mut groups = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: a live buffer with its size.
    let count = unsafe { libc::getgroups(groups.len() as libc::c_int, groups.as_mut_ptr()) };
    groups.truncate(usize::try_from(count).unwrap_or(0));
    groups
}

/// The process's mask, read without changing it, which other threads would notice.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok())
        .unwrap_or(0o022)
}

fn names() -> SystemNames {
    // SAFETY: bytes, all zero is a value.
    let mut found: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: a pointer to a live local.
    unsafe { libc::uname(&mut found) };
    let text = |bytes: &[libc::c_char]| {
        bytes
            .iter()
            .map(|&b| b as u8)
            .take_while(|&b| b != 0)
            .collect()
    };
    SystemNames {
        sysname: text(&found.sysname),
        nodename: text(&found.nodename),
        release: text(&found.release),
        version: text(&found.version),
        machine: text(&found.machine),
        domainname: text(&found.domainname),
    }
}

/// The path under which an open file can be opened anew.
pub(crate) fn own_path(fd: &OwnedFd) -> io::Result<CString> {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(io::Error::from)
}

#[cfg(test)]
mod tests;

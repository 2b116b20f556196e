//! Calls that open, look at or change what a path or a descriptor names: open, stat, access, readlink, chmod, chown, times, statfs,
//! extended attributes.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;

use super::fd::{base, cwd, file, install, object_of, usable, view};
use super::{Arg, Call, SyscallContext, SyscallResult, call};
use crate::engine::Engine;
use crate::fs::attributes::{Change, Target};
use crate::fs::file::Body;
use crate::fs::vfs::{Ending, Missing, Object, Walked};
use crate::fs::{OnExec, OpenFile, abi};
use crate::outside::{
    AccessAs, FileKind, Follow, SetTime, Stat, StatFs, Timestamp, dev_major, dev_minor,
};

/// The calls of this module.
pub fn calls<E: Engine>() -> impl IntoIterator<Item = Call<E>> {
    use Arg::{DirFd, Fd, Hex, Int, Mode, Open, Path, Pointer, Size};
    [
        call(2, "open", &[Path, Open, Mode], open).restarts(),
        call(4, "stat", &[Path, Pointer], stat),
        call(5, "fstat", &[Fd, Pointer], fstat),
        call(6, "lstat", &[Path, Pointer], lstat),
        call(21, "access", &[Path, Int], access),
        call(85, "creat", &[Path, Mode], creat).restarts(),
        call(89, "readlink", &[Path, Pointer, Size], readlink),
        call(90, "chmod", &[Path, Mode], chmod),
        call(91, "fchmod", &[Fd, Mode], fchmod),
        call(92, "chown", &[Path, Int, Int], chown),
        call(93, "fchown", &[Fd, Int, Int], fchown),
        call(94, "lchown", &[Path, Int, Int], lchown),
        call(132, "utime", &[Path, Pointer], utime),
        call(137, "statfs", &[Path, Pointer], statfs),
        call(138, "fstatfs", &[Fd, Pointer], fstatfs),
        call(188, "setxattr", &[Path, Path, Pointer, Size, Hex], no_xattr),
        call(
            189,
            "lsetxattr",
            &[Path, Path, Pointer, Size, Hex],
            no_xattr,
        ),
        call(190, "fsetxattr", &[Fd, Path, Pointer, Size, Hex], no_xattr),
        call(191, "getxattr", &[Path, Path, Pointer, Size], getxattr),
        call(192, "lgetxattr", &[Path, Path, Pointer, Size], lgetxattr),
        call(193, "fgetxattr", &[Fd, Path, Pointer, Size], fgetxattr),
        call(194, "listxattr", &[Path, Pointer, Size], listxattr),
        call(195, "llistxattr", &[Path, Pointer, Size], llistxattr),
        call(196, "flistxattr", &[Fd, Pointer, Size], flistxattr),
        call(197, "removexattr", &[Path, Path], no_xattr),
        call(198, "lremovexattr", &[Path, Path], no_xattr),
        call(199, "fremovexattr", &[Fd, Path], no_xattr),
        call(235, "utimes", &[Path, Pointer], utimes),
        call(257, "openat", &[DirFd, Path, Open, Mode], openat).restarts(),
        call(260, "fchownat", &[DirFd, Path, Int, Int, Hex], fchownat),
        call(261, "futimesat", &[DirFd, Path, Pointer], futimesat),
        call(262, "newfstatat", &[DirFd, Path, Pointer, Hex], newfstatat),
        call(267, "readlinkat", &[DirFd, Path, Pointer, Size], readlinkat),
        call(268, "fchmodat", &[DirFd, Path, Mode], fchmodat),
        call(269, "faccessat", &[DirFd, Path, Int], faccessat),
        call(280, "utimensat", &[DirFd, Path, Pointer, Hex], utimensat),
        call(332, "statx", &[DirFd, Path, Hex, Hex, Pointer], statx),
        call(437, "openat2", &[DirFd, Path, Pointer, Size], openat2).restarts(),
        call(439, "faccessat2", &[DirFd, Path, Int, Hex], faccessat2),
        call(452, "fchmodat2", &[DirFd, Path, Mode, Hex], fchmodat2),
    ]
}

const fn follow_of(flags: u32) -> Follow {
    if flags & abi::AT_SYMLINK_NOFOLLOW != 0 {
        Follow::No
    } else {
        Follow::Yes
    }
}

/// What a path or a descriptor names.
enum Named<E: Engine> {
    Found(Box<Walked<E>>),
    Open(Arc<OpenFile<E>>),
}

impl<E: Engine> Named<E> {
    fn target(&self) -> Target<'_, E> {
        match self {
            Named::Found(found) => Target::Found(found),
            Named::Open(file) => Target::Open(file),
        }
    }
}

fn walk<E: Engine>(
    cx: &SyscallContext<'_, E>,
    base: &[u8],
    path: &[u8],
    follow: Follow,
) -> Result<Named<E>, Errno> {
    view(cx)
        .session()
        .walk(base, path, follow, Missing::Error)
        .map(|found| Named::Found(Box::new(found)))
}

/// What path argument `n` names, from the working directory.
fn plain<E: Engine>(
    cx: &SyscallContext<'_, E>,
    n: usize,
    follow: Follow,
) -> Result<Named<E>, Errno> {
    walk(cx, &cwd(cx), &cx.read_path(cx.addr(n))?, follow)
}

/// What directory descriptor argument `n` and the path after it name; with AT_EMPTY_PATH and an empty path, the descriptor itself.
fn at<E: Engine>(cx: &SyscallContext<'_, E>, n: usize, flags: u32) -> Result<Named<E>, Errno> {
    let may_be_empty = flags & abi::AT_EMPTY_PATH != 0;
    let path = match cx.addr_opt(n + 1) {
        None if may_be_empty => Vec::new(),
        _ => cx.read_path(cx.addr(n + 1))?,
    };
    if path.is_empty() && may_be_empty {
        return match cx.int(n) {
            abi::AT_FDCWD => walk(cx, &cwd(cx), b".", Follow::Yes),
            _ => named_by_descriptor(cx, file(cx, n)?),
        };
    }
    walk(cx, &base(cx, n, &path)?, &path, follow_of(flags))
}

/// A descriptor opened with O_PATH stands for the place it names.
fn named_by_descriptor<E: Engine>(
    cx: &SyscallContext<'_, E>,
    file: Arc<OpenFile<E>>,
) -> Result<Named<E>, Errno> {
    if !matches!(file.body, Body::Path(..)) {
        return Ok(Named::Open(file));
    }
    let stat = file.stat(&view(cx).session())?;
    let object = object_of(&file);
    let found = Walked {
        path: file.path.clone(),
        object: Some(object.clone()),
        stat,
        parent: object,
        ending: Ending::Name,
    };
    Ok(Named::Found(Box::new(found)))
}

fn open_at<E: Engine>(
    cx: &SyscallContext<'_, E>,
    base: &[u8],
    path: &[u8],
    flags: u32,
    mode: u32,
) -> SyscallResult {
    let file = view(cx)
        .session()
        .open(base, path, flags | abi::O_LARGEFILE, mode)?;
    install(cx, file, OnExec::from_bit(flags, abi::O_CLOEXEC))
}

/// The flags that `open` knows; it ignores others, `openat2` does not.
const OPEN_FLAGS: u32 = abi::O_ACCMODE
    | abi::O_CREAT
    | abi::O_EXCL
    | abi::O_NOCTTY
    | abi::O_TRUNC
    | abi::O_APPEND
    | abi::O_NONBLOCK
    | abi::O_SYNC
    | abi::O_ASYNC
    | abi::O_DIRECT
    | abi::O_LARGEFILE
    | abi::O_DIRECTORY
    | abi::O_NOFOLLOW
    | abi::O_NOATIME
    | abi::O_CLOEXEC
    | abi::O_PATH
    | abi::O_TMPFILE;

fn open<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let path = cx.read_path(cx.addr(0))?;
    open_at(cx, &cwd(cx), &path, cx.uint(1) & OPEN_FLAGS, cx.uint(2))
}

fn creat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let path = cx.read_path(cx.addr(0))?;
    open_at(
        cx,
        &cwd(cx),
        &path,
        abi::O_CREAT | abi::O_WRONLY | abi::O_TRUNC,
        cx.uint(1),
    )
}

fn openat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let path = cx.read_path(cx.addr(1))?;
    let base = base(cx, 0, &path)?;
    open_at(cx, &base, &path, cx.uint(2) & OPEN_FLAGS, cx.uint(3))
}

fn openat2<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const SIZE: u64 = 24;
    const PAGE: u64 = 4096;
    const RESOLVE_NO_XDEV: u64 = 1;
    if cx.args[3] < SIZE {
        return Err(Errno::EINVAL);
    }
    if cx.args[3] > PAGE {
        return Err(Errno::E2BIG);
    }
    let [flags, mode, resolve] = cx.read_words(cx.addr(2))?;
    let rest = cx.addr(2).checked_add(SIZE).ok_or(Errno::EFAULT)?;
    if cx
        .read_vec(rest, (cx.args[3] - SIZE) as usize)?
        .iter()
        .any(|&byte| byte != 0)
    {
        return Err(Errno::E2BIG);
    }
    let creates = flags & u64::from(abi::O_CREAT | abi::O_TMPFILE_BIT) != 0;
    if flags & !u64::from(OPEN_FLAGS) != 0
        || mode & !0o7777 != 0
        || mode != 0 && !creates
        || resolve & !0x3f != 0
    {
        return Err(Errno::EINVAL);
    }
    // A restriction on the walk that is not kept must not seem kept.
    if resolve & !RESOLVE_NO_XDEV != 0 {
        return Err(Errno::ENOSYS);
    }
    let path = cx.read_path(cx.addr(1))?;
    let base = base(cx, 0, &path)?;
    open_at(cx, &base, &path, flags as u32, mode as u32)
}

fn stat_of<E: Engine>(cx: &SyscallContext<'_, E>, named: &Named<E>) -> Result<Stat, Errno> {
    match named {
        Named::Found(found) => Ok(found.stat),
        Named::Open(file) => file.stat(&view(cx).session()),
    }
}

/// `struct stat`.
fn encode_stat(stat: &Stat) -> [u8; 144] {
    let mut words = [0u64; 18];
    words[..3].copy_from_slice(&[stat.dev, stat.ino, stat.nlink]);
    words[3] = u64::from(stat.mode) | u64::from(stat.uid) << 32;
    words[4] = u64::from(stat.gid);
    words[5..9].copy_from_slice(&[stat.rdev, stat.size, stat.block_size, stat.blocks]);
    for (n, time) in [stat.atime, stat.mtime, stat.ctime].into_iter().enumerate() {
        words[9 + 2 * n] = time.seconds as u64;
        words[10 + 2 * n] = time.nanoseconds.into();
    }
    let mut bytes = [0; 144];
    for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn store_stat<E: Engine>(cx: &SyscallContext<'_, E>, named: &Named<E>, n: usize) -> SyscallResult {
    let stat = stat_of(cx, named)?;
    cx.write(cx.addr(n), &encode_stat(&stat)).map(|()| 0)
}

fn stat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    store_stat(cx, &plain(cx, 0, Follow::Yes)?, 1)
}

fn lstat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    store_stat(cx, &plain(cx, 0, Follow::No)?, 1)
}

fn fstat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    store_stat(cx, &Named::Open(file(cx, 0)?), 1)
}

fn newfstatat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let flags = cx.uint(3);
    if flags & !(abi::AT_SYMLINK_NOFOLLOW | abi::AT_NO_AUTOMOUNT | abi::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    store_stat(cx, &at(cx, 0, flags)?, 2)
}

/// `struct statx`.
fn encode_statx(stat: &Stat) -> [u8; 256] {
    const BASIC: u32 = 0x7ff;
    const BTIME: u32 = 0x800;
    const MNT_ID: u32 = 0x1000;
    let mut bytes = [0; 256];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let mount = if stat.mount_id != 0 { MNT_ID } else { 0 };
    let birth = if stat.btime.is_some() { BTIME } else { 0 };
    put(0, &(BASIC | birth | mount).to_le_bytes());
    put(4, &(stat.block_size as u32).to_le_bytes());
    put(16, &(stat.nlink as u32).to_le_bytes());
    put(20, &stat.uid.to_le_bytes());
    put(24, &stat.gid.to_le_bytes());
    put(28, &(stat.mode as u16).to_le_bytes());
    put(32, &stat.ino.to_le_bytes());
    put(40, &stat.size.to_le_bytes());
    put(48, &stat.blocks.to_le_bytes());
    let times = [
        stat.atime,
        stat.btime.unwrap_or_default(),
        stat.ctime,
        stat.mtime,
    ];
    for (n, time) in times.into_iter().enumerate() {
        put(64 + 16 * n, &time.seconds.to_le_bytes());
        put(72 + 16 * n, &time.nanoseconds.to_le_bytes());
    }
    put(128, &dev_major(stat.rdev).to_le_bytes());
    put(132, &dev_minor(stat.rdev).to_le_bytes());
    put(136, &dev_major(stat.dev).to_le_bytes());
    put(140, &dev_minor(stat.dev).to_le_bytes());
    put(144, &stat.mount_id.to_le_bytes());
    bytes
}

fn statx<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const RESERVED: u32 = 0x8000_0000;
    let (flags, mask) = (cx.uint(2), cx.uint(3));
    let known = abi::AT_SYMLINK_NOFOLLOW
        | abi::AT_NO_AUTOMOUNT
        | abi::AT_EMPTY_PATH
        | abi::AT_STATX_SYNC_TYPE;
    if mask & RESERVED != 0
        || flags & !known != 0
        || flags & abi::AT_STATX_SYNC_TYPE == abi::AT_STATX_SYNC_TYPE
    {
        return Err(Errno::EINVAL);
    }
    let named = at(cx, 0, flags)?;
    let stat = stat_of(cx, &named)?;
    cx.write(cx.addr(4), &encode_statx(&stat)).map(|()| 0)
}

fn check_access<E: Engine>(
    cx: &SyscallContext<'_, E>,
    named: &Named<E>,
    mask: u32,
    who: AccessAs,
) -> SyscallResult {
    if mask & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let view = view(cx);
    let session = view.session();
    match named {
        Named::Found(found) => session.access(found, mask, who)?,
        Named::Open(file) => session.check_rights(&file.stat(&session)?, mask)?,
    }
    Ok(0)
}

fn access<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    check_access(cx, &plain(cx, 0, Follow::Yes)?, cx.uint(1), AccessAs::Real)
}

fn faccessat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    check_access(cx, &at(cx, 0, 0)?, cx.uint(2), AccessAs::Real)
}

fn faccessat2<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let flags = cx.uint(3);
    if flags & !(abi::AT_EACCESS | abi::AT_SYMLINK_NOFOLLOW | abi::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let who = if flags & abi::AT_EACCESS != 0 {
        AccessAs::Effective
    } else {
        AccessAs::Real
    };
    check_access(cx, &at(cx, 0, flags)?, cx.uint(2), who)
}

fn store_link<E: Engine>(
    cx: &SyscallContext<'_, E>,
    named: &Named<E>,
    to: VirtAddr,
    room: i32,
) -> SyscallResult {
    let room = usize::try_from(room)
        .ok()
        .filter(|&room| room != 0)
        .ok_or(Errno::EINVAL)?;
    let view = view(cx);
    let session = view.session();
    let Named::Found(found) = named else {
        return Err(Errno::EINVAL);
    };
    let target = match found.found()? {
        Object::Proc(node) => node.link_text(&session)?,
        object => match session.link_target(object)? {
            crate::fs::proc::Link::Path(path) => path,
            crate::fs::proc::Link::File(file) => file.path.clone(),
        },
    };
    let count = target.len().min(room);
    cx.write(to, &target[..count])?;
    Ok(count as u64)
}

fn readlink<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    store_link(cx, &plain(cx, 0, Follow::No)?, cx.addr(1), cx.int(2))
}

fn readlinkat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    // An empty path means the descriptor, which must be of a link opened with O_PATH.
    let path = cx.read_path(cx.addr(1))?;
    let named = match path.is_empty() {
        true if cx.int(0) == abi::AT_FDCWD => return Err(Errno::ENOENT),
        true => match named_by_descriptor(cx, file(cx, 0)?)? {
            Named::Found(found) if found.stat.kind() == FileKind::Symlink => Named::Found(found),
            _ => return Err(Errno::ENOENT),
        },
        false => walk(cx, &base(cx, 0, &path)?, &path, Follow::No)?,
    };
    store_link(cx, &named, cx.addr(2), cx.int(3))
}

fn change<E: Engine>(
    cx: &SyscallContext<'_, E>,
    named: &Named<E>,
    change: Change,
) -> SyscallResult {
    view(cx)
        .session()
        .change(named.target(), change)
        .map(|()| 0)
}

fn chmod<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    change(cx, &plain(cx, 0, Follow::Yes)?, Change::Mode(cx.uint(1)))
}

fn fchmod<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    change(cx, &Named::Open(usable(cx, 0)?), Change::Mode(cx.uint(1)))
}

fn fchmodat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    change(cx, &at(cx, 0, 0)?, Change::Mode(cx.uint(2)))
}

fn fchmodat2<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let flags = cx.uint(3);
    if flags & !(abi::AT_SYMLINK_NOFOLLOW | abi::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    change(cx, &at(cx, 0, flags)?, Change::Mode(cx.uint(2)))
}

fn chown<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    change(
        cx,
        &plain(cx, 0, Follow::Yes)?,
        Change::Owner(cx.uint(1), cx.uint(2)),
    )
}

fn lchown<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    change(
        cx,
        &plain(cx, 0, Follow::No)?,
        Change::Owner(cx.uint(1), cx.uint(2)),
    )
}

fn fchown<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    change(
        cx,
        &Named::Open(usable(cx, 0)?),
        Change::Owner(cx.uint(1), cx.uint(2)),
    )
}

fn fchownat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let flags = cx.uint(4);
    if flags & !(abi::AT_SYMLINK_NOFOLLOW | abi::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    change(
        cx,
        &at(cx, 0, flags)?,
        Change::Owner(cx.uint(2), cx.uint(3)),
    )
}

const NOW_TWICE: [SetTime; 2] = [SetTime::Now, SetTime::Now];

fn set_times<E: Engine>(
    cx: &SyscallContext<'_, E>,
    named: &Named<E>,
    times: [SetTime; 2],
) -> SyscallResult {
    if times == [SetTime::Keep, SetTime::Keep] {
        return Ok(0);
    }
    change(cx, named, Change::Times(times[0], times[1]))
}

/// Two `struct timespec`, with UTIME_NOW and UTIME_OMIT.
fn timespecs<E: Engine>(cx: &SyscallContext<'_, E>, n: usize) -> Result<[SetTime; 2], Errno> {
    const UTIME_NOW: u64 = 0x3fff_ffff;
    const UTIME_OMIT: u64 = 0x3fff_fffe;
    let Some(from) = cx.addr_opt(n) else {
        return Ok(NOW_TWICE);
    };
    let words: [u64; 4] = cx.read_words(from)?;
    let time = |seconds: u64, nanoseconds: u64| match nanoseconds {
        UTIME_NOW => Ok(SetTime::Now),
        UTIME_OMIT => Ok(SetTime::Keep),
        0..1_000_000_000 => Ok(SetTime::At(Timestamp {
            seconds: seconds as i64,
            nanoseconds: nanoseconds as u32,
        })),
        _ => Err(Errno::EINVAL),
    };
    Ok([time(words[0], words[1])?, time(words[2], words[3])?])
}

/// Two `struct timeval`.
fn timevals<E: Engine>(cx: &SyscallContext<'_, E>, n: usize) -> Result<[SetTime; 2], Errno> {
    let Some(from) = cx.addr_opt(n) else {
        return Ok(NOW_TWICE);
    };
    let words: [u64; 4] = cx.read_words(from)?;
    let time = |seconds: u64, micros: u64| match micros {
        0..1_000_000 => Ok(SetTime::At(Timestamp {
            seconds: seconds as i64,
            nanoseconds: micros as u32 * 1000,
        })),
        _ => Err(Errno::EINVAL),
    };
    Ok([time(words[0], words[1])?, time(words[2], words[3])?])
}

fn utime<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let whole = |seconds: u64| {
        SetTime::At(Timestamp {
            seconds: seconds as i64,
            nanoseconds: 0,
        })
    };
    let times = match cx.addr_opt(1) {
        None => NOW_TWICE,
        Some(from) => cx
            .read_words(from)
            .map(|words: [u64; 2]| words.map(whole))?,
    };
    set_times(cx, &plain(cx, 0, Follow::Yes)?, times)
}

fn utimes<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let times = timevals(cx, 1)?;
    set_times(cx, &plain(cx, 0, Follow::Yes)?, times)
}

fn futimesat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let times = timevals(cx, 2)?;
    if cx.addr_opt(1).is_none() {
        return set_times(cx, &Named::Open(usable(cx, 0)?), times);
    }
    set_times(cx, &at(cx, 0, 0)?, times)
}

fn utimensat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let flags = cx.uint(3);
    let times = timespecs(cx, 2)?;
    if times == [SetTime::Keep, SetTime::Keep] {
        return Ok(0);
    }
    if flags & !(abi::AT_SYMLINK_NOFOLLOW | abi::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    if cx.addr_opt(1).is_none() && flags & abi::AT_EMPTY_PATH == 0 {
        return match (cx.int(0), flags) {
            (abi::AT_FDCWD, _) => Err(Errno::EFAULT),
            (_, 0) => set_times(cx, &Named::Open(usable(cx, 0)?), times),
            _ => Err(Errno::EINVAL),
        };
    }
    set_times(cx, &at(cx, 0, flags)?, times)
}

fn store_statfs<E: Engine>(cx: &SyscallContext<'_, E>, named: &Named<E>) -> SyscallResult {
    let StatFs {
        kind,
        block_size,
        blocks,
        free,
        available,
        files,
        files_free,
        fsid,
        name_length,
        fragment_size,
        flags,
    } = view(cx).session().stat_fs(named.target())?;
    let fsid = u64::from(fsid[0]) | u64::from(fsid[1]) << 32;
    let words = [
        kind,
        block_size,
        blocks,
        free,
        available,
        files,
        files_free,
        fsid,
        name_length,
        fragment_size,
        flags,
    ];
    cx.write_words(cx.addr(1), words)?;
    let spare = cx.addr(1).checked_add(88).ok_or(Errno::EFAULT)?;
    cx.write_words(spare, [0; 4]).map(|()| 0)
}

fn statfs<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    store_statfs(cx, &plain(cx, 0, Follow::Yes)?)
}

fn fstatfs<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    store_statfs(cx, &Named::Open(file(cx, 0)?))
}

/// A value or a list of names into user memory; a size of 0 only asks how long it is.
fn store_xattr<E: Engine>(
    cx: &SyscallContext<'_, E>,
    value: &[u8],
    to: VirtAddr,
    room: u64,
) -> SyscallResult {
    if room != 0 {
        if (value.len() as u64) > room {
            return Err(Errno::ERANGE);
        }
        cx.write(to, value)?;
    }
    Ok(value.len() as u64)
}

fn get_xattr<E: Engine>(cx: &SyscallContext<'_, E>, named: &Named<E>) -> SyscallResult {
    const LONGEST_NAME: usize = 255;
    let too_long = |error| {
        if error == Errno::ENAMETOOLONG {
            Errno::ERANGE
        } else {
            error
        }
    };
    let name = cx
        .read_cstr(cx.addr(1), LONGEST_NAME + 1)
        .map_err(too_long)?;
    if name.is_empty() {
        return Err(Errno::ERANGE);
    }
    let value = view(cx).session().xattr(named.target(), Some(&name))?;
    store_xattr(cx, &value, cx.addr(2), cx.args[3])
}

fn getxattr<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    get_xattr(cx, &plain(cx, 0, Follow::Yes)?)
}

fn lgetxattr<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    get_xattr(cx, &plain(cx, 0, Follow::No)?)
}

fn fgetxattr<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    get_xattr(cx, &Named::Open(usable(cx, 0)?))
}

fn list_xattr<E: Engine>(cx: &SyscallContext<'_, E>, named: &Named<E>) -> SyscallResult {
    let names = view(cx).session().xattr(named.target(), None)?;
    store_xattr(cx, &names, cx.addr(1), cx.args[2])
}

fn listxattr<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    list_xattr(cx, &plain(cx, 0, Follow::Yes)?)
}

fn llistxattr<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    list_xattr(cx, &plain(cx, 0, Follow::No)?)
}

fn flistxattr<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    list_xattr(cx, &Named::Open(usable(cx, 0)?))
}

/// Extended attributes are shown, not changed.
fn no_xattr<E: Engine>(_: &mut SyscallContext<'_, E>) -> SyscallResult {
    Err(Errno::EOPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outside::make_dev;

    #[test]
    fn attributes_have_linux_layout() {
        let mtime = Timestamp {
            seconds: -5,
            nanoseconds: 7,
        };
        let stat = Stat {
            dev: make_dev(8, 1),
            ino: 9,
            mode: 0o100644,
            nlink: 2,
            uid: 3,
            gid: 4,
            size: 5,
            mtime,
            ..Stat::default()
        };
        let old = encode_stat(&stat);
        assert_eq!(
            &old[..28],
            &[
                &0x801u64.to_le_bytes()[..],
                &9u64.to_le_bytes(),
                &2u64.to_le_bytes(),
                &0o100644u32.to_le_bytes()
            ]
            .concat()
        );
        assert_eq!(
            (&old[28..32], &old[32..36], &old[48..56]),
            (
                &3u32.to_le_bytes()[..],
                &4u32.to_le_bytes()[..],
                &5u64.to_le_bytes()[..]
            )
        );
        assert_eq!(
            (&old[88..96], &old[96..104]),
            (&(-5i64).to_le_bytes()[..], &7u64.to_le_bytes()[..])
        );
        let new = encode_statx(&stat);
        assert_eq!(
            (&new[28..30], &new[40..48]),
            (&0o100644u16.to_le_bytes()[..], &5u64.to_le_bytes()[..])
        );
        assert_eq!(
            (&new[112..120], &new[136..140]),
            (&(-5i64).to_le_bytes()[..], &8u32.to_le_bytes()[..])
        );
    }
}

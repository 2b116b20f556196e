//! Calls on descriptors: close, dup, fcntl, pipes, memfd, eventfd, flock; and the answer to sockets. Helpers that the other file
//! modules share stand first.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::object::Seals;

use super::{Arg, Call, SyscallContext, SyscallResult, call};
use crate::engine::Engine;
use crate::fs::file::{Body, Position, Regular};
use crate::fs::inode::Inode;
use crate::fs::memory::{Contents, MemoryNode};
use crate::fs::pipe::{CountBy, EventCounter, PipeEnd};
use crate::fs::vfs::Object;
use crate::fs::{OnExec, OpenFile, TaskOf, abi};

/// The calls of this module.
pub fn calls<E: Engine>() -> impl IntoIterator<Item = Call<E>> {
    use Arg::{Fd, Hex, Int, Pointer, Size};
    [
        call(3, "close", &[Fd], close),
        call(22, "pipe", &[Pointer], pipe),
        call(32, "dup", &[Fd], dup),
        call(33, "dup2", &[Fd, Fd], dup2),
        call(41, "socket", &[Int, Int, Int], socket),
        call(53, "socketpair", &[Int, Int, Int, Pointer], socket),
        call(72, "fcntl", &[Fd, Int, Hex], fcntl).restarts(),
        call(73, "flock", &[Fd, Int], flock).restarts(),
        call(95, "umask", &[Arg::Mode], umask),
        call(284, "eventfd", &[Int], eventfd),
        call(290, "eventfd2", &[Int, Hex], eventfd2),
        call(292, "dup3", &[Fd, Fd, Hex], dup3),
        call(293, "pipe2", &[Pointer, Hex], pipe2),
        call(319, "memfd_create", &[Arg::Path, Hex], memfd_create),
        call(436, "close_range", &[Fd, Fd, Hex], close_range),
        // What only sockets have: a descriptor that is none.
        call(42, "connect", &[Fd, Pointer, Size], not_a_socket),
        call(43, "accept", &[Fd, Pointer, Pointer], not_a_socket),
        call(
            44,
            "sendto",
            &[Fd, Pointer, Size, Hex, Pointer, Size],
            not_a_socket,
        ),
        call(
            45,
            "recvfrom",
            &[Fd, Pointer, Size, Hex, Pointer, Pointer],
            not_a_socket,
        ),
        call(46, "sendmsg", &[Fd, Pointer, Hex], not_a_socket),
        call(47, "recvmsg", &[Fd, Pointer, Hex], not_a_socket),
        call(48, "shutdown", &[Fd, Int], not_a_socket),
        call(49, "bind", &[Fd, Pointer, Size], not_a_socket),
        call(50, "listen", &[Fd, Int], not_a_socket),
        call(51, "getsockname", &[Fd, Pointer, Pointer], not_a_socket),
        call(52, "getpeername", &[Fd, Pointer, Pointer], not_a_socket),
        call(
            54,
            "setsockopt",
            &[Fd, Int, Int, Pointer, Size],
            not_a_socket,
        ),
        call(
            55,
            "getsockopt",
            &[Fd, Int, Int, Pointer, Pointer],
            not_a_socket,
        ),
        call(288, "accept4", &[Fd, Pointer, Pointer, Hex], not_a_socket),
    ]
}

/// The task as files see it.
pub(super) fn view<'c, E: Engine>(cx: &'c SyscallContext<'_, E>) -> TaskOf<'c, E> {
    TaskOf {
        kernel: cx.kernel,
        task: cx.task,
    }
}

/// The open file behind descriptor argument `n`.
pub(super) fn file<E: Engine>(
    cx: &SyscallContext<'_, E>,
    n: usize,
) -> Result<Arc<OpenFile<E>>, Errno> {
    cx.task.files.read().get(cx.uint(n)).cloned()
}

/// As [`file`], but not one opened with O_PATH, which most calls refuse. `fdget` against `fdget_raw`.
pub(super) fn usable<E: Engine>(
    cx: &SyscallContext<'_, E>,
    n: usize,
) -> Result<Arc<OpenFile<E>>, Errno> {
    let file = file(cx, n)?;
    if matches!(file.body, Body::Path(..)) {
        Err(Errno::EBADF)
    } else {
        Ok(file)
    }
}

/// Where a path that comes with directory descriptor argument `n` starts.
pub(super) fn base<E: Engine>(
    cx: &SyscallContext<'_, E>,
    n: usize,
    path: &[u8],
) -> Result<Vec<u8>, Errno> {
    match path.first() {
        Some(b'/') => Ok(b"/".to_vec()),
        _ if cx.int(n) == abi::AT_FDCWD => Ok(cwd(cx)),
        _ => file(cx, n)?.directory_path().map(<[u8]>::to_vec),
    }
}

/// The working directory.
pub(super) fn cwd<E: Engine>(cx: &SyscallContext<'_, E>) -> Vec<u8> {
    cx.task.place.read().cwd.clone()
}

/// Gives a file the lowest free descriptor.
pub(super) fn install<E: Engine>(
    cx: &SyscallContext<'_, E>,
    file: OpenFile<E>,
    on_exec: OnExec,
) -> SyscallResult {
    let fd = cx.task.files.write().insert(Arc::new(file), 0, on_exec)?;
    Ok(fd.into())
}

fn close<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let file = cx.task.files.write().remove(cx.uint(0))?;
    // What a mapping dirtied reaches the outer file now, while there is somebody to tell of an error.
    match file.regular() {
        Some(regular) if file.is_writable() && Arc::strong_count(&file) == 1 => {
            regular.inode.write_back().map(|()| 0)
        }
        _ => Ok(0),
    }
}

fn close_range<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    let (first, last, flags) = (cx.uint(0), cx.uint(1), cx.uint(2));
    if flags & !(UNSHARE | CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    let mut files = cx.task.files.write();
    let open: Vec<u32> = files.open_in(first, last).map(|(fd, _)| fd).collect();
    let mut closed = Vec::new();
    for fd in open {
        match flags & CLOEXEC {
            0 => closed.push(files.remove(fd)?),
            _ => files.set_on_exec(fd, OnExec::Close)?,
        }
    }
    drop(files);
    Ok(0)
}

fn dup<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let file = file(cx, 0)?;
    let fd = cx.task.files.write().insert(file, 0, OnExec::Keep)?;
    Ok(fd.into())
}

fn dup2<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let file = file(cx, 0)?;
    if cx.uint(0) == cx.uint(1) {
        return Ok(cx.uint(1).into());
    }
    replace(cx, file, OnExec::Keep)
}

fn dup3<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    if cx.uint(2) & !abi::O_CLOEXEC != 0 || cx.uint(0) == cx.uint(1) {
        return Err(Errno::EINVAL);
    }
    let file = file(cx, 0)?;
    replace(cx, file, OnExec::from_bit(cx.uint(2), abi::O_CLOEXEC))
}

fn replace<E: Engine>(
    cx: &SyscallContext<'_, E>,
    file: Arc<OpenFile<E>>,
    on_exec: OnExec,
) -> SyscallResult {
    let old = cx.task.files.write().replace(cx.uint(1), file, on_exec)?;
    drop(old);
    Ok(cx.uint(1).into())
}

fn umask<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let mut place = cx.task.place.write();
    Ok(core::mem::replace(&mut place.umask, cx.uint(0) & 0o777).into())
}

fn pipe<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    make_pipe(cx, 0)
}

fn pipe2<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let flags = cx.uint(1);
    if flags & !(abi::O_CLOEXEC | abi::O_NONBLOCK | abi::O_DIRECT) != 0 {
        return Err(Errno::EINVAL);
    }
    make_pipe(cx, flags)
}

fn make_pipe<E: Engine>(cx: &SyscallContext<'_, E>, flags: u32) -> SyscallResult {
    let number = cx.kernel.vfs().new_number();
    let path = alloc::format!("pipe:[{number}]").into_bytes();
    let (read, write) = PipeEnd::pair(number);
    let status = flags & abi::O_NONBLOCK;
    let on_exec = OnExec::from_bit(flags, abi::O_CLOEXEC);
    let read = install(
        cx,
        OpenFile::new(Body::Pipe(read), path.clone(), abi::O_RDONLY | status),
        on_exec,
    )?;
    let write = install(
        cx,
        OpenFile::new(Body::Pipe(write), path, abi::O_WRONLY | status),
        on_exec,
    );
    let told = write.and_then(|write| {
        let mut pair = [0; 8];
        pair[..4].copy_from_slice(&(read as u32).to_ne_bytes());
        pair[4..].copy_from_slice(&(write as u32).to_ne_bytes());
        cx.write(cx.addr(0), &pair)
            .inspect_err(|_| drop(cx.task.files.write().remove(write as u32)))
    });
    if told.is_err() {
        drop(cx.task.files.write().remove(read as u32));
    }
    told.map(|()| 0)
}

fn eventfd<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    make_event(cx, 0)
}

fn eventfd2<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    make_event(cx, cx.uint(1))
}

fn make_event<E: Engine>(cx: &SyscallContext<'_, E>, flags: u32) -> SyscallResult {
    const SEMAPHORE: u32 = 1;
    if flags & !(SEMAPHORE | abi::O_CLOEXEC | abi::O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let by = if flags & SEMAPHORE != 0 {
        CountBy::One
    } else {
        CountBy::All
    };
    let body = Body::Event(EventCounter::new(cx.uint(0), by));
    let file = OpenFile::new(
        body,
        b"anon_inode:[eventfd]".to_vec(),
        abi::O_RDWR | flags & abi::O_NONBLOCK,
    );
    install(cx, file, OnExec::from_bit(flags, abi::O_CLOEXEC))
}

fn memfd_create<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const CLOEXEC: u32 = 0x1;
    const ALLOW_SEALING: u32 = 0x2;
    const NOEXEC_SEAL: u32 = 0x8;
    const EXEC: u32 = 0x10;
    const LONGEST_NAME: usize = 249;
    let mut flags = cx.uint(1);
    if flags & !(CLOEXEC | ALLOW_SEALING | NOEXEC_SEAL | EXEC) != 0
        || flags & (NOEXEC_SEAL | EXEC) == NOEXEC_SEAL | EXEC
    {
        return Err(Errno::EINVAL);
    }
    let vfs = cx.kernel.vfs();
    // `check_sysctl_memfd_noexec`: what is not said follows the setting, and the strictest one allows nothing else.
    let noexec = vfs.tunables().memfd_noexec.load(Ordering::Relaxed);
    if flags & (NOEXEC_SEAL | EXEC) == 0 && noexec != 0 {
        flags |= NOEXEC_SEAL;
    }
    if flags & NOEXEC_SEAL == 0 && noexec > 1 {
        return Err(Errno::EACCES);
    }
    let too_long = |error| {
        if error == Errno::ENAMETOOLONG {
            Errno::EINVAL
        } else {
            error
        }
    };
    let name = cx
        .read_cstr(cx.addr(0), LONGEST_NAME + 1)
        .map_err(too_long)?;
    let number = vfs.new_number();
    let (permissions, seals) = match flags {
        _ if flags & NOEXEC_SEAL != 0 => (0o666, Seals::EXEC),
        _ if flags & ALLOW_SEALING != 0 => (0o777, Seals::empty()),
        _ => (0o777, Seals::SEAL),
    };
    let mut stat = vfs.kernel_stat(0o100000 | permissions, number);
    let now = view(cx).session().now();
    (stat.nlink, stat.atime, stat.mtime, stat.ctime) = (0, now, now, now);
    let inode = Arc::new(Inode::memory(cx.kernel.machine(), (stat.dev, stat.ino))?);
    inode.cache().allow_sealing(seals);
    let memory = Arc::new(MemoryNode::new(stat, Contents::Regular(inode.clone())));
    let body = Body::Regular(Regular::new(
        inode,
        None,
        Some(memory),
        Position::Here,
        abi::O_RDWR,
    )?);
    let path = [b"/memfd:", name.as_slice(), b" (deleted)"].concat();
    install(
        cx,
        OpenFile::new(body, path, abi::O_RDWR | abi::O_LARGEFILE),
        OnExec::from_bit(flags, CLOEXEC),
    )
}

fn flock<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const NONBLOCK: u32 = 4;
    let (file, operation) = (usable(cx, 0)?, cx.uint(1));
    if !matches!(operation & !NONBLOCK, 1 | 2 | 8) {
        return Err(Errno::EINVAL);
    }
    // A lock of a file that only this kernel knows has nobody to contend with.
    file.outer()
        .map_or(Ok(()), |outer| outer.lock(operation))
        .map(|()| 0)
}

/// There is no network: the honest answer is that no address family is supported.
fn socket<E: Engine>(_: &mut SyscallContext<'_, E>) -> SyscallResult {
    const EAFNOSUPPORT: i32 = 97;
    Err(Errno::from_raw(EAFNOSUPPORT))
}

fn not_a_socket<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const ENOTSOCK: i32 = 88;
    usable(cx, 0)?;
    Err(Errno::from_raw(ENOTSOCK))
}

const F_DUPFD: u32 = 0;
const F_GETFD: u32 = 1;
const F_SETFD: u32 = 2;
const F_GETFL: u32 = 3;
const F_SETFL: u32 = 4;
const F_GETLK: u32 = 5;
const F_SETLK: u32 = 6;
const F_SETLKW: u32 = 7;
const F_SETOWN: u32 = 8;
const F_GETOWN: u32 = 9;
const F_OFD_GETLK: u32 = 36;
const F_OFD_SETLK: u32 = 37;
const F_OFD_SETLKW: u32 = 38;
const F_DUPFD_QUERY: u32 = 1027;
const F_DUPFD_CLOEXEC: u32 = 1030;
const F_SETPIPE_SZ: u32 = 1031;
const F_GETPIPE_SZ: u32 = 1032;
const F_ADD_SEALS: u32 = 1033;
const F_GET_SEALS: u32 = 1034;

fn fcntl<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (fd, command, arg) = (cx.uint(0), cx.uint(1), cx.args[2]);
    let file = file(cx, 0)?;
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let on_exec = if command == F_DUPFD {
                OnExec::Keep
            } else {
                OnExec::Close
            };
            let mut files = cx.task.files.write();
            let from = u32::try_from(arg)
                .ok()
                .filter(|&from| from < files.limit())
                .ok_or(Errno::EINVAL)?;
            files.insert(file, from, on_exec).map(Into::into)
        }
        F_GETFD => Ok((cx.task.files.read().on_exec(fd)? == OnExec::Close).into()),
        F_SETFD => {
            let on_exec = OnExec::from_bit(arg as u32, 1);
            cx.task.files.write().set_on_exec(fd, on_exec).map(|()| 0)
        }
        F_GETFL => Ok(file.flags().into()),
        F_DUPFD_QUERY => {
            let other = cx.task.files.read().get(cx.uint(2)).cloned()?;
            Ok(Arc::ptr_eq(&file, &other).into())
        }
        _ if matches!(file.body, Body::Path(..)) => Err(Errno::EBADF),
        F_SETFL => file.set_flags(arg as u32).map(|()| 0),
        F_GETLK | F_SETLK | F_SETLKW | F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW => {
            record_lock(cx, &file, command)
        }
        F_SETOWN => {
            file.set_owner_mark(arg);
            Ok(0)
        }
        F_GETOWN => Ok(file.owner_mark()),
        F_GETPIPE_SZ | F_SETPIPE_SZ if matches!(file.body, Body::Pipe(_)) => {
            Ok(crate::fs::pipe::PIPE_SIZE as u64)
        }
        F_GETPIPE_SZ | F_SETPIPE_SZ => Err(Errno::EBADF),
        F_ADD_SEALS | F_GET_SEALS => seals(&file, command, arg as u32),
        _ => Err(Errno::EINVAL),
    }
}

fn seals<E: Engine>(file: &OpenFile<E>, command: u32, seals: u32) -> SyscallResult {
    let memory = file
        .regular()
        .and_then(|regular| regular.memory.as_ref())
        .ok_or(Errno::EINVAL)?;
    if command == F_GET_SEALS {
        return Ok(memory.seals().bits().into());
    }
    if !file.is_writable() {
        return Err(Errno::EPERM);
    }
    memory.add_seals(seals).map(|()| 0)
}

/// Record locks: checked as Linux checks them, and always granted, because one process cannot contend with itself.
fn record_lock<E: Engine>(
    cx: &SyscallContext<'_, E>,
    file: &OpenFile<E>,
    command: u32,
) -> SyscallResult {
    const READ: i16 = 0;
    const WRITE: i16 = 1;
    const UNLOCK: i16 = 2;
    let at: VirtAddr = cx.addr(2);
    let lock: [u8; 32] = cx.read_array(at)?;
    let short = |offset: usize| i16::from_ne_bytes([lock[offset], lock[offset + 1]]);
    let (kind, whence) = (short(0), short(2));
    if !(0..=2).contains(&whence) {
        return Err(Errno::EINVAL);
    }
    match (command, kind) {
        (F_GETLK | F_OFD_GETLK, READ | WRITE) => cx.write(at, &UNLOCK.to_ne_bytes()).map(|()| 0),
        (F_GETLK | F_OFD_GETLK, _) => Err(Errno::EINVAL),
        (_, READ) if !file.is_readable() => Err(Errno::EBADF),
        (_, WRITE) if !file.is_writable() => Err(Errno::EBADF),
        (_, READ | WRITE | UNLOCK) => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// What an open file is to a call that takes either a path or, with an empty one, a descriptor.
pub(super) fn object_of<E: Engine>(file: &Arc<OpenFile<E>>) -> Object<E> {
    match &file.body {
        Body::Path(object, _) => object.clone(),
        _ => Object::Open(file.clone()),
    }
}

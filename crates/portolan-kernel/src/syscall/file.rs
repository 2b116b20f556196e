//! Calls that move bytes and positions: read, write and their vectors, lseek, truncation, allocation, sync, copies between files.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::object::{AllocatePastEnd, Cache};

use super::context::MAX_RW_COUNT;
use super::fd::{cwd, usable, view};
use super::{Arg, Call, SyscallContext, SyscallResult, call};
use crate::engine::Engine;
use crate::fs::file::{Body, Regular};
use crate::fs::vfs::BUFFER;
use crate::fs::{OpenFile, Session, Writes, abi};
use crate::outside::{FileKind, SyncKind};
use crate::signal::{SIGPIPE, SigInfo};

/// The calls of this module.
pub fn calls<E: Engine>() -> impl IntoIterator<Item = Call<E>> {
    use Arg::{Fd, Hex, Int, Long, Path, Pointer, Size};
    [
        call(0, "read", &[Fd, Pointer, Size], read).restarts(),
        call(1, "write", &[Fd, Pointer, Size], write).restarts(),
        call(8, "lseek", &[Fd, Long, Int], lseek),
        call(17, "pread64", &[Fd, Pointer, Size, Long], pread).restarts(),
        call(18, "pwrite64", &[Fd, Pointer, Size, Long], pwrite).restarts(),
        call(19, "readv", &[Fd, Pointer, Int], readv).restarts(),
        call(20, "writev", &[Fd, Pointer, Int], writev).restarts(),
        call(40, "sendfile", &[Fd, Fd, Pointer, Size], sendfile).restarts(),
        call(74, "fsync", &[Fd], fsync),
        call(75, "fdatasync", &[Fd], fdatasync),
        call(76, "truncate", &[Path, Long], truncate),
        call(77, "ftruncate", &[Fd, Long], ftruncate),
        call(162, "sync", &[], sync),
        call(221, "fadvise64", &[Fd, Long, Size, Int], fadvise),
        call(187, "readahead", &[Fd, Long, Size], readahead),
        call(
            275,
            "splice",
            &[Fd, Pointer, Fd, Pointer, Size, Hex],
            splice,
        ),
        call(276, "tee", &[Fd, Fd, Size, Hex], splice),
        call(
            277,
            "sync_file_range",
            &[Fd, Long, Long, Hex],
            sync_file_range,
        ),
        call(285, "fallocate", &[Fd, Hex, Long, Long], fallocate),
        call(295, "preadv", &[Fd, Pointer, Int, Long], preadv).restarts(),
        call(296, "pwritev", &[Fd, Pointer, Int, Long], pwritev).restarts(),
        call(306, "syncfs", &[Fd], syncfs),
        call(
            326,
            "copy_file_range",
            &[Fd, Pointer, Fd, Pointer, Size, Hex],
            copy_file_range,
        ),
        call(
            327,
            "preadv2",
            &[Fd, Pointer, Int, Long, Long, Hex],
            preadv2,
        )
        .restarts(),
        call(
            328,
            "pwritev2",
            &[Fd, Pointer, Int, Long, Long, Hex],
            pwritev2,
        )
        .restarts(),
    ]
}

/// Where in a file a call works.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// At the position, which moves.
    Position,
    /// Here; the position stays.
    Offset(u64),
}

impl At {
    fn from(offset: u64) -> Result<At, Errno> {
        if offset > i64::MAX as u64 {
            Err(Errno::EINVAL)
        } else {
            Ok(At::Offset(offset))
        }
    }
}

/// Pieces of user memory, in order.
type Vectors = Vec<(VirtAddr, u64)>;

/// One piece, from arguments 1 and 2.
fn single<E: Engine>(cx: &SyscallContext<'_, E>) -> Vectors {
    alloc::vec![(cx.addr(1), cx.args[2].min(MAX_RW_COUNT))]
}

/// The pieces that arguments 1 and 2 list.
fn vectors<E: Engine>(cx: &SyscallContext<'_, E>) -> Result<Vectors, Errno> {
    let pieces = cx.read_iovec(cx.addr(1), cx.args[2])?;
    Ok(pieces
        .into_iter()
        .map(|piece| (piece.addr, piece.len))
        .collect())
}

fn read_at<E: Engine>(
    session: &Session<'_, E>,
    file: &OpenFile<E>,
    at: At,
    done: u64,
    into: &mut [u8],
) -> Result<usize, Errno> {
    match at {
        At::Position => file.read(session, into),
        At::Offset(offset) => file.read_at(session, offset.saturating_add(done), into),
    }
}

fn write_at<E: Engine>(
    session: &Session<'_, E>,
    file: &OpenFile<E>,
    at: At,
    done: u64,
    from: &[u8],
) -> Result<usize, Errno> {
    match at {
        At::Position => file.write(session, from),
        At::Offset(offset) => file.write_at(session, offset.saturating_add(done), from),
    }
}

/// Whether a further read or write could block although some bytes are done.
fn is_stream<E: Engine>(file: &OpenFile<E>) -> bool {
    matches!(file.body, Body::Stream(_) | Body::Pipe(_) | Body::Event(_))
}

fn read_pieces<E: Engine>(
    cx: &SyscallContext<'_, E>,
    file: &OpenFile<E>,
    pieces: &Vectors,
    at: At,
) -> SyscallResult {
    let view = view(cx);
    let session = view.session();
    cx.kernel.vfs().relieve();
    let mut buffer = cx.kernel.vfs().take_buffer();
    let mut done = 0;
    let result = fill_pieces(cx, &session, file, pieces, at, &mut buffer, &mut done);
    cx.kernel.vfs().give_buffer(buffer);
    match result {
        Err(error) if done == 0 => Err(error),
        _ => Ok(done),
    }
}

fn fill_pieces<E: Engine>(
    cx: &SyscallContext<'_, E>,
    session: &Session<'_, E>,
    file: &OpenFile<E>,
    pieces: &Vectors,
    at: At,
    buffer: &mut [u8],
    done: &mut u64,
) -> Result<(), Errno> {
    if pieces.iter().all(|&(_, len)| len == 0) {
        return read_at(session, file, at, 0, &mut []).map(drop);
    }
    for &(start, len) in pieces {
        let mut filled = 0;
        while filled < len {
            let want = (len - filled).min(BUFFER as u64) as usize;
            let count = read_at(session, file, at, *done, &mut buffer[..want])?;
            let to = start.checked_add(filled).ok_or(Errno::EFAULT)?;
            if let Err(error) = cx.write(to, &buffer[..count]) {
                if at == At::Position && file.is_seekable() {
                    file.seek(session, -(count as i64), abi::SEEK_CUR)?;
                }
                return Err(error);
            }
            filled += count as u64;
            *done += count as u64;
            if count < want || is_stream(file) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn write_pieces<E: Engine>(
    cx: &SyscallContext<'_, E>,
    file: &OpenFile<E>,
    pieces: &Vectors,
    at: At,
) -> SyscallResult {
    let view = view(cx);
    let session = view.session();
    cx.kernel.vfs().relieve();
    let mut buffer = cx.kernel.vfs().take_buffer();
    let mut done = 0;
    let result = drain_pieces(cx, &session, file, pieces, at, &mut buffer, &mut done);
    cx.kernel.vfs().give_buffer(buffer);
    if result == Err(Errno::EPIPE) {
        raise_broken_pipe(cx)?;
    }
    match result {
        Err(error) if done == 0 => Err(error),
        _ => Ok(done),
    }
}

/// A write that nobody will read: the thread that writes gets SIGPIPE as well as the error.
fn raise_broken_pipe<E: Engine>(cx: &SyscallContext<'_, E>) -> Result<(), Errno> {
    const SI_USER: i32 = 0;
    let uid = cx.kernel.identity().uid[0];
    let info = SigInfo::sent(SIGPIPE, SI_USER, cx.task.process.pid, uid);
    cx.task.thread.pending.lock().push(info)
}

/// Gathers pieces into the buffer and writes it whenever it is full, so that many small pieces are one write.
fn drain_pieces<E: Engine>(
    cx: &SyscallContext<'_, E>,
    session: &Session<'_, E>,
    file: &OpenFile<E>,
    pieces: &Vectors,
    at: At,
    buffer: &mut [u8],
    done: &mut u64,
) -> Result<(), Errno> {
    if pieces.iter().all(|&(_, len)| len == 0) {
        return write_at(session, file, at, 0, &[]).map(drop);
    }
    let mut held = 0;
    let mut fault = Ok(());
    'pieces: for &(start, len) in pieces {
        let mut taken = 0;
        while taken < len {
            let want = (len - taken).min((buffer.len() - held) as u64) as usize;
            let from = start.checked_add(taken).ok_or(Errno::EFAULT);
            if let Err(error) = from.and_then(|from| cx.read(from, &mut buffer[held..held + want]))
            {
                fault = Err(error);
                break 'pieces;
            }
            held += want;
            taken += want as u64;
            if held == buffer.len() {
                let count = write_at(session, file, at, *done, buffer)?;
                *done += count as u64;
                if count < held {
                    return Ok(());
                }
                held = 0;
            }
        }
    }
    if held != 0 {
        *done += write_at(session, file, at, *done, &buffer[..held])? as u64;
    }
    fault
}

fn read<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let file = usable(cx, 0)?;
    read_pieces(cx, &file, &single(cx), At::Position)
}

fn write<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let file = usable(cx, 0)?;
    write_pieces(cx, &file, &single(cx), At::Position)
}

fn pread<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (at, file) = (At::from(cx.args[3])?, usable(cx, 0)?);
    read_pieces(cx, &file, &single(cx), at)
}

fn pwrite<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (at, file) = (At::from(cx.args[3])?, usable(cx, 0)?);
    write_pieces(cx, &file, &single(cx), at)
}

fn readv<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let file = usable(cx, 0)?;
    read_pieces(cx, &file, &vectors(cx)?, At::Position)
}

fn writev<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let file = usable(cx, 0)?;
    write_pieces(cx, &file, &vectors(cx)?, At::Position)
}

fn preadv<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (at, file) = (At::from(cx.args[3])?, usable(cx, 0)?);
    read_pieces(cx, &file, &vectors(cx)?, at)
}

fn pwritev<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (at, file) = (At::from(cx.args[3])?, usable(cx, 0)?);
    write_pieces(cx, &file, &vectors(cx)?, at)
}

/// Where `preadv2` and `pwritev2` work: -1 is the position. Flags that only hint are taken.
fn at_with_flags<E: Engine>(cx: &SyscallContext<'_, E>) -> Result<At, Errno> {
    const HINTS: u32 = 0x1 | 0x2 | 0x4;
    if cx.uint(5) & !HINTS != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if cx.args[3] == u64::MAX {
        Ok(At::Position)
    } else {
        At::from(cx.args[3])
    }
}

fn preadv2<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (at, file) = (at_with_flags(cx)?, usable(cx, 0)?);
    read_pieces(cx, &file, &vectors(cx)?, at)
}

fn pwritev2<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (at, file) = (at_with_flags(cx)?, usable(cx, 0)?);
    write_pieces(cx, &file, &vectors(cx)?, at)
}

fn lseek<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let file = usable(cx, 0)?;
    if cx.uint(2) > abi::SEEK_HOLE {
        return Err(Errno::EINVAL);
    }
    file.seek(&view(cx).session(), cx.args[1] as i64, cx.uint(2))
}

fn truncate<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let size = u64::try_from(cx.args[1] as i64).map_err(|_| Errno::EINVAL)?;
    let path = cx.read_path(cx.addr(0))?;
    view(cx)
        .session()
        .truncate(&cwd(cx), &path, size)
        .map(|()| 0)
}

fn ftruncate<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let size = u64::try_from(cx.args[1] as i64).map_err(|_| Errno::EINVAL)?;
    let file = usable(cx, 0)?;
    let regular = file
        .regular()
        .filter(|_| file.is_writable())
        .ok_or(Errno::EINVAL)?;
    regular.truncate(&view(cx).session(), size).map(|()| 0)
}

fn fallocate<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (mode, offset, len) = (cx.uint(1), cx.args[2] as i64, cx.args[3] as i64);
    let file = usable(cx, 0)?;
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    const KNOWN: u32 =
        abi::FALLOC_FL_KEEP_SIZE | abi::FALLOC_FL_PUNCH_HOLE | abi::FALLOC_FL_ZERO_RANGE;
    let punch = mode & abi::FALLOC_FL_PUNCH_HOLE != 0;
    if mode & !KNOWN != 0
        || punch && mode & abi::FALLOC_FL_KEEP_SIZE == 0
        || punch && mode & abi::FALLOC_FL_ZERO_RANGE != 0
    {
        return Err(Errno::EOPNOTSUPP);
    }
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    let regular = match &file.body {
        Body::Regular(regular) => regular,
        Body::Pipe(_) => return Err(Errno::ESPIPE),
        Body::Stream(outer) if outer.stat()?.kind() == FileKind::Fifo => return Err(Errno::ESPIPE),
        Body::Directory(_) => return Err(Errno::EISDIR),
        _ => return Err(Errno::ENODEV),
    };
    let end = (offset as u64)
        .checked_add(len as u64)
        .filter(|&end| end <= i64::MAX as u64)
        .ok_or(Errno::EFBIG)?;
    allocate(&view(cx).session(), regular, mode, offset as u64, end).map(|()| 0)
}

fn allocate<E: Engine>(
    session: &Session<'_, E>,
    file: &Regular<E>,
    mode: u32,
    offset: u64,
    end: u64,
) -> Result<(), Errno> {
    let zeroes = mode & (abi::FALLOC_FL_PUNCH_HOLE | abi::FALLOC_FL_ZERO_RANGE) != 0;
    let size = file.inode.size();
    if file.memory.is_some() {
        allocate_memory(file.inode.cache(), mode, offset, end)?;
    } else {
        match &file.outer {
            Some(outer) if session.vfs.writes() == Writes::Outside => {
                file.inode.write_back()?;
                outer.allocate(mode, offset, end - offset)?;
                file.inode.revalidate(&outer.stat()?)?;
            }
            _ if end > size && mode & abi::FALLOC_FL_KEEP_SIZE == 0 => file.inode.truncate(end)?,
            _ => {}
        }
        if zeroes {
            file.inode.zero(offset, end.min(size))?;
        }
    }
    file.touched(session);
    Ok(())
}

/// A memory file; zeroing a range is for those only that stand for a file on a disk.
fn allocate_memory<E: Engine>(
    cache: &Cache<E>,
    mode: u32,
    offset: u64,
    end: u64,
) -> Result<(), Errno> {
    let zeroes = mode & abi::FALLOC_FL_ZERO_RANGE != 0;
    if zeroes && cache.is_tmpfs() {
        return Err(Errno::EOPNOTSUPP);
    }
    if zeroes || mode & abi::FALLOC_FL_PUNCH_HOLE != 0 {
        cache.punch_bytes(offset, end)?;
    }
    if mode & abi::FALLOC_FL_PUNCH_HOLE != 0 {
        return Ok(());
    }
    let past_end = match mode & abi::FALLOC_FL_KEEP_SIZE {
        0 => AllocatePastEnd::Grows,
        _ => AllocatePastEnd::Keeps,
    };
    cache.allocate(offset, end - offset, past_end)
}

fn fsync<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    usable(cx, 0)?.sync(SyncKind::Full).map(|()| 0)
}

fn fdatasync<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    usable(cx, 0)?.sync(SyncKind::Data).map(|()| 0)
}

fn write_all_back<E: Engine>(cx: &SyscallContext<'_, E>) -> Result<(), Errno> {
    cx.kernel
        .vfs()
        .inodes()
        .all()
        .iter()
        .try_for_each(|inode| inode.write_back())
}

fn sync<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    // sync reports no errors.
    let _ = write_all_back(cx);
    cx.outside().sync();
    Ok(0)
}

fn syncfs<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let file = usable(cx, 0)?;
    write_all_back(cx)?;
    file.outer()
        .map_or(Ok(()), |outer| outer.sync(SyncKind::FileSystem))
        .map(|()| 0)
}

fn sync_file_range<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let file = usable(cx, 0)?;
    let (offset, len) = (cx.args[1] as i64, cx.args[2] as i64);
    if cx.uint(3) & !7 != 0 || offset < 0 || len < 0 || offset.checked_add(len).is_none() {
        return Err(Errno::EINVAL);
    }
    match &file.body {
        Body::Regular(_) => file.sync(SyncKind::Data).map(|()| 0),
        Body::Directory(_) => Ok(0),
        _ => Err(Errno::ESPIPE),
    }
}

/// Advice on a file: checked, then not acted on, since it promises nothing.
fn fadvise<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let file = usable(cx, 0)?;
    if matches!(file.body, Body::Pipe(_)) {
        return Err(Errno::ESPIPE);
    }
    if let Body::Stream(outer) = &file.body
        && outer.stat()?.kind() == FileKind::Fifo
    {
        return Err(Errno::ESPIPE);
    }
    if (cx.args[2] as i64) < 0 || cx.int(3) < 0 || cx.int(3) > 5 {
        Err(Errno::EINVAL)
    } else {
        Ok(0)
    }
}

fn readahead<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let file = usable(cx, 0)?;
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    if file.regular().is_some() {
        Ok(0)
    } else {
        Err(Errno::EINVAL)
    }
}

/// Pages are not moved between pipes and files: programs fall back to read and write.
fn splice<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    usable(cx, 0)?;
    Err(Errno::EINVAL)
}

/// A file offset that user memory holds, or the file's position for NULL.
fn offset_at<E: Engine>(cx: &SyscallContext<'_, E>, n: usize) -> Result<At, Errno> {
    cx.addr_opt(n)
        .map_or(Ok(At::Position), |at| At::from(cx.read_u64(at)?))
}

fn store_offset<E: Engine>(
    cx: &SyscallContext<'_, E>,
    n: usize,
    at: At,
    moved: u64,
) -> Result<(), Errno> {
    match at {
        At::Position => Ok(()),
        At::Offset(offset) => cx.write_u64(cx.addr(n), offset.saturating_add(moved)),
    }
}

/// Moves up to `most` bytes from one file to another.
fn copy<E: Engine>(
    cx: &SyscallContext<'_, E>,
    from: (&Arc<OpenFile<E>>, At),
    to: (&Arc<OpenFile<E>>, At),
    most: u64,
) -> SyscallResult {
    let view = view(cx);
    let session = view.session();
    let mut buffer = cx.kernel.vfs().take_buffer();
    let mut done = 0;
    let mut step = || -> Result<(), Errno> {
        while done < most {
            let want = (most - done).min(BUFFER as u64) as usize;
            let count = read_at(&session, from.0, from.1, done, &mut buffer[..want])?;
            if count == 0 {
                return Ok(());
            }
            let written = write_at(&session, to.0, to.1, done, &buffer[..count]);
            let lost = count - written.unwrap_or(0);
            if lost != 0 && from.1 == At::Position && from.0.is_seekable() {
                from.0.seek(&session, -(lost as i64), abi::SEEK_CUR)?;
            }
            done += written? as u64;
            if lost != 0 {
                return Ok(());
            }
        }
        Ok(())
    };
    let result = step();
    cx.kernel.vfs().give_buffer(buffer);
    match result {
        Err(error) if done == 0 => Err(error),
        _ => Ok(done),
    }
}

fn sendfile<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (to, from) = (usable(cx, 0)?, usable(cx, 1)?);
    if !from.is_readable() || !to.is_writable() {
        return Err(Errno::EBADF);
    }
    if !from.is_seekable() || to.appends() {
        return Err(Errno::EINVAL);
    }
    let at = offset_at(cx, 2)?;
    let moved = copy(
        cx,
        (&from, at),
        (&to, At::Position),
        cx.args[3].min(MAX_RW_COUNT),
    )?;
    store_offset(cx, 2, at, moved)?;
    Ok(moved)
}

fn copy_file_range<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (from, to) = (usable(cx, 0)?, usable(cx, 2)?);
    if cx.uint(5) != 0 {
        return Err(Errno::EINVAL);
    }
    let (at_from, at_to) = (offset_at(cx, 1)?, offset_at(cx, 3)?);
    for file in [&from, &to] {
        match &file.body {
            Body::Directory(_) => return Err(Errno::EISDIR),
            Body::Regular(_) => {}
            Body::Text(_) => return Err(Errno::EXDEV),
            _ => return Err(Errno::EINVAL),
        }
    }
    if !from.is_readable() || !to.is_writable() || to.appends() {
        return Err(Errno::EBADF);
    }
    let most = cx.args[4].min(MAX_RW_COUNT);
    let start = |file: &OpenFile<E>, at| {
        if let At::Offset(offset) = at {
            offset
        } else {
            file.position()
        }
    };
    let same = from
        .regular()
        .zip(to.regular())
        .is_some_and(|(from, to)| from.inode.key() == to.inode.key());
    if same && start(&from, at_from).abs_diff(start(&to, at_to)) < most {
        return Err(Errno::EINVAL);
    }
    let moved = copy(cx, (&from, at_from), (&to, at_to), most)?;
    store_offset(cx, 1, at_from, moved)?;
    store_offset(cx, 3, at_to, moved)?;
    Ok(moved)
}

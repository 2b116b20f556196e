//! Calls on directories and names: getcwd, chdir, getdents, mkdir, rmdir, mknod, link, symlink, unlink, rename.

use alloc::vec::Vec;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;

use super::fd::{base, cwd, file, usable, view};
use super::{Arg, Call, SyscallContext, SyscallResult, call};
use crate::engine::Engine;
use crate::fs::file::{Body, Room};
use crate::fs::outer::MAY_EXEC;
use crate::fs::vfs::Missing;
use crate::fs::{Place, abi};
use crate::outside::{AccessAs, DirEntry, Follow};

/// The calls of this module.
pub fn calls<E: Engine>() -> impl IntoIterator<Item = Call<E>> {
    use Arg::{DirFd, Fd, Hex, Mode, Path, Pointer, Size};
    [
        call(78, "getdents", &[Fd, Pointer, Size], getdents),
        call(79, "getcwd", &[Pointer, Size], getcwd),
        call(80, "chdir", &[Path], chdir),
        call(81, "fchdir", &[Fd], fchdir),
        call(82, "rename", &[Path, Path], rename),
        call(83, "mkdir", &[Path, Mode], mkdir),
        call(84, "rmdir", &[Path], rmdir),
        call(86, "link", &[Path, Path], link),
        call(87, "unlink", &[Path], unlink),
        call(88, "symlink", &[Path, Path], symlink),
        call(133, "mknod", &[Path, Mode, Size], mknod),
        call(217, "getdents64", &[Fd, Pointer, Size], getdents64),
        call(258, "mkdirat", &[DirFd, Path, Mode], mkdirat),
        call(259, "mknodat", &[DirFd, Path, Mode, Size], mknodat),
        call(263, "unlinkat", &[DirFd, Path, Hex], unlinkat),
        call(264, "renameat", &[DirFd, Path, DirFd, Path], renameat),
        call(265, "linkat", &[DirFd, Path, DirFd, Path, Hex], linkat),
        call(266, "symlinkat", &[Path, DirFd, Path], symlinkat),
        call(
            316,
            "renameat2",
            &[DirFd, Path, DirFd, Path, Hex],
            renameat2,
        ),
    ]
}

/// A path argument with the directory it starts from.
type Based = (Vec<u8>, Vec<u8>);

/// Path argument `n`, from the working directory.
fn plain<E: Engine>(cx: &SyscallContext<'_, E>, n: usize) -> Result<Based, Errno> {
    Ok((cwd(cx), cx.read_path(cx.addr(n))?))
}

/// Directory descriptor argument `n`, and the path after it.
fn at<E: Engine>(cx: &SyscallContext<'_, E>, n: usize) -> Result<Based, Errno> {
    let path = cx.read_path(cx.addr(n + 1))?;
    Ok((base(cx, n, &path)?, path))
}

fn getcwd<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let mut path = cwd(cx);
    path.push(0);
    if path.len() as u64 > cx.args[1] {
        return Err(Errno::ERANGE);
    }
    cx.write(cx.addr(0), &path)?;
    Ok(path.len() as u64)
}

fn chdir<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (base, path) = plain(cx, 0)?;
    let found = {
        let view = view(cx);
        let session = view.session();
        let found = session.walk(&base, &path, Follow::Yes, Missing::Error)?;
        if !found.stat.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        session.access(&found, MAY_EXEC, AccessAs::Effective)?;
        found
    };
    set_cwd(cx, found.path)
}

fn fchdir<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let path = file(cx, 0)?.directory_path()?.to_vec();
    let found = {
        let view = view(cx);
        let session = view.session();
        let found = session.walk(b"/", &path, Follow::Yes, Missing::Error)?;
        session.access(&found, MAY_EXEC, AccessAs::Effective)?;
        found
    };
    set_cwd(cx, found.path)
}

fn set_cwd<E: Engine>(cx: &SyscallContext<'_, E>, path: Vec<u8>) -> SyscallResult {
    let place: &mut Place = &mut cx.task.place.write();
    place.cwd = path;
    Ok(0)
}

fn make_dir<E: Engine>(
    cx: &SyscallContext<'_, E>,
    (base, path): Based,
    mode: u32,
) -> SyscallResult {
    view(cx).session().make_dir(&base, &path, mode).map(|()| 0)
}

fn mkdir<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    make_dir(cx, plain(cx, 0)?, cx.uint(1))
}

fn mkdirat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    make_dir(cx, at(cx, 0)?, cx.uint(2))
}

fn make_node<E: Engine>(
    cx: &SyscallContext<'_, E>,
    (base, path): Based,
    mode: u32,
    dev: u32,
) -> SyscallResult {
    view(cx)
        .session()
        .make_node(&base, &path, mode, dev.into())
        .map(|()| 0)
}

fn mknod<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    make_node(cx, plain(cx, 0)?, cx.uint(1), cx.uint(2))
}

fn mknodat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    make_node(cx, at(cx, 0)?, cx.uint(2), cx.uint(3))
}

fn rmdir<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (base, path) = plain(cx, 0)?;
    view(cx).session().remove_dir(&base, &path).map(|()| 0)
}

fn unlink<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (base, path) = plain(cx, 0)?;
    view(cx).session().unlink(&base, &path).map(|()| 0)
}

fn unlinkat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let flags = cx.uint(2);
    if flags & !abi::AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let (base, path) = at(cx, 0)?;
    let view = view(cx);
    let session = view.session();
    match flags {
        0 => session.unlink(&base, &path).map(|()| 0),
        _ => session.remove_dir(&base, &path).map(|()| 0),
    }
}

fn make_link<E: Engine>(
    cx: &SyscallContext<'_, E>,
    from: Based,
    to: Based,
    follow: Follow,
) -> SyscallResult {
    view(cx)
        .session()
        .link((&from.0, &from.1), (&to.0, &to.1), follow)
        .map(|()| 0)
}

fn link<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    make_link(cx, plain(cx, 0)?, plain(cx, 1)?, Follow::No)
}

fn linkat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let flags = cx.uint(4);
    if flags & !(abi::AT_SYMLINK_FOLLOW | abi::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let follow = if flags & abi::AT_SYMLINK_FOLLOW != 0 {
        Follow::Yes
    } else {
        Follow::No
    };
    make_link(cx, at(cx, 0)?, at(cx, 2)?, follow)
}

fn symlink<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let target = cx.read_path(cx.addr(0))?;
    let (base, path) = plain(cx, 1)?;
    view(cx)
        .session()
        .symlink(&target, &base, &path)
        .map(|()| 0)
}

fn symlinkat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let target = cx.read_path(cx.addr(0))?;
    let (base, path) = at(cx, 1)?;
    view(cx)
        .session()
        .symlink(&target, &base, &path)
        .map(|()| 0)
}

fn move_name<E: Engine>(
    cx: &SyscallContext<'_, E>,
    from: Based,
    to: Based,
    flags: u32,
) -> SyscallResult {
    view(cx)
        .session()
        .rename((&from.0, &from.1), (&to.0, &to.1), flags)
        .map(|()| 0)
}

fn rename<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    move_name(cx, plain(cx, 0)?, plain(cx, 1)?, 0)
}

fn renameat<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    move_name(cx, at(cx, 0)?, at(cx, 2)?, 0)
}

fn renameat2<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    move_name(cx, at(cx, 0)?, at(cx, 2)?, cx.uint(4))
}

/// Which layout a directory entry has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `struct linux_dirent`: the type stands in the last byte.
    Old,
    /// `struct linux_dirent64`.
    New,
}

fn encode(entry: &DirEntry, next: u64, layout: Layout) -> Vec<u8> {
    let kind = entry.kind.map_or(0, |kind| (kind.mode_bits() >> 12) as u8);
    let fixed = if layout == Layout::New { 19 } else { 18 };
    let type_at_end = usize::from(layout == Layout::Old);
    let len = (fixed + entry.name.len() + 1 + type_at_end).next_multiple_of(8);
    let mut record = Vec::with_capacity(len);
    record.extend_from_slice(&entry.ino.to_ne_bytes());
    record.extend_from_slice(&next.to_ne_bytes());
    record.extend_from_slice(&(len as u16).to_ne_bytes());
    if layout == Layout::New {
        record.push(kind);
    }
    record.extend_from_slice(&entry.name);
    record.resize(len, 0);
    if layout == Layout::Old {
        record[len - 1] = kind;
    }
    record
}

fn list<E: Engine>(cx: &SyscallContext<'_, E>, layout: Layout) -> SyscallResult {
    const BUFFER: usize = 1 << 20;
    let file = usable(cx, 0)?;
    if !matches!(file.body, Body::Directory(_)) {
        return Err(Errno::ENOTDIR);
    }
    let room = (cx.uint(2) as usize).min(BUFFER);
    let mut bytes = Vec::new();
    let mut more = false;
    file.entries(&view(cx).session(), |entry, next| {
        let record = encode(entry, next, layout);
        if bytes.len() + record.len() > room {
            more = true;
            return Ok(Room::None);
        }
        bytes.extend_from_slice(&record);
        Ok(Room::Enough)
    })?;
    if bytes.is_empty() && more {
        return Err(Errno::EINVAL);
    }
    let to: VirtAddr = cx.addr(1);
    cx.write(to, &bytes)?;
    Ok(bytes.len() as u64)
}

fn getdents<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    list(cx, Layout::Old)
}

fn getdents64<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    list(cx, Layout::New)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outside::FileKind;

    #[test]
    fn records_have_linux_layout() {
        let entry = DirEntry {
            ino: 7,
            kind: Some(FileKind::Directory),
            name: b"abcd".to_vec(),
        };
        let new = encode(&entry, 3, Layout::New);
        assert_eq!((new.len(), new[16], new[18]), (24, 24, 4));
        assert_eq!(
            (&new[19..23], &new[8..16]),
            (&b"abcd"[..], &3u64.to_ne_bytes()[..])
        );
        let old = encode(&entry, 3, Layout::Old);
        assert_eq!((old.len(), old[16], old[23]), (24, 24, 4));
        assert_eq!(&old[18..23], b"abcd\0");
    }
}

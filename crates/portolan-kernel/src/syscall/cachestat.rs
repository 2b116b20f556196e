//! `cachestat`: how much of a file is in memory. Not for counting it, which is the library's.

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::object::CacheStat;
use portolan::paging::Format;
use portolan::platform::Platform;

use super::fd::usable;
use super::{SyscallContext, SyscallResult};
use crate::engine::Engine;
use crate::fs::TaskOf;

/// `mm/filemap.c: cachestat`. What has no pages, a pipe for instance, has none in memory.
///
/// # Errors
/// `EBADF`: no such descriptor, or opened with O_PATH. `EPERM`: neither the owner nor able to write it. `EINVAL`: flags. `EFAULT`: range or result.
pub(super) fn cachestat<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let file = usable(ctx, 0)?;
    let (at, to): (VirtAddr, VirtAddr) = (ctx.addr(1), ctx.addr(2));
    let [offset, len] = ctx.read_words(at)?;
    let user = ctx.kernel.identity.uid[1];
    let view = TaskOf {
        kernel: ctx.kernel,
        task: ctx.task,
    };
    let is_owner = || {
        file.stat(&view.session())
            .is_ok_and(|stat| stat.uid == user)
    };
    if user != 0 && !file.is_writable() && !is_owner() {
        return Err(Errno::EPERM);
    }
    if ctx.uint(3) != 0 {
        return Err(Errno::EINVAL);
    }
    let shift = <E as Platform>::Format::GRANULE.shift();
    let end = match len {
        0 => u64::MAX,
        _ => (offset.wrapping_add(len).wrapping_sub(1) >> shift) + 1,
    };
    let stat = file.regular().map_or(CacheStat::default(), |regular| {
        regular.inode.cache().cachestat(offset >> shift..end)
    });
    ctx.write_words(to, [stat.cached, stat.dirty, 0, 0, 0])
        .map(|()| 0)
}

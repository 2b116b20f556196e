//! Calls on another process's memory: `process_vm_readv`, `process_vm_writev`, `process_madvise`. As long as there is one process it is the caller's
//! own. Not for what the transfers do, which is the library's.

use alloc::vec::Vec;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::space::{Advised, Piece};

use super::{Arg, Call, SyscallContext, SyscallResult, call, nr};
use crate::engine::Engine;
use crate::trace::Returns;

/// `PIDFD_SELF_THREAD`: the calling thread, where a process's descriptor is asked for.
const SELF_THREAD: i32 = -10000;
/// `PIDFD_SELF_THREAD_GROUP`: its process.
const SELF_PROCESS: i32 = -10001;

/// The calls of this family.
pub fn calls<E: Engine>() -> [Call<E>; 3] {
    use Arg::{Advice, Fd, Hex, Int, Pointer, Size};
    const TRANSFER: &[Arg] = &[Int, Pointer, Size, Pointer, Size, Hex];
    [
        call(
            nr!(process_vm_readv),
            "process_vm_readv",
            TRANSFER,
            process_vm_readv,
        ),
        call(
            nr!(process_vm_writev),
            "process_vm_writev",
            TRANSFER,
            process_vm_writev,
        ),
        call(
            nr!(process_madvise),
            "process_madvise",
            &[Fd, Pointer, Size, Advice, Hex],
            process_madvise,
        ),
    ]
    .map(|call| call.traced(Returns::Number))
}

/// The local pieces, then the remote ones.
type Vectors = (Vec<Piece>, Vec<Piece>);

/// The local and the remote pieces, in the order in which Linux looks at them; `None` when there is nothing to copy. `process_vm_rw`.
fn both<E: Engine>(ctx: &SyscallContext<'_, E>) -> Result<Option<Vectors>, Errno> {
    let bytes = |pieces: &[Piece]| pieces.iter().map(|piece| piece.len).sum::<u64>();
    if ctx.args[5] != 0 {
        return Err(Errno::EINVAL);
    }
    let local = ctx.read_iovec(ctx.addr(1), ctx.args[2])?;
    if bytes(&local) == 0 {
        return Ok(None);
    }
    let remote = ctx.read_iovec(ctx.addr(3), ctx.args[4])?;
    if bytes(&remote) == 0 {
        return Ok(None);
    }
    if ctx.int(0) as u32 != ctx.task.process.pid {
        return Err(Errno::ESRCH);
    }
    Ok(Some((local, remote)))
}

fn process_vm_readv<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let mm = &ctx.task.mm;
    both(ctx)?.map_or(Ok(0), |(local, remote)| {
        mm.process_vm_read(&remote, mm, &local)
    })
}

fn process_vm_writev<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let mm = &ctx.task.mm;
    both(ctx)?.map_or(Ok(0), |(local, remote)| {
        mm.process_vm_write(&remote, mm, &local)
    })
}

fn process_madvise<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    if ctx.args[4] != 0 {
        return Err(Errno::EINVAL);
    }
    let at: VirtAddr = ctx.addr(1);
    let pieces = ctx.read_iovec(at, ctx.args[2])?;
    // No call makes a descriptor of a process yet.
    if !matches!(ctx.int(0), SELF_THREAD | SELF_PROCESS) {
        return Err(Errno::EBADF);
    }
    ctx.task
        .mm
        .process_madvise(&pieces, ctx.uint(3), Advised::Own)
}

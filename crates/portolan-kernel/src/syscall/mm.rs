//! Memory calls: each turns registers into the library's arguments and back. Not for: what they mean, which is the library's.

use alloc::sync::Arc;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::object::File;
use portolan::space::MapRequest;

use linux_raw_sys::general as nr;

use super::{Arg, Call, SyscallContext, SyscallResult, call, nr};
use crate::engine::Engine;
use crate::fs::TaskOf;
use crate::trace::Returns;

/// The calls of this family.
pub fn calls<E: Engine>() -> [Call<E>; 12] {
    use Arg::{Advice, Fd, Hex, Int, Map, Pointer, Prot, Remap, Size, Sync};
    [
        call(
            nr!(mmap),
            "mmap",
            &[Pointer, Size, Prot, Map, Fd, Hex],
            mmap,
        )
        .traced(Returns::Address),
        call(nr!(munmap), "munmap", &[Pointer, Size], munmap).traced(Returns::Number),
        call(nr!(mprotect), "mprotect", &[Pointer, Size, Prot], mprotect).traced(Returns::Number),
        call(
            nr!(mremap),
            "mremap",
            &[Pointer, Size, Size, Remap, Pointer],
            mremap,
        )
        .traced(Returns::Address),
        call(
            nr!(pkey_mprotect),
            "pkey_mprotect",
            &[Pointer, Size, Prot, Int],
            pkey_mprotect,
        )
        .traced(Returns::Number),
        call(nr!(pkey_alloc), "pkey_alloc", &[Hex, Hex], no_keys),
        call(nr!(pkey_free), "pkey_free", &[Int], no_keys),
        call(nr!(brk), "brk", &[Pointer], brk).traced(Returns::Address),
        call(nr!(madvise), "madvise", &[Pointer, Size, Advice], madvise).traced(Returns::Number),
        call(nr!(msync), "msync", &[Pointer, Size, Sync], msync).traced(Returns::Number),
        call(
            nr!(cachestat),
            "cachestat",
            &[Fd, Pointer, Pointer, Hex],
            super::cachestat::cachestat,
        ),
        call(nr!(mincore), "mincore", &[Pointer, Size, Pointer], mincore).traced(Returns::Number),
    ]
}

fn address(at: VirtAddr) -> u64 {
    at.get()
}

/// What a descriptor names, as mappings take it.
fn mapping_of<E: Engine>(ctx: &SyscallContext<'_, E>, fd: u32) -> Result<Arc<File<E>>, Errno> {
    let file = ctx.task.files.read().get(fd)?.clone();
    file.map_file(
        &TaskOf {
            kernel: ctx.kernel,
            task: ctx.task,
        }
        .session(),
    )
}

fn mmap<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let [_, len, prot, flags, _, offset] = ctx.args;
    if offset & 0xfff != 0 {
        return Err(Errno::EINVAL);
    }
    // Unknown bits beyond 32 are dropped: the library takes what Linux looks at.
    let flags = flags as u32;
    let file = if flags & nr::MAP_ANONYMOUS == 0 {
        Some(mapping_of(ctx, ctx.uint(4))?)
    } else {
        None
    };
    let request = MapRequest {
        addr: ctx.addr(0),
        len,
        prot: prot as u32,
        flags,
        file,
        offset,
    };
    ctx.task.mm.mmap(&request).map(address)
}

fn munmap<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    ctx.task.mm.munmap(ctx.addr(0), ctx.args[1]).map(|()| 0)
}

fn mprotect<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let prot = u32::try_from(ctx.args[2]).map_err(|_| Errno::EINVAL)?;
    ctx.task
        .mm
        .mprotect(ctx.addr(0), ctx.args[1], prot)
        .map(|()| 0)
}

/// As on a CPU without protection keys: no key can be had, and only "no key" can be set.
fn pkey_mprotect<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    match ctx.int(3) {
        -1 => mprotect(ctx),
        _ => Err(Errno::EINVAL),
    }
}

fn no_keys<E: Engine>(_ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    Err(Errno::EINVAL)
}

fn mremap<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let [_, old_len, new_len, flags, _, _] = ctx.args;
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    ctx.task
        .mm
        .mremap(ctx.addr(0), old_len, new_len, flags, ctx.addr(4))
        .map(address)
}

fn brk<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    Ok(ctx.task.mm.brk(ctx.addr(0)).get())
}

fn madvise<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    ctx.task
        .mm
        .madvise(ctx.addr(0), ctx.args[1], ctx.uint(2))
        .map(|()| 0)
}

fn mincore<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let mm = &ctx.task.mm;
    let mut to = ctx.addr(2);
    mm.mincore(ctx.addr(0), ctx.args[1], |resident| {
        mm.copy_to_user(to, resident)?;
        to = to.checked_add(resident.len() as u64).ok_or(Errno::EFAULT)?;
        Ok(())
    })?;
    Ok(0)
}

fn msync<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    ctx.task
        .mm
        .msync(ctx.addr(0), ctx.args[1], ctx.uint(2))
        .map(|()| 0)
}

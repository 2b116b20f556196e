//! Calls that lock and seal memory, and `remap_file_pages`: registers to the library's arguments and back. Not for what they mean.

use super::{Arg, Call, SyscallContext, SyscallResult, call, nr};
use crate::engine::Engine;
use crate::trace::Returns;

/// The calls of this family.
pub fn calls<E: Engine>() -> [Call<E>; 7] {
    use Arg::{Hex, Int, Pointer, Size};
    [
        call(nr!(mlock), "mlock", &[Pointer, Size], |ctx| {
            ctx.task.mm.mlock(ctx.addr(0), ctx.args[1], 0).map(|()| 0)
        }),
        call(nr!(mlock2), "mlock2", &[Pointer, Size, Hex], |ctx| {
            let flags = ctx.uint(2);
            ctx.task
                .mm
                .mlock(ctx.addr(0), ctx.args[1], flags)
                .map(|()| 0)
        }),
        call(nr!(munlock), "munlock", &[Pointer, Size], |ctx| {
            ctx.task.mm.munlock(ctx.addr(0), ctx.args[1]).map(|()| 0)
        }),
        call(nr!(mlockall), "mlockall", &[Hex], |ctx| {
            ctx.task.mm.mlockall(ctx.uint(0)).map(|()| 0)
        }),
        call(nr!(munlockall), "munlockall", &[], |ctx| {
            ctx.task.mm.munlockall();
            Ok(0)
        }),
        call(nr!(mseal), "mseal", &[Pointer, Size, Hex], |ctx| {
            ctx.task
                .mm
                .mseal(ctx.addr(0), ctx.args[1], ctx.args[2])
                .map(|()| 0)
        }),
        call(
            nr!(remap_file_pages),
            "remap_file_pages",
            &[Pointer, Size, Int, Size, Hex],
            remap_file_pages,
        ),
    ]
    .map(|call| call.traced(Returns::Number))
}

fn remap_file_pages<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let [_, size, prot, pgoff, flags, _] = ctx.args;
    // Of the flags Linux looks at MAP_NONBLOCK alone.
    ctx.task
        .mm
        .remap_file_pages(ctx.addr(0), size, prot, pgoff, flags as u32)
        .map(|()| 0)
}

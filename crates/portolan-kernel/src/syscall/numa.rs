//! NUMA policy calls: registers and node masks to the library's arguments and back. Not for what a policy does, which is the library's.

use alloc::vec::Vec;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::paging::Format;
use portolan::platform::Platform;
use portolan::space::{Mempolicy, NodeMask, PolicyMode};

use super::{Arg, Call, SyscallContext, SyscallResult, call, nr};
use crate::engine::Engine;
use crate::trace::Returns;

/// The calls of this family.
pub fn calls<E: Engine>() -> [Call<E>; 6] {
    use Arg::{Hex, Int, Pointer, Size};
    [
        call(
            nr!(mbind),
            "mbind",
            &[Pointer, Size, Hex, Pointer, Size, Hex],
            mbind,
        ),
        call(
            nr!(set_mempolicy),
            "set_mempolicy",
            &[Hex, Pointer, Size],
            set_mempolicy,
        ),
        call(
            nr!(get_mempolicy),
            "get_mempolicy",
            &[Pointer, Pointer, Size, Pointer, Hex],
            get_mempolicy,
        ),
        call(
            nr!(set_mempolicy_home_node),
            "set_mempolicy_home_node",
            &[Pointer, Size, Size, Hex],
            |ctx| {
                let [_, len, node, flags, _, _] = ctx.args;
                ctx.task
                    .mm
                    .set_mempolicy_home_node(ctx.addr(0), len, node, flags)
                    .map(|()| 0)
            },
        ),
        call(
            nr!(migrate_pages),
            "migrate_pages",
            &[Int, Size, Pointer, Pointer],
            migrate_pages,
        ),
        call(
            nr!(move_pages),
            "move_pages",
            &[Int, Size, Pointer, Pointer, Pointer, Hex],
            move_pages,
        ),
    ]
    .map(|call| call.traced(Returns::Number))
}

/// The element `index` of an array at `base`.
fn element(base: VirtAddr, index: u64, bytes: u64) -> Result<VirtAddr, Errno> {
    let offset = index.checked_mul(bytes).ok_or(Errno::EFAULT)?;
    base.checked_add(offset).ok_or(Errno::EFAULT)
}

/// The mask that argument `n` points to; none for a null pointer. `get_nodes`.
fn nodes<E: Engine>(
    ctx: &SyscallContext<'_, E>,
    n: usize,
    maxnode: u64,
) -> Result<NodeMask, Errno> {
    let Some(at) = ctx.addr_opt(n) else {
        return Ok(NodeMask::EMPTY);
    };
    let granule = <E as Platform>::Format::GRANULE;
    NodeMask::parse(maxnode, granule, |index| {
        ctx.read_u64(element(at, index, 8)?)
    })
}

fn mbind<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let mode = PolicyMode::parse(ctx.uint(2))?;
    let nodes = nodes(ctx, 3, ctx.args[4])?;
    ctx.task
        .mm
        .mbind(ctx.addr(0), ctx.args[1], mode, &nodes, ctx.uint(5))
        .map(|()| 0)
}

fn set_mempolicy<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let mode = PolicyMode::parse(ctx.uint(0))?;
    let nodes = nodes(ctx, 1, ctx.args[2])?;
    ctx.task.policy = Mempolicy::new(mode, &nodes)?;
    Ok(0)
}

fn get_mempolicy<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let flags = u32::try_from(ctx.args[4]).map_err(|_| Errno::EINVAL)?;
    let (mode_at, mask_at, maxnode) = (ctx.addr_opt(0), ctx.addr_opt(1), ctx.args[2]);
    if mask_at.is_some() && maxnode == 0 {
        return Err(Errno::EINVAL);
    }
    let policy = ctx.task.policy.as_ref();
    let (mode, nodes) = ctx.task.mm.get_mempolicy(policy, ctx.addr(3), flags)?;
    if let Some(at) = mode_at {
        ctx.write_u32(at, mode)?;
    }
    let Some(at) = mask_at else { return Ok(0) };
    let granule = <E as Platform>::Format::GRANULE;
    let count = NodeMask::written_bytes(maxnode, granule)? as usize;
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(count.max(8))
        .map_err(|_| Errno::ENOMEM)?;
    bytes.extend_from_slice(&nodes.first_word().to_ne_bytes());
    bytes.resize(count, 0);
    ctx.write(at, &bytes).map(|()| 0)
}

/// Whether an id names the caller, 0 included: there is one process.
fn check_process<E: Engine>(ctx: &SyscallContext<'_, E>) -> Result<(), Errno> {
    match ctx.int(0) as u32 {
        0 => Ok(()),
        id if id == ctx.task.process.pid => Ok(()),
        _ => Err(Errno::ESRCH),
    }
}

fn migrate_pages<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let maxnode = ctx.args[1];
    let _from = nodes(ctx, 2, maxnode)?;
    let to = nodes(ctx, 3, maxnode)?;
    check_process(ctx)?;
    ctx.task.mm.check_migration(&to).map(|()| 0)
}

/// Both of its forms: with nodes it moves each page, without it tells where each is.
fn move_pages<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (pages, status) = (ctx.addr(2), ctx.addr(4));
    let mm = &ctx.task.mm;
    mm.check_move_flags(ctx.uint(5))?;
    check_process(ctx)?;
    for n in 0..ctx.args[1] {
        let page =
            |ctx: &SyscallContext<'_, E>| ctx.read_u64(element(pages, n, 8)?).map(VirtAddr::new);
        let found = match ctx.addr_opt(3) {
            Some(to) => {
                let at = page(ctx)?;
                let node = ctx.read_u32(element(to, n, 4)?)?;
                mm.move_page(at, node as i32)?
            }
            None => mm.page_node(page(ctx)?),
        };
        ctx.write_u32(element(status, n, 4)?, found as u32)?;
    }
    Ok(0)
}

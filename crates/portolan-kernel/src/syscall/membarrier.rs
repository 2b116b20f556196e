//! `membarrier`: which kinds of barrier a process has asked for, and the barriers. One thread runs, so that a barrier on the CPU it runs on is one on all.

use core::sync::atomic::{Ordering, fence};

use portolan::errno::Errno;

use super::{SyscallContext, SyscallResult};
use crate::engine::Engine;

const GLOBAL: u32 = 1 << 0;
const GLOBAL_EXPEDITED: u32 = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: u32 = 1 << 2;
const PRIVATE_EXPEDITED: u32 = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: u32 = 1 << 4;
const PRIVATE_EXPEDITED_SYNC_CORE: u32 = 1 << 5;
const REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: u32 = 1 << 6;
const GET_REGISTRATIONS: u32 = 1 << 9;

/// What MEMBARRIER_CMD_QUERY answers: all but the two for restartable sequences, which do not exist here.
const SUPPORTED: u32 = 0x7f | GET_REGISTRATIONS;

/// `kernel/sched/membarrier.c`.
///
/// # Errors
/// `EINVAL`: an unknown command, or flags. `EPERM`: an expedited barrier that the process has not registered for.
pub(super) fn membarrier<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    if ctx.uint(1) != 0 {
        return Err(Errno::EINVAL);
    }
    let registered = &ctx.task.process.membarrier;
    let command = ctx.uint(0);
    let registration = match command {
        0 => return Ok(SUPPORTED.into()),
        GET_REGISTRATIONS => return Ok(shown(registered.load(Ordering::Relaxed)).into()),
        REGISTER_GLOBAL_EXPEDITED
        | REGISTER_PRIVATE_EXPEDITED
        | REGISTER_PRIVATE_EXPEDITED_SYNC_CORE => {
            registered.fetch_or(command, Ordering::Relaxed);
            return Ok(0);
        }
        GLOBAL | GLOBAL_EXPEDITED => 0,
        PRIVATE_EXPEDITED => REGISTER_PRIVATE_EXPEDITED,
        PRIVATE_EXPEDITED_SYNC_CORE => REGISTER_PRIVATE_EXPEDITED_SYNC_CORE,
        _ => return Err(Errno::EINVAL),
    };
    if registered.load(Ordering::Relaxed) & registration != registration {
        return Err(Errno::EPERM);
    }
    fence(Ordering::SeqCst);
    Ok(0)
}

/// What MEMBARRIER_CMD_GET_REGISTRATIONS tells: as in Linux, registering for barriers that synchronise cores shows as both, though only those are allowed by it.
fn shown(registered: u32) -> u32 {
    match registered & REGISTER_PRIVATE_EXPEDITED_SYNC_CORE {
        0 => registered,
        _ => registered | REGISTER_PRIVATE_EXPEDITED,
    }
}

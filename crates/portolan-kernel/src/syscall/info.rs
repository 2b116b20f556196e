//! What a program asks about the system: its names, its memory, its processors; random numbers.

use core::sync::atomic::Ordering;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;

use super::{Arg, Call, SyscallContext, SyscallResult, call, nr};
use crate::engine::Engine;

/// The calls of this family.
pub fn calls<E: Engine>() -> [Call<E>; 12] {
    use Arg::{Hex, Int, Pointer, Size};
    [
        call(nr!(uname), "uname", &[Pointer], uname),
        call(nr!(sysinfo), "sysinfo", &[Pointer], sysinfo),
        call(
            nr!(getrandom),
            "getrandom",
            &[Pointer, Size, Hex],
            getrandom,
        ),
        call(
            nr!(sched_getaffinity),
            "sched_getaffinity",
            &[Int, Size, Pointer],
            sched_getaffinity,
        ),
        call(
            nr!(sched_setaffinity),
            "sched_setaffinity",
            &[Int, Size, Pointer],
            sched_setaffinity,
        ),
        call(
            nr!(sched_getparam),
            "sched_getparam",
            &[Int, Pointer],
            sched_getparam,
        ),
        call(
            nr!(sched_getscheduler),
            "sched_getscheduler",
            &[Int],
            sched_getscheduler,
        ),
        call(
            nr!(sched_get_priority_max),
            "sched_get_priority_max",
            &[Int],
            |ctx| priority(ctx, 99),
        ),
        call(
            nr!(sched_get_priority_min),
            "sched_get_priority_min",
            &[Int],
            |ctx| priority(ctx, 1),
        ),
        call(nr!(getpriority), "getpriority", &[Int, Int], getpriority),
        call(
            nr!(setpriority),
            "setpriority",
            &[Int, Int, Int],
            setpriority,
        ),
        call(nr!(syslog), "syslog", &[Int, Pointer, Int], |_| {
            Err(Errno::EPERM)
        }),
    ]
}

fn uname<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const FIELD: usize = 65;
    let names = &ctx.kernel.identity.names;
    let fields = [
        &names.sysname,
        &names.nodename,
        &names.release,
        &names.version,
        &names.machine,
        &names.domainname,
    ];
    let mut bytes = [[0; FIELD]; 6];
    for (slot, name) in bytes.iter_mut().zip(fields) {
        let len = name.len().min(FIELD - 1);
        slot[..len].copy_from_slice(&name[..len]);
    }
    ctx.write(ctx.addr(0), bytes.as_flattened()).map(|()| 0)
}

fn sysinfo<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let phys = ctx.kernel.machine.phys();
    let mut words = [0; 14];
    words[0] = ctx.outside().boottime().as_secs();
    words[4] = phys.total_frames();
    words[5] = phys.free_frames();
    // One process; memory is counted in pages of 4 KiB.
    words[10] = 1;
    words[13] = 4096;
    ctx.write_words(ctx.addr(0), words).map(|()| 0)
}

fn getrandom<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const NONBLOCK: u32 = 1;
    const RANDOM: u32 = 2;
    const INSECURE: u32 = 4;
    let flags = ctx.uint(2);
    if flags & !(NONBLOCK | RANDOM | INSECURE) != 0
        || flags & (RANDOM | INSECURE) == RANDOM | INSECURE
    {
        return Err(Errno::EINVAL);
    }
    let len = ctx.args[1].min(i32::MAX as u64 & !4095);
    let mut buffer = [0; 256];
    let mut done = 0;
    while done < len {
        let part = &mut buffer[..(len - done).min(256) as usize];
        ctx.outside().random(part);
        let to = ctx.args[0]
            .checked_add(done)
            .map(VirtAddr::new)
            .ok_or(Errno::EFAULT);
        match to.and_then(|to| ctx.write(to, part)) {
            Ok(()) => done += part.len() as u64,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Whether an id names the calling thread, 0 included.
fn check_thread<E: Engine>(ctx: &SyscallContext<'_, E>, id: i32) -> Result<(), Errno> {
    match id {
        id if id < 0 => Err(Errno::EINVAL),
        id if id == 0 || id as u32 == ctx.task.thread.tid => Ok(()),
        _ => Err(Errno::ESRCH),
    }
}

/// One processor: a task never runs on two at a time.
fn sched_getaffinity<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const MASK_BYTES: u64 = 8;
    let len = ctx.args[1];
    if len < MASK_BYTES || !len.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    check_thread(ctx, ctx.int(0)).map_err(|_| Errno::ESRCH)?;
    ctx.write_u64(ctx.addr(2), 1)?;
    Ok(MASK_BYTES)
}

fn sched_setaffinity<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let mut mask = [0; 8];
    let len = ctx.args[1].min(8) as usize;
    ctx.read(ctx.addr(2), &mut mask[..len])?;
    check_thread(ctx, ctx.int(0)).map_err(|_| Errno::ESRCH)?;
    if mask[0] & 1 == 0 {
        Err(Errno::EINVAL)
    } else {
        Ok(0)
    }
}

fn sched_getparam<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let at = ctx.addr_opt(1).ok_or(Errno::EINVAL)?;
    check_thread(ctx, ctx.int(0))?;
    ctx.write_u32(at, 0).map(|()| 0)
}

fn sched_getscheduler<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    check_thread(ctx, ctx.int(0)).map(|()| 0)
}

/// The priorities of a policy: those of the two real-time ones, 0 for the others.
fn priority<E: Engine>(ctx: &SyscallContext<'_, E>, real_time: u64) -> SyscallResult {
    match ctx.int(0) {
        1 | 2 => Ok(real_time),
        0 | 3 | 5 | 6 | 7 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// The kernel's own form: 20 less the nice value.
fn getpriority<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    check_priority_target(ctx)?;
    Ok((20 - ctx.task.process.nice.load(Ordering::Relaxed)) as u64)
}

fn setpriority<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    check_priority_target(ctx)?;
    let (old, new) = (&ctx.task.process.nice, ctx.int(2).clamp(-20, 19));
    if new < old.load(Ordering::Relaxed) && ctx.kernel.identity.uid[1] != 0 {
        return Err(Errno::EACCES);
    }
    old.store(new, Ordering::Relaxed);
    Ok(0)
}

/// Whether a process, group or user is meant that the caller is, or is of.
fn check_priority_target<E: Engine>(ctx: &SyscallContext<'_, E>) -> Result<(), Errno> {
    let process = &ctx.task.process;
    let own = match ctx.int(0) {
        0 => process.pid,
        1 => process.pgid.load(Ordering::Relaxed),
        2 => ctx.kernel.identity.uid[0],
        _ => return Err(Errno::EINVAL),
    };
    if ctx.uint(1) == 0 || ctx.uint(1) == own {
        Ok(())
    } else {
        Err(Errno::ESRCH)
    }
}

//! Processes and threads as identities: ids, names, personality, ending. `fork` and `clone` are not built.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use linux_raw_sys::prctl as pr;
use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::space::ReadImpliesExec;

use super::{Arg, Call, SyscallContext, SyscallResult, call, nr};
use crate::engine::Engine;
use crate::exec::READ_IMPLIES_EXEC;
use crate::signal;
use crate::task::{ExitStatus, NAME_MAX};

/// The calls of this family.
pub fn calls<E: Engine>() -> [Call<E>; 28] {
    use Arg::{Hex, Int, Pointer, Size};
    [
        call(nr!(exit), "exit", &[Int], exit),
        call(nr!(exit_group), "exit_group", &[Int], exit_group),
        call(nr!(wait4), "wait4", &[Int, Pointer, Hex, Pointer], wait4),
        call(
            nr!(waitid),
            "waitid",
            &[Int, Int, Pointer, Hex, Pointer],
            waitid,
        ),
        call(nr!(getpid), "getpid", &[], |ctx| {
            Ok(ctx.task.process.pid.into())
        }),
        call(nr!(gettid), "gettid", &[], |ctx| {
            Ok(ctx.task.thread.tid.into())
        }),
        call(nr!(getppid), "getppid", &[], |ctx| {
            Ok(ctx.task.process.ppid.load(Ordering::Relaxed).into())
        }),
        call(nr!(getpgrp), "getpgrp", &[], |ctx| {
            Ok(ctx.task.process.pgid.load(Ordering::Relaxed).into())
        }),
        call(nr!(getpgid), "getpgid", &[Int], getpgid),
        call(nr!(setpgid), "setpgid", &[Int, Int], setpgid),
        call(nr!(getsid), "getsid", &[Int], getsid),
        call(nr!(setsid), "setsid", &[], setsid),
        call(nr!(getuid), "getuid", &[], |ctx| {
            Ok(ctx.kernel.identity.uid[0].into())
        }),
        call(nr!(geteuid), "geteuid", &[], |ctx| {
            Ok(ctx.kernel.identity.uid[1].into())
        }),
        call(nr!(getgid), "getgid", &[], |ctx| {
            Ok(ctx.kernel.identity.gid[0].into())
        }),
        call(nr!(getegid), "getegid", &[], |ctx| {
            Ok(ctx.kernel.identity.gid[1].into())
        }),
        call(
            nr!(getresuid),
            "getresuid",
            &[Pointer, Pointer, Pointer],
            |ctx| ids(ctx, ctx.kernel.identity.uid),
        ),
        call(
            nr!(getresgid),
            "getresgid",
            &[Pointer, Pointer, Pointer],
            |ctx| ids(ctx, ctx.kernel.identity.gid),
        ),
        call(nr!(getgroups), "getgroups", &[Int, Pointer], getgroups),
        call(nr!(capget), "capget", &[Pointer, Pointer], capget),
        call(nr!(personality), "personality", &[Hex], personality),
        call(nr!(prctl), "prctl", &[Int, Hex, Hex, Hex, Hex], prctl),
        call(nr!(arch_prctl), "arch_prctl", &[Hex, Pointer], arch_prctl),
        call(
            nr!(membarrier),
            "membarrier",
            &[Int, Hex, Int],
            super::membarrier::membarrier,
        ),
        call(nr!(sched_yield), "sched_yield", &[], |_| Ok(0)),
        call(nr!(setuid), "setuid", &[Int], |ctx| {
            same_id(ctx, ctx.kernel.identity.uid)
        }),
        call(nr!(setgid), "setgid", &[Int], |ctx| {
            same_id(ctx, ctx.kernel.identity.gid)
        }),
        call(nr!(getcpu), "getcpu", &[Pointer, Pointer, Size], getcpu),
    ]
}

fn exit<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    ctx.task.exiting = Some(ExitStatus::Exited(ctx.args[0] as u8));
    Ok(0)
}

fn exit_group<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    ctx.task
        .process
        .exit_group(ExitStatus::Exited(ctx.args[0] as u8));
    Ok(0)
}

/// No process has children yet.
fn wait4<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const KNOWN: u32 = 1 | 2 | 8 | 0x2000_0000 | 0x4000_0000 | 0x8000_0000;
    match (ctx.int(0), ctx.uint(2) & !KNOWN) {
        (i32::MIN, 0) => Err(Errno::ESRCH),
        (_, 0) => Err(Errno::ECHILD),
        _ => Err(Errno::EINVAL),
    }
}

fn waitid<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const EVENTS: u32 = 2 | 4 | 8;
    if !(0..=3).contains(&ctx.int(0)) || ctx.uint(3) & EVENTS == 0 {
        return Err(Errno::EINVAL);
    }
    Err(Errno::ECHILD)
}

/// Whether an id names the caller, 0 included.
fn is_self<E: Engine>(ctx: &SyscallContext<'_, E>, id: i32) -> Result<(), Errno> {
    if id == 0 || id as u32 == ctx.task.process.pid {
        Ok(())
    } else {
        Err(Errno::ESRCH)
    }
}

fn getpgid<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    is_self(ctx, ctx.int(0))?;
    Ok(ctx.task.process.pgid.load(Ordering::Relaxed).into())
}

fn getsid<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    is_self(ctx, ctx.int(0))?;
    Ok(ctx.task.process.sid.load(Ordering::Relaxed).into())
}

fn setpgid<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (id, group, process) = (ctx.int(0), ctx.int(1), &ctx.task.process);
    if group < 0 {
        return Err(Errno::EINVAL);
    }
    is_self(ctx, id)?;
    let group = if group == 0 {
        process.pid
    } else {
        group as u32
    };
    let is_leader = process.sid.load(Ordering::Relaxed) == process.pid;
    if is_leader || group != process.pid && group != process.pgid.load(Ordering::Relaxed) {
        return Err(Errno::EPERM);
    }
    process.pgid.store(group, Ordering::Relaxed);
    Ok(0)
}

fn setsid<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let process = &ctx.task.process;
    if process.pgid.load(Ordering::Relaxed) == process.pid {
        return Err(Errno::EPERM);
    }
    process.pgid.store(process.pid, Ordering::Relaxed);
    process.sid.store(process.pid, Ordering::Relaxed);
    Ok(process.pid.into())
}

/// Real, effective and saved id.
fn ids<E: Engine>(ctx: &SyscallContext<'_, E>, ids: [u32; 3]) -> SyscallResult {
    for (n, id) in ids.into_iter().enumerate() {
        ctx.write_u32(ctx.addr(n), id)?;
    }
    Ok(0)
}

/// Rights are the invoking user's and stay so: only an id that is held already may be set.
fn same_id<E: Engine>(ctx: &SyscallContext<'_, E>, held: [u32; 3]) -> SyscallResult {
    if ctx.uint(0) == u32::MAX {
        return Err(Errno::EINVAL);
    }
    if held.iter().all(|&id| id == ctx.uint(0)) {
        Ok(0)
    } else {
        Err(Errno::EPERM)
    }
}

fn getgroups<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let groups = &ctx.kernel.identity.groups;
    let room = usize::try_from(ctx.int(0)).map_err(|_| Errno::EINVAL)?;
    if room == 0 {
        return Ok(groups.len() as u64);
    }
    if room < groups.len() {
        return Err(Errno::EINVAL);
    }
    for (n, &group) in groups.iter().enumerate() {
        ctx.write_u32(
            ctx.addr(1).checked_add(4 * n as u64).ok_or(Errno::EFAULT)?,
            group,
        )?;
    }
    Ok(groups.len() as u64)
}

fn capget<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const VERSION_3: u32 = 0x2008_0522;
    const ALL: u64 = (1 << 41) - 1;
    let words = match ctx.read_u32(ctx.addr(0))? {
        0x1998_0330 => 1,
        0x2007_1026 | VERSION_3 => 2,
        _ => {
            ctx.write_u32(ctx.addr(0), VERSION_3)?;
            return if ctx.addr_opt(1).is_none() {
                Ok(0)
            } else {
                Err(Errno::EINVAL)
            };
        }
    };
    let Some(data) = ctx.addr_opt(1) else {
        return Ok(0);
    };
    let held = if ctx.kernel.identity.uid[1] == 0 {
        ALL
    } else {
        0
    };
    for n in 0..words {
        let part = (held >> (32 * n)) as u32;
        for (at, value) in [(0, part), (4, part), (8, 0)] {
            ctx.write_u32(data.checked_add(12 * n + at).ok_or(Errno::EFAULT)?, value)?;
        }
    }
    Ok(0)
}

fn personality<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const QUERY: u32 = u32::MAX;
    let process = &ctx.task.process;
    let new = ctx.uint(0);
    if new == QUERY {
        return Ok(process.personality.load(Ordering::Relaxed).into());
    }
    let implied = if new & READ_IMPLIES_EXEC != 0 {
        ReadImpliesExec::On
    } else {
        ReadImpliesExec::Off
    };
    ctx.task.mm.set_read_implies_exec(implied);
    Ok(process.personality.swap(new, Ordering::Relaxed).into())
}

fn prctl<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let process = &ctx.task.process;
    let rest_is_zero = |from: usize| ctx.args[from..5].iter().all(|&arg| arg == 0);
    match ctx.uint(0) {
        pr::PR_SET_NAME => {
            let mut name = [0; NAME_MAX];
            let len = match ctx.task.mm.read_cstr(ctx.addr(1), &mut name) {
                Ok(len) => len,
                Err(Errno::ENAMETOOLONG) => NAME_MAX,
                Err(error) => return Err(error),
            };
            *ctx.task.thread.name.lock() = name[..len].to_vec();
            Ok(0)
        }
        pr::PR_GET_NAME => {
            let mut bytes = [0; NAME_MAX + 1];
            let name = ctx.task.thread.name.lock();
            bytes[..name.len()].copy_from_slice(&name);
            drop(name);
            ctx.write(ctx.addr(1), &bytes).map(|()| 0)
        }
        pr::PR_GET_DUMPABLE => Ok(process.dumpable.load(Ordering::Relaxed).into()),
        pr::PR_SET_DUMPABLE if ctx.args[1] > 1 => Err(Errno::EINVAL),
        pr::PR_SET_DUMPABLE => {
            process.dumpable.store(ctx.uint(1), Ordering::Relaxed);
            Ok(0)
        }
        pr::PR_SET_NO_NEW_PRIVS if ctx.args[1] != 1 || !rest_is_zero(2) => Err(Errno::EINVAL),
        pr::PR_SET_NO_NEW_PRIVS => {
            process.no_new_privs.store(true, Ordering::Relaxed);
            Ok(0)
        }
        pr::PR_GET_NO_NEW_PRIVS if !rest_is_zero(1) => Err(Errno::EINVAL),
        pr::PR_GET_NO_NEW_PRIVS => Ok(process.no_new_privs.load(Ordering::Relaxed).into()),
        pr::PR_SET_PDEATHSIG if ctx.args[1] > signal::MAX_SIGNAL as u64 => Err(Errno::EINVAL),
        pr::PR_SET_PDEATHSIG => {
            process
                .parent_death_signal
                .store(ctx.int(1), Ordering::Relaxed);
            Ok(0)
        }
        pr::PR_GET_PDEATHSIG => {
            let signal = process.parent_death_signal.load(Ordering::Relaxed);
            ctx.write_u32(ctx.addr(1), signal as u32).map(|()| 0)
        }
        pr::PR_GET_KEEPCAPS | pr::PR_GET_TIMING | pr::PR_GET_SECCOMP => Ok(0),
        pr::PR_GET_TIMERSLACK => Ok(50_000),
        pr::PR_GET_TID_ADDRESS => {
            let at = ctx.task.clear_tid.map_or(0, VirtAddr::get);
            ctx.write_u64(ctx.addr(1), at).map(|()| 0)
        }
        pr::PR_SET_MM => super::prctl_mm::prctl_set_mm(ctx),
        pr::PR_SET_THP_DISABLE if !rest_is_zero(2) => Err(Errno::EINVAL),
        pr::PR_GET_THP_DISABLE if !rest_is_zero(1) => Err(Errno::EINVAL),
        // No huge pages are made whatever is set.
        pr::PR_SET_THP_DISABLE => {
            process
                .huge_pages_disabled
                .store(u32::from(ctx.args[1] != 0), Ordering::Relaxed);
            Ok(0)
        }
        pr::PR_GET_THP_DISABLE => Ok(process.huge_pages_disabled.load(Ordering::Relaxed).into()),
        pr::PR_SET_VMA if ctx.args[1] == u64::from(pr::PR_SET_VMA_ANON_NAME) => set_vma_name(ctx),
        pr::PR_CAPBSET_READ if ctx.args[1] > 40 => Err(Errno::EINVAL),
        pr::PR_CAPBSET_READ => Ok(1),
        _ => Err(Errno::EINVAL),
    }
}

/// PR_SET_VMA_ANON_NAME: names a range, or takes its name away. `kernel/sys.c: prctl_set_vma`.
fn set_vma_name<E: Engine>(ctx: &SyscallContext<'_, E>) -> SyscallResult {
    /// `ANON_VMA_NAME_MAX_LEN`, the NUL included.
    const MOST: usize = 80;
    let name = match ctx.addr_opt(4) {
        None => None,
        Some(at) => {
            let bytes = ctx.read_cstr(at, MOST).map_err(|error| match error {
                Errno::ENAMETOOLONG => Errno::EINVAL,
                other => other,
            })?;
            let allowed = |&byte: &u8| (0x20..0x7f).contains(&byte) && !b"\\`$[]".contains(&byte);
            let text = core::str::from_utf8(&bytes).map_err(|_| Errno::EINVAL)?;
            if !bytes.iter().all(allowed) {
                return Err(Errno::EINVAL);
            }
            Some(Arc::from(text))
        }
    };
    ctx.task
        .mm
        .set_anon_name(ctx.addr(2), ctx.args[3], name)
        .map(|()| 0)
}

fn arch_prctl<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    const SET_GS: u32 = 0x1001;
    const SET_FS: u32 = 0x1002;
    const GET_FS: u32 = 0x1003;
    const GET_GS: u32 = 0x1004;
    let value = ctx.args[1];
    let end = ctx.task.mm.layout().task_size_max;
    match ctx.uint(0) {
        SET_GS | SET_FS if value >= end => return Err(Errno::EPERM),
        SET_GS => ctx.task.regs.gs_base = value,
        SET_FS => ctx.task.regs.fs_base = value,
        GET_FS => ctx.write_u64(ctx.addr(1), ctx.task.regs.fs_base)?,
        GET_GS => ctx.write_u64(ctx.addr(1), ctx.task.regs.gs_base)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn getcpu<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    for n in [0, 1] {
        if let Some(at) = ctx.addr_opt(n) {
            ctx.write_u32(at, 0)?;
        }
    }
    Ok(0)
}

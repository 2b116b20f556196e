//! Resource limits and usage. The limits on memory take effect in the space at once, the one on descriptors in their table.

use core::sync::atomic::Ordering;
use core::time::Duration;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;

use super::{Arg, Call, SyscallContext, SyscallResult, call, nr};
use crate::engine::Engine;
use crate::exec::set_space_limits;
use crate::task::{Limit, RLIMIT_NOFILE};

/// The most that RLIMIT_NOFILE may be. `sysctl_nr_open`.
const NR_OPEN: u64 = 1 << 20;

/// The calls of this family.
pub fn calls<E: Engine>() -> [Call<E>; 4] {
    use Arg::{Int, Limit, Pointer};
    [
        call(
            nr!(prlimit64),
            "prlimit64",
            &[Int, Limit, Pointer, Pointer],
            prlimit64,
        ),
        call(nr!(getrlimit), "getrlimit", &[Limit, Pointer], getrlimit),
        call(nr!(setrlimit), "setrlimit", &[Limit, Pointer], setrlimit),
        call(nr!(getrusage), "getrusage", &[Int, Pointer], getrusage),
    ]
}

fn get<E: Engine>(ctx: &SyscallContext<'_, E>, number: u32) -> Result<Limit, Errno> {
    ctx.task
        .process
        .limits
        .lock()
        .get(number as usize)
        .ok_or(Errno::EINVAL)
}

fn read_limit<E: Engine>(ctx: &SyscallContext<'_, E>, at: VirtAddr) -> Result<Limit, Errno> {
    let [soft, hard] = ctx.read_words(at)?;
    Ok(Limit { soft, hard })
}

/// `do_prlimit`: sets one limit.
fn set<E: Engine>(ctx: &SyscallContext<'_, E>, number: u32, new: Limit) -> Result<(), Errno> {
    let old = get(ctx, number)?;
    if new.soft > new.hard {
        return Err(Errno::EINVAL);
    }
    let is_files = number as usize == RLIMIT_NOFILE;
    let may_raise = ctx.kernel.identity.uid[1] == 0;
    if is_files && new.hard > NR_OPEN || new.hard > old.hard && !may_raise {
        return Err(Errno::EPERM);
    }
    let mut limits = ctx.task.process.limits.lock();
    if let Some(slot) = limits.0.get_mut(number as usize) {
        *slot = new;
    }
    set_space_limits(ctx.task.mm.limits(), &limits);
    drop(limits);
    if is_files {
        ctx.task
            .files
            .write()
            .set_limit(new.soft.min(NR_OPEN) as u32);
    }
    Ok(())
}

fn prlimit64<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let id = ctx.int(0);
    let new = ctx.addr_opt(2).map(|at| read_limit(ctx, at)).transpose()?;
    if id != 0 && id as u32 != ctx.task.process.pid {
        return Err(Errno::ESRCH);
    }
    let number = ctx.uint(1);
    let old = get(ctx, number)?;
    if let Some(new) = new {
        set(ctx, number, new)?;
    }
    if let Some(at) = ctx.addr_opt(3) {
        ctx.write_words(at, [old.soft, old.hard])?;
    }
    Ok(0)
}

fn getrlimit<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let limit = get(ctx, ctx.uint(0))?;
    ctx.write_words(ctx.addr(1), [limit.soft, limit.hard])
        .map(|()| 0)
}

fn setrlimit<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let new = read_limit(ctx, ctx.addr(1))?;
    set(ctx, ctx.uint(0), new).map(|()| 0)
}

fn getrusage<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let mut words = [0; 18];
    match ctx.int(0) {
        0 | 1 => {
            let (user, system) = ctx.outside().cpu_time();
            let mut put = |at: usize, time: Duration| {
                words[at] = time.as_secs();
                words[at + 1] = time.subsec_micros().into();
            };
            put(0, user);
            put(2, system);
            // In KiB; a page is 4.
            words[4] = ctx.task.mm.peak_rss() * 4;
            let [minor, major] = &ctx.task.process.faults;
            (words[8], words[9]) = (minor.load(Ordering::Relaxed), major.load(Ordering::Relaxed));
        }
        // Children: none.
        -1 => {}
        _ => return Err(Errno::EINVAL),
    }
    ctx.write_words(ctx.addr(1), words).map(|()| 0)
}

//! `futex` and what goes with it. With one thread in a space nobody can wake a sleeper, so a wait only ends by its timeout or a signal;
//! threads bring a table of sleepers here. Priority inheritance is not built.

use core::time::Duration;

use portolan::errno::Errno;

use super::time::{self, Clock};
use super::{Arg, Call, SyscallContext, SyscallResult, call, nr};
use crate::engine::Engine;

const FUTEX_WAIT: u32 = 0;
const FUTEX_WAKE: u32 = 1;
const FUTEX_REQUEUE: u32 = 3;
const FUTEX_CMP_REQUEUE: u32 = 4;
const FUTEX_WAKE_OP: u32 = 5;
const FUTEX_WAIT_BITSET: u32 = 9;
const FUTEX_WAKE_BITSET: u32 = 10;
const FUTEX_PRIVATE_FLAG: u32 = 128;
const FUTEX_CLOCK_REALTIME: u32 = 256;

/// The calls of this family.
pub fn calls<E: Engine>() -> [Call<E>; 5] {
    use Arg::{Hex, Int, Pointer, Size};
    [
        call(
            nr!(futex),
            "futex",
            &[Pointer, Hex, Size, Pointer, Pointer, Size],
            futex,
        )
        .restarts(),
        call(
            nr!(set_tid_address),
            "set_tid_address",
            &[Pointer],
            set_tid_address,
        ),
        call(
            nr!(set_robust_list),
            "set_robust_list",
            &[Pointer, Size],
            set_robust_list,
        ),
        call(
            nr!(get_robust_list),
            "get_robust_list",
            &[Int, Pointer, Pointer],
            get_robust_list,
        ),
        call(nr!(rseq), "rseq", &[Pointer, Size, Hex, Hex], |_| {
            Err(Errno::ENOSYS)
        }),
    ]
}

fn futex<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let op = ctx.uint(1);
    let command = op & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
    let addr = ctx.addr(0);
    if !addr.get().is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    match command {
        FUTEX_WAIT | FUTEX_WAIT_BITSET => {
            if command == FUTEX_WAIT_BITSET && ctx.uint(5) == 0 {
                return Err(Errno::EINVAL);
            }
            let timeout = ctx
                .addr_opt(3)
                .map(|at| time::read_timespec(ctx, at))
                .transpose()?;
            if ctx.task.mm.load_u32(addr)? != ctx.uint(2) {
                return Err(Errno::EAGAIN);
            }
            let clock = if op & FUTEX_CLOCK_REALTIME != 0 {
                Clock::Realtime
            } else {
                Clock::Monotonic
            };
            let until = timeout.map(|timeout| match command {
                FUTEX_WAIT => (
                    Clock::Monotonic,
                    Clock::Monotonic.now(ctx.outside()).saturating_add(timeout),
                ),
                _ => (clock, timeout),
            });
            wait(ctx, until)
        }
        // Nobody sleeps, so nobody is woken or moved.
        FUTEX_WAKE | FUTEX_REQUEUE => ctx.task.mm.load_u32(addr).map(|_| 0),
        FUTEX_WAKE_BITSET if ctx.uint(5) == 0 => Err(Errno::EINVAL),
        FUTEX_WAKE_BITSET => ctx.task.mm.load_u32(addr).map(|_| 0),
        FUTEX_CMP_REQUEUE if ctx.task.mm.load_u32(addr)? != ctx.uint(5) => Err(Errno::EAGAIN),
        FUTEX_CMP_REQUEUE => Ok(0),
        FUTEX_WAKE_OP => wake_op(ctx),
        _ => Err(Errno::ENOSYS),
    }
}

/// Sleeps until the time or a signal comes.
fn wait<E: Engine>(
    ctx: &mut SyscallContext<'_, E>,
    until: Option<(Clock, Duration)>,
) -> SyscallResult {
    if until.is_none() {
        ctx.kernel.log.note(format_args!(
            "a futex wait that no thread can wake: it ends by a signal only"
        ));
    }
    match time::sleep_until(ctx, until) {
        Ok(()) => Err(Errno::ETIMEDOUT),
        Err(error) => Err(error),
    }
}

/// FUTEX_WAKE_OP with nobody to wake: only the change of the second word remains.
fn wake_op<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (addr, encoded) = (ctx.addr(4), ctx.uint(5));
    if !addr.get().is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    let sign_extended = |bits: u32| (bits << 20) as i32 >> 20;
    let operand = sign_extended(encoded >> 12 & 0xfff) as u32;
    let operand = if encoded >> 31 != 0 {
        1_u32.wrapping_shl(operand)
    } else {
        operand
    };
    let mm = &ctx.task.mm;
    let mut old = mm.load_u32(addr)?;
    loop {
        let new = match encoded >> 28 & 7 {
            0 => operand,
            1 => old.wrapping_add(operand),
            2 => old | operand,
            3 => old & !operand,
            4 => old ^ operand,
            _ => return Err(Errno::ENOSYS),
        };
        match mm.compare_exchange_u32(addr, old, new)? {
            seen if seen == old => return Ok(0),
            seen => old = seen,
        }
    }
}

fn set_tid_address<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    ctx.task.clear_tid = ctx.addr_opt(0);
    Ok(ctx.task.thread.tid.into())
}

fn set_robust_list<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    if ctx.args[1] != 24 {
        return Err(Errno::EINVAL);
    }
    ctx.task.robust_list = (ctx.args[0], ctx.args[1]);
    Ok(0)
}

fn get_robust_list<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    if !matches!(ctx.uint(0), 0) && ctx.uint(0) != ctx.task.thread.tid {
        return Err(Errno::ESRCH);
    }
    ctx.write_u64(ctx.addr(2), 24)?;
    ctx.write_u64(ctx.addr(1), ctx.task.robust_list.0)?;
    Ok(0)
}

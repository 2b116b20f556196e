//! Signal calls: actions, masks, stacks, sending, waiting, returning. Not for: delivery and frames (`crate::signal`).

use portolan::addr::VirtAddr;
use portolan::errno::Errno;

use super::time::{self, Clock};
use super::{Arg, Call, SyscallContext, SyscallResult, call, nr};
use crate::engine::Engine;
use crate::signal::frame::{self, FXSAVE_HEAD};
use crate::signal::{
    self, Action, AltStack, SIGKILL, SIGSEGV, SIGSTOP, SS_DISABLE, SigInfo, SignalSet,
};
use crate::signal::{SI_TKILL, SI_USER};
use crate::task::Task;

/// The least alternate stack. `MINSIGSTKSZ`.
const MIN_ALT_STACK: u64 = 2048;

/// The calls of this family.
pub fn calls<E: Engine>() -> [Call<E>; 13] {
    use Arg::{Int, Pointer, Signal, Size};
    [
        call(
            nr!(rt_sigaction),
            "rt_sigaction",
            &[Signal, Pointer, Pointer, Size],
            rt_sigaction,
        ),
        call(
            nr!(rt_sigprocmask),
            "rt_sigprocmask",
            &[Int, Pointer, Pointer, Size],
            rt_sigprocmask,
        ),
        call(nr!(rt_sigreturn), "rt_sigreturn", &[], rt_sigreturn),
        call(
            nr!(sigaltstack),
            "sigaltstack",
            &[Pointer, Pointer],
            sigaltstack,
        ),
        call(
            nr!(rt_sigpending),
            "rt_sigpending",
            &[Pointer, Size],
            rt_sigpending,
        ),
        call(
            nr!(rt_sigsuspend),
            "rt_sigsuspend",
            &[Pointer, Size],
            rt_sigsuspend,
        )
        .restarts_without_handler(),
        call(nr!(pause), "pause", &[], pause).restarts_without_handler(),
        call(
            nr!(rt_sigtimedwait),
            "rt_sigtimedwait",
            &[Pointer, Pointer, Pointer, Size],
            rt_sigtimedwait,
        ),
        call(nr!(kill), "kill", &[Int, Signal], kill),
        call(nr!(tkill), "tkill", &[Int, Signal], tkill),
        call(nr!(tgkill), "tgkill", &[Int, Int, Signal], tgkill),
        call(
            nr!(rt_sigqueueinfo),
            "rt_sigqueueinfo",
            &[Int, Signal, Pointer],
            rt_sigqueueinfo,
        ),
        call(
            nr!(rt_tgsigqueueinfo),
            "rt_tgsigqueueinfo",
            &[Int, Int, Signal, Pointer],
            rt_tgsigqueueinfo,
        ),
    ]
}

fn check_set_size(size: u64) -> Result<(), Errno> {
    if size == 8 {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

fn read_set<E: Engine>(ctx: &SyscallContext<'_, E>, at: VirtAddr) -> Result<SignalSet, Errno> {
    ctx.read_u64(at).map(SignalSet)
}

fn rt_sigaction<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    check_set_size(ctx.args[3])?;
    let number = ctx.int(0);
    let new = ctx
        .addr_opt(1)
        .map(|at| ctx.read_words(at))
        .transpose()?
        .map(Action::from_words);
    if !signal::is_valid(number) || new.is_some() && matches!(number, SIGKILL | SIGSTOP) {
        return Err(Errno::EINVAL);
    }
    let process = &ctx.task.process;
    let old = process.actions.lock().get(number);
    if let Some(action) = new {
        process.actions.lock().set(number, action);
        if action.ignores(number) {
            let ignored = SignalSet::only(number);
            process.pending.lock().forget(ignored);
            process
                .threads
                .lock()
                .iter()
                .for_each(|thread| thread.pending.lock().forget(ignored));
        }
    }
    if let Some(at) = ctx.addr_opt(2) {
        ctx.write_words(at, old.to_words())?;
    }
    Ok(0)
}

fn rt_sigprocmask<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    check_set_size(ctx.args[3])?;
    let old = *ctx.task.thread.blocked.lock();
    if let Some(at) = ctx.addr_opt(1) {
        let given = read_set(ctx, at)?.maskable();
        let new = match ctx.int(0) {
            0 => old.with(given),
            1 => old.without(given),
            2 => given,
            _ => return Err(Errno::EINVAL),
        };
        *ctx.task.thread.blocked.lock() = new;
    }
    if let Some(at) = ctx.addr_opt(2) {
        ctx.write_u64(at, old.0)?;
    }
    Ok(0)
}

fn rt_sigreturn<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    // The handler's return took the first word of the frame.
    let at = VirtAddr::new(ctx.task.regs.rsp.wrapping_sub(8));
    if restore(ctx, at).is_err() {
        ctx.task.force(SigInfo::kernel(SIGSEGV));
        return Ok(0);
    }
    Ok(ctx.task.regs.rax)
}

fn restore<E: Engine>(ctx: &mut SyscallContext<'_, E>, at: VirtAddr) -> Result<(), Errno> {
    let bytes = ctx.read_array::<{ frame::SIZE }>(at)?;
    let restored = frame::decode(&bytes, &ctx.task.regs);
    let image = extended_of(ctx, restored.extended)?;
    ctx.kernel
        .engine()
        .set_extended_state(&mut ctx.task.vcpu, &image)?;
    *ctx.task.thread.blocked.lock() = restored.mask;
    ctx.task.regs = restored.regs;
    // As Linux: a stack that cannot be set again is passed over.
    let _ = set_alt_stack(ctx.task, restored.alt);
    Ok(())
}

/// The extended state that a frame points to; the initial one for a null pointer.
fn extended_of<E: Engine>(
    ctx: &mut SyscallContext<'_, E>,
    at: u64,
) -> Result<alloc::vec::Vec<u8>, Errno> {
    let vcpu = &mut ctx.task.vcpu;
    let engine = ctx.kernel.engine();
    let size = *ctx
        .task
        .extended_size
        .get_or_insert_with(|| engine.extended_state(vcpu).len());
    if at == 0 {
        return frame::initial_extended(size);
    }
    if !at.is_multiple_of(64) {
        return Err(Errno::EFAULT);
    }
    let head = ctx.read_array::<FXSAVE_HEAD>(VirtAddr::new(at))?;
    let len = frame::extended_len(&head, size);
    let saved = ctx.read_vec(VirtAddr::new(at), len)?;
    let end = at.checked_add(len as u64).ok_or(Errno::EFAULT)?;
    let marker = if len > FXSAVE_HEAD {
        ctx.read_u32(VirtAddr::new(end))?
    } else {
        0
    };
    frame::restore_extended(&saved, marker, size)
}

/// Sets the alternate stack. `do_sigaltstack`.
///
/// # Errors
/// `EPERM`: the task runs on the present one. `EINVAL`: unknown flags. `ENOMEM`: too small.
fn set_alt_stack<E: Engine>(task: &mut Task<E>, wanted: AltStack) -> Result<(), Errno> {
    if task.alt_stack.is_active(task.regs.rsp) {
        return Err(Errno::EPERM);
    }
    let mode = frame::alt_mode(wanted.flags).ok_or(Errno::EINVAL)?;
    if mode == SS_DISABLE {
        task.alt_stack = AltStack {
            base: 0,
            size: 0,
            flags: wanted.flags,
        };
        return Ok(());
    }
    if wanted.size < MIN_ALT_STACK {
        return Err(Errno::ENOMEM);
    }
    task.alt_stack = wanted;
    Ok(())
}

fn sigaltstack<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let old = ctx.task.alt_stack;
    let flags = old.reported_flags(ctx.task.regs.rsp);
    if let Some(at) = ctx.addr_opt(0) {
        let [base, flags, size] = ctx.read_words(at)?;
        set_alt_stack(
            ctx.task,
            AltStack {
                base,
                size,
                flags: flags as u32,
            },
        )?;
    }
    if let Some(at) = ctx.addr_opt(1) {
        ctx.write_words(at, [old.base, flags.into(), old.size])?;
    }
    Ok(0)
}

fn rt_sigpending<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let size = ctx.args[1];
    if size > 8 {
        return Err(Errno::EINVAL);
    }
    let task = &ctx.task;
    let waiting = task
        .thread
        .pending
        .lock()
        .set()
        .with(task.process.pending.lock().set());
    let held = waiting.0 & task.thread.blocked.lock().0;
    ctx.write(ctx.addr(0), &held.to_ne_bytes()[..size as usize])?;
    Ok(0)
}

fn rt_sigsuspend<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    check_set_size(ctx.args[1])?;
    let mask = read_set(ctx, ctx.addr(0))?.maskable();
    let old = core::mem::replace(&mut *ctx.task.thread.blocked.lock(), mask);
    ctx.task.saved_mask = Some(old);
    pause(ctx)
}

fn pause<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    time::sleep_until(ctx, None).map(|()| 0)
}

fn rt_sigtimedwait<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    check_set_size(ctx.args[3])?;
    let wanted = read_set(ctx, ctx.addr(0))?.maskable();
    let timeout = ctx
        .addr_opt(2)
        .map(|at| time::read_timespec(ctx, at))
        .transpose()?;
    let until = timeout.map(|time| {
        (
            Clock::Monotonic,
            ctx.outside().monotonic().saturating_add(time),
        )
    });
    let mut info = take(ctx, wanted);
    if info.is_none() && timeout.is_none_or(|timeout| !timeout.is_zero()) {
        // While it waits, what it waits for interrupts it.
        let old = *ctx.task.thread.blocked.lock();
        *ctx.task.thread.blocked.lock() = old.without(wanted);
        let slept = time::sleep_until(ctx, until);
        *ctx.task.thread.blocked.lock() = old;
        info = take(ctx, wanted);
        if info.is_none() {
            slept?;
        }
    }
    let info = info.ok_or(Errno::EAGAIN)?;
    if let Some(at) = ctx.addr_opt(1) {
        ctx.write(at, &info.to_bytes())?;
    }
    Ok(info.signal as u64)
}

fn take<E: Engine>(ctx: &SyscallContext<'_, E>, wanted: SignalSet) -> Option<SigInfo> {
    let own = ctx.task.thread.pending.lock().take(wanted);
    own.or_else(|| ctx.task.process.pending.lock().take(wanted))
}

/// The sender's half of a siginfo.
fn from_here<E: Engine>(ctx: &SyscallContext<'_, E>, signal: i32, code: i32) -> SigInfo {
    SigInfo::sent(
        signal,
        code,
        ctx.task.process.pid,
        ctx.kernel.identity.uid[0],
    )
}

/// Signal 0 asks only whether the receiver is there.
fn checked(signal: i32) -> Result<Option<i32>, Errno> {
    match signal {
        0 => Ok(None),
        signal if signal::is_valid(signal) => Ok(Some(signal)),
        _ => Err(Errno::EINVAL),
    }
}

fn kill<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let signal = checked(ctx.int(1))?;
    let process = &ctx.task.process;
    let group = process.pgid.load(core::sync::atomic::Ordering::Relaxed);
    let is_own = match ctx.int(0) {
        0 => true,
        -1 => return Err(Errno::ESRCH),
        i32::MIN => return Err(Errno::ESRCH),
        id if id < 0 => id.unsigned_abs() == group,
        id => id as u32 == process.pid,
    };
    if !is_own {
        return Err(Errno::ESRCH);
    }
    if let Some(signal) = signal {
        process.send(from_here(ctx, signal, SI_USER))?;
    }
    Ok(0)
}

/// Sends to one thread of this group. `group` is its group's id, if the caller named one.
fn send_to_thread<E: Engine>(
    ctx: &SyscallContext<'_, E>,
    group: Option<i32>,
    tid: i32,
    info: Option<SigInfo>,
) -> SyscallResult {
    if tid <= 0 || group.is_some_and(|group| group <= 0) {
        return Err(Errno::EINVAL);
    }
    let process = &ctx.task.process;
    if group.is_some_and(|group| group as u32 != process.pid) {
        return Err(Errno::ESRCH);
    }
    let thread = process
        .threads
        .lock()
        .iter()
        .find(|thread| thread.tid == tid as u32)
        .cloned()
        .ok_or(Errno::ESRCH)?;
    if let Some(info) = info {
        process.send_to(&thread, info)?;
    }
    Ok(0)
}

fn tkill<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let info = checked(ctx.int(1))?.map(|signal| from_here(ctx, signal, SI_TKILL));
    send_to_thread(ctx, None, ctx.int(0), info)
}

fn tgkill<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let info = checked(ctx.int(2))?.map(|signal| from_here(ctx, signal, SI_TKILL));
    send_to_thread(ctx, Some(ctx.int(0)), ctx.int(1), info)
}

fn read_info<E: Engine>(
    ctx: &SyscallContext<'_, E>,
    signal: i32,
    at: VirtAddr,
) -> Result<Option<SigInfo>, Errno> {
    let bytes = ctx.read_array(at)?;
    Ok(checked(signal)?.map(|signal| SigInfo::from_bytes(signal, &bytes)))
}

fn rt_sigqueueinfo<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let info = read_info(ctx, ctx.int(1), ctx.addr(2))?;
    if ctx.int(0) as u32 != ctx.task.process.pid {
        return Err(Errno::ESRCH);
    }
    if let Some(info) = info {
        ctx.task.process.send(info)?;
    }
    Ok(0)
}

fn rt_tgsigqueueinfo<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let info = read_info(ctx, ctx.int(2), ctx.addr(3))?;
    send_to_thread(ctx, Some(ctx.int(0)), ctx.int(1), info)
}

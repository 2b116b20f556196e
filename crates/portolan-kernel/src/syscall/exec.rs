//! `execve`: another program in the same process. Loading is `crate::exec`; here is where its strings come from, and what of the task
//! survives.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use lock_api::RwLock;
use portolan::addr::VirtAddr;
use portolan::errno::Errno;

use super::{Arg, Call, SyscallContext, SyscallResult, call, nr};
use crate::engine::{Engine, Registers};
use crate::exec::stack::{MAX_STRING, MAX_TOTAL};
use crate::exec::{self, Program, Ready};
use crate::fs::TaskOf;
use crate::signal::{AltStack, SIGSEGV, frame};

/// The calls of this family.
pub fn calls<E: Engine>() -> [Call<E>; 1] {
    use Arg::{Path, Pointer};
    [call(
        nr!(execve),
        "execve",
        &[Path, Pointer, Pointer],
        execve,
    )]
}

fn execve<E: Engine>(ctx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let path = ctx.read_path(ctx.addr(0))?;
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut room = MAX_TOTAL;
    let argv = read_strings(ctx, ctx.addr(1), &mut room)?;
    let env = read_strings(ctx, ctx.addr(2), &mut room)?;
    let program = Program { path, argv, env };
    let limits = *ctx.task.process.limits.lock();
    let personality = ctx
        .task
        .process
        .personality
        .load(core::sync::atomic::Ordering::Relaxed);
    let view = TaskOf {
        kernel: ctx.kernel,
        task: ctx.task,
    };
    let session = view.session();
    let found = exec::find_program(&session, &program, &limits)?;
    // From here on there is no way back: as on Linux, what fails kills.
    let loaded = found.load(ctx.kernel, &session, &limits, personality);
    if let Err(error) = loaded.and_then(|ready| become_program(ctx, ready)) {
        ctx.kernel.note_death(error);
        ctx.task.force_fatal(SIGSEGV);
    }
    Ok(0)
}

/// A table of strings, ended by a null pointer; no table is an empty one. `room` is how many bytes of strings and pointers there may
/// be, and shrinks by what there are.
fn read_strings<E: Engine>(
    ctx: &SyscallContext<'_, E>,
    table: VirtAddr,
    room: &mut u64,
) -> Result<Vec<Vec<u8>>, Errno> {
    let mut strings = Vec::new();
    if table.get() == 0 {
        return Ok(strings);
    }
    for n in 0.. {
        let slot = table.checked_add(8 * n).ok_or(Errno::EFAULT)?;
        let at = ctx.read_u64(slot)?;
        if at == 0 {
            break;
        }
        let string = read_string(ctx, VirtAddr::new(at))?;
        *room = room
            .checked_sub(8 + string.len() as u64 + 1)
            .ok_or(Errno::E2BIG)?;
        strings.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
        strings.push(string);
    }
    Ok(strings)
}

/// One string of at most [`MAX_STRING`] bytes. Most are short: a long buffer is taken only for those that need it.
fn read_string<E: Engine>(ctx: &SyscallContext<'_, E>, at: VirtAddr) -> Result<Vec<u8>, Errno> {
    let mut short = [0; 256];
    match ctx.task.mm.read_cstr(at, &mut short) {
        Ok(len) => return Ok(short[..len].to_vec()),
        Err(Errno::ENAMETOOLONG) => {}
        Err(error) => return Err(error),
    }
    let mut long = vec![0; MAX_STRING];
    let len = ctx
        .task
        .mm
        .read_cstr(at, &mut long)
        .map_err(|error| match error {
            Errno::ENAMETOOLONG => Errno::E2BIG,
            other => other,
        })?;
    long.truncate(len);
    Ok(long)
}

/// Nothing of the old program can be seen any more. `begin_new_exec`, `setup_new_exec`.
fn become_program<E: Engine>(
    ctx: &mut SyscallContext<'_, E>,
    ready: Ready<E>,
) -> Result<(), Errno> {
    let task = &mut *ctx.task;
    let engine = ctx.kernel.engine();
    let size = task
        .extended_size
        .unwrap_or_else(|| engine.extended_state(&mut task.vcpu).len());
    engine.set_extended_state(&mut task.vcpu, &frame::initial_extended(size)?)?;
    if let Some(at) = task.clear_tid.take() {
        // As at exit: whoever would look is gone with the space if it was unmapped.
        let _ = task.mm.copy_to_user(at, &0_u32.to_ne_bytes());
    }
    task.mm = ready.mm;
    task.regs = Registers::start(ready.entry, ready.stack);
    task.alt_stack = AltStack::default();
    task.saved_mask = None;
    task.robust_list = (0, 0);
    *task.thread.name.lock() = ready.name;

    let process = &task.process;
    process.actions.lock().after_exec();
    *process.program.write() = ready.info;
    process
        .personality
        .store(ready.personality, core::sync::atomic::Ordering::Relaxed);
    process
        .dumpable
        .store(1, core::sync::atomic::Ordering::Relaxed);

    process
        .membarrier
        .store(0, core::sync::atomic::Ordering::Relaxed);

    let own = task.files.read().clone();
    let mut own = RwLock::new(own);
    drop(own.get_mut().close_on_exec());
    task.files = Arc::new(own);
    Ok(())
}

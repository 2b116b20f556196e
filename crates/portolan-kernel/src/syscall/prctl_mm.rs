//! PR_SET_MM: the places that `/proc/PID` tells of, changed by who restores a process, one by one or all at once. `kernel/sys.c: prctl_set_mm`.

use alloc::vec::Vec;

use linux_raw_sys::prctl as pr;
use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::space::Layout;

use super::{SyscallContext, SyscallResult};
use crate::engine::Engine;
use crate::task::RLIMIT_DATA;

/// Bytes of `struct prctl_mm_map`.
const MAP_BYTES: usize = 104;
/// Words of a saved auxiliary vector. `AT_VECTOR_SIZE`.
const MOST_AUXV: usize = 52;

/// PR_SET_MM with its arguments from the second on.
///
/// # Errors
/// - `EINVAL`: an unknown option, a superfluous argument, an address outside the space, places out of order, a vector that is too long, or RLIMIT_DATA.
/// - `EPERM`: without the right (CAP_SYS_RESOURCE; not asked for by the two that take a map). `EFAULT`: nothing is mapped at or above the address, or the
///   arguments are not readable. `EBADF`, `EACCES`, `EBUSY`: the new executable.
pub(super) fn prctl_set_mm<E: Engine>(ctx: &SyscallContext<'_, E>) -> SyscallResult {
    let (option, addr, extra) = (ctx.uint(1), ctx.args[2], ctx.args[3]);
    let takes_extra = matches!(
        option,
        pr::PR_SET_MM_AUXV | pr::PR_SET_MM_MAP | pr::PR_SET_MM_MAP_SIZE
    );
    if ctx.args[4] != 0 || extra != 0 && !takes_extra {
        return Err(Errno::EINVAL);
    }
    match option {
        pr::PR_SET_MM_MAP_SIZE => {
            return ctx.write_u32(ctx.addr(2), MAP_BYTES as u32).map(|()| 0);
        }
        pr::PR_SET_MM_MAP => return set_map(ctx, ctx.addr(2), extra),
        _ if ctx.kernel.identity.uid[1] != 0 => return Err(Errno::EPERM),
        pr::PR_SET_MM_EXE_FILE => return set_executable(ctx, addr as u32),
        pr::PR_SET_MM_AUXV => {
            let words = read_auxv(ctx, ctx.addr(2), extra)?;
            ctx.task.process.program.write().auxv = words;
            return Ok(0);
        }
        _ => {}
    }
    let mm = &ctx.task.mm;
    let mut layout = mm.layout();
    if !is_inside(ctx, addr) {
        return Err(Errno::EINVAL);
    }
    *place_of(&mut layout, option).ok_or(Errno::EINVAL)? = addr;
    check(ctx, &layout)?;
    let needs_memory = matches!(
        option,
        pr::PR_SET_MM_START_STACK
            | pr::PR_SET_MM_ARG_START
            | pr::PR_SET_MM_ARG_END
            | pr::PR_SET_MM_ENV_START
            | pr::PR_SET_MM_ENV_END
    );
    let mut is_below_an_area = false;
    mm.for_each_area(|area| is_below_an_area |= area.range.end().get() > addr);
    if needs_memory && !is_below_an_area {
        return Err(Errno::EFAULT);
    }
    mm.set_layout(|now| *now = layout);
    Ok(0)
}

/// The place that an option names.
fn place_of(layout: &mut Layout, option: u32) -> Option<&mut u64> {
    Some(match option {
        pr::PR_SET_MM_START_CODE => &mut layout.start_code,
        pr::PR_SET_MM_END_CODE => &mut layout.end_code,
        pr::PR_SET_MM_START_DATA => &mut layout.start_data,
        pr::PR_SET_MM_END_DATA => &mut layout.end_data,
        pr::PR_SET_MM_START_BRK => &mut layout.start_brk,
        pr::PR_SET_MM_BRK => &mut layout.brk,
        pr::PR_SET_MM_START_STACK => &mut layout.start_stack,
        pr::PR_SET_MM_ARG_START => &mut layout.arg_start,
        pr::PR_SET_MM_ARG_END => &mut layout.arg_end,
        pr::PR_SET_MM_ENV_START => &mut layout.env_start,
        pr::PR_SET_MM_ENV_END => &mut layout.env_end,
        _ => return None,
    })
}

fn is_inside<E: Engine>(ctx: &SyscallContext<'_, E>, addr: u64) -> bool {
    let settings = ctx.kernel.machine().settings();
    let least = settings
        .mmap_min_addr
        .load(core::sync::atomic::Ordering::Relaxed);
    addr >= least && addr < ctx.task.mm.layout().task_size
}

/// `validate_prctl_map_addr`.
fn check<E: Engine>(ctx: &SyscallContext<'_, E>, layout: &Layout) -> Result<(), Errno> {
    let places = [
        layout.start_code,
        layout.end_code,
        layout.start_data,
        layout.end_data,
        layout.start_brk,
        layout.brk,
        layout.start_stack,
        layout.arg_start,
        layout.arg_end,
        layout.env_start,
        layout.env_end,
    ];
    let in_order = layout.start_code < layout.end_code
        && layout.start_data <= layout.end_data
        && layout.start_brk <= layout.brk
        && layout.arg_start <= layout.arg_end
        && layout.env_start <= layout.env_end;
    if !in_order || !places.iter().all(|&at| is_inside(ctx, at)) {
        return Err(Errno::EINVAL);
    }
    let limits = ctx.task.process.limits.lock();
    let most = limits.get(RLIMIT_DATA).map_or(u64::MAX, |limit| limit.soft);
    let data = (layout.brk - layout.start_brk) + (layout.end_data - layout.start_data);
    if data > most {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// PR_SET_MM_MAP: all places at once, the auxiliary vector and the executable. `prctl_set_mm_map`.
fn set_map<E: Engine>(ctx: &SyscallContext<'_, E>, at: VirtAddr, bytes: u64) -> SyscallResult {
    if bytes != MAP_BYTES as u64 {
        return Err(Errno::EINVAL);
    }
    let map: [u8; MAP_BYTES] = ctx.read_array(at)?;
    let word = |n: usize| {
        map[8 * n..]
            .first_chunk()
            .map_or(0, |word| u64::from_ne_bytes(*word))
    };
    let layout = Layout {
        start_code: word(0),
        end_code: word(1),
        start_data: word(2),
        end_data: word(3),
        start_brk: word(4),
        brk: word(5),
        start_stack: word(6),
        arg_start: word(7),
        arg_end: word(8),
        env_start: word(9),
        env_end: word(10),
        ..ctx.task.mm.layout()
    };
    check(ctx, &layout)?;
    let (auxv, sizes) = (word(11), word(12));
    let (auxv_bytes, executable) = (sizes as u32, (sizes >> 32) as u32);
    let words = match auxv_bytes {
        0 => None,
        _ if auxv == 0 => return Err(Errno::EINVAL),
        bytes => Some(read_auxv(ctx, VirtAddr::new(auxv), bytes.into())?),
    };
    if executable != u32::MAX {
        if ctx.kernel.identity.uid[1] != 0 {
            return Err(Errno::EPERM);
        }
        set_executable(ctx, executable)?;
    }
    ctx.task.mm.set_layout(|now| *now = layout);
    if let Some(words) = words {
        ctx.task.process.program.write().auxv = words;
    }
    Ok(0)
}

/// An auxiliary vector, which ends with AT_NULL whatever it says.
fn read_auxv<E: Engine>(
    ctx: &SyscallContext<'_, E>,
    at: VirtAddr,
    bytes: u64,
) -> Result<Vec<u64>, Errno> {
    if bytes > (MOST_AUXV * 8) as u64 {
        return Err(Errno::EINVAL);
    }
    let mut words: Vec<u64> = ctx
        .read_vec(at, bytes as usize)?
        .chunks_exact(8)
        .map(|word| {
            word.first_chunk()
                .map_or(0, |word| u64::from_ne_bytes(*word))
        })
        .collect();
    words.resize(MOST_AUXV, 0);
    words[MOST_AUXV - 2..].fill(0);
    // What is shown ends where it says that it ends.
    let end = words.chunks_exact(2).position(|pair| pair[0] == 0);
    words.truncate(end.map_or(MOST_AUXV, |pair| 2 * pair + 2));
    Ok(words)
}

/// PR_SET_MM_EXE_FILE: only once nothing of the old executable is mapped. `prctl_set_mm_exe_file`.
fn set_executable<E: Engine>(ctx: &SyscallContext<'_, E>, fd: u32) -> SyscallResult {
    let file = ctx.task.files.read().get(fd)?.clone();
    let view = crate::fs::TaskOf {
        kernel: ctx.kernel,
        task: ctx.task,
    };
    let stat = file.stat(&view.session())?;
    if stat.mode & 0o170000 != 0o100000 || stat.mode & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    let mut program = ctx.task.process.program.write();
    let mut is_mapped = false;
    ctx.task.mm.for_each_area(|area| {
        if let portolan::space::AreaName::Path(path, _) = area.name {
            is_mapped |= path == program.exe;
        }
    });
    if is_mapped {
        return Err(Errno::EBUSY);
    }
    program.exe = file.path.clone();
    Ok(0)
}

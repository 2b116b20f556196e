//! The first stack of a program: strings at its top, then the platform name, sixteen random bytes, and the table of argument,
//! environment and auxiliary values that `_start` reads. Where each goes is computed first ([`plan`]), so that the area is mapped once.

use alloc::vec::Vec;

use linux_raw_sys::auxvec;
use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::paging::Format;
use portolan::platform::Platform;
use portolan::space::{Map, MapRequest, MmUser, Prot};

use super::Program;
use super::image::Loaded;
use crate::engine::CpuDescription;
use crate::outside::Identity;

/// The longest string with its NUL: 32 pages of 4 KiB. `MAX_ARG_STRLEN`.
pub const MAX_STRING: usize = 131_072;
/// All strings and pointers to them take no more than this, whatever the stack limit. Three quarters of `_STK_LIM`.
pub const MAX_TOTAL: u64 = (8 << 20) / 4 * 3;
/// They may always take this much. `ARG_MAX`.
const MIN_TOTAL: u64 = 131_072;
/// How far below its contents the stack's area goes at first, bytes.
const ROOM: u64 = 131_072;
/// Pairs in the auxiliary vector as it is kept for /proc, the end included.
const AUXV_PAIRS: usize = 26;

/// The strings of a program.
#[derive(Clone, Copy, Debug)]
pub struct Strings<'a> {
    /// The path it was started by. `AT_EXECFN`.
    pub path: &'a [u8],
    /// Arguments.
    pub argv: &'a [Vec<u8>],
    /// Environment.
    pub env: &'a [Vec<u8>],
}

/// Where the strings go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The lowest address of the area.
    pub base: u64,
    /// Its end.
    pub top: u64,
    /// The first argument string; all below is free.
    pub arg_start: u64,
    /// The first environment string, where the arguments end.
    pub env_start: u64,
    /// The end of the environment, where the path lies.
    pub env_end: u64,
}

/// What the auxiliary vector says.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// The program.
    pub main: &'a Loaded,
    /// Where its interpreter lies; 0 without one.
    pub linker_base: u64,
    /// The CPU.
    pub cpu: &'a CpuDescription,
    /// The user.
    pub identity: &'a Identity,
    /// Sixteen random bytes.
    pub random: [u8; 16],
    /// The vDSO's ELF header, if there is one.
    pub vdso: Option<u64>,
}

/// Checks the limits on the strings that a program is given. `bprm_stack_limits`, `count_strings_kernel`.
///
/// # Errors
/// `E2BIG`: one is too long, or all together are for `stack_limit` bytes of stack.
pub fn check_size(program: &Program, stack_limit: u64) -> Result<(), Errno> {
    let limit = MAX_TOTAL.min(stack_limit / 4).max(MIN_TOTAL);
    let pointers = (program.argv.len().max(1) as u64)
        .saturating_add(program.env.len() as u64)
        .saturating_mul(8);
    let strings = program
        .argv
        .iter()
        .chain(&program.env)
        .map(|string| string.len() + 1);
    if strings.clone().any(|len| len > MAX_STRING) || pointers >= limit {
        return Err(Errno::E2BIG);
    }
    let total = strings.fold(program.path.len() as u64 + 1, |sum, len| {
        sum.saturating_add(len as u64)
    });
    if total > limit - pointers {
        Err(Errno::E2BIG)
    } else {
        Ok(())
    }
}

fn total(strings: &[Vec<u8>]) -> u64 {
    strings.iter().fold(0_u64, |sum, string| {
        sum.saturating_add(string.len() as u64 + 1)
    })
}

/// Finds the places of the strings below `top`, and the area's extent. `setup_arg_pages`.
///
/// # Errors
/// `E2BIG`: they do not fit. `ENOMEM`: nor does what goes below them.
pub fn plan(strings: &Strings<'_>, top: u64, stack_limit: u64) -> Result<Plan, Errno> {
    const PAGE: u64 = 4096;
    let below = |at: u64, bytes: u64| at.checked_sub(bytes).ok_or(Errno::E2BIG);
    let env_end = below(top, 8 + strings.path.len() as u64 + 1)?;
    let env_start = below(env_end, total(strings.env))?;
    let arg_start = below(env_start, total(strings.argv))?;
    let table = 8 * (strings.argv.len() + strings.env.len() + 3 + 2 * AUXV_PAIRS) as u64;
    let used = (top - below(arg_start, table + 8192 + 64)?).next_multiple_of(PAGE);
    let strings_area = (top - arg_start).next_multiple_of(PAGE);
    let wanted = strings_area
        .saturating_add(ROOM)
        .min(stack_limit & !(PAGE - 1));
    let base = top.checked_sub(wanted.max(used)).ok_or(Errno::ENOMEM)?;
    Ok(Plan {
        base,
        top,
        arg_start,
        env_start,
        env_end,
    })
}

/// Maps the area.
///
/// # Errors
/// Those of mmap.
pub fn map<P: Platform>(mm: &MmUser<P>, plan: &Plan, executable: bool) -> Result<(), Errno> {
    let granule = P::Format::GRANULE;
    let start = granule.round_down(plan.base);
    let exec = if executable {
        Prot::EXEC
    } else {
        Prot::empty()
    };
    mm.mmap(&MapRequest {
        addr: VirtAddr::new(start),
        len: plan.top - start,
        prot: (Prot::READ | Prot::WRITE | exec).bits(),
        flags: (Map::PRIVATE | Map::ANONYMOUS | Map::FIXED | Map::GROWSDOWN).bits(),
        file: None,
        offset: 0,
    })?;
    Ok(())
}

/// Writes the strings: arguments, environment, path.
///
/// # Errors
/// `ENOMEM`: no frame or no heap. `EFAULT`: the area is not there.
pub fn copy_strings<P: Platform>(
    mm: &MmUser<P>,
    plan: &Plan,
    strings: &Strings<'_>,
) -> Result<(), Errno> {
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact((plan.top - plan.arg_start) as usize)
        .map_err(|_| Errno::ENOMEM)?;
    let each = strings
        .argv
        .iter()
        .chain(strings.env)
        .map(Vec::as_slice)
        .chain([strings.path]);
    for string in each {
        bytes.extend_from_slice(string);
        bytes.push(0);
    }
    mm.copy_to_user(VirtAddr::new(plan.arg_start), &bytes)
}

/// The auxiliary vector, in the order that Linux gives it.
fn auxiliary(values: &Values<'_>, path: u64, platform: u64, random: u64) -> Vec<u64> {
    let (main, cpu, identity) = (values.main, values.cpu, values.identity);
    let mut vector = Vec::new();
    let mut add = |key: u32, value: u64| vector.extend_from_slice(&[key.into(), value]);
    if let Some(vdso) = values.vdso {
        add(auxvec::AT_SYSINFO_EHDR, vdso);
    }
    add(auxvec::AT_MINSIGSTKSZ, cpu.min_signal_stack);
    add(auxvec::AT_HWCAP, cpu.hwcap);
    add(auxvec::AT_PAGESZ, 4096);
    add(auxvec::AT_CLKTCK, 100);
    add(auxvec::AT_PHDR, main.segments_addr);
    add(auxvec::AT_PHENT, 56);
    add(auxvec::AT_PHNUM, main.segments.into());
    add(auxvec::AT_BASE, values.linker_base);
    add(auxvec::AT_FLAGS, 0);
    add(auxvec::AT_ENTRY, main.entry);
    add(auxvec::AT_UID, identity.uid[0].into());
    add(auxvec::AT_EUID, identity.uid[1].into());
    add(auxvec::AT_GID, identity.gid[0].into());
    add(auxvec::AT_EGID, identity.gid[1].into());
    add(auxvec::AT_SECURE, 0);
    add(auxvec::AT_RANDOM, random);
    add(auxvec::AT_HWCAP2, cpu.hwcap2);
    add(auxvec::AT_EXECFN, path);
    add(auxvec::AT_PLATFORM, platform);
    add(auxvec::AT_NULL, 0);
    vector
}

/// Addresses of strings that lie one after the other.
fn addresses(strings: &[Vec<u8>], mut at: u64) -> impl Iterator<Item = u64> {
    strings.iter().map(move |string| {
        let here = at;
        at += string.len() as u64 + 1;
        here
    })
}

/// Writes everything below the strings; `shift`, below 8192, moves it down. Returns the stack pointer and the auxiliary vector.
/// `create_elf_tables`.
///
/// # Errors
/// `ENOMEM`: no frame or no heap. `EFAULT`: the area is too small.
pub fn finish<P: Platform>(
    mm: &MmUser<P>,
    plan: &Plan,
    strings: &Strings<'_>,
    values: &Values<'_>,
    shift: u64,
) -> Result<(u64, Vec<u64>), Errno> {
    let name = values.cpu.platform.as_bytes();
    let below = |at: u64, bytes: u64| at.checked_sub(bytes).ok_or(Errno::ENOMEM);
    let platform = below(below(plan.arg_start, shift)? & !15, name.len() as u64 + 1)?;
    let random = below(platform, 16)?;
    mm.copy_to_user(VirtAddr::new(platform), name)?;
    mm.copy_to_user(VirtAddr::new(random), &values.random)?;

    let auxv = auxiliary(values, plan.env_end, platform, random);
    let (argc, envc) = (strings.argv.len(), strings.env.len());
    let words = 1 + argc + 1 + envc + 1;
    let auxv_at = below(random, 8 * auxv.len() as u64)?;
    let sp = below(auxv_at, 8 * words as u64)? & !15;
    let mut table = Vec::new();
    table
        .try_reserve_exact(8 * (words + auxv.len()))
        .map_err(|_| Errno::ENOMEM)?;
    let argv = addresses(strings.argv, plan.arg_start);
    let env = addresses(strings.env, plan.env_start);
    let all = [argc as u64]
        .into_iter()
        .chain(argv)
        .chain([0])
        .chain(env)
        .chain([0])
        .chain(auxv.iter().copied());
    all.for_each(|word| table.extend_from_slice(&word.to_ne_bytes()));
    mm.copy_to_user(VirtAddr::new(sp), &table)?;
    Ok((sp, auxv))
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    #[test]
    fn strings_lie_as_linux_lays_them() {
        let argv = [b"a".to_vec(), b"bc".to_vec()];
        let env = [b"X=1".to_vec()];
        let strings = Strings {
            path: b"/bin/x",
            argv: &argv,
            env: &env,
        };
        let plan = plan(&strings, 0x7fff_ffff_f000, 8 << 20).unwrap();
        assert_eq!(plan.env_end, 0x7fff_ffff_f000 - 8 - 7);
        assert_eq!(plan.env_start, plan.env_end - 4);
        assert_eq!(plan.arg_start, plan.env_start - 5);
        assert_eq!(plan.top - plan.base, 0x21000);
        assert_eq!(
            addresses(&argv, plan.arg_start).collect::<Vec<_>>(),
            [plan.arg_start, plan.arg_start + 2]
        );
    }

    #[test]
    fn a_small_limit_keeps_room_for_the_table() {
        let strings = Strings {
            path: b"/bin/x",
            argv: &[],
            env: &[],
        };
        let plan = plan(&strings, 0x7fff_ffff_f000, 0).unwrap();
        assert!(plan.top - plan.base >= 8192 && plan.top - plan.base < ROOM);
        assert!(super::plan(&strings, 4096, 8 << 20).is_err());
    }

    #[test]
    fn too_much_is_refused() {
        let program = |argv: Vec<Vec<u8>>| Program {
            path: b"/x".to_vec(),
            argv,
            env: Vec::new(),
        };
        assert_eq!(
            check_size(&program(vec![vec![b'a'; MAX_STRING - 1]]), 8 << 20),
            Ok(())
        );
        assert_eq!(
            check_size(&program(vec![vec![b'a'; MAX_STRING]]), 8 << 20),
            Err(Errno::E2BIG)
        );
        assert_eq!(
            check_size(&program(vec![vec![b'a'; 100_000]; 20]), 8 << 20),
            Ok(())
        );
        assert_eq!(
            check_size(&program(vec![vec![b'a'; 100_000]; 21]), 8 << 20),
            Err(Errno::E2BIG)
        );
        assert_eq!(
            check_size(&program(vec![vec![b'a'; 100_000]; 2]), 0),
            Err(Errno::E2BIG)
        );
        assert_eq!(check_size(&program(vec![Vec::new(); 14_000]), 0), Ok(()));
        assert_eq!(
            check_size(&program(vec![Vec::new(); 15_000]), 0),
            Err(Errno::E2BIG)
        );
    }
}

//! What a signal of the guest's process means: which processor exception raised it, and for a page fault which access.

use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Mnemonic};
use portolan::paging::Access;

use crate::decode::{self, LONGEST};
use crate::fill::Tables;
use crate::memory::{GuestMemory, PAGE};
use crate::tlb::{Rights, Tlb};
use crate::tracee::RawRegisters;
use portolan_kernel::engine::ExceptionKind;

// si_code values that the `libc` crate has no names for.
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const FPE_INTDIV: i32 = 1;
const BUS_ADRALN: i32 = 1;
const BUS_ADRERR: i32 = 2;

/// What a signal means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meaning {
    /// A translation was missing or forbade the access.
    PageFault,
    /// The processor's exception.
    Exception(ExceptionKind),
    /// The memory file could not give a page.
    OutOfMemory,
    /// Sent by someone outside; not for the guest.
    Nothing,
}

/// What a signal with this si_code means.
pub(crate) fn signal(number: i32, code: i32) -> Meaning {
    use ExceptionKind as Kind;
    if code <= 0 {
        return Meaning::Nothing;
    }
    Meaning::Exception(match (number, code) {
        (libc::SIGSEGV, SEGV_MAPERR | SEGV_ACCERR) => return Meaning::PageFault,
        // Addresses that are not canonical, privileged instructions, misaligned vectors: no address is known, as natively.
        (libc::SIGSEGV, _) => Kind::GeneralProtection,
        (libc::SIGBUS, BUS_ADRALN) => Kind::Alignment,
        (libc::SIGBUS, libc::SI_KERNEL) => Kind::StackSegment,
        (libc::SIGBUS, BUS_ADRERR) => return Meaning::OutOfMemory,
        (libc::SIGTRAP, libc::SI_KERNEL) => Kind::Breakpoint,
        (libc::SIGTRAP, _) => Kind::Debug,
        (libc::SIGILL, _) => Kind::InvalidOpcode,
        (libc::SIGFPE, FPE_INTDIV) => Kind::Divide,
        (libc::SIGFPE, _) => Kind::SimdFloat,
        _ => return Meaning::Nothing,
    })
}

/// Tells a floating-point exception of the x87 unit from one of the vector unit: ptrace tells only that it is one of both.
pub(crate) fn refine(
    kind: ExceptionKind,
    memory: &GuestMemory,
    tables: &dyn Tables,
    regs: &RawRegisters,
) -> ExceptionKind {
    if kind != ExceptionKind::SimdFloat {
        return kind;
    }
    let mut code = [0; LONGEST];
    let fetched = fetch(memory, tables, regs.rip, &mut code);
    let instruction =
        Decoder::with_ip(64, &code[..fetched], regs.rip, DecoderOptions::NONE).decode();
    let x87 = |feature: &CpuidFeature| {
        matches!(
            feature,
            CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387 | CpuidFeature::MMX
        )
    };
    if instruction.mnemonic() == Mnemonic::Wait || instruction.cpuid_features().iter().any(x87) {
        ExceptionKind::FloatingPoint
    } else {
        kind
    }
}

/// What is installed where a fault and its instruction lie. Taken before the tables are read: the lane's lock is not held then, for a
/// flush takes it under locks of the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Installed {
    target: Rights,
    code: Rights,
    next_code: Rights,
}

impl Installed {
    /// What `tlb` has for a fault at `address`.
    pub(crate) fn at(tlb: &Tlb, regs: &RawRegisters, address: u64) -> Installed {
        let rip = regs.rip / PAGE;
        Installed {
            target: tlb.rights(address / PAGE),
            code: tlb.rights(rip),
            next_code: tlb.rights(rip + 1),
        }
    }
}

/// The access that faulted at `address`; `None` when its page is installed with every right, so that nothing explains the fault.
pub(crate) fn access(
    memory: &GuestMemory,
    tables: &dyn Tables,
    installed: Installed,
    regs: &RawRegisters,
    address: u64,
) -> Option<Access> {
    let said = instruction_access(memory, tables, installed, regs, address);
    // An access that the installed page allows cannot be what faulted; then it was a stronger one.
    let order = match said {
        Access::Read => [Access::Read, Access::Write, Access::Execute],
        Access::Write => [Access::Write, Access::Execute, Access::Read],
        Access::Execute => [Access::Execute, Access::Write, Access::Read],
    };
    order
        .into_iter()
        .find(|&access| !installed.target.contains(needs(access)))
}

fn needs(access: Access) -> Rights {
    match access {
        Access::Read => Rights::READ,
        Access::Write => Rights::WRITE,
        Access::Execute => Rights::EXEC,
    }
}

fn instruction_access(
    memory: &GuestMemory,
    tables: &dyn Tables,
    installed: Installed,
    regs: &RawRegisters,
    address: u64,
) -> Access {
    if !installed.code.contains(Rights::EXEC) {
        // The first byte cannot be fetched. A flush by another thread can make it so after a load or store faulted.
        return if address == regs.rip {
            Access::Execute
        } else {
            Access::Read
        };
    }
    let mut code = [0; LONGEST];
    let mut fetched = fetch(memory, tables, regs.rip, &mut code);
    let in_page = (PAGE - regs.rip % PAGE) as usize;
    if fetched > in_page && !installed.next_code.contains(Rights::EXEC) {
        fetched = in_page;
    }
    decode::access(&code[..fetched], regs, address)
}

/// Reads as many of the bytes at `rip` as can be fetched.
fn fetch(memory: &GuestMemory, tables: &dyn Tables, rip: u64, code: &mut [u8; LONGEST]) -> usize {
    let mut done = 0;
    while done < LONGEST {
        let at = rip.wrapping_add(done as u64);
        let part = ((PAGE - at % PAGE) as usize).min(LONGEST - done);
        let Some(page) = tables.translate(at, Access::Execute) else {
            break;
        };
        if memory
            .read(page.frame * PAGE + at % PAGE, &mut code[done..done + part])
            .is_none()
        {
            break;
        }
        done += part;
    }
    done
}

//! What a faulting instruction wanted: a load, a store or a fetch. ptrace tells the address of a fault but not its kind.

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register, UsedMemory};
use portolan::paging::Access;

use crate::memory::PAGE;
use crate::tracee::RawRegisters;

/// The longest instruction, bytes.
pub(crate) const LONGEST: usize = 15;
/// `cs` of 32-bit code.
const CS_32: u64 = 0x23;
/// The most bytes that an operand of a size unknown to the decoder (XSAVE and its like) covers.
const LARGEST: u64 = 16 << 10;

/// What the bytes at `rip` say about an access to `address`. `code` are the bytes that can be fetched, fewer than [`LONGEST`] when
/// the next page cannot be executed.
pub(crate) fn access(code: &[u8], regs: &RawRegisters, address: u64) -> Access {
    let bits = if regs.cs == CS_32 { 32 } else { 64 };
    let mut decoder = Decoder::with_ip(bits, code, regs.rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        // Bytes that end early: the fetch of the rest faulted. Bytes that make no instruction: another thread changed them
        // meanwhile; a load is the weakest claim, and a wrong one comes back as the next fault.
        let cut =
            decoder.last_error() == iced_x86::DecoderError::NoMoreBytes && code.len() < LONGEST;
        return if cut { Access::Execute } else { Access::Read };
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(&instruction);
    let operands = info.used_memory();
    let mut kinds = operands.iter().filter_map(kind);
    let Some(first) = kinds.next() else {
        return Access::Read;
    };
    if kinds.all(|other| other == first) {
        return first;
    }
    // Operands of several kinds (movs, push [m], call [m]): whose address is it? By bytes if one fits, else by pages.
    by_place(operands, regs, address, 0)
        .or_else(|| by_place(operands, regs, address, PAGE))
        .unwrap_or(Access::Read)
}

/// What an operand does to memory; `None` when it only names it (lea, nop, prefetch).
fn kind(operand: &UsedMemory) -> Option<Access> {
    match operand.access() {
        OpAccess::Read | OpAccess::CondRead => Some(Access::Read),
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite => {
            Some(Access::Write)
        }
        _ => None,
    }
}

/// The strongest kind among the operands that cover `address`, give or take `slack` bytes.
fn by_place(
    operands: &[UsedMemory],
    regs: &RawRegisters,
    address: u64,
    slack: u64,
) -> Option<Access> {
    let covers = |operand: &&UsedMemory| {
        let Some(start) =
            operand.virtual_address(0, |register, _, _| register_value(regs, register))
        else {
            return false;
        };
        let size = match operand.memory_size().size() as u64 {
            0 => LARGEST,
            size => size,
        };
        address.wrapping_sub(start.wrapping_sub(slack)) < size + 2 * slack
    };
    let mut kinds = operands.iter().filter(covers).filter_map(kind).peekable();
    kinds.peek()?;
    Some(if kinds.any(|kind| kind == Access::Write) {
        Access::Write
    } else {
        Access::Read
    })
}

/// A general register's or segment base's value; `None` for vector registers (their instructions have operands of one kind).
fn register_value(regs: &RawRegisters, register: Register) -> Option<u64> {
    let value = match register.full_register() {
        Register::RAX => regs.rax,
        Register::RBX => regs.rbx,
        Register::RCX => regs.rcx,
        Register::RDX => regs.rdx,
        Register::RSI => regs.rsi,
        Register::RDI => regs.rdi,
        Register::RBP => regs.rbp,
        Register::RSP => regs.rsp,
        Register::R8 => regs.r8,
        Register::R9 => regs.r9,
        Register::R10 => regs.r10,
        Register::R11 => regs.r11,
        Register::R12 => regs.r12,
        Register::R13 => regs.r13,
        Register::R14 => regs.r14,
        Register::R15 => regs.r15,
        Register::FS => return Some(regs.fs_base),
        Register::GS => return Some(regs.gs_base),
        Register::ES | Register::CS | Register::SS | Register::DS => return Some(0),
        _ => return None,
    };
    Some(match register.size() {
        4 => value & 0xffff_ffff,
        2 => value & 0xffff,
        _ => value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIP: u64 = 0x40_0000;

    fn regs() -> RawRegisters {
        // SAFETY: plain numbers, all zero is a value.
        let mut regs: RawRegisters = unsafe { std::mem::zeroed() };
        (regs.cs, regs.rip, regs.rsp) = (0x33, RIP, 0x7000_0000);
        (regs.rsi, regs.rdi, regs.rax, regs.rbx) = (0x1000, 0x2000, 0x3000, 0x4000);
        regs
    }

    fn at(code: &[u8], address: u64) -> Access {
        let mut bytes = code.to_vec();
        bytes.resize(LONGEST, 0x90);
        access(&bytes, &regs(), address)
    }

    #[test]
    fn simple_operands() {
        assert_eq!(at(&[0x48, 0x8b, 0x03], 0x4000), Access::Read); // mov rax, [rbx]
        assert_eq!(at(&[0x48, 0x89, 0x03], 0x4000), Access::Write); // mov [rbx], rax
        assert_eq!(at(&[0x48, 0x01, 0x03], 0x4000), Access::Write); // add [rbx], rax
        assert_eq!(at(&[0x48, 0x39, 0x03], 0x4000), Access::Read); // cmp [rbx], rax
        assert_eq!(at(&[0xf0, 0x48, 0x0f, 0xb1, 0x0b], 0x4000), Access::Write); // lock cmpxchg [rbx], rcx
        assert_eq!(at(&[0x48, 0x87, 0x03], 0x4000), Access::Write); // xchg [rbx], rax
        assert_eq!(at(&[0x0f, 0xa3, 0x03], 0x4000), Access::Read); // bt [rbx], eax
        assert_eq!(at(&[0x0f, 0xab, 0x03], 0x4000), Access::Write); // bts [rbx], eax
    }

    #[test]
    fn operands_that_are_not_written_down() {
        assert_eq!(at(&[0x50], 0x6fff_fff8), Access::Write); // push rax
        assert_eq!(at(&[0x58], 0x7000_0000), Access::Read); // pop rax
        assert_eq!(at(&[0xc3], 0x7000_0000), Access::Read); // ret
        assert_eq!(at(&[0xe8, 0, 0, 0, 0], 0x6fff_fff8), Access::Write); // call
        assert_eq!(at(&[0xff, 0x13], 0x4000), Access::Read); // call [rbx]
        assert_eq!(at(&[0xff, 0x13], 0x6fff_fff8), Access::Write);
        assert_eq!(at(&[0xff, 0x33], 0x4000), Access::Read); // push [rbx]
        assert_eq!(at(&[0xff, 0x33], 0x6fff_fff8), Access::Write);
        assert_eq!(at(&[0x8f, 0x03], 0x7000_0000), Access::Read); // pop [rbx]
        assert_eq!(at(&[0x8f, 0x03], 0x4000), Access::Write);
        assert_eq!(at(&[0xc8, 0x10, 0, 0], 0x6fff_fff8), Access::Write); // enter 16, 0
    }

    #[test]
    fn strings() {
        assert_eq!(at(&[0xf3, 0xa4], 0x1000), Access::Read); // rep movsb
        assert_eq!(at(&[0xf3, 0xa4], 0x2000), Access::Write);
        assert_eq!(at(&[0xf3, 0x48, 0xa5], 0x1007), Access::Read); // rep movsq
        assert_eq!(at(&[0xf3, 0xaa], 0x2000), Access::Write); // rep stosb
        assert_eq!(at(&[0xac], 0x1000), Access::Read); // lodsb
        assert_eq!(at(&[0xa6], 0x2000), Access::Read); // cmpsb
        assert_eq!(at(&[0xf2, 0xae], 0x2000), Access::Read); // repne scasb
    }

    #[test]
    fn vectors_and_state() {
        assert_eq!(at(&[0x0f, 0xae, 0x03], 0x4010), Access::Write); // fxsave [rbx]
        assert_eq!(at(&[0x0f, 0xae, 0x0b], 0x4010), Access::Read); // fxrstor [rbx]
        assert_eq!(at(&[0x0f, 0xae, 0x23], 0x4240), Access::Write); // xsave [rbx]
        assert_eq!(at(&[0x0f, 0xc7, 0x23], 0x4240), Access::Write); // xsavec [rbx]
        assert_eq!(at(&[0x0f, 0xae, 0x2b], 0x4240), Access::Read); // xrstor [rbx]
        assert_eq!(
            at(&[0xc4, 0xe2, 0x6d, 0x90, 0x04, 0x0b], 0x9999),
            Access::Read
        ); // vpgatherdd ymm0, [rbx+ymm1], ymm2
        assert_eq!(
            at(&[0x62, 0xf2, 0x7d, 0x49, 0xa0, 0x04, 0x0b], 0x9999),
            Access::Write
        ); // vpscatterdd
        assert_eq!(at(&[0xc4, 0xe2, 0x75, 0x2c, 0x03], 0x4000), Access::Read); // vmaskmovps ymm0, ymm1, [rbx]
        assert_eq!(at(&[0xc4, 0xe2, 0x75, 0x2e, 0x03], 0x4000), Access::Write); // vmaskmovps [rbx], ymm1, ymm0
        assert_eq!(at(&[0xd9, 0x33], 0x4000), Access::Write); // fnstenv [rbx]
        assert_eq!(at(&[0x66, 0x0f, 0xf7, 0xc1], 0x2000), Access::Write); // maskmovdqu
        assert_eq!(at(&[0x0f, 0xae, 0x3b], 0x4000), Access::Read); // clflush [rbx]
    }

    #[test]
    fn an_instruction_that_ends_beyond_what_can_be_fetched_is_a_fetch() {
        assert_eq!(access(&[0x48, 0x8b], &regs(), RIP + 2), Access::Execute);
        assert_eq!(access(&[], &regs(), RIP), Access::Execute);
        assert_eq!(at(&[0x06], 0x4000), Access::Read);
    }
}

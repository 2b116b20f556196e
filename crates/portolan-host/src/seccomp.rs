//! The second wall: a filter that lets a guest's process make system calls only from the stub, and only those the engine asks
//! for. The first wall is `PTRACE_SYSEMU`, under which no call of the guest is executed at all.
//!
//! `seccompiler` builds filters from numbers and arguments but cannot test the instruction pointer, which is the whole point
//! here; hence these few BPF instructions.

use crate::stub::{CODE_AFTER_SYSCALL, STUB_CODE};

/// The descriptor under which a guest's process holds the memory file; the only one it keeps.
pub(crate) const MEMORY_FD: i32 = 0;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const IP_LOW: u32 = 8;
const IP_HIGH: u32 = 12;
const ARG4_LOW: u32 = 16 + 4 * 8;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// The page of legacy calls that no process can unmap; the kernel shows them to the filter as calls from this page.
const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;

const fn step(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Goes on when the accumulator is `k`, else skips `otherwise` instructions.
const fn require(k: u32, otherwise: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: JUMP_EQUAL,
        jt: 0,
        jf: otherwise,
        k,
    }
}

/// Skips `then` instructions when the accumulator is `k`.
const fn when(k: u32, then: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: JUMP_EQUAL,
        jt: then,
        jf: 0,
        k,
    }
}

const STUB_IP: u64 = STUB_CODE + CODE_AFTER_SYSCALL;

/// The filter.
pub(crate) const FILTER: [libc::sock_filter; 18] = [
    step(LOAD, ARCH),
    require(AUDIT_ARCH_X86_64, 15), // 1 -> 17
    step(LOAD, IP_LOW),
    require(STUB_IP as u32, 8), // 3 -> 12
    step(LOAD, IP_HIGH),
    require((STUB_IP >> 32) as u32, 11), // 5 -> 17
    step(LOAD, NUMBER),
    when(libc::SYS_munmap as u32, 3),  // 7 -> 11
    require(libc::SYS_mmap as u32, 8), // 8 -> 17
    step(LOAD, ARG4_LOW),
    require(MEMORY_FD as u32, 6), // 10 -> 17
    step(RETURN, libc::SECCOMP_RET_ALLOW),
    step(AND, !0xfff),           // 12
    require(VSYSCALL as u32, 3), // 13 -> 17
    step(LOAD, IP_HIGH),
    require((VSYSCALL >> 32) as u32, 1), // 15 -> 17
    // A legacy call: the tracer is asked, and answers it as the guest's kernel would.
    step(RETURN, libc::SECCOMP_RET_TRACE),
    step(RETURN, libc::SECCOMP_RET_KILL_PROCESS), // 17
];

/// The filter's bytes followed by the `struct sock_fprog` that points at them, for a copy that lies at `at`; and the address of
/// the latter.
pub(crate) fn program(at: u64) -> (Vec<u8>, u64) {
    let mut bytes = Vec::with_capacity(size_of_val(&FILTER) + 16);
    for one in FILTER {
        bytes.extend_from_slice(&one.code.to_ne_bytes());
        bytes.extend_from_slice(&[one.jt, one.jf]);
        bytes.extend_from_slice(&one.k.to_ne_bytes());
    }
    let header = at + bytes.len() as u64;
    bytes.extend_from_slice(&(FILTER.len() as u64).to_ne_bytes());
    bytes.extend_from_slice(&at.to_ne_bytes());
    (bytes, header)
}

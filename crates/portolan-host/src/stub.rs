//! The few bytes of ours that stay mapped in a guest's process: a loop that executes a list of system calls, and the list.
//! The list is read-only for the guest's process, so guest code that finds it can read it but not change what is asked for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::memory::{Mapping, PAGE, memory_file};

/// The first address a guest cannot have: from here up to the end of user space lies the engine's stub. A kernel on this
/// engine places the stack and `mmap_base` below it (`TASK_SIZE`).
pub const GUEST_TOP: u64 = 0x7fff_ffff_0000;

/// Where the stub's code lies in a guest's process.
pub(crate) const STUB_CODE: u64 = GUEST_TOP;
/// Where the stub's list lies in a guest's process.
pub(crate) const STUB_LIST: u64 = GUEST_TOP + PAGE;
/// Size of the list.
pub(crate) const LIST_BYTES: u64 = 8 * PAGE;
/// The first address after all that is ours.
pub(crate) const STUB_END: u64 = STUB_LIST + LIST_BYTES;
/// Where user space ends (`TASK_SIZE_MAX`).
pub(crate) const USER_END: u64 = 0x7fff_ffff_f000;
/// How many calls one list holds.
pub(crate) const LIST_CALLS: usize = (LIST_BYTES as usize - SPARE) / size_of::<Call>();
/// Bytes at the list's end for what a call points at.
const SPARE: usize = 512;
/// Where those bytes begin in the list.
const SPARE_AT: usize = LIST_BYTES as usize - SPARE;

/// Registers at entry: rbx the first call, rbp the end of the last. Ends in `int3` when every call succeeded, in `ud2` with the
/// failed call's result in rax and its address in rbx. Uses no stack and no vector registers.
const CODE: [u8; 55] = [
    0x48, 0x8b, 0x03, // next: mov rax, [rbx]
    0x48, 0x8b, 0x7b, 0x08, // mov rdi, [rbx + 8]
    0x48, 0x8b, 0x73, 0x10, // mov rsi, [rbx + 16]
    0x48, 0x8b, 0x53, 0x18, // mov rdx, [rbx + 24]
    0x4c, 0x8b, 0x53, 0x20, // mov r10, [rbx + 32]
    0x4c, 0x8b, 0x43, 0x28, // mov r8, [rbx + 40]
    0x4c, 0x8b, 0x4b, 0x30, // mov r9, [rbx + 48]
    0x0f, 0x05, // syscall
    0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, // cmp rax, -4095
    0x73, 0x0d, // jae failed
    0x48, 0x83, 0xc3, 0x38, // add rbx, 56
    0x48, 0x39, 0xeb, // cmp rbx, rbp
    0x72, 0xd2, // jb next
    0xcc, // done: int3
    0x90, 0x90, 0x90, // padding
    0x0f, 0x0b, // failed: ud2
    0x90, 0x90, 0x90, // padding
];
/// The address a system call of the stub returns to, as an offset in its code: what the seccomp filter lets through.
pub(crate) const CODE_AFTER_SYSCALL: u64 = 29;
/// The stub's `int3`, as an offset in its code.
pub(crate) const CODE_DONE: u64 = 46;

/// One system call for the stub to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Call {
    number: u64,
    args: [u64; 6],
}

impl Call {
    /// Any call.
    pub(crate) fn new(number: i64, args: [u64; 6]) -> Call {
        Call {
            number: number as u64,
            args,
        }
    }

    /// `munmap`.
    pub(crate) fn munmap(start: u64, end: u64) -> Call {
        Call::new(libc::SYS_munmap, [start, end - start, 0, 0, 0, 0])
    }

    /// A shared, fixed mapping of `fd`.
    pub(crate) fn mmap(at: u64, bytes: u64, prot: i32, extra: i32, fd: RawFd, offset: u64) -> Call {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE | extra;
        Call::new(
            libc::SYS_mmap,
            [at, bytes, prot as u64, flags as u64, fd as u64, offset],
        )
    }
}

/// The stub's code and list: a memory file that the supervisor and one guest process share.
pub(crate) struct Stub {
    fd: OwnedFd,
    code: Mapping,
    list: Mapping,
}

impl Stub {
    /// A stub with an empty list.
    pub(crate) fn new() -> io::Result<Stub> {
        let fd = memory_file(c"portolan-stub", PAGE + LIST_BYTES)?;
        // SAFETY: the pointer and length are those of `CODE`.
        let written = unsafe { libc::pwrite(fd.as_raw_fd(), CODE.as_ptr().cast(), CODE.len(), 0) };
        if written != CODE.len() as isize {
            return Err(io::Error::last_os_error());
        }
        let code = Mapping::new(&fd, 0, PAGE as usize, libc::PROT_READ | libc::PROT_EXEC)?;
        let list = Mapping::new(
            &fd,
            PAGE,
            LIST_BYTES as usize,
            libc::PROT_READ | libc::PROT_WRITE,
        )?;
        Ok(Stub { fd, code, list })
    }

    /// The file.
    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Where the code lies in the supervisor, and so in a child just forked.
    pub(crate) fn own_code(&self) -> u64 {
        self.code.base() as u64
    }

    /// Where the list lies in the supervisor, and so in a child just forked.
    pub(crate) fn own_list(&self) -> u64 {
        self.list.base() as u64
    }

    /// Writes the list. The child must be stopped.
    pub(crate) fn write_calls(&self, calls: &[Call]) {
        assert!(calls.len() <= LIST_CALLS);
        // SAFETY: in bounds by the assertion; `Call` is plain numbers, and the stub, the only reader, is stopped.
        unsafe {
            std::ptr::copy_nonoverlapping(calls.as_ptr(), self.list.base().cast(), calls.len())
        };
    }

    /// Writes bytes that calls may point at; returns where the guest's process sees them.
    pub(crate) fn write_spare(&self, bytes: &[u8]) -> u64 {
        assert!(bytes.len() <= SPARE);
        // SAFETY: in bounds by the assertion; nothing else uses these bytes, and the child is stopped.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.list.base().add(SPARE_AT),
                bytes.len(),
            );
        }
        STUB_LIST + SPARE_AT as u64
    }

    /// Where a child that fails before it is traced leaves its step and errno.
    pub(crate) fn report(&self) -> *mut [i32; 2] {
        self.list.base().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};

    #[test]
    fn the_offsets_are_those_of_the_code() {
        let mut decoder = Decoder::with_ip(64, &CODE, 0, DecoderOptions::NONE);
        let mut seen = Vec::new();
        while decoder.can_decode() {
            let one = decoder.decode();
            assert!(!one.is_invalid());
            seen.push(one);
        }
        let at = |m: Mnemonic| seen.iter().find(|i| i.mnemonic() == m).unwrap();
        assert_eq!(at(Mnemonic::Syscall).next_ip(), CODE_AFTER_SYSCALL);
        assert_eq!(at(Mnemonic::Int3).ip(), CODE_DONE);
        let branches: Vec<_> = seen
            .iter()
            .filter(|i| i.flow_control() == FlowControl::ConditionalBranch)
            .collect();
        assert_eq!(branches[0].near_branch_target(), at(Mnemonic::Ud2).ip());
        assert_eq!(branches[1].near_branch_target(), 0);
    }

    #[test]
    fn the_stub_fits_below_the_end_of_user_space() {
        const { assert!(STUB_END <= USER_END) }
    }
}

//! The x86-64 signal frame (`struct rt_sigframe`) as bytes: where it goes on the stack, what is in it, and what `rt_sigreturn` takes out of
//! it again. Pure: nothing here touches a task or its memory.
//!
//! From low to high addresses: return address, `ucontext`, `siginfo`; then, aligned to 64, the extended state with Linux's markers
//! (`FP_XSTATE_MAGIC1` in its software-reserved bytes, `FP_XSTATE_MAGIC2` after its end).

use alloc::vec::Vec;

use portolan::errno::Errno;

use super::info::{SIZE as INFO_SIZE, SigInfo};
use super::{ActionFlags, AltStack, SS_AUTODISARM, SignalSet};
use crate::engine::Registers;

/// Bytes that a leaf function may use below its stack pointer.
const RED_ZONE: u64 = 128;
const UC: usize = 8;
const UC_LINK: usize = UC + 8;
const UC_STACK: usize = UC + 16;
const MCONTEXT: usize = UC + 40;
const SEGMENTS: usize = MCONTEXT + 18 * 8;
const FAULT: usize = SEGMENTS + 8;
const FPSTATE: usize = FAULT + 32;
const UC_SIGMASK: usize = MCONTEXT + 256;
const INFO: usize = UC_SIGMASK + 8;
/// Bytes of a frame without its extended state.
pub const SIZE: usize = INFO + INFO_SIZE;

/// There is extended state beyond FXSAVE. `UC_FP_XSTATE`.
const UC_FP_XSTATE: u64 = 1;
/// The stack segment is saved. `UC_SIGCONTEXT_SS`.
const UC_SIGCONTEXT_SS: u64 = 2;
/// It is to be restored exactly. `UC_STRICT_RESTORE_SS`.
const UC_STRICT_RESTORE_SS: u64 = 4;

const FXSAVE_SIZE: usize = 512;
/// FXSAVE area and XSAVE header: the least XSAVE image.
const XSAVE_MIN: usize = FXSAVE_SIZE + 64;
/// `_fpx_sw_bytes` in the FXSAVE area.
const SW_BYTES: usize = 464;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// x87 and SSE.
const FEATURES_LEGACY: u64 = 0b11;

/// The flags that a program may change through a context. `FIX_EFLAGS`.
const CHANGEABLE_FLAGS: u64 = 0x5_0dd5;
/// Direction, resume and trap flag, which a handler starts without.
const CLEARED_FLAGS: u64 = 0x400 | 0x1_0000 | 0x100;

/// What the last fault said of itself, as `sigcontext` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FaultInfo {
    /// The vector. `trapno`.
    pub vector: u64,
    /// The CPU's error code. `err`.
    pub error: u64,
    /// The address of the last page fault. `cr2`.
    pub addr: u64,
}

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The frame: the handler's stack pointer.
    pub frame: u64,
    /// The extended state.
    pub extended: u64,
}

/// Finds the place of a frame for a task with stack pointer `sp`; `extended` are the bytes of its XSAVE image. `get_sigframe`.
///
/// `None`: the alternate stack would overflow.
pub fn place(sp: u64, flags: ActionFlags, alt: &AltStack, extended: usize) -> Option<Place> {
    let nested = alt.is_active(sp);
    let entering = flags.contains(ActionFlags::ONSTACK)
        && alt.size != 0
        && !alt.is_active(sp.wrapping_sub(RED_ZONE));
    let top = if entering {
        alt.top()
    } else {
        sp.wrapping_sub(RED_ZONE)
    };
    let with_marker = if extended >= XSAVE_MIN {
        extended + 4
    } else {
        extended
    };
    let extended = top.wrapping_sub(with_marker as u64) & !63;
    let frame = (extended.wrapping_sub(SIZE as u64) & !15).wrapping_sub(8);
    if (nested || entering) && !alt.holds(frame) {
        return None;
    }
    Some(Place { frame, extended })
}

/// What goes into a frame besides registers.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// Where the handler returns to.
    pub restorer: u64,
    /// The mask to return to.
    pub mask: SignalSet,
    /// The alternate stack.
    pub alt: AltStack,
    /// The last fault.
    pub fault: FaultInfo,
    /// The siginfo, for a handler that asked for it.
    pub info: Option<&'a SigInfo>,
    /// Whether the extended state is an XSAVE image.
    pub has_xsave: bool,
}

/// A word of a structure in memory.
fn word(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|part| part.try_into().ok())
        .map_or(0, u64::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|part| part.try_into().ok())
        .map_or(0, u32::from_ne_bytes)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(slot) = bytes.get_mut(at..at + value.len()) {
        slot.copy_from_slice(value);
    }
}

/// The general registers in the order of `sigcontext`, up to and with the flags.
fn general(regs: &Registers) -> [u64; 18] {
    let r = regs;
    let low = [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx,
        r.rax, r.rcx,
    ];
    let mut all = [0; 18];
    all[..15].copy_from_slice(&low);
    all[15..].copy_from_slice(&[r.rsp, r.rip, r.eflags]);
    all
}

/// The frame's bytes. `x64_setup_rt_frame`.
pub fn encode(regs: &Registers, place: Place, content: &Content<'_>) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let xstate = if content.has_xsave { UC_FP_XSTATE } else { 0 };
    let mut set = |at: usize, value: u64| put(&mut bytes, at, &value.to_ne_bytes());
    set(0, content.restorer);
    set(UC, xstate | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS);
    set(UC_LINK, 0);
    set(UC_STACK, content.alt.base);
    set(UC_STACK + 8, content.alt.flags.into());
    set(UC_STACK + 16, content.alt.size);
    for (n, value) in general(regs).into_iter().enumerate() {
        set(MCONTEXT + 8 * n, value);
    }
    set(SEGMENTS, regs.cs & 0xffff | regs.ss << 48);
    set(FAULT, content.fault.error);
    set(FAULT + 8, content.fault.vector);
    set(FAULT + 16, content.mask.0);
    set(FAULT + 24, content.fault.addr);
    set(FPSTATE, place.extended);
    set(UC_SIGMASK, content.mask.0);
    if let Some(info) = content.info {
        put(&mut bytes, INFO, &info.to_bytes());
    }
    bytes
}

/// The registers that a handler starts with.
pub fn enter(regs: &Registers, place: Place, handler: u64, signal: i32) -> Registers {
    Registers {
        rdi: signal as u64,
        rsi: place.frame + INFO as u64,
        rdx: place.frame + UC as u64,
        rax: 0,
        rip: handler,
        rsp: place.frame,
        cs: Registers::USER_CS,
        ss: Registers::USER_SS,
        eflags: regs.eflags & !CLEARED_FLAGS,
        orig_rax: Registers::NO_SYSCALL,
        ..*regs
    }
}

/// Puts Linux's markers into an XSAVE image that goes on the stack; a plain FXSAVE image stays as it is. `save_xstate_epilog`.
///
/// # Errors
/// `ENOMEM`: no heap.
pub fn mark_extended(image: &mut Vec<u8>, features: u64) -> Result<(), Errno> {
    let size = image.len();
    if size < XSAVE_MIN {
        return Ok(());
    }
    image.try_reserve(4).map_err(|_| Errno::ENOMEM)?;
    let in_use = word(image, FXSAVE_SIZE) | FEATURES_LEGACY;
    put(image, FXSAVE_SIZE, &in_use.to_ne_bytes());
    image[SW_BYTES..FXSAVE_SIZE].fill(0);
    put(image, SW_BYTES, &MAGIC1.to_ne_bytes());
    put(image, SW_BYTES + 4, &(size as u32 + 4).to_ne_bytes());
    put(image, SW_BYTES + 8, &features.to_ne_bytes());
    put(image, SW_BYTES + 16, &(size as u32).to_ne_bytes());
    image.extend_from_slice(&MAGIC2.to_ne_bytes());
    Ok(())
}

/// The extended state that a handler, and a new program, starts with: an XSAVE image of `size` bytes.
///
/// # Errors
/// `ENOMEM`: no heap.
pub fn initial_extended(size: usize) -> Result<Vec<u8>, Errno> {
    let mut image = zeroed(size)?;
    put(&mut image, 0, &0x37f_u16.to_ne_bytes());
    put(&mut image, 24, &0x1f80_u32.to_ne_bytes());
    Ok(image)
}

fn zeroed(size: usize) -> Result<Vec<u8>, Errno> {
    let mut image = Vec::new();
    image.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    image.resize(size, 0);
    Ok(image)
}

/// How many bytes of extended state lie behind a frame, going by its first [`FXSAVE`](FXSAVE_HEAD) bytes: all of an XSAVE image of at
/// most `size` bytes when the first marker is right, the legacy part otherwise. `check_xstate_in_sigframe`.
pub fn extended_len(head: &[u8; FXSAVE_HEAD], size: usize) -> usize {
    let (total, len) = (
        half(head, SW_BYTES + 4) as usize,
        half(head, SW_BYTES + 16) as usize,
    );
    let plausible =
        half(head, SW_BYTES) == MAGIC1 && len >= XSAVE_MIN && len <= size && len <= total;
    if plausible { len } else { FXSAVE_SIZE }
}

/// Bytes of the legacy part of extended state.
pub const FXSAVE_HEAD: usize = FXSAVE_SIZE;

/// Makes the XSAVE image of `size` bytes that a frame's extended state (`saved`, of [`extended_len`] bytes, and the word after it) stands for.
/// Without the second marker only the legacy part counts. `__fpu_restore_sig`.
///
/// # Errors
/// `ENOMEM`: no heap.
pub fn restore_extended(saved: &[u8], marker: u32, size: usize) -> Result<Vec<u8>, Errno> {
    let mut image = zeroed(size)?;
    let whole = saved.len() >= XSAVE_MIN && marker == MAGIC2;
    let used = if whole {
        saved.len()
    } else {
        saved.len().min(FXSAVE_SIZE)
    }
    .min(size);
    image[..used].copy_from_slice(&saved[..used]);
    let features = if whole {
        word(saved, FXSAVE_SIZE) & word(saved, SW_BYTES + 8)
    } else {
        FEATURES_LEGACY
    };
    put(&mut image, FXSAVE_SIZE, &features.to_ne_bytes());
    if let Some(reserved) = image.get_mut(SW_BYTES..FXSAVE_SIZE) {
        reserved.fill(0);
    }
    Ok(image)
}

/// What `rt_sigreturn` finds in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restored {
    /// The registers.
    pub regs: Registers,
    /// The mask.
    pub mask: SignalSet,
    /// The alternate stack.
    pub alt: AltStack,
    /// Address of the extended state; 0 for none.
    pub extended: u64,
}

/// Reads a frame; what a context does not hold is kept from `regs`. `restore_sigcontext`.
pub fn decode(bytes: &[u8; SIZE], regs: &Registers) -> Restored {
    let at = |n: usize| word(bytes, MCONTEXT + 8 * n);
    let segments = word(bytes, SEGMENTS);
    let strict = word(bytes, UC) & UC_STRICT_RESTORE_SS != 0;
    let ss = if strict {
        segments >> 48 | 3
    } else {
        Registers::USER_SS
    };
    let regs = Registers {
        r8: at(0),
        r9: at(1),
        r10: at(2),
        r11: at(3),
        r12: at(4),
        r13: at(5),
        r14: at(6),
        r15: at(7),
        rdi: at(8),
        rsi: at(9),
        rbp: at(10),
        rbx: at(11),
        rdx: at(12),
        rax: at(13),
        rcx: at(14),
        rsp: at(15),
        rip: at(16),
        eflags: regs.eflags & !CHANGEABLE_FLAGS | at(17) & CHANGEABLE_FLAGS,
        cs: segments & 0xffff | 3,
        ss,
        orig_rax: Registers::NO_SYSCALL,
        ..*regs
    };
    let flags = word(bytes, UC_STACK + 8) as u32;
    let alt = AltStack {
        base: word(bytes, UC_STACK),
        size: word(bytes, UC_STACK + 16),
        flags,
    };
    let mask = SignalSet(word(bytes, UC_SIGMASK)).maskable();
    Restored {
        regs,
        mask,
        alt,
        extended: word(bytes, FPSTATE),
    }
}

/// `si_code` for exception flags that are not masked, in the order of the SDM.
fn float_code(raised: u32) -> i32 {
    match raised {
        _ if raised & 0x01 != 0 => 7,
        _ if raised & 0x04 != 0 => 3,
        _ if raised & 0x08 != 0 => 4,
        _ if raised & 0x12 != 0 => 5,
        _ if raised & 0x20 != 0 => 6,
        _ => 0,
    }
}

/// `si_code` of an x87 exception, from the extended state. `fpu__exception_code`.
pub fn x87_code(image: &[u8]) -> i32 {
    let words = half(image, 0);
    float_code(words >> 16 & !words & 0x3f)
}

/// `si_code` of an SSE exception, from the extended state.
pub fn simd_code(image: &[u8]) -> i32 {
    let mxcsr = half(image, 24);
    float_code(mxcsr & !(mxcsr >> 7) & 0x3f)
}

/// Whether flags that a program set for its alternate stack make sense; the mode without the extra bits if so.
pub fn alt_mode(flags: u32) -> Option<u32> {
    Some(flags & !SS_AUTODISARM)
        .filter(|&mode| matches!(mode, 0 | super::SS_ONSTACK | super::SS_DISABLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        Registers {
            r8: 8,
            r15: 15,
            rdi: 100,
            rax: 101,
            rcx: 102,
            rsp: 0x7fff_0000,
            rip: 0x40_1000,
            eflags: 0x246,
            cs: Registers::USER_CS,
            ss: Registers::USER_SS,
            fs_base: 0x1234,
            orig_rax: 7,
            ..Registers::default()
        }
    }

    #[test]
    fn offsets_are_those_of_the_kernel_headers() {
        assert_eq!(
            (UC, MCONTEXT, UC_SIGMASK, INFO, SIZE),
            (8, 48, 304, 312, 440)
        );
        assert_eq!((SEGMENTS, FAULT, FPSTATE), (48 + 144, 48 + 152, 48 + 184));
    }

    #[test]
    fn a_frame_survives_its_encoding() {
        let regs = registers();
        let place = place(regs.rsp, ActionFlags::empty(), &AltStack::default(), 832).unwrap();
        let alt = AltStack {
            base: 0x1000,
            size: 0x2000,
            flags: 0,
        };
        let info = SigInfo::fault(11, 1, 0xdead);
        let fault = FaultInfo {
            vector: 14,
            error: 6,
            addr: 0xdead,
        };
        let content = Content {
            restorer: 5,
            mask: SignalSet(6),
            alt,
            fault,
            info: Some(&info),
            has_xsave: true,
        };
        let bytes = encode(&regs, place, &content);
        let restored = decode(
            &bytes,
            &Registers {
                fs_base: 0x1234,
                ..Registers::default()
            },
        );
        assert_eq!(
            restored.regs,
            Registers {
                orig_rax: Registers::NO_SYSCALL,
                eflags: 0x44,
                ..regs
            }
        );
        assert_eq!(
            (restored.mask, restored.alt, restored.extended),
            (SignalSet(6), alt, place.extended)
        );
        assert_eq!(word(&bytes, 0), 5);
        assert_eq!(word(&bytes, UC), 7);
        assert_eq!(word(&bytes, INFO + 16), 0xdead);
        assert_eq!(word(&bytes, FAULT), 6);
    }

    #[test]
    fn frames_are_aligned_for_a_call_and_leave_the_red_zone() {
        for sp in 0x7000_0000..0x7000_0100_u64 {
            let place = place(sp, ActionFlags::empty(), &AltStack::default(), 2696).unwrap();
            assert_eq!(place.frame % 16, 8);
            assert_eq!(place.extended % 64, 0);
            assert!(
                place.frame + SIZE as u64 <= place.extended && place.extended + 2700 <= sp - 128
            );
        }
    }

    #[test]
    fn a_full_alternate_stack_is_refused() {
        let alt = AltStack {
            base: 0x1_0000,
            size: 2048,
            flags: 0,
        };
        assert_eq!(place(0x7000_0000, ActionFlags::ONSTACK, &alt, 2696), None);
        let alt = AltStack { size: 8192, ..alt };
        let placed = place(0x7000_0000, ActionFlags::ONSTACK, &alt, 2696).unwrap();
        assert!(alt.holds(placed.frame));
        assert_eq!(
            place(placed.frame - 0x1000, ActionFlags::ONSTACK, &alt, 2696),
            None
        );
        assert!(place(0x7000_0000, ActionFlags::empty(), &alt, 2696).is_some());
    }

    #[test]
    fn extended_state_survives_and_a_broken_marker_keeps_the_legacy_part() {
        let mut image = initial_extended(832).unwrap();
        put(&mut image, FXSAVE_SIZE, &0b111_u64.to_ne_bytes());
        image[600] = 9;
        image[40] = 7;
        let plain = image.clone();
        mark_extended(&mut image, 0b111).unwrap();
        let head: [u8; 512] = image[..512].try_into().unwrap();
        assert_eq!(
            (
                image.len(),
                extended_len(&head, 832),
                extended_len(&head, 600)
            ),
            (836, 832, 512)
        );
        assert_eq!(restore_extended(&image[..832], MAGIC2, 832).unwrap(), plain);
        let legacy = restore_extended(&image[..832], 0, 832).unwrap();
        assert_eq!((legacy[40], legacy[600], word(&legacy, 512)), (7, 0, 3));
    }
}

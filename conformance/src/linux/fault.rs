//! Loads, stores and fetches of the executing process itself, with the signals they end in caught.

use core::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::trace::signal_word;

static SIGNAL: AtomicI64 = AtomicI64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);

/// Installs the handlers.
pub(super) fn catch_signals() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the handler only stores two numbers and moves on behind the instruction, which is one of those below.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = caught as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(signal, &action, core::ptr::null_mut());
        }
    }
}

extern "C" fn caught(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands in both. A fetch that faults stands at its target with the return address on the stack; a load or store that
    // faults is one of the two instructions below, two bytes long.
    unsafe {
        let address = (*info).si_addr() as u64;
        SIGNAL.store(signal_word(signal, (*info).si_code), Ordering::Relaxed);
        ADDRESS.store(address, Ordering::Relaxed);
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let (rip, rsp) = (libc::REG_RIP as usize, libc::REG_RSP as usize);
        if registers[rip] as u64 == address {
            registers[rip] = *(registers[rsp] as *const i64);
            registers[rsp] += 8;
        } else {
            registers[rip] += 2;
        }
    }
}

fn signal_or(value: i64) -> i64 {
    match SIGNAL.load(Ordering::Relaxed) {
        0 => value,
        signal => signal,
    }
}

fn forget() {
    SIGNAL.store(0, Ordering::Relaxed);
    ADDRESS.store(0, Ordering::Relaxed);
}

/// Where the last access faulted, 0 if it did not.
pub fn address() -> u64 {
    ADDRESS.load(Ordering::Relaxed)
}

/// Loads a byte: its value, or the signal.
pub fn load(at: u64) -> i64 {
    forget();
    let value: u8;
    // SAFETY: what is not mapped ends in `caught`.
    unsafe { core::arch::asm!("mov al, byte ptr [rdi]", in("rdi") at, out("al") value) };
    signal_or(i64::from(value))
}

/// Stores a byte: 0, or the signal.
pub fn store(at: u64, value: u8) -> i64 {
    forget();
    // SAFETY: what is not mapped ends in `caught`; the memory is nobody else's.
    unsafe { core::arch::asm!("mov byte ptr [rdi], al", in("rdi") at, in("al") value) };
    signal_or(0)
}

/// Calls the byte at `at`, which is a return instruction: its value, or the signal.
pub fn execute(at: u64) -> i64 {
    forget();
    // SAFETY: what is fetched returns at once, and what cannot be fetched ends in `caught`.
    unsafe { core::arch::asm!("call rdi", in("rdi") at, clobber_abi("C")) };
    signal_or(0xc3)
}

/// A word of a page that has just been loaded from.
pub(super) fn word(at: u64) -> u64 {
    // SAFETY: the caller has loaded from this page, there is one thread, and it is aligned.
    unsafe { core::ptr::read_volatile(at as *const u64) }
}

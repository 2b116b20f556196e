//! What runs user mode: a trait that an engine implements (a traced process, bare metal), the registers it is handed, and the
//! reasons why it comes back. Not for: files and clocks of the outside (`outside`), nor memory (the library's `Platform`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::paging::Access;
use portolan::platform::Platform;
use portolan::space::Mm;

use crate::outside::Outside;

/// Runs user mode. An engine is the platform of its own machine, so a space of an engine is an `Mm<Engine>`.
pub trait Engine: Platform {
    /// The user-mode side of one thread.
    type Vcpu: Send;

    /// A CPU for one thread of a space. The first one of a space also makes what the engine keeps for the space.
    ///
    /// # Errors
    /// Whatever the outside answers when it has no room for another thread.
    fn new_vcpu(&self, mm: &Mm<Self>) -> Result<Self::Vcpu, Errno>;

    /// Runs user mode until the kernel must decide. On a TLB miss the engine asks [`Mm::translate`] and goes on by itself; only an access
    /// that the page tables do not allow comes back as [`Trap::Fault`]. With [`Trap::Syscall`], `orig_rax` holds the number and `rip` lies after the
    /// instruction.
    fn run(&self, vcpu: &mut Self::Vcpu, mm: &Mm<Self>, regs: &mut Registers) -> Trap;

    /// The floating-point and vector state, as an XSAVE image in the standard (not compacted) form. `NT_X86_XSTATE`.
    fn extended_state(&self, vcpu: &mut Self::Vcpu) -> Vec<u8>;

    /// Loads such an image.
    ///
    /// # Errors
    /// `EINVAL`: not an image that the CPU accepts.
    fn set_extended_state(&self, vcpu: &mut Self::Vcpu, image: &[u8]) -> Result<(), Errno>;

    /// What interrupts [`Engine::run`] of this CPU from another thread.
    fn kicker(&self, vcpu: &Self::Vcpu) -> Kicker;

    /// The files and the clock of the outside.
    fn outside(&self) -> &dyn Outside;

    /// What programs are told of the CPU.
    fn cpu_description(&self) -> CpuDescription {
        CpuDescription::default()
    }

    /// The end of the addresses that programs may use, where the engine needs some for itself. `None`: all of the format's.
    fn user_end(&self) -> Option<VirtAddr> {
        None
    }
}

/// What the auxiliary vector says of the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuDescription {
    /// `AT_HWCAP`: CPUID leaf 1, EDX.
    pub hwcap: u64,
    /// `AT_HWCAP2`: bit 0 ring 3 MWAIT, bit 1 FSGSBASE.
    pub hwcap2: u64,
    /// `AT_PLATFORM`.
    pub platform: &'static str,
    /// `AT_MINSIGSTKSZ`: the size of the largest signal frame.
    pub min_signal_stack: u64,
    /// Feature bits of extended state that user mode may have (XCR0).
    pub xfeatures: u64,
}

impl Default for CpuDescription {
    fn default() -> Self {
        Self {
            hwcap: 0,
            hwcap2: 0,
            platform: "x86_64",
            min_signal_stack: 2048,
            xfeatures: 0b11,
        }
    }
}

/// Interrupts a CPU that runs user mode.
pub trait Kick: Send + Sync {
    /// Makes the CPU's `run` (the one under way, or else the next one) return [`Trap::Interrupted`] soon. Also ends a wait in the outside.
    fn kick(&self);
}

/// A handle that interrupts a CPU; copies interrupt the same one.
#[derive(Clone)]
pub struct Kicker(Arc<dyn Kick>);

impl Kicker {
    /// Wraps what the engine supplies.
    pub fn new(kick: Arc<dyn Kick>) -> Self {
        Self(kick)
    }

    /// Interrupts it.
    pub fn kick(&self) {
        self.0.kick();
    }
}

impl fmt::Debug for Kicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kicker")
    }
}

/// Why user mode stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// A system call.
    Syscall,
    /// An access that the page tables do not allow.
    Fault {
        /// What was accessed.
        addr: VirtAddr,
        /// How.
        access: Access,
    },
    /// Another exception.
    Exception {
        /// Which.
        kind: ExceptionKind,
        /// The address it is about; the instruction's own where it is about none.
        addr: VirtAddr,
    },
    /// Kicked: look at the pending signals.
    Interrupted,
    /// The outside ended the thread.
    Killed {
        /// By this signal.
        signal: i32,
    },
}

/// An exception other than a page fault.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ExceptionKind {
    /// #DE: division by zero or overflow.
    Divide,
    /// #DB: a single step or hardware breakpoint.
    Debug,
    /// #BP: `int3`.
    Breakpoint,
    /// #OF: `into`.
    Overflow,
    /// #UD: no such instruction.
    InvalidOpcode,
    /// #GP: a privileged instruction or a non-canonical address.
    GeneralProtection,
    /// #SS: a non-canonical stack address.
    StackSegment,
    /// #AC: an unaligned access with alignment checks on.
    Alignment,
    /// #MF: an x87 exception.
    FloatingPoint,
    /// #XM: an SSE exception.
    SimdFloat,
}

/// The user-mode registers. `struct user_regs_struct`, x86-64.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The number of the system call under way, or all ones.
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

impl Registers {
    /// `__USER_CS`.
    pub const USER_CS: u64 = 0x33;
    /// `__USER_DS`.
    pub const USER_SS: u64 = 0x2b;
    /// `orig_rax` outside a system call.
    pub const NO_SYSCALL: u64 = u64::MAX;

    /// A program's first registers: all zero but where it starts and its stack. `start_thread`.
    pub fn start(entry: VirtAddr, stack: VirtAddr) -> Self {
        Self {
            rip: entry.get(),
            rsp: stack.get(),
            cs: Self::USER_CS,
            ss: Self::USER_SS,
            eflags: 0x202,
            orig_rax: Self::NO_SYSCALL,
            ..Self::default()
        }
    }

    /// The number of the system call under way.
    pub const fn syscall_number(&self) -> u64 {
        self.orig_rax
    }

    /// The six arguments of the system call under way.
    pub const fn syscall_args(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }

    /// Argument `n`, 0 to 5; 0 beyond.
    pub fn arg(&self, n: usize) -> u64 {
        self.syscall_args().get(n).copied().unwrap_or(0)
    }

    /// What the system call returns.
    pub fn set_return(&mut self, value: u64) {
        self.rax = value;
    }
}

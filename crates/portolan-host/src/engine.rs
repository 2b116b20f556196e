//! The engine that a reference kernel runs on: [`Engine`] for [`Host`], and the library's page tables as the fill reads them.

use std::sync::Arc;

use portolan::addr::{VirtAddr, VirtRange};
use portolan::errno::Errno;
use portolan::paging::Access;
use portolan::platform::{Asid, Platform};
use portolan::space::{Mm, Translation};
use portolan_kernel::engine::{CpuDescription, Engine, Kick, Kicker, Registers, Trap};
use portolan_kernel::outside::Outside;

use crate::fill::{Page, Tables};
use crate::memory::PAGE;
use crate::platform::Host;
use crate::stub::GUEST_TOP;
use crate::tlb::Rights;
use crate::tracee::RawRegisters;
use crate::vcpu::Vcpu;

impl Page {
    fn of(address: VirtAddr, translation: &Translation) -> Page {
        let mut rights = Rights::empty();
        rights.set(Rights::READ, translation.readable);
        rights.set(Rights::WRITE, translation.writable);
        rights.set(Rights::EXEC, translation.executable);
        Page {
            page: address.get() / PAGE,
            frame: translation.frame.get(),
            rights,
        }
    }
}

impl Tables for Mm<Host> {
    fn asid(&self) -> Asid {
        Mm::asid(self)
    }

    fn translate(&self, address: u64, access: Access) -> Option<Page> {
        let address = VirtAddr::new(address);
        Mm::translate(self, address, access).map(|found| Page::of(address, &found))
    }

    fn present(&self, from: u64, to: u64, visit: &mut dyn FnMut(Page)) {
        let range = VirtRange::new(VirtAddr::new(from * PAGE), VirtAddr::new(to * PAGE));
        if let Some(range) = range {
            self.translate_present(range, |address, found| visit(Page::of(address, &found)));
        }
    }
}

impl Engine for Host {
    type Vcpu = Vcpu;

    fn new_vcpu(&self, mm: &Mm<Self>) -> Result<Vcpu, Errno> {
        let vcpu = self
            .vcpu()
            .map_err(|why| Errno::from_raw(why.raw_os_error().unwrap_or(libc::EAGAIN)))?;
        mm.activate(self.cpu());
        Ok(vcpu)
    }

    fn run(&self, vcpu: &mut Vcpu, mm: &Mm<Self>, regs: &mut Registers) -> Trap {
        if !vcpu.runs_on(Mm::asid(mm)) {
            mm.activate(self.cpu());
        }
        let mut raw = to_raw(regs);
        let trap = vcpu.run(mm, &mut raw);
        *regs = from_raw(&raw);
        trap
    }

    fn extended_state(&self, vcpu: &mut Vcpu) -> Vec<u8> {
        // It fails only for a process that is gone, which the next run reports.
        vcpu.extended_state().unwrap_or_default()
    }

    fn set_extended_state(&self, vcpu: &mut Vcpu, image: &[u8]) -> Result<(), Errno> {
        vcpu.set_extended_state(image)
            .map_err(|why| match why.raw_os_error() {
                Some(libc::ESRCH) => Errno::ESRCH,
                _ => Errno::EINVAL,
            })
    }

    fn kicker(&self, vcpu: &Vcpu) -> Kicker {
        let lane: Arc<dyn Kick> = vcpu.lane().clone();
        Kicker::new(lane)
    }

    fn outside(&self) -> &dyn Outside {
        self.files()
    }

    fn cpu_description(&self) -> CpuDescription {
        const AT_MINSIGSTKSZ: libc::c_ulong = 51;
        // SAFETY: getauxval takes and returns numbers.
        let [hwcap2, signal_stack] =
            [libc::AT_HWCAP2, AT_MINSIGSTKSZ].map(|which| unsafe { libc::getauxval(which) });
        let default = CpuDescription::default();
        CpuDescription {
            // Linux hands CPUID's word on; what the C library answers for AT_HWCAP is its own.
            hwcap: u64::from(core::arch::x86_64::__cpuid(1).edx),
            hwcap2,
            min_signal_stack: signal_stack.max(default.min_signal_stack),
            xfeatures: xfeatures().unwrap_or(default.xfeatures),
            ..default
        }
    }

    fn user_end(&self) -> Option<VirtAddr> {
        Some(VirtAddr::new(GUEST_TOP))
    }
}

/// XCR0, where user mode may read it.
fn xfeatures() -> Option<u64> {
    const OSXSAVE: u32 = 1 << 27;
    if std::arch::x86_64::__cpuid(1).ecx & OSXSAVE == 0 {
        return None;
    }
    let (low, high): (u32, u32);
    // SAFETY: the instruction exists where OSXSAVE is set, and only reads a register.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    Some(u64::from(high) << 32 | u64::from(low))
}

macro_rules! same_fields {
    ($($field:ident)*) => {
        fn to_raw(regs: &Registers) -> RawRegisters {
            RawRegisters { $($field: regs.$field),* }
        }

        fn from_raw(raw: &RawRegisters) -> Registers {
            Registers { $($field: raw.$field),* }
        }
    };
}

same_fields! {
    r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs
}

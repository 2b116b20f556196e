//! Prints what the engine's round trips cost on this machine: an empty system call, a first touch with the kernel's fault handling,
//! the refill of a page that is present but not installed, and a process for a new guest thread.
//!
//! `cargo run --release -p portolan-host --example round_trips`

use std::error::Error;
use std::time::{Duration, Instant};

use portolan::addr::VirtAddr;
use portolan::machine::{Machine, Settings};
use portolan::paging::X86_64;
use portolan::platform::{Asid, CpuSet, FlushRequest, FlushScope, Platform, Tables};
use portolan::space::{MapRequest, Mm, MmConfig, MmUser, Prot};
use portolan_host::{Host, HostConfig, Placement, Vcpu};
use portolan_kernel::engine::{Engine, Registers, Trap};

const CALLS: u32 = 100_000;
const PAGES: u64 = 10_000;
const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x1000_0000;
/// next: syscall; jmp next
const CALL: [u8; 4] = [0x0f, 0x05, 0xeb, 0xfc];
/// next: mov [rdi], al; add rdi, 4096; dec ecx; jnz next; syscall
const TOUCH: [u8; 15] = [
    0x88, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0xff, 0xc9, 0x75, 0xf3, 0x0f, 0x05,
];
const TOUCH_AT: u64 = CODE + 64;

fn main() -> Result<(), Box<dyn Error>> {
    for placement in [Placement::Together, Placement::Free] {
        println!("{placement:?}");
        measure(placement)?;
    }
    Ok(())
}

fn measure(placement: Placement) -> Result<(), Box<dyn Error>> {
    let host = Host::new(HostConfig {
        memory: 256 << 20,
        placement,
    })?;
    let machine = Machine::new(host, Settings::default())?;
    let mm = Mm::new(&machine, MmConfig::new::<X86_64>())?;
    let rwx = Prot::READ | Prot::WRITE | Prot::EXEC;
    mm.mmap(&MapRequest::anonymous(4096, rwx).fixed(VirtAddr::new(CODE)))?;
    mm.mmap(&MapRequest::anonymous(PAGES * 4096, rwx).fixed(VirtAddr::new(DATA)))?;
    mm.copy_to_user(VirtAddr::new(CODE), &CALL)?;
    mm.copy_to_user(VirtAddr::new(TOUCH_AT), &TOUCH)?;

    let engine = machine.platform();
    let mut vcpu = engine.new_vcpu(&mm)?;
    let mut regs = Registers::start(VirtAddr::new(CODE), VirtAddr::new(0));
    let started = until_call(engine, &mut vcpu, &mm, &mut regs)?;
    println!("  start of a guest thread   {started:>10.1?}");

    let start = Instant::now();
    for _ in 0..CALLS {
        until_call(engine, &mut vcpu, &mm, &mut regs)?;
    }
    println!(
        "  empty system call         {:>10.1?}",
        start.elapsed() / CALLS
    );

    let mut touch = |vcpu: &mut Vcpu| {
        (regs.rip, regs.rdi, regs.rcx) = (TOUCH_AT, DATA, PAGES);
        until_call(engine, vcpu, &mm, &mut regs)
    };
    println!(
        "  first touch of a page     {:>10.1?}",
        touch(&mut vcpu)? / PAGES as u32
    );
    forget(engine, mm.asid());
    println!(
        "  refill, a page            {:>10.1?}",
        touch(&mut vcpu)? / PAGES as u32
    );
    println!(
        "  touch of an installed page{:>10.1?}",
        touch(&mut vcpu)? / PAGES as u32
    );
    Ok(())
}

/// Runs to the next system call, with faults served on the way; how long it took.
fn until_call(
    engine: &Host,
    vcpu: &mut Vcpu,
    mm: &MmUser<Host>,
    regs: &mut Registers,
) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    loop {
        match engine.run(vcpu, mm, regs) {
            Trap::Syscall => return Ok(start.elapsed()),
            Trap::Fault { addr, access } => {
                if let Err(why) = mm.handle_fault(addr, access) {
                    return Err(format!("fault at {addr:?}: {why:?}").into());
                }
            }
            other => return Err(format!("{other:?}").into()),
        }
    }
}

/// Empties the engine's TLB; the page tables stay.
fn forget(engine: &Host, asid: Asid) {
    let request = FlushRequest {
        asid,
        scope: FlushScope::Space,
        tables: Tables::Kept,
        cpus: &CpuSet::EMPTY,
    };
    engine.flush_wait(engine.flush_begin(request));
}

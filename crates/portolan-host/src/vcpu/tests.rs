//! A vcpu over page tables that are a map: faults, flushes, prefilling, exceptions, interruption.

use std::collections::BTreeMap;
use std::sync::mpsc;

use parking_lot::Mutex;
use portolan::addr::VirtRange;
use portolan::platform::{Asid, CpuSet, FlushRequest, FlushScope, Platform, Tables as Freed};

use super::*;
use crate::fill::Page;
use crate::memory::PAGE;
use crate::platform::{Host, HostConfig, Placement};
use crate::stub::GUEST_TOP;
use crate::tlb::Rights;

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x60_0000;
const RWX: [Rights; 3] = [Rights::READ, Rights::WRITE, Rights::EXEC];

/// Page tables: frame, what is allowed, whether it was written.
struct Model {
    asid: Asid,
    pages: Mutex<BTreeMap<u64, (u64, Rights, bool)>>,
    walks: Mutex<Vec<(u64, Access)>>,
}

impl Tables for Model {
    fn asid(&self) -> Asid {
        self.asid
    }

    fn translate(&self, address: u64, access: Access) -> Option<Page> {
        self.walks.lock().push((address, access));
        let mut pages = self.pages.lock();
        let (frame, rights, dirty) = pages.get_mut(&(address / PAGE))?;
        if !rights.contains(RWX[access as usize]) {
            return None;
        }
        *dirty |= access == Access::Write;
        let rights = if *dirty {
            *rights
        } else {
            *rights - Rights::WRITE
        };
        Some(Page {
            page: address / PAGE,
            frame: *frame,
            rights,
        })
    }

    fn present(&self, from: u64, to: u64, visit: &mut dyn FnMut(Page)) {
        for (&page, &(frame, rights, dirty)) in self.pages.lock().range(from..to) {
            let rights = if dirty {
                rights
            } else {
                rights - Rights::WRITE
            };
            visit(Page {
                page,
                frame,
                rights,
            });
        }
    }
}

struct Guest {
    host: Host,
    model: Model,
    vcpu: Vcpu,
    regs: RawRegisters,
}

/// A guest with `code` at [`CODE`] in frame 0 and nothing else.
fn guest(code: &[u8]) -> Guest {
    let host = Host::new(HostConfig {
        memory: 4096 * PAGE,
        placement: Placement::Free,
    })
    .unwrap();
    // SAFETY: within the memory just made.
    unsafe {
        std::ptr::copy_nonoverlapping(
            code.as_ptr(),
            host.direct_map(portolan::addr::PhysAddr::new(0)),
            code.len(),
        )
    };
    let model = Model {
        asid: Asid(1),
        pages: Mutex::default(),
        walks: Mutex::default(),
    };
    // SAFETY: plain numbers, all zero is a value.
    let mut regs: RawRegisters = unsafe { std::mem::zeroed() };
    (regs.cs, regs.ss, regs.eflags, regs.rip, regs.rsp) = (0x33, 0x2b, 0x202, CODE, DATA + PAGE);
    let vcpu = host.vcpu().unwrap();
    let mut guest = Guest {
        host,
        model,
        vcpu,
        regs,
    };
    guest.map(CODE, 0, Rights::READ | Rights::EXEC);
    guest
}

impl Guest {
    fn map(&mut self, address: u64, frame: u64, rights: Rights) {
        self.model
            .pages
            .lock()
            .insert(address / PAGE, (frame, rights, false));
    }

    fn run(&mut self) -> Trap {
        self.vcpu.run(&self.model, &mut self.regs)
    }

    fn flush(&self, start: u64, pages: u64) {
        let range = VirtRange::with_len(VirtAddr::new(start), pages * PAGE).unwrap();
        let scope = FlushScope::Pages(range);
        let request = FlushRequest {
            asid: Asid(1),
            scope,
            tables: Freed::Kept,
            cpus: &CpuSet::EMPTY,
        };
        self.host.flush_wait(self.host.flush_begin(request));
    }

    fn byte(&self, address: u64) -> u8 {
        let mut byte = [0];
        self.vcpu.host.memory.read(address, &mut byte).unwrap();
        byte[0]
    }
}

const RW: Rights = Rights::READ.union(Rights::WRITE);

fn fault(addr: u64, access: Access) -> Trap {
    Trap::Fault {
        addr: VirtAddr::new(addr),
        access,
    }
}

fn exception(kind: ExceptionKind, addr: u64) -> Trap {
    Trap::Exception {
        kind,
        addr: VirtAddr::new(addr),
    }
}

#[test]
fn faults_tell_load_store_and_fetch_and_are_retried_once_resolved() {
    // mov al, [rdi]; mov [rdi], al; jmp rdi
    let mut guest = guest(&[0x8a, 0x07, 0x88, 0x07, 0xff, 0xe7]);
    guest.regs.rdi = DATA;
    assert_eq!(guest.run(), fault(DATA, Access::Read));
    guest.map(DATA, 1, Rights::READ);
    assert_eq!(guest.run(), fault(DATA, Access::Write));
    guest.map(DATA, 1, RW);
    guest.flush(DATA, 1);
    assert_eq!(guest.run(), fault(DATA, Access::Execute));
    assert_eq!(guest.regs.rip, DATA);
    guest.map(DATA, 1, RW | Rights::EXEC);
    // The page holds zeros: `add [rax], al` with rax 0.
    assert_eq!(guest.run(), fault(0, Access::Write));
}

#[test]
fn a_clean_page_is_marked_dirty_by_the_first_store_only() {
    // mov al, [rdi]; mov [rdi], al; mov [rdi], al; syscall
    let mut guest = guest(&[0x8a, 0x07, 0x88, 0x07, 0x88, 0x07, 0x0f, 0x05]);
    guest.regs.rdi = DATA;
    guest.map(DATA, 1, RW);
    assert_eq!(guest.run(), Trap::Syscall);
    let walks: Vec<_> = guest
        .model
        .walks
        .lock()
        .iter()
        .copied()
        .filter(|&(at, _)| at == DATA)
        .collect();
    assert_eq!(walks, [(DATA, Access::Read), (DATA, Access::Write)]);
}

#[test]
fn neighbours_come_along_and_flushes_take_them_away() {
    // next: mov al, [rdi]; add rdi, 4096; dec ecx; jnz next; syscall
    let code = [
        0x8a, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0xff, 0xc9, 0x75, 0xf3, 0x0f, 0x05,
    ];
    let mut guest = guest(&code);
    for i in 0..64 {
        guest.map(DATA + i * PAGE, 100 + i, RW);
    }
    (guest.regs.rdi, guest.regs.rcx) = (DATA, 64);
    assert_eq!(guest.run(), Trap::Syscall);
    let misses = guest
        .model
        .walks
        .lock()
        .iter()
        .filter(|&&(at, _)| at >= DATA)
        .count();
    assert_eq!(misses, 2, "one per window");

    guest.model.pages.lock().remove(&(DATA / PAGE + 5));
    guest.flush(DATA + 5 * PAGE, 1);
    (guest.regs.rip, guest.regs.rdi, guest.regs.rcx) = (CODE, DATA, 64);
    assert_eq!(guest.run(), fault(DATA + 5 * PAGE, Access::Read));
    assert_eq!(guest.regs.rcx, 59);
}

#[test]
fn a_frame_that_is_replaced_is_not_seen_again() {
    // mov al, [rdi]; syscall; mov al, [rdi]; syscall
    let mut guest = guest(&[0x8a, 0x07, 0x0f, 0x05, 0x8a, 0x07, 0x0f, 0x05]);
    // SAFETY: within the guest's memory.
    unsafe {
        guest
            .host
            .direct_map(portolan::addr::PhysAddr::new(2 * PAGE))
            .write(7)
    };
    guest.map(DATA, 1, RW);
    guest.regs.rdi = DATA;
    assert_eq!(guest.run(), Trap::Syscall);
    guest.map(DATA, 2, RW);
    guest.flush(DATA, 1);
    assert_eq!(guest.run(), Trap::Syscall);
    assert_eq!(guest.regs.orig_rax & 0xff, 7);
}

#[test]
fn more_mappings_than_the_outer_kernel_allows_are_dropped_and_refilled() {
    // next: inc byte [rdi]; add rdi, 4096; dec ecx; jnz next; syscall
    let code = [
        0xfe, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0xff, 0xc9, 0x75, 0xf3, 0x0f, 0x05,
    ];
    let mut guest = guest(&code);
    let pages = 70_000;
    for i in 0..pages {
        // Alternating frames: no two pages make one mapping.
        guest
            .model
            .pages
            .lock()
            .insert(DATA / PAGE + i, (1 + i % 2, RW, true));
    }
    (guest.regs.rdi, guest.regs.rcx) = (DATA, pages);
    assert_eq!(guest.run(), Trap::Syscall);
    assert_eq!(guest.byte(PAGE), (pages / 2 % 256) as u8);
    assert_eq!(guest.byte(2 * PAGE), (pages / 2 % 256) as u8);
}

#[test]
fn accesses_that_cross_a_page_and_instructions_that_do() {
    // mov rax, [rdi], with the second page missing
    let mut one = guest(&[0x48, 0x8b, 0x07]);
    one.regs.rdi = DATA + PAGE - 4;
    one.map(DATA, 1, Rights::READ);
    assert_eq!(one.run(), fault(DATA + PAGE, Access::Read));

    // mov rax, imm64 whose end lies on the next page
    let mut bytes = vec![0x90; PAGE as usize - 4];
    bytes.extend_from_slice(&[0x48, 0xb8, 1, 2]);
    let mut two = guest(&bytes);
    assert_eq!(two.run(), fault(CODE + PAGE, Access::Execute));
    two.map(CODE + PAGE, 1, Rights::READ | Rights::EXEC);
    assert_eq!(
        two.run(),
        fault(0x201, Access::Write),
        "add [rax], al after it, rax from the bytes"
    );
}

#[test]
fn a_copy_faults_on_each_of_its_sides() {
    // rep movsb; syscall
    let mut guest = guest(&[0xf3, 0xa4, 0x0f, 0x05]);
    (guest.regs.rsi, guest.regs.rdi, guest.regs.rcx) = (DATA, DATA + 0x10_0000, 2 * PAGE);
    assert_eq!(guest.run(), fault(DATA, Access::Read));
    guest.map(DATA, 1, Rights::READ);
    assert_eq!(guest.run(), fault(DATA + 0x10_0000, Access::Write));
    guest.map(DATA + 0x10_0000, 2, RW);
    assert_eq!(guest.run(), fault(DATA + PAGE, Access::Read));
    guest.map(DATA + PAGE, 3, Rights::READ);
    assert_eq!(guest.run(), fault(DATA + 0x10_1000, Access::Write));
    guest.map(DATA + 0x10_1000, 4, RW);
    assert_eq!(guest.run(), Trap::Syscall);
}

#[test]
fn exceptions_are_told_apart() {
    use ExceptionKind as Kind;
    let one = |code: &[u8], change: fn(&mut RawRegisters)| {
        let mut guest = guest(code);
        guest.map(DATA, 1, RW);
        change(&mut guest.regs);
        (guest.run(), guest.regs.rip)
    };
    let none = |_: &mut RawRegisters| {};
    assert_eq!(
        one(&[0xf7, 0xf1], none),
        (exception(Kind::Divide, CODE), CODE)
    ); // div ecx
    assert_eq!(
        one(&[0x0f, 0x0b], none),
        (exception(Kind::InvalidOpcode, CODE), CODE)
    ); // ud2
    assert_eq!(one(&[0xcc], none).0, exception(Kind::Breakpoint, 0)); // int3
    assert_eq!(one(&[0xcc], none).1, CODE + 1);
    assert_eq!(
        one(&[0xf4], none),
        (exception(Kind::GeneralProtection, 0), CODE)
    ); // hlt
    assert_eq!(
        one(&[0xcd, 0x80], none),
        (exception(Kind::GeneralProtection, 0), CODE)
    ); // int 0x80
    let wild = |regs: &mut RawRegisters| (regs.rdi, regs.rsp) = (1 << 63, 1 << 62);
    assert_eq!(
        one(&[0x8a, 0x07], wild),
        (exception(Kind::GeneralProtection, 0), CODE)
    ); // mov al, [rdi]
    assert_eq!(one(&[0x58], wild), (exception(Kind::StackSegment, 0), CODE)); // pop rax
    let step = |regs: &mut RawRegisters| regs.eflags |= 0x100;
    assert_eq!(
        one(&[0x90, 0x90], step),
        (exception(Kind::Debug, CODE + 1), CODE + 1)
    );
    // A kernel address is a page fault, natively too.
    let high = |regs: &mut RawRegisters| regs.rdi = 0xffff_8000_0000_0000;
    assert_eq!(
        one(&[0x8a, 0x07], high).0,
        fault(0xffff_8000_0000_0000, Access::Read)
    );
    // mov dword [rsp-8], 0x1f00; ldmxcsr [rsp-8]; xorps xmm0, xmm0; divps xmm0, xmm0
    let code = [
        0xc7, 0x44, 0x24, 0xf8, 0, 0x1f, 0, 0, 0x0f, 0xae, 0x54, 0x24, 0xf8, 0x0f, 0x57, 0xc0,
        0x0f, 0x5e, 0xc0,
    ];
    assert_eq!(
        one(&code, none),
        (exception(Kind::SimdFloat, CODE + 16), CODE + 16)
    );
    // mov dword [rsp-8], 0x0300; fldcw [rsp-8]; fldz; fldz; then two ways on
    let x87 = [
        0xc7, 0x44, 0x24, 0xf8, 0, 3, 0, 0, 0xd9, 0x6c, 0x24, 0xf8, 0xd9, 0xee, 0xd9, 0xee, 0xde,
        0xf9,
    ];
    for last in [0x9b, 0xd9] {
        let code: Vec<u8> = x87.into_iter().chain([last, 0xe8]).collect(); // fwait or fld1 meets what fdivp left
        assert_eq!(
            one(&code, none).0,
            exception(Kind::FloatingPoint, CODE + 18)
        );
    }
}

#[test]
fn registers_that_ptrace_refuses_do_not_stop_a_guest() {
    // wrfsbase rdi; syscall; rdfsbase rax; syscall
    let code = [
        0xf3, 0x48, 0x0f, 0xae, 0xd7, 0x0f, 0x05, 0xf3, 0x48, 0x0f, 0xae, 0xc0, 0x0f, 0x05,
    ];
    let mut guest = guest(&code);
    guest.regs.rdi = 0xffff_ffff_ffff_f000;
    if guest.run() != Trap::Syscall {
        return; // a processor without these instructions
    }
    guest.regs.rax = 0;
    assert_eq!(guest.run(), Trap::Syscall);
    assert_eq!(guest.regs.fs_base, 0xffff_ffff_ffff_f000);
}

#[test]
fn the_stub_cannot_be_mapped_over() {
    // mov [rdi], al
    let mut guest = guest(&[0x88, 0x07]);
    guest.regs.rdi = GUEST_TOP + PAGE;
    guest.map(GUEST_TOP + PAGE, 1, RW);
    assert_eq!(guest.run(), fault(GUEST_TOP + PAGE, Access::Write));
}

#[test]
fn a_kick_interrupts_an_endless_loop_and_a_late_one_the_next_run() {
    // jmp $
    let mut guest = guest(&[0xeb, 0xfe]);
    let kicker = Arc::clone(guest.vcpu.lane());
    let (ready, go) = mpsc::channel();
    let other = std::thread::spawn({
        let kicker = kicker.clone();
        move || {
            go.recv().unwrap();
            kicker.kick();
        }
    });
    ready.send(()).unwrap();
    assert_eq!(guest.run(), Trap::Interrupted);
    other.join().unwrap();
    kicker.kick();
    assert_eq!(guest.run(), Trap::Interrupted);
    drop(guest);
    kicker.kick();
}

#[test]
fn a_flush_stops_another_vcpu_that_uses_the_page() {
    // next: mov al, [rdi]; jmp next
    let mut guest = guest(&[0x8a, 0x07, 0xeb, 0xfc]);
    guest.map(DATA, 1, Rights::READ);
    guest.regs.rdi = DATA;
    std::thread::scope(|scope| {
        let Guest {
            host,
            model,
            vcpu,
            regs,
        } = &mut guest;
        let (model, host) = (&*model, &*host);
        let running = scope.spawn(move || vcpu.run(model, regs));
        while !model.walks.lock().contains(&(DATA, Access::Read)) {
            std::thread::yield_now();
        }
        model.pages.lock().remove(&(DATA / PAGE));
        let range = VirtRange::with_len(VirtAddr::new(DATA), PAGE).unwrap();
        let scope = FlushScope::Pages(range);
        let request = FlushRequest {
            asid: Asid(1),
            scope,
            tables: Freed::Kept,
            cpus: &CpuSet::EMPTY,
        };
        host.flush_wait(host.flush_begin(request));
        assert_eq!(running.join().unwrap(), fault(DATA, Access::Read));
    });
}

#[test]
fn a_vcpu_goes_on_in_another_space() {
    // mov al, [rdi]; syscall
    let mut guest = guest(&[0x8a, 0x07, 0x0f, 0x05]);
    guest.regs.rdi = DATA;
    guest.map(DATA, 1, RW);
    assert_eq!(guest.run(), Trap::Syscall);
    guest.host.space_released(Asid(1));
    guest.model.asid = Asid(2);
    guest.model.pages.lock().remove(&(DATA / PAGE));
    guest.regs.rip = CODE;
    assert_eq!(guest.run(), fault(DATA, Access::Read));
}

#[test]
fn a_vcpu_on_the_wrong_thread_is_refused() {
    let mut guest = guest(&[0x0f, 0x05]);
    assert_eq!(guest.run(), Trap::Syscall);
    let trap = std::thread::scope(|scope| scope.spawn(|| guest.run()).join().unwrap());
    assert!(matches!(trap, Trap::Killed { .. }));
    assert_eq!(guest.host.take_notes().len(), 1);
}

#[test]
fn a_process_killed_from_outside_is_reported() {
    let mut guest = guest(&[0x0f, 0x05]);
    assert_eq!(guest.run(), Trap::Syscall);
    let pid = guest.vcpu.body.as_ref().unwrap().tracee.pid();
    assert!(pid > 1);
    // SAFETY: a call on numbers; the process is this test's own and not yet waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    assert_eq!(
        guest.run(),
        Trap::Killed {
            signal: libc::SIGKILL
        }
    );
}

#[test]
fn nothing_is_written_through_a_flushed_translation() {
    // next: inc byte [rdi]; xor rdi, 4096; jmp next
    let mut guest = guest(&[0xfe, 0x07, 0x48, 0x81, 0xf7, 0, 0x10, 0, 0, 0xeb, 0xf5]);
    let page = |i: u64| DATA / PAGE + i;
    for i in 0..2 {
        guest.model.pages.lock().insert(page(i), (10 + i, RW, true));
    }
    guest.regs.rdi = DATA;
    let done = std::sync::atomic::AtomicBool::new(false);
    let stop = || done.load(std::sync::atomic::Ordering::SeqCst);
    std::thread::scope(|scope| {
        let Guest {
            host,
            model,
            vcpu,
            regs,
        } = &mut guest;
        let (model, host, kicker) = (&*model, &*host, Arc::clone(vcpu.lane()));
        let running = scope.spawn(move || {
            let mut faults = 0;
            while !stop() {
                match vcpu.run(model, regs) {
                    Trap::Fault { .. } => faults += 1,
                    Trap::Interrupted => {}
                    other => panic!("{other:?}"),
                }
                std::thread::yield_now();
            }
            faults
        });
        let byte = |frame: u64| {
            let at = portolan::addr::PhysAddr::new(frame * PAGE);
            // SAFETY: within the guest's memory; volatile because the guest writes it.
            unsafe { host.direct_map(at).read_volatile() }
        };
        for turn in 0..300_u64 {
            let (victim, frame) = (page(turn % 2), 10 + turn % 2);
            let before = byte(frame);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while byte(frame) == before && std::time::Instant::now() < deadline {
                std::thread::yield_now();
            }
            let old = model.pages.lock().remove(&victim).unwrap();
            let range = VirtRange::with_len(VirtAddr::new(victim * PAGE), PAGE).unwrap();
            let request = FlushRequest {
                asid: Asid(1),
                scope: if turn % 5 == 0 {
                    FlushScope::Space
                } else {
                    FlushScope::Pages(range)
                },
                tables: Freed::Kept,
                cpus: &CpuSet::EMPTY,
            };
            host.flush_wait(host.flush_begin(request));
            let after = byte(frame);
            for _ in 0..200 {
                std::thread::yield_now();
                assert_eq!(byte(frame), after, "turn {turn}");
            }
            model.pages.lock().insert(victim, old);
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        kicker.kick();
        assert!(running.join().unwrap() > 0);
    });
}

//! Guest code of a few bytes in a bare process, without page tables: what stops, what does not, what is preserved.

use super::*;
use crate::memory::{GuestMemory, PAGE};
use crate::seccomp::MEMORY_FD;
use crate::stub::GUEST_TOP;

const CODE_AT: u64 = 0x40_0000;
const DATA_AT: u64 = 0x60_0000;

/// A process with `code` mapped executable and one page of data.
fn guest(code: &[u8]) -> (GuestMemory, Tracee, RawRegisters) {
    let memory = GuestMemory::new(64 * PAGE).unwrap();
    // SAFETY: within the memory just made.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), memory.base(), code.len()) };
    let mut tracee = Tracee::spawn(memory.fd()).unwrap();
    let (read, write, exec) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
    tracee
        .call(&[
            Call::mmap(CODE_AT, PAGE, read | exec, 0, MEMORY_FD, 0),
            Call::mmap(DATA_AT, PAGE, read | write, 0, MEMORY_FD, PAGE),
        ])
        .unwrap();
    let mut regs = tracee.blank;
    regs.rip = CODE_AT;
    regs.rsp = DATA_AT + PAGE;
    regs.orig_rax = u64::MAX;
    (memory, tracee, regs)
}

fn run(tracee: &mut Tracee, regs: &mut RawRegisters, how: Resume) -> Stop {
    tracee.set_registers(regs).unwrap();
    tracee.resume(how).unwrap();
    let stop = tracee.wait();
    if !matches!(stop, Stop::Gone(_)) {
        *regs = tracee.registers().unwrap();
    }
    stop
}

fn maps(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap()
}

#[test]
fn an_emptied_process_holds_only_the_stub_and_one_descriptor() {
    let memory = GuestMemory::new(PAGE).unwrap();
    let tracee = Tracee::spawn(memory.fd()).unwrap();
    let maps = maps(tracee.pid());
    for line in maps.lines() {
        let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        assert!(start >= GUEST_TOP, "{maps}");
    }
    let fds: Vec<_> = std::fs::read_dir(format!("/proc/{}/fd", tracee.pid()))
        .unwrap()
        .collect();
    assert_eq!(fds.len(), 1);
    assert_eq!(tracee.wall(), SecondWall::Up);
}

#[test]
fn no_process_outlives_its_owner() {
    let memory = GuestMemory::new(PAGE).unwrap();
    let tracee = Tracee::spawn(memory.fd()).unwrap();
    let pid = tracee.pid();
    drop(tracee);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn every_system_call_stops_and_none_is_executed() {
    // next: syscall; int 0x80; inc r12; jmp next
    let (_memory, mut tracee, mut regs) =
        guest(&[0x0f, 0x05, 0xcd, 0x80, 0x49, 0xff, 0xc4, 0xeb, 0xf7]);
    let before = maps(tracee.pid());
    for number in (0..1024).chain([u64::MAX, 1 << 31, 0x4000_0000, 0x4000_0209]) {
        regs.rax = number;
        assert_eq!(
            run(&mut tracee, &mut regs, Resume::Guest),
            Stop::Syscall,
            "syscall {number}"
        );
        assert_eq!(regs.rip, CODE_AT + 2);
        assert_eq!(regs.orig_rax, number);
        assert_eq!(
            regs.rcx, regs.rip,
            "what tells this instruction from the next one"
        );
        (regs.rax, regs.rcx, regs.orig_rax) = (number, 0, u64::MAX);
        assert_eq!(
            run(&mut tracee, &mut regs, Resume::Guest),
            Stop::Syscall,
            "int 0x80 with {number}"
        );
        assert_eq!(regs.rip, CODE_AT + 4);
        assert_eq!(regs.rcx, 0);
        (regs.rax, regs.orig_rax) = (number.wrapping_neg(), u64::MAX);
    }
    assert_eq!(regs.r12, 1027);
    assert_eq!(before, maps(tracee.pid()));
}

#[test]
fn the_second_wall_kills_what_gets_past_the_first() {
    for number in [
        libc::SYS_getpid,
        libc::SYS_munmap,
        libc::SYS_mmap,
        libc::SYS_exit_group,
        libc::SYS_write,
    ] {
        let (_memory, mut tracee, mut regs) = guest(&[0x0f, 0x05, 0xf4]);
        regs.rax = number as u64;
        assert_eq!(
            run(&mut tracee, &mut regs, Resume::Stub),
            Stop::Gone(libc::SIGSYS),
            "{number}"
        );
    }
    // The stub's own calls are let through only as far as the engine asks for them.
    for call in [
        Call::new(libc::SYS_getpid, [0; 6]),
        Call::new(libc::SYS_mmap, [DATA_AT, PAGE, 3, 0x32, u64::MAX, 0]),
        Call::new(libc::SYS_execve, [0; 6]),
    ] {
        let (_memory, mut tracee, _) = guest(&[0xf4]);
        assert!(
            matches!(tracee.call(&[call]), Err(StubError::Gone(libc::SIGSYS))),
            "{call:?}"
        );
    }
}

#[test]
fn a_guest_that_jumps_to_the_stub_only_stops() {
    // jmp rdi
    let (_memory, mut tracee, mut regs) = guest(&[0xff, 0xe7]);
    let before = maps(tracee.pid());
    (regs.rdi, regs.rbx, regs.rbp) = (STUB_CODE, DATA_AT, DATA_AT + 56);
    assert_eq!(run(&mut tracee, &mut regs, Resume::Guest), Stop::Syscall);
    assert_eq!(before, maps(tracee.pid()));
}

#[test]
fn a_failed_call_is_named_and_the_rest_is_not_made() {
    let (_memory, mut tracee, _) = guest(&[0xf4]);
    let calls = [
        Call::mmap(0x70_0000, PAGE, 1, 0, MEMORY_FD, 0),
        Call::munmap(0x70_0001, 0x70_1000),
        Call::munmap(0x70_0000, 0x70_1000),
    ];
    match tracee.call(&calls) {
        Err(StubError::Call(1, why)) => assert_eq!(why.raw_os_error(), Some(libc::EINVAL)),
        other => panic!("{other:?}"),
    }
    assert!(maps(tracee.pid()).contains("00700000-"));
}

#[test]
fn registers_and_vector_state_survive_the_stub() {
    // syscall; hlt
    let (_memory, mut tracee, mut regs) = guest(&[0x0f, 0x05, 0xf4]);
    (regs.fs_base, regs.gs_base, regs.r13) = (DATA_AT, DATA_AT + 8, 0x1234);
    run(&mut tracee, &mut regs, Resume::Guest);
    let mut image = tracee.extended_state().unwrap();
    image[160..176].copy_from_slice(b"sixteen xmm0 byt");
    image[512] |= 2;
    tracee.set_extended_state(&image).unwrap();
    let image = tracee.extended_state().unwrap();
    assert_eq!(&image[160..176], b"sixteen xmm0 byt");
    let calls: Vec<_> = (0..1000)
        .map(|i| Call::mmap(0x70_0000 + i * 2 * PAGE, PAGE, 1, 0, MEMORY_FD, 0))
        .collect();
    tracee.call(&calls).unwrap();
    assert_eq!(
        run(&mut tracee, &mut regs, Resume::Guest),
        Stop::Signal(libc::SIGSEGV)
    );
    assert_eq!(
        (regs.fs_base, regs.gs_base, regs.r13),
        (DATA_AT, DATA_AT + 8, 0x1234)
    );
    assert_eq!(tracee.signal().unwrap(), (libc::SI_KERNEL, 0));
    let after = tracee.extended_state().unwrap();
    let changed: Vec<_> = (0..image.len()).filter(|&i| image[i] != after[i]).collect();
    assert_eq!(changed, []);
}

#[test]
fn a_legacy_call_is_shown_to_the_tracer_before_it_is_made() {
    // call rdi; hlt
    let (_memory, mut tracee, mut regs) = guest(&[0xff, 0xd7, 0xf4]);
    (regs.rdi, regs.rsi) = (0xffff_ffff_ff60_0000, 0);
    match run(&mut tracee, &mut regs, Resume::Guest) {
        Stop::Vsyscall => {}
        // A kernel booted with vsyscall=none.
        Stop::Signal(libc::SIGSEGV) => return,
        other => panic!("{other:?}"),
    }
    assert_eq!((regs.rip, regs.orig_rax), (0xffff_ffff_ff60_0000, 96));
    (regs.orig_rax, regs.rax) = (u64::MAX, 7);
    tracee.kick();
    assert_eq!(
        run(&mut tracee, &mut regs, Resume::Guest),
        Stop::Signal(KICK)
    );
    assert_eq!(
        (regs.rip, regs.rsp, regs.rax),
        (CODE_AT + 2, DATA_AT + PAGE, 7)
    );
}

#[test]
fn a_refusal_to_trace_is_told_apart() {
    let refuse = |number: i64| {
        let code = |code: u32, jt, jf, k| libc::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        };
        let filter = [
            code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            code(libc::BPF_JMP | libc::BPF_JEQ, 0, 1, number as u32),
            code(
                libc::BPF_RET,
                0,
                0,
                libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
            ),
            code(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog {
            len: 4,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: the program and filter are live locals; the filter binds only this thread and what it forks.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            assert_eq!(
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program),
                0
            );
        }
    };
    std::thread::spawn(move || {
        refuse(libc::SYS_ptrace);
        let memory = GuestMemory::new(PAGE).unwrap();
        let why = Tracee::spawn(memory.fd())
            .err()
            .expect("ptrace is refused here");
        assert!(matches!(why, HostError::TraceRefused(_)), "{why:?}");
        let text = why.to_string();
        assert!(
            text.contains("allow ptrace") && !text.contains('\n'),
            "{text}"
        );
    })
    .join()
    .unwrap();
}

#[test]
fn a_kernel_without_seccomp_leaves_one_wall() {
    std::thread::spawn(|| {
        let code = |code: u32, jt, jf, k| libc::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        };
        let filter = [
            code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            code(
                libc::BPF_JMP | libc::BPF_JEQ,
                0,
                1,
                libc::SYS_seccomp as u32,
            ),
            code(
                libc::BPF_RET,
                0,
                0,
                libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
            ),
            code(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog {
            len: 4,
            filter: filter.as_ptr().cast_mut(),
        };
        // SAFETY: the program and filter are live locals; the filter binds only this thread and what it forks.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            assert_eq!(
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program),
                0
            );
        }
        let memory = GuestMemory::new(PAGE).unwrap();
        let tracee = Tracee::spawn(memory.fd()).unwrap();
        assert_eq!(tracee.wall(), SecondWall::Unavailable);
    })
    .join()
    .unwrap();
}

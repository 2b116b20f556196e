//! The kernel with an engine that plays scripts: how programs are loaded, how signals come and go, and that no call with any arguments
//! brings the kernel down or loses a frame.

mod engine;
#[path = "../files/fake.rs"]
#[allow(dead_code, reason = "shared with the tests of files")]
mod fake;

use engine::{BASE, Step, World};
use portolan::errno::Errno;
use portolan::paging::Access;
use portolan_kernel::engine::{ExceptionKind, Registers};
use portolan_kernel::task::ExitStatus;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

const MMAP: u64 = 9;
const RT_SIGACTION: u64 = 13;
const RT_SIGRETURN: u64 = 15;
const GETPID: u64 = 39;
const EXIT: u64 = 60;
const KILL: u64 = 62;
const PRCTL: u64 = 157;
const EXECVE: u64 = 59;
const RT_SIGPROCMASK: u64 = 14;
const RT_SIGPENDING: u64 = 127;
const ALARM: u64 = 37;
const FUTEX: u64 = 202;

fn call(number: u64, args: &[u64]) -> Step {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    Step::Call(number, all)
}

/// A page of data at a fixed place.
const DATA: u64 = 0x1000_0000;

fn map_data() -> Step {
    call(MMAP, &[DATA, 0x4000, 3, 0x32, u64::MAX, 0])
}

#[test]
fn a_program_starts_at_its_entry_and_ends_with_its_status() {
    let world = World::new(16 << 20);
    let (status, seen) = world.run([call(GETPID, &[]), call(EXIT, &[0x1ff])]);
    assert_eq!(status, ExitStatus::Exited(0xff));
    assert_eq!(seen[0].rip, BASE + 0x800);
    assert_eq!(seen[0].rsp % 16, 0);
    assert_eq!(seen[1].rax, 77);
    world.finish();
}

#[test]
fn what_no_handler_takes_kills() {
    let world = World::new(16 << 20);
    let killed = |step| world.run([step]).0;
    // RLIMIT_CORE is 0 unless a program raises it, so none leaves a core.
    let by = |signal| ExitStatus::Killed {
        signal,
        core: false,
    };
    assert_eq!(killed(Step::Touch(0x10, Access::Read)), by(11));
    assert_eq!(killed(Step::Touch(BASE, Access::Write)), by(11));
    assert_eq!(killed(Step::Exception(ExceptionKind::Divide)), by(8));
    assert_eq!(killed(call(KILL, &[0, 15])), by(15));
    assert_eq!(killed(call(KILL, &[77, 9])), by(9));
    assert_eq!(killed(call(KILL, &[77, 17])), ExitStatus::Exited(0));
    world.finish();
}

#[test]
fn zeros_follow_the_data_of_a_program() {
    let world = World::new(16 << 20);
    let at = BASE + 0x1100;
    let script = [
        Step::Touch(at, Access::Write),
        Step::Touch(at + 0xfff, Access::Write),
        call(PRCTL, &[15, at - 8]),
        call(PRCTL, &[16, DATA]),
    ];
    let (status, seen) = world.run(script);
    assert_eq!(status, ExitStatus::Exited(0));
    // The name was taken from the data segment; where nothing is mapped it cannot be put.
    let results: Vec<_> = seen.iter().map(|regs| regs.rax).collect();
    assert_eq!(results[results.len() - 1], Errno::EFAULT.as_return());
    assert_eq!(results[results.len() - 2], 0);
    world.finish();
}

const HANDLER: u64 = 0x5000_0000;
const RESTORER: u64 = 0x5000_1000;
const SA_SIGINFO: u64 = 4;
const SA_RESTORER: u64 = 0x0400_0000;
const SA_RESTART: u64 = 0x1000_0000;

/// Sets a handler; `mask` is blocked while it runs.
fn handle(signal: u64, flags: u64, mask: u64) -> [Step; 2] {
    [
        Step::Store(DATA, [HANDLER, flags | SA_RESTORER, RESTORER, mask]),
        call(RT_SIGACTION, &[signal, DATA, 0, 8]),
    ]
}

/// The handler returns into the restorer, which makes its call.
fn handler_returns() -> [Step; 2] {
    [Step::Change(|regs| regs.rsp += 8), call(RT_SIGRETURN, &[])]
}

/// The first registers at which the program was in its handler, and all after them.
fn from_handler(seen: &[Registers]) -> &[Registers] {
    let at = seen.iter().position(|regs| regs.rip == HANDLER);
    &seen[at.expect("the handler ran")..]
}

#[test]
fn a_handler_gets_a_frame_and_returning_restores_the_registers() {
    let world = World::new(16 << 20);
    let mut script = vec![map_data()];
    script.extend(handle(10, SA_SIGINFO, 1 << 11));
    script.push(Step::Change(|regs| {
        (regs.rbx, regs.r15, regs.eflags) = (0x1234, 0x5678, 0x647)
    }));
    script.push(call(KILL, &[0, 10]));
    let before = script.len() - 1;
    script.push(call(RT_SIGPROCMASK, &[0, 0, DATA + 64, 8]));
    script.push(Step::Load(DATA + 64));
    script.extend(handler_returns());
    let (status, seen) = world.run(script);
    assert_eq!(status, ExitStatus::Exited(0));

    let inside = from_handler(&seen);
    let entry = inside[0];
    assert_eq!(
        (entry.rdi, entry.rsp % 16, entry.eflags & 0x400),
        (10, 8, 0)
    );
    assert!(entry.rsi > entry.rdx && entry.rdx > entry.rsp);
    // Blocked: the signal itself and what its action said.
    assert_eq!(inside[2].rbx, 1 << 9 | 1 << 11);

    let (called, after) = (
        seen.iter().find(|regs| regs.rbx == 0x1234),
        seen[seen.len() - 1],
    );
    let called = called.expect("it was changed");
    assert!(before > 0);
    assert_eq!(
        (after.rbx, after.r15, after.rsp),
        (0x1234, 0x5678, called.rsp)
    );
    assert_eq!(
        (after.rip, after.rax, after.eflags),
        (called.rip + 2, 0, 0x647)
    );
    world.finish();
}

#[test]
fn a_frame_that_cannot_be_written_is_a_fault() {
    let world = World::new(16 << 20);
    let mut script = vec![map_data()];
    script.extend(handle(10, 0, 0));
    script.push(Step::Change(|regs| regs.rsp = 0x2000));
    script.push(call(KILL, &[0, 10]));
    let (status, _) = world.run(script);
    assert_eq!(
        status,
        ExitStatus::Killed {
            signal: 11,
            core: false
        }
    );
    world.finish();
}

#[test]
fn an_interrupted_call_fails_or_starts_again_as_the_action_says() {
    for (flags, restarts) in [(0, false), (SA_RESTART, true)] {
        let world = World::new(16 << 20);
        let mut script = vec![map_data()];
        script.extend(handle(14, flags, 0));
        script.push(call(ALARM, &[1]));
        // A futex word of zero that nobody wakes: the alarm ends the wait.
        script.push(call(FUTEX, &[DATA + 64, 0, 0, 0]));
        script.extend(handler_returns());
        let (_, seen) = world.run(script);
        let inside = from_handler(&seen);
        let after = inside[inside.len() - 1];
        let number = if restarts {
            FUTEX
        } else {
            Errno::EINTR.as_return()
        };
        assert_eq!(after.rax, number, "flags {flags:#x}");
        world.finish();
    }
}

#[test]
fn a_mask_holds_signals_back() {
    let world = World::new(16 << 20);
    let mut script = vec![map_data()];
    script.extend(handle(12, 0, 0));
    script.push(Step::Store(DATA + 64, [1 << 11, 0, 0, 0]));
    script.push(call(RT_SIGPROCMASK, &[0, DATA + 64, 0, 8]));
    script.push(call(KILL, &[0, 12]));
    script.push(call(RT_SIGPENDING, &[DATA + 96, 8]));
    script.push(Step::Load(DATA + 96));
    let waiting = script.len();
    script.push(call(RT_SIGPROCMASK, &[1, DATA + 64, 0, 8]));
    let (_, seen) = world.run(script);
    let inside = seen.iter().position(|regs| regs.rip == HANDLER);
    assert!(inside.is_some_and(|at| at > waiting));
    assert!(seen.iter().any(|regs| regs.rbx == 1 << 11));
    world.finish();
}

fn number() -> impl Strategy<Value = u64> {
    let edges = prop_oneof![
        Just(0),
        Just(1),
        Just(8),
        Just(16),
        Just(4095),
        Just(4096),
        Just(4097),
        Just(u64::MAX),
        Just(u64::MAX - 99),
        Just(1 << 31),
        Just(1 << 32),
        Just(1 << 47),
        Just((1 << 47) - 4096),
        Just(1 << 63),
        Just((1 << 63) - 1),
    ];
    let places = prop_oneof![
        Just(DATA),
        Just(DATA + 0x20),
        Just(DATA + 0x3ff8),
        Just(BASE),
        Just(BASE + 0x1000),
        Just(0x7fff_ffff_e000),
    ];
    prop_oneof![
        2 => edges,
        3 => places,
        3 => 0_u64..64,
        1 => any::<u64>(),
        1 => (0_u64..0x10_000).prop_map(|page| page << 12),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let any_call = (0_u64..470, prop::array::uniform6(number()));
    let memory = (
        prop::sample::select(vec![9_u64, 10, 11, 12, 25, 26, 28]),
        prop::array::uniform6(number()),
    );
    let touch = (
        number(),
        prop::sample::select(vec![Access::Read, Access::Write, Access::Execute]),
    );
    // Structures that calls find at the places that their arguments name.
    let store = (0_u64..16, prop::array::uniform4(number()));
    let store = store.prop_map(|(line, words)| Step::Store(DATA + 32 * line, words));
    prop_oneof![
        6 => any_call.prop_map(|(number, args)| Step::Call(number, args)),
        3 => memory.prop_map(|(number, args)| Step::Call(number, args)),
        1 => touch.prop_map(|(addr, access)| Step::Touch(addr, access)),
        1 => store,
        1 => Just(map_data()),
    ]
}

#[test]
fn no_call_brings_the_kernel_down() {
    let config = Config {
        cases: 400,
        rng_seed: RngSeed::Fixed(0x706f_7274),
        failure_persistence: None,
        ..Config::default()
    };
    proptest!(config, |(script in prop::collection::vec(step(), 1..60))| {
        let world = World::new(16 << 20);
        world.run(std::iter::once(map_data()).chain(script));
        world.finish();
    });
}

#[test]
fn a_kernel_goes_on_after_a_program_was_killed_while_it_slept() {
    let world = World::new(16 << 20);
    let (status, _) = world.run([call(34, &[])]);
    assert_eq!(
        status,
        ExitStatus::Killed {
            signal: 9,
            core: false
        }
    );
    let (status, seen) = world.run([call(EXECVE, &[0, 0, 0])]);
    assert_eq!(status, ExitStatus::Exited(0));
    assert_eq!(seen[1].rax, Errno::EFAULT.as_return());
    world.finish();
}

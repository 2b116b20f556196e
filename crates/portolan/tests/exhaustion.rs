//! Running out of memory changes nothing: each allocation of a mixed workload fails in turn, and after the call that it failed the space
//! says what it said before.

mod common;

use common::*;
use std::sync::Arc;

use portolan::addr::VirtAddr;
use portolan::object::File;
use portolan::paging::{Aarch64, Format, Granule16K, X86_64};
use portolan::sim::Sim;
use portolan::space::{Map, MapRequest, MmUser, Prot};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const STEPS: usize = 16;
/// The workload allocates more often than this.
const LEAST: u64 = 40;

/// One step of the workload; whether it worked.
fn step<F: Format>(
    file: &Arc<File<Sim<F>>>,
    mm: &MmUser<Sim<F>>,
    base: VirtAddr,
    step: usize,
) -> bool {
    let (at, len) = (|n| plus::<F>(base, n), |n| n * page::<F>());
    let fixed = |n, pages| MapRequest::anonymous(len(pages), RW).fixed(plus::<F>(base, n));
    let file =
        |n| MapRequest::file(file.clone(), len(2), RW, Map::SHARED).fixed(plus::<F>(base, n));
    match step {
        0 => mm.mmap(&fixed(0, 10)).is_ok(),
        1 => mm.copy_to_user(at(0), &vec![1; len(10) as usize]).is_ok(),
        2 => mm.mprotect(at(2), len(2), Prot::READ.bits()).is_ok(),
        3 => mm.munmap(at(5), len(1)).is_ok(),
        4 => mm.mmap(&file(20)).is_ok(),
        5 => mm.copy_to_user(at(20), &[2]).is_ok(),
        6 => mm.mremap(at(6), len(2), len(4), 3, at(40)).is_ok(),
        7 => mm.mremap(at(8), len(2), len(3), 1, at(0)).is_ok(),
        8 => mm.madvise(at(0), len(1), 10).is_ok(),
        9 => mm.fork().is_ok(),
        10 => mm
            .mmap(&MapRequest {
                flags: 0x21,
                ..MapRequest::anonymous(len(3), RW)
            })
            .is_ok(),
        11 => mm.mmap(&fixed(1, 1)).is_ok(),
        12 => mm.mprotect(at(2), len(2), RW.bits()).is_ok(),
        13 => mm.madvise(at(0), len(2), 4).is_ok(),
        14 => mm.copy_to_user(at(0), &[1]).is_ok(),
        _ => mm.munmap(at(0), len(64)).is_ok(),
    }
}

/// All that a reader of the space can see of it, but for accessed and dirty state and for pages that a failed copy had reached.
fn picture<F: Format>(
    mm: &MmUser<Sim<F>>,
    base: VirtAddr,
) -> (Vec<String>, portolan::space::Counts) {
    let mut counts = mm.counts();
    counts.peak = 0;
    (map_lines(mm, base), counts)
}

fn each_allocation_fails_in_turn<F: Format>() {
    for nth in 1.. {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&[7; 100]);
        let base = VirtAddr::new(0x10_0000_0000);
        let fail = world.machine.fail_point();
        fail.arm(nth);
        for number in 0..STEPS {
            let (before, committed) = (picture(&mm, base), world.machine.committed_pages());
            if step(&file, &mm, base, number) {
                continue;
            }
            assert!(fail.disarm(), "step {number} failed without a reason");
            assert_eq!(
                picture(&mm, base),
                before,
                "step {number} failed and changed the space"
            );
            assert_eq!(
                world.machine.committed_pages(),
                committed,
                "step {number} failed and kept a charge"
            );
            mm.check()
                .unwrap_or_else(|what| panic!("step {number}: {what}"));
            assert!(
                step(&file, &mm, base, number),
                "step {number} failed again with memory at hand"
            );
            break;
        }
        let fired = fail.disarm();
        drop((mm, file));
        world.machine.quiesce();
        assert_eq!(world.machine.committed_pages(), 0);
        let done = !fired && nth > LEAST;
        world.finish();
        if done {
            return;
        }
    }
}

#[test]
fn x86_64() {
    each_allocation_fails_in_turn::<X86_64>();
}

#[test]
fn aarch64_16k() {
    each_allocation_fails_in_turn::<Aarch64<Granule16K>>();
}

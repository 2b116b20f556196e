//! Pages allocated ahead, holes, and how much is cached; what Linux answers to the same is in `tests/guest/memfd.c`.

use super::platform::TestMachine;
use super::{Cache, Ram4K, small};
use crate::errno::Errno;
use crate::object::{AllocatePastEnd, CacheStat, Commit, Seals};
use std::sync::Arc;

const PAGE: u64 = 4096;

fn memory(machine: &TestMachine<12>) -> Arc<Cache<Ram4K>> {
    Cache::anonymous_shared(&machine.machine, 0, Commit::Unreserved).unwrap()
}

#[test]
fn what_is_allocated_ahead_is_a_hole_until_it_is_used() {
    let machine = TestMachine::<12>::new(64);
    let cache = memory(&machine);
    cache
        .allocate(PAGE, 3 * PAGE + 1, AllocatePastEnd::Grows)
        .unwrap();
    assert_eq!((cache.size(), cache.cached_pages()), (4 * PAGE + 1, 4));
    cache.allocate(8 * PAGE, 1, AllocatePastEnd::Keeps).unwrap();
    assert_eq!((cache.size(), cache.cached_pages()), (4 * PAGE + 1, 5));
    assert_eq!(cache.seek_data(0), Err(Errno::ENXIO));
    assert_eq!(cache.seek_hole(5), Ok(5));
    let mut run = [const { None }; 6];
    cache.lookup_run(0, &mut run);
    assert!(run.iter().all(Option::is_none) && !cache.is_cached(2));
    let mut resident = [0; 6];
    cache.mark_cached(0, &mut resident);
    assert_eq!(resident, [0; 6]);
    let mut byte = [9];
    assert_eq!((cache.read(2 * PAGE, &mut byte), byte), (Ok(1), [0]));
    assert!(!cache.is_cached(2), "reading leaves it");
    let free = machine.machine.phys().free_frames();
    cache.page(2).unwrap();
    assert_eq!(cache.write(3 * PAGE + 7, b"x"), Ok(1));
    assert_eq!(
        machine.machine.phys().free_frames(),
        free,
        "both were there"
    );
    assert_eq!(cache.seek_data(0), Ok(2 * PAGE));
    assert_eq!(cache.seek_data(3 * PAGE + 9), Ok(3 * PAGE + 9));
    assert_eq!(cache.seek_hole(2 * PAGE + 1), Ok(4 * PAGE));
    assert_eq!(cache.seek_hole(4 * PAGE + 1), Err(Errno::ENXIO));
    assert_eq!(cache.punch_bytes(3 * PAGE, u64::MAX), Ok(()));
    assert_eq!((cache.size(), cache.cached_pages()), (4 * PAGE + 1, 2));
    drop((run, cache));
    machine.assert_all_back();
}

#[test]
fn allocation_that_fails_gives_up_what_nobody_used() {
    let machine = TestMachine::<12>::new(64);
    let cache = memory(&machine);
    cache.write(PAGE, b"used").unwrap();
    let before = machine.machine.phys().free_frames();
    let most = u64::MAX >> 2;
    let result = cache.allocate(0, most, AllocatePastEnd::Grows);
    assert_eq!(result, Err(Errno::ENOMEM));
    assert_eq!((cache.size(), cache.cached_pages()), (PAGE + 4, 1));
    assert_eq!(machine.machine.phys().free_frames(), before);
    let beyond = cache.allocate(u64::MAX >> 1, 1, AllocatePastEnd::Keeps);
    assert_eq!(beyond, Err(Errno::EFBIG));
    drop(cache);
    machine.assert_all_back();
}

#[test]
fn seals_hold_for_allocation_and_holes() {
    let machine = TestMachine::<12>::new(64);
    let cache = memory(&machine);
    cache.allow_sealing(Seals::empty());
    cache.truncate(2 * PAGE).unwrap();
    cache.add_seals(Seals::GROW.bits()).unwrap();
    let past = |cache: &Cache<Ram4K>| cache.allocate(PAGE, PAGE + 1, AllocatePastEnd::Keeps);
    assert_eq!(past(&cache), Err(Errno::EPERM));
    assert_eq!(cache.allocate(0, 2 * PAGE, AllocatePastEnd::Grows), Ok(()));
    assert_eq!(cache.punch_bytes(1, 2), Ok(()));
    cache.add_seals(Seals::FUTURE_WRITE.bits()).unwrap();
    assert_eq!(cache.punch_bytes(1, 2), Err(Errno::EPERM));
    drop(cache);
    machine.assert_all_back();
}

#[test]
fn a_hole_of_bytes_zeroes_parts_of_pages_that_are_there() {
    let machine = TestMachine::<12>::new(64);
    let cache = memory(&machine);
    cache.write(0, &[7; 5 * 4096]).unwrap();
    let bytes = |cache: &Cache<Ram4K>| {
        let mut bytes = vec![0; 5 * 4096];
        assert_eq!(cache.read(0, &mut bytes), Ok(bytes.len()));
        bytes
    };
    let mut expected = vec![7; 5 * 4096];
    for (start, end) in [
        (10, 20),
        (4090, 4100),
        (8192, 8192),
        (8000, 16_400),
        (20_000, 30_000),
    ] {
        cache.punch_bytes(start as u64, end as u64).unwrap();
        expected[start..end.min(5 * 4096)].fill(0);
        assert!(bytes(&cache) == expected, "{start}..{end}");
    }
    assert_eq!(
        cache.cached_pages(),
        3,
        "two whole pages went, and reading made none"
    );
    drop(cache);
    machine.assert_all_back();
}

#[test]
fn cached_pages_are_counted() {
    let (machine, _, cache) = small(vec![1; 40 * 4096]);
    let stat = |cached, dirty| CacheStat { cached, dirty };
    assert_eq!(cache.cachestat(0..u64::MAX), stat(0, 0));
    cache.page(5).unwrap();
    cache.write(3 * PAGE, b"x").unwrap();
    assert_eq!(cache.cachestat(0..u64::MAX), stat(32, 1));
    assert_eq!(cache.cachestat(4..10), stat(6, 0));
    assert_eq!(cache.cachestat(3..4), stat(1, 1));
    let backwards = core::ops::Range { start: 30, end: 3 };
    assert_eq!(cache.cachestat(backwards), stat(0, 0));
    let census = machine.machine.phys().census();
    assert_eq!((census.cache, census.mapped, census.shmem), (32, 0, 0));
    let held = cache.page(7).unwrap();
    assert_eq!(machine.machine.phys().census().mapped, 1);
    drop(held);
    drop(cache);
    assert_eq!(machine.machine.phys().census().cache, 0);
    machine.assert_all_back();
}

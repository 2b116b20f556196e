//! `mlock` and its kin over every format: what is locked and counted, limits, partial effects, and what locks survive.

mod common;

over_formats!(
    locking_faults_in_and_counts_once,
    a_hole_stops_a_lock_after_what_comes_before,
    the_limit_counts_what_is_locked_already_once,
    without_a_limit_locking_needs_the_right,
    on_fault_locks_a_sparse_range_at_once,
    everything_now_and_later,
    locks_part_and_merge_areas,
    what_cannot_be_locked_is_passed_over,
    children_do_not_inherit_locks,
    a_page_that_cannot_be_had_fails_the_lock_and_leaves_it,
);

mod generic {
    use super::common::*;
    use portolan::addr::VirtAddr;
    use portolan::errno::Errno;
    use portolan::object::VmFlags;
    use portolan::paging::Format;
    use portolan::sim::Sim;
    use portolan::space::{Map, MapRequest, MmUser, Prot};
    use std::sync::atomic::Ordering;

    const RW: Prot = Prot::READ.union(Prot::WRITE);
    const ON_FAULT: u32 = 1;
    const CURRENT: u32 = 1;
    const FUTURE: u32 = 2;
    const ALL_ON_FAULT: u32 = 4;
    const DROPPABLE: u32 = 8;

    fn len<F: Format>(pages: u64) -> u64 {
        pages * page::<F>()
    }

    fn locked<F: Format>(mm: &MmUser<Sim<F>>) -> Vec<bool> {
        let mut locked = Vec::new();
        mm.for_each_area(|area| locked.push(area.flags.contains(VmFlags::LOCKED)));
        locked
    }

    fn limit<F: Format>(mm: &MmUser<Sim<F>>, pages: u64) {
        mm.limits()
            .memlock
            .store(len::<F>(pages), Ordering::Relaxed);
    }

    pub fn locking_faults_in_and_counts_once<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        limit(&mm, 100);
        let at = anonymous(&mm, 8);
        let odd = VirtAddr::new(plus::<F>(at, 2).get() + 5);
        assert_eq!(mm.mlock(odd, len::<F>(1), 0), Ok(()), "touches two pages");
        assert_eq!((mm.counts().locked, mm.rss().anon), (2, 2));
        assert_eq!(mm.mlock(at, len::<F>(8), 0), Ok(()));
        assert_eq!((mm.counts().locked, mm.rss().anon), (8, 8));
        assert_eq!(mm.mlock(at, len::<F>(8), 0), Ok(()));
        assert_eq!(mm.counts().locked, 8);
        assert_eq!(mm.madvise(at, len::<F>(1), 4), Err(Errno::EINVAL));
        assert_eq!(mm.munlock(plus::<F>(at, 1), len::<F>(3)), Ok(()));
        assert_eq!((mm.counts().locked, mm.rss().anon), (5, 8));
        assert_eq!(mm.munmap(at, len::<F>(2)), Ok(()));
        assert_eq!(mm.counts().locked, 4);
        assert_eq!(mm.mlock(at, u64::MAX, 0), Ok(()), "wraps to nothing");
        let wraps = u64::MAX - len::<F>(2);
        let too_much = mm.mlock(at, wraps, 0);
        assert_eq!(too_much, Err(Errno::ENOMEM), "the limit comes first");
        mm.limits().may_lock_any.store(true, Ordering::Relaxed);
        assert_eq!(mm.mlock(at, wraps, 0), Err(Errno::EINVAL));
        assert_eq!(mm.mlock(at, 0, 0), Ok(()));
        assert_eq!(mm.mlock(at, len::<F>(1), 2), Err(Errno::EINVAL));
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }

    pub fn a_hole_stops_a_lock_after_what_comes_before<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        limit(&mm, 100);
        let at = anonymous(&mm, 8);
        mm.munmap(plus::<F>(at, 3), len::<F>(1)).unwrap();
        assert_eq!(mm.mlock(at, len::<F>(8), 0), Err(Errno::ENOMEM));
        assert_eq!(locked(&mm), [true, false]);
        assert_eq!(mm.rss().anon, 0, "nothing is brought in after a failure");
        assert_eq!(mm.munlock(at, len::<F>(8)), Err(Errno::ENOMEM));
        assert_eq!(mm.counts().locked, 0);
        assert_eq!(
            mm.mlock(plus::<F>(at, 3), len::<F>(2), 0),
            Err(Errno::ENOMEM)
        );
        assert_eq!(mm.counts().locked, 0);
        drop(mm);
        world.finish();
    }

    pub fn the_limit_counts_what_is_locked_already_once<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        limit(&mm, 4);
        let at = anonymous(&mm, 8);
        assert_eq!(mm.mlock(at, len::<F>(4), 0), Ok(()));
        assert_eq!(mm.mlock(at, len::<F>(4), ON_FAULT), Ok(()));
        assert_eq!(mm.mlock(at, len::<F>(5), 0), Err(Errno::ENOMEM));
        assert_eq!(mm.counts().locked, 4);
        let mut request = MapRequest::anonymous(len::<F>(1), RW);
        request.flags |= Map::LOCKED.bits();
        assert_eq!(mm.mmap(&request), Err(Errno::EAGAIN));
        assert_eq!(
            mm.mremap(at, len::<F>(4), len::<F>(5), 1, at),
            Err(Errno::EAGAIN)
        );
        mm.limits().may_lock_any.store(true, Ordering::Relaxed);
        assert_eq!(mm.mlock(at, len::<F>(5), 0), Ok(()));
        drop(mm);
        world.finish();
    }

    pub fn without_a_limit_locking_needs_the_right<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        limit(&mm, 0);
        let at = anonymous(&mm, 2);
        assert_eq!(mm.mlock(at, len::<F>(1), 0), Err(Errno::EPERM));
        assert_eq!(mm.mlockall(CURRENT), Err(Errno::EPERM));
        assert_eq!(mm.mlockall(FUTURE), Err(Errno::EPERM));
        assert_eq!(mm.munlock(at, len::<F>(1)), Ok(()));
        mm.limits().may_lock_any.store(true, Ordering::Relaxed);
        assert_eq!(mm.mlock(at, len::<F>(1), 0), Ok(()));
        assert_eq!(mm.mlockall(CURRENT), Ok(()));
        assert_eq!((mm.counts().locked, mm.rss().anon), (2, 2));
        drop(mm);
        world.finish();
    }

    pub fn on_fault_locks_a_sparse_range_at_once<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        mm.limits().may_lock_any.store(true, Ordering::Relaxed);
        // Within what five levels give without a hint above 2^47.
        let bytes = 1u64 << (F::USER_BITS.min(47) - 3);
        let mut request = MapRequest::anonymous(bytes, RW);
        request.flags |= Map::NORESERVE.bits();
        let at = mm.mmap(&request).unwrap();
        poke(&mm, VirtAddr::new(at.get() + bytes / 2), 1);
        assert_eq!(mm.mlock(at, bytes, ON_FAULT), Ok(()));
        assert_eq!(mm.counts().locked, bytes / page::<F>());
        assert_eq!(mm.rss().anon, 1);
        assert_eq!(mm.munlock(at, bytes), Ok(()));
        assert_eq!(mm.mlockall(CURRENT | ALL_ON_FAULT), Ok(()));
        mm.munlockall();
        assert_eq!(mm.msync(at, bytes, 4), Ok(()));
        drop(mm);
        world.finish();
    }

    pub fn everything_now_and_later<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        for bad in [0, ALL_ON_FAULT, 8, CURRENT | 8] {
            assert_eq!(mm.mlockall(bad), Err(Errno::EINVAL));
        }
        limit(&mm, 12);
        let at = anonymous(&mm, 4);
        assert_eq!(mm.mlockall(FUTURE), Ok(()));
        assert_eq!((mm.counts().locked, mm.rss().anon), (0, 0));
        let later = anonymous(&mm, 4);
        assert_eq!((mm.counts().locked, mm.rss().anon), (4, 4));
        assert_eq!(mm.mlockall(CURRENT), Ok(()), "forgets the future");
        assert_eq!((mm.counts().locked, mm.rss().anon), (8, 8));
        let last = anonymous(&mm, 20);
        assert_eq!(mm.counts().locked, 8);
        assert_eq!(mm.mlockall(CURRENT), Err(Errno::ENOMEM));
        assert_eq!(mm.mlockall(FUTURE | ALL_ON_FAULT), Ok(()));
        assert_eq!(
            mm.mmap(&MapRequest::anonymous(len::<F>(5), RW)),
            Err(Errno::EAGAIN)
        );
        let few = anonymous(&mm, 3);
        assert_eq!((mm.counts().locked, mm.rss().anon), (11, 8));
        poke(&mm, few, 1);
        assert_eq!(mm.rss().anon, 9);
        mm.munlockall();
        assert_eq!(mm.counts().locked, 0);
        let free = anonymous(&mm, 1);
        assert_eq!(mm.counts().locked, 0);
        for at in [at, later, last, few, free] {
            mm.munmap(at, len::<F>(1)).unwrap();
        }
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }

    pub fn locks_part_and_merge_areas<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        limit(&mm, 100);
        let at = anonymous(&mm, 6);
        mm.mlock(plus::<F>(at, 2), len::<F>(2), 0).unwrap();
        assert_eq!(locked(&mm), [false, true, false]);
        mm.mlock(plus::<F>(at, 4), len::<F>(2), 0).unwrap();
        assert_eq!(locked(&mm), [false, true]);
        mm.mlock(plus::<F>(at, 3), len::<F>(1), ON_FAULT).unwrap();
        assert_eq!(locked(&mm), [false, true, true, true]);
        mm.munlock(at, len::<F>(6)).unwrap();
        assert_eq!(locked(&mm), [false]);
        drop(mm);
        world.finish();
    }

    pub fn what_cannot_be_locked_is_passed_over<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        limit(&mm, 100);
        let at = anonymous(&mm, 3);
        let mut request = MapRequest::anonymous(len::<F>(1), RW).fixed(plus::<F>(at, 1));
        request.flags = request.flags & !3 | DROPPABLE;
        mm.mmap(&request).unwrap();
        assert_eq!(mm.mlock(at, len::<F>(3), 0), Ok(()));
        assert_eq!(locked(&mm), [true, false, true]);
        assert_eq!(mm.counts().locked, 2);
        drop(mm);
        world.finish();
    }

    pub fn children_do_not_inherit_locks<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        limit(&mm, 100);
        mm.mlockall(CURRENT | FUTURE).unwrap();
        let at = anonymous(&mm, 4);
        let child = mm.fork().unwrap();
        assert_eq!((mm.counts().locked, child.counts().locked), (4, 0));
        anonymous(&child, 1);
        assert_eq!(child.counts().locked, 0);
        assert_eq!(mm.mremap(at, len::<F>(4), len::<F>(2), 0, at), Ok(at));
        assert_eq!(mm.counts().locked, 2);
        child.check().unwrap();
        drop((mm, child));
        world.finish();
    }

    pub fn a_page_that_cannot_be_had_fails_the_lock_and_leaves_it<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        limit(&mm, 100);
        let at = anonymous(&mm, 3);
        mm.mprotect(plus::<F>(at, 1), len::<F>(1), 0).unwrap();
        assert_eq!(mm.mlock(at, len::<F>(3), 0), Err(Errno::ENOMEM));
        assert_eq!((mm.counts().locked, mm.rss().anon), (3, 1));
        let file = world.file(&vec![1; page::<F>() as usize]);
        let shown = mm
            .mmap(&MapRequest::file(file, len::<F>(2), RW, Map::PRIVATE))
            .unwrap();
        assert_eq!(mm.mlock(shown, len::<F>(2), 0), Err(Errno::ENOMEM));
        assert_eq!(mm.counts().locked, 5);
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }
}

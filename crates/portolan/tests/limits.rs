//! The most mappings a space may have and the resource limits of its size, over every format: which call fails how, and what it leaves. The expectations are what
//! Linux 6.18 does at its own limit of 65530.

mod common;

over_formats!(
    at_the_most_mappings_every_split_is_refused,
    one_below_the_most_the_first_split_stays,
    the_size_of_a_space_and_of_its_data_are_limited,
    no_data_at_all_leaves_the_hard_limit,
);

mod generic {
    use super::common::*;
    use portolan::errno::Errno;
    use portolan::paging::Format;
    use portolan::sim::Sim;
    use portolan::space::{MapRequest, MmUser, NodeMask, PolicyMode, Prot};
    use std::sync::atomic::Ordering;

    const RW: Prot = Prot::READ.union(Prot::WRITE);
    const DONTFORK: u32 = 10;
    const INSTALL: u32 = 102;

    fn len<F: Format>(pages: u64) -> u64 {
        pages * page::<F>()
    }

    fn most<F: Format>(world: &World<F>, count: usize) {
        let setting = &world.machine.settings().max_map_count;
        setting.store(count as u64, Ordering::Relaxed);
    }

    fn map<F: Format>(mm: &MmUser<Sim<F>>, pages: u64, prot: Prot) -> Result<(), Errno> {
        let request = MapRequest::anonymous(len::<F>(pages), prot);
        mm.mmap(&request).map(|_| ())
    }

    pub fn at_the_most_mappings_every_split_is_refused<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        mm.limits().may_lock_any.store(true, Ordering::Relaxed);
        let base = anonymous(&mm, 20);
        let at = plus::<F>(base, 8);
        most(&world, 1);
        let one = len::<F>(1);
        let full = Err(Errno::ENOMEM);
        assert_eq!(mm.madvise(at, one, DONTFORK), Err(Errno::EAGAIN));
        assert_eq!(mm.mprotect(at, one, 1), full);
        assert_eq!(mm.mlock(at, one, 0), full);
        assert_eq!(mm.mseal(at, one, 0), full);
        assert_eq!(mm.munmap(at, one), full);
        let bind = PolicyMode::parse(2).unwrap();
        assert_eq!(mm.mbind(at, one, bind, &NodeMask::ALL, 0), full);
        let over = MapRequest::anonymous(one, Prot::READ).fixed(at);
        assert_eq!(mm.mmap(&over), Err(Errno::ENOMEM));
        let to = plus::<F>(base, 40);
        assert_eq!(mm.mremap(at, one, one, 3, to), Err(Errno::ENOMEM));
        assert_eq!(mm.mremap(at, len::<F>(2), one, 0, to), Err(Errno::ENOMEM));
        assert_eq!(mm.map_count(), 1);
        assert_eq!(
            mm.madvise(at, one, INSTALL),
            Ok(()),
            "guards are no mappings"
        );
        assert_eq!(map(&mm, 1, Prot::EXEC), Ok(()), "one more than the most");
        assert_eq!(map(&mm, 1, Prot::READ), full);
        assert_eq!(
            mm.munmap(plus::<F>(base, 19), one),
            Ok(()),
            "an end is no split"
        );
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }

    pub fn one_below_the_most_the_first_split_stays<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let base = anonymous(&mm, 20);
        let at = plus::<F>(base, 8);
        most(&world, 2);
        let result = mm.mprotect(at, len::<F>(1), 1);
        assert_eq!((result, mm.map_count()), (Err(Errno::ENOMEM), 2));
        assert!(map_lines(&mm, base)[0].starts_with("0..8 "));
        most(&world, 3);
        let result = mm.madvise(at, len::<F>(1), DONTFORK);
        assert_eq!((result, mm.map_count()), (Ok(()), 3));
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }

    pub fn the_size_of_a_space_and_of_its_data_are_limited<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let full = Err(Errno::ENOMEM);
        let limit = |pages: u64| len::<F>(pages) + page::<F>() - 1;
        mm.limits()
            .address_space
            .store(limit(20), Ordering::Relaxed);
        mm.limits().data.store(limit(10), Ordering::Relaxed);
        assert_eq!(map(&mm, 11, RW), full);
        assert_eq!(map(&mm, 10, RW), Ok(()));
        assert_eq!(map(&mm, 1, RW), full);
        assert_eq!(map(&mm, 11, Prot::READ), full);
        let at = mm
            .mmap(&MapRequest::anonymous(len::<F>(10), Prot::READ))
            .unwrap();
        assert_eq!(
            mm.mprotect(at, len::<F>(1), RW.bits()),
            Ok(()),
            "it is not the data alone that is too much"
        );
        let space = &mm.limits().address_space;
        space.store(limit(21), Ordering::Relaxed);
        assert_eq!(mm.mprotect(plus::<F>(at, 1), len::<F>(1), RW.bits()), full);
        space.store(limit(20), Ordering::Relaxed);
        let over = MapRequest::anonymous(len::<F>(10), Prot::READ).fixed(at);
        assert_eq!(mm.mmap(&over), Ok(at), "what is replaced does not count");
        assert_eq!(
            mm.mremap(at, len::<F>(10), len::<F>(11), 1, at),
            Err(Errno::ENOMEM)
        );
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }

    pub fn no_data_at_all_leaves_the_hard_limit<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        mm.limits().data.store(0, Ordering::Relaxed);
        assert_eq!(map(&mm, 10, RW), Ok(()));
        mm.limits().data_hard.store(len::<F>(12), Ordering::Relaxed);
        assert_eq!(map(&mm, 3, RW), Err(Errno::ENOMEM));
        assert_eq!(map(&mm, 2, RW), Ok(()));
        mm.limits().data.store(1, Ordering::Relaxed);
        assert_eq!(map(&mm, 1, RW), Err(Errno::ENOMEM));
        mm.set_layout(|layout| (layout.start_brk, layout.brk) = (0x5000_0000, 0x5000_0000));
        let heap = portolan::addr::VirtAddr::new(0x5000_0000);
        mm.limits().data.store(0, Ordering::Relaxed);
        assert_eq!(
            mm.brk(plus::<F>(heap, 1)),
            heap,
            "the heap knows the soft limit alone"
        );
        drop(mm);
        world.finish();
    }
}

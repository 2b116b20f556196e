//! What a machine promises, over every format: the three overcommit modes, what mode 2 keeps back, and which calls ask.

mod common;

over_formats!(
    the_guess_refuses_what_could_never_be_had,
    always_refuses_nothing,
    never_promises_less_than_the_limit,
    reserves_are_kept_back,
    what_is_replaced_is_not_asked_for_again,
    every_call_that_promises_asks,
);

mod generic {
    use super::common::*;
    use portolan::addr::VirtAddr;
    use portolan::errno::Errno;
    use portolan::machine::Overcommit;
    use portolan::paging::{Access, Format};
    use portolan::sim::Sim;
    use portolan::space::{Map, MapRequest, MmUser, Prot};
    use std::sync::atomic::Ordering;

    const RW: Prot = Prot::READ.union(Prot::WRITE);
    const NO_MEMORY: Result<(), Errno> = Err(Errno::ENOMEM);

    fn len<F: Format>(pages: u64) -> u64 {
        pages * page::<F>()
    }

    /// Maps `pages` pages of memory with further flags, anywhere.
    fn map<F: Format>(mm: &MmUser<Sim<F>>, pages: u64, more: Map) -> Result<(), Errno> {
        let mut request = MapRequest::anonymous(len::<F>(pages), RW);
        request.flags |= more.bits();
        mm.mmap(&request).map(|_| ())
    }

    /// Mode 2 with a limit of `pages` and nothing kept back.
    fn never<F: Format>(world: &World<F>, pages: u64) {
        let settings = world.machine.settings();
        settings.set_overcommit(Overcommit::Never);
        settings.admin_reserve_kbytes.store(0, Ordering::Relaxed);
        settings.user_reserve_kbytes.store(0, Ordering::Relaxed);
        let kbytes = len::<F>(pages) >> 10;
        settings.overcommit_kbytes.store(kbytes, Ordering::Relaxed);
        assert_eq!(world.machine.commit_limit_pages(), pages);
    }

    pub fn the_guess_refuses_what_could_never_be_had<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let most = world.machine.phys().total_frames();
        assert_eq!(map(&mm, most + 1, Map::empty()), NO_MEMORY);
        assert_eq!(map(&mm, most, Map::empty()), Ok(()));
        assert_eq!(map(&mm, most, Map::empty()), Ok(()), "each call alone");
        assert_eq!(map(&mm, most + 1, Map::NORESERVE), Ok(()));
        assert_eq!(world.machine.committed_pages(), 2 * most);
        drop(mm);
        assert_eq!(world.machine.committed_pages(), 0);
        world.finish();
    }

    pub fn always_refuses_nothing<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        world.machine.settings().set_overcommit(Overcommit::Always);
        let most = world.machine.phys().total_frames();
        assert_eq!(map(&mm, 2 * most, Map::empty()), Ok(()));
        drop(mm);
        world.finish();
    }

    pub fn never_promises_less_than_the_limit<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let settings = world.machine.settings();
        let half = world.machine.phys().total_frames() / 2;
        assert_eq!(world.machine.commit_limit_pages(), half);
        never(&world, 100);
        settings.overcommit_ratio.store(1, Ordering::Relaxed);
        assert_eq!(
            world.machine.commit_limit_pages(),
            100,
            "kbytes come before the ratio"
        );
        assert_eq!(map(&mm, 100, Map::empty()), NO_MEMORY);
        assert_eq!(map(&mm, 99, Map::empty()), Ok(()));
        assert_eq!(map(&mm, 1, Map::empty()), NO_MEMORY);
        assert_eq!(
            map(&mm, 1, Map::NORESERVE),
            NO_MEMORY,
            "which mode 2 does not hear"
        );
        let read_only = MapRequest::anonymous(len::<F>(50), Prot::READ);
        let at = mm.mmap(&read_only).expect("nothing is promised");
        assert_eq!(mm.mprotect(at, len::<F>(1), RW.bits()), NO_MEMORY);
        drop(mm);
        assert_eq!(world.machine.committed_pages(), 0);
        world.finish();
    }

    pub fn reserves_are_kept_back<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        never(&world, 200);
        let settings = world.machine.settings();
        let kbytes = len::<F>(50) >> 10;
        settings
            .admin_reserve_kbytes
            .store(kbytes, Ordering::Relaxed);
        assert_eq!(map(&mm, 150, Map::empty()), NO_MEMORY);
        assert_eq!(map(&mm, 128, Map::empty()), Ok(()));
        settings
            .user_reserve_kbytes
            .store(kbytes, Ordering::Relaxed);
        assert_eq!(
            map(&mm, 18, Map::empty()),
            NO_MEMORY,
            "a 32nd of 128 is kept"
        );
        assert_eq!(map(&mm, 17, Map::empty()), Ok(()));
        mm.limits().admin.store(true, Ordering::Relaxed);
        assert_eq!(map(&mm, 50, Map::empty()), Ok(()));
        settings.user_reserve_kbytes.store(0, Ordering::Relaxed);
        assert_eq!(map(&mm, 4, Map::empty()), Ok(()));
        assert_eq!(map(&mm, 1, Map::empty()), NO_MEMORY);
        drop(mm);
        world.finish();
    }

    pub fn what_is_replaced_is_not_asked_for_again<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        never(&world, 100);
        let at = anonymous(&mm, 99);
        let over = |pages| MapRequest::anonymous(len::<F>(pages), RW).fixed(at);
        assert_eq!(mm.mmap(&over(99)), Ok(at));
        assert_eq!(mm.mmap(&over(50)), Ok(at));
        assert_eq!(mm.mmap(&over(100)), Err(Errno::ENOMEM));
        assert_eq!(world.machine.committed_pages(), 99);
        let read_only = MapRequest::anonymous(len::<F>(9), Prot::READ).fixed(at);
        assert_eq!(mm.mmap(&read_only), Ok(at));
        assert_eq!(world.machine.committed_pages(), 90);
        mm.check().unwrap();
        drop(mm);
        assert_eq!(world.machine.committed_pages(), 0);
        world.finish();
    }

    pub fn every_call_that_promises_asks<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let heap = VirtAddr::new(0x5000_0000);
        mm.set_layout(|layout| (layout.start_brk, layout.brk) = (heap.get(), heap.get()));
        let hull = anonymous(&mm, 700);
        mm.munmap(hull, len::<F>(700)).unwrap();
        let at = |n| plus::<F>(hull, n);
        let mut request = MapRequest::anonymous(len::<F>(2), RW).fixed(at(690));
        request.flags |= Map::GROWSDOWN.bits();
        mm.mmap(&request).unwrap();
        mm.mmap(&MapRequest::anonymous(len::<F>(4), RW).fixed(at(10)))
            .unwrap();
        never(&world, world.machine.committed_pages() + 1);
        let committed = world.machine.committed_pages();
        assert_eq!(mm.brk(plus::<F>(heap, 1)), heap);
        let grown = mm.mremap(at(10), len::<F>(4), len::<F>(5), 0, at(10));
        assert_eq!(grown, Err(Errno::ENOMEM));
        let moved = mm.mremap(at(10), len::<F>(4), len::<F>(4), 3, at(20));
        assert_eq!(moved, Ok(at(20)), "nothing more is asked for");
        let doubled = mm.mremap(at(20), len::<F>(4), len::<F>(4), 5, at(30));
        assert_eq!(doubled, Err(Errno::ENOMEM));
        assert_eq!(signal_code(&mm, at(689), Access::Write), Some(1));
        assert!(mm.fork().is_err());
        let shared = MapRequest {
            flags: 0x21,
            ..MapRequest::anonymous(len::<F>(1), RW)
        };
        assert_eq!(mm.mmap(&shared), Err(Errno::ENOMEM));
        assert_eq!(world.machine.committed_pages(), committed);
        mm.check().unwrap();
        drop(mm);
        assert_eq!(world.machine.committed_pages(), 0);
        world.finish();
    }
}

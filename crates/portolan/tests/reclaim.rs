//! Memory pressure over every format: pages of files go before anyone is told that there is no memory, locked ones stay, and what was written
//! is written before it goes.

mod common;

over_formats!(
    files_give_way_to_anonymous_memory,
    locked_pages_stay,
    what_was_written_reaches_the_file_first,
    fork_reclaims_for_its_tables,
    two_threads_share_too_little_memory,
    a_page_and_its_table_are_found_at_once,
    what_is_not_enough_is_out_of_memory,
);

mod generic {
    use super::common::*;
    use portolan::addr::VirtAddr;
    use portolan::paging::{Access, Format};
    use portolan::phys::{FrameKind, PageRef};
    use portolan::platform::CpuId;
    use portolan::sim::Sim;
    use portolan::space::{FaultError, Map, MapRequest, MmUser, Prot};
    use std::sync::atomic::Ordering;

    const RW: Prot = Prot::READ.union(Prot::WRITE);

    /// A machine of `frames` frames.
    fn small<F: Format>(frames: u64) -> World<F> {
        World::with_memory((frames * page::<F>()) as usize)
    }

    /// The bytes of a file of `pages` pages, each filled with its number.
    fn numbered<F: Format>(pages: u64) -> Vec<u8> {
        (0..pages)
            .flat_map(|n| vec![n as u8; page::<F>() as usize])
            .collect()
    }

    fn unreserved<F: Format>(mm: &MmUser<Sim<F>>, pages: u64) -> VirtAddr {
        let mut request = MapRequest::anonymous(pages * page::<F>(), RW);
        request.flags |= Map::NORESERVE.bits();
        mm.mmap(&request).expect("a mapping")
    }

    /// Writes page after page until there is no memory; how many that were.
    fn fill<F: Format>(mm: &MmUser<Sim<F>>, at: VirtAddr, most: u64) -> u64 {
        let full = |n: &u64| {
            let at = plus::<F>(at, *n);
            mm.handle_fault(at, Access::Write) == Err(FaultError::OutOfMemory)
        };
        (0..most).find(full).unwrap_or(most)
    }

    pub fn files_give_way_to_anonymous_memory<F: Format>() {
        let world = small::<F>(256);
        let mm = world.space();
        let file = world.file(&numbered::<F>(100));
        let request = MapRequest::file(file, 100 * page::<F>(), Prot::READ, Map::SHARED);
        let shown = mm.mmap(&request).unwrap();
        (0..100).for_each(|n| assert_eq!(peek(&mm, plus::<F>(shown, n)), n as u8));
        assert_eq!(mm.rss().file, 100);
        let at = unreserved(&mm, 400);
        let filled = fill(&mm, at, 400);
        assert!(filled > 220, "only {filled} of 256 frames");
        assert!(mm.take_out_of_memory() && !mm.take_out_of_memory());
        assert_eq!(mm.rss().file, 0);
        mm.munmap(at, 400 * page::<F>()).unwrap();
        (0..100).for_each(|n| assert_eq!(peek(&mm, plus::<F>(shown, n)), n as u8));
        mm.check().unwrap();
        drop((mm, request));
        world.finish();
    }

    pub fn locked_pages_stay<F: Format>() {
        let world = small::<F>(256);
        let mm = world.space();
        mm.limits().may_lock_any.store(true, Ordering::Relaxed);
        let file = world.file(&numbered::<F>(100));
        let request = MapRequest::file(file, 100 * page::<F>(), Prot::READ, Map::PRIVATE);
        let shown = mm.mmap(&request).unwrap();
        mm.mlock(shown, 100 * page::<F>(), 0).unwrap();
        let at = unreserved(&mm, 400);
        fill(&mm, at, 400);
        assert_eq!(mm.rss().file, 100);
        mm.munlock(shown, 100 * page::<F>()).unwrap();
        assert!(mm.handle_fault(plus::<F>(at, 399), Access::Write).is_ok());
        assert!(mm.rss().file < 100);
        mm.check().unwrap();
        drop((mm, request));
        world.finish();
    }

    pub fn what_was_written_reaches_the_file_first<F: Format>() {
        let world = small::<F>(128);
        let mm = world.space();
        let file = world.file(&vec![0; 300 * page::<F>() as usize]);
        let request = MapRequest::file(file.clone(), 300 * page::<F>(), RW, Map::SHARED);
        let shown = mm.mmap(&request).unwrap();
        (0..300).for_each(|n| poke(&mm, plus::<F>(shown, n), n as u8));
        (0..300).for_each(|n| assert_eq!(peek(&mm, plus::<F>(shown, n)), n as u8));
        let mut byte = [0];
        for n in 0..300u64 {
            let cache = file.cache().unwrap();
            assert_eq!(cache.read(n * page::<F>(), &mut byte), Ok(1));
            assert_eq!(byte[0], n as u8);
        }
        mm.check().unwrap();
        drop((mm, request, file));
        world.finish();
    }

    pub fn fork_reclaims_for_its_tables<F: Format>() {
        let world = small::<F>(256);
        let mm = world.space();
        let file = world.file(&numbered::<F>(100));
        let request = MapRequest::file(file, 100 * page::<F>(), Prot::READ, Map::SHARED);
        let at = unreserved(&mm, 200);
        fill(&mm, at, 100);
        let shown = mm.mmap(&request).unwrap();
        (0..100).for_each(|n| assert_eq!(peek(&mm, plus::<F>(shown, n)), n as u8));
        let mut children = Vec::new();
        while mm.rss().file == 100 {
            children.push(
                mm.fork()
                    .expect("a child, for which files give way at last"),
            );
        }
        children.iter().for_each(|child| child.check().unwrap());
        drop((children, mm, request));
        world.finish();
    }

    pub fn two_threads_share_too_little_memory<F: Format>() {
        let world = small::<F>(128);
        let mm = world.space();
        let file = world.file(&vec![0; 200 * page::<F>() as usize]);
        let request = MapRequest::file(file, 200 * page::<F>(), RW, Map::SHARED);
        let shown = mm.mmap(&request).unwrap();
        std::thread::scope(|scope| {
            for cpu in 0..2u16 {
                let mm = &mm;
                scope.spawn(move || {
                    Sim::<F>::set_cpu(CpuId(cpu));
                    for round in 1..4u8 {
                        for n in (u64::from(cpu)..200).step_by(2) {
                            let at = plus::<F>(shown, n);
                            poke(mm, at, round ^ n as u8);
                            assert_eq!(peek(mm, at), round ^ n as u8);
                        }
                    }
                });
            }
        });
        (0..200).for_each(|n| assert_eq!(peek(&mm, plus::<F>(shown, n)), 3 ^ n as u8));
        mm.check().unwrap();
        drop((mm, request));
        world.finish();
    }

    /// Takes every free frame.
    fn take_all<F: Format>(world: &World<F>) -> Vec<PageRef<Sim<F>>> {
        let phys = world.machine.phys();
        std::iter::from_fn(|| phys.alloc(FrameKind::Kernel).ok()).collect()
    }

    /// A read-only shared mapping of a file of `pages` pages, placed by `at`.
    fn map_file<F: Format>(world: &World<F>, mm: &MmUser<Sim<F>>, pages: u64, at: u64) -> VirtAddr {
        let file = world.file(&numbered::<F>(pages));
        file.cache().unwrap().set_read_ahead(0);
        let request = MapRequest::file(file, pages * page::<F>(), Prot::READ, Map::SHARED);
        mm.mmap(&request.fixed(VirtAddr::new(at))).unwrap()
    }

    /// A fault that needs a page and the tables for it, when nothing is free and one page is cached and not mapped: what it reads in must not
    /// be given up for the tables over and over.
    pub fn a_page_and_its_table_are_found_at_once<F: Format>() {
        let world = small::<F>(512);
        let mm = world.space();
        let shown = map_file(&world, &mm, 64, 1 << 36);
        let far = map_file(&world, &mm, 1, 1 << 35);
        (0..64).for_each(|n| assert_eq!(peek(&mm, plus::<F>(shown, n)), n as u8));
        mm.munmap(plus::<F>(shown, 63), page::<F>()).unwrap();
        let held = take_all(&world);
        assert_eq!(world.machine.phys().free_frames(), 0);
        assert_eq!(peek(&mm, far), 0);
        drop(held);
        (0..63).for_each(|n| assert_eq!(peek(&mm, plus::<F>(shown, n)), n as u8));
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }

    /// One frame can be had, again and again, and the fault needs more.
    pub fn what_is_not_enough_is_out_of_memory<F: Format>() {
        let world = small::<F>(512);
        let mm = world.space();
        let shown = map_file(&world, &mm, 1, 1 << 36);
        let far = map_file(&world, &mm, 1, 1 << 35);
        assert_eq!(peek(&mm, shown), 0);
        mm.munmap(shown, page::<F>()).unwrap();
        let held = take_all(&world);
        let fault = mm.handle_fault(far, Access::Read);
        assert_eq!(fault, Err(FaultError::OutOfMemory));
        drop(held);
        assert_eq!(peek(&mm, far), 0);
        drop(mm);
        world.finish();
    }
}

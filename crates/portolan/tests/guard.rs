//! Guard regions, seals and `remap_file_pages` over every format: what each refuses and what survives what.

mod common;

over_formats!(
    guards_fault_and_outlive_all_but_the_mapping,
    guards_move_and_are_inherited,
    guards_refuse_locked_memory_and_a_failure_changes_nothing,
    guards_of_files_outlive_truncation,
    a_seal_refuses_every_change,
    a_seal_with_a_hole_seals_nothing,
    sealed_memory_that_cannot_be_written_is_not_discarded,
    file_pages_are_shown_in_another_order,
    what_is_not_one_shared_run_is_refused,
);

mod generic {
    use super::common::*;
    use portolan::addr::VirtAddr;
    use portolan::errno::Errno;
    use portolan::object::VmFlags;
    use portolan::paging::{Access, Format};
    use portolan::space::{Map, MapRequest, Prot};

    const RW: Prot = Prot::READ.union(Prot::WRITE);
    const DONTNEED: u32 = 4;
    const REMOVE: u32 = 9;
    const DONTFORK: u32 = 10;
    const POPULATE_READ: u32 = 22;
    const INSTALL: u32 = 102;
    const UNGUARD: u32 = 103;
    const NOT_MAPPED: Option<i32> = Some(1);

    fn len<F: Format>(pages: u64) -> u64 {
        pages * page::<F>()
    }

    pub fn guards_fault_and_outlive_all_but_the_mapping<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        (0..4).for_each(|n| poke(&mm, plus::<F>(at, n), 1));
        let guard = plus::<F>(at, 1);
        assert_eq!(mm.madvise(guard, len::<F>(2), INSTALL), Ok(()));
        assert_eq!(mm.rss().anon, 2);
        for access in [Access::Read, Access::Write] {
            assert_eq!(signal_code(&mm, guard, access), NOT_MAPPED);
        }
        assert_eq!(mm.madvise(at, len::<F>(4), DONTNEED), Ok(()));
        assert_eq!(mm.madvise(at, len::<F>(4), 8), Ok(()));
        mm.mprotect(at, len::<F>(4), 0).unwrap();
        mm.mprotect(at, len::<F>(4), RW.bits()).unwrap();
        assert_eq!(signal_code(&mm, guard, Access::Write), NOT_MAPPED);
        assert_eq!(
            mm.madvise(at, len::<F>(4), POPULATE_READ),
            Err(Errno::EFAULT)
        );
        assert_eq!(mm.copy_to_user(guard, &[1]), Err(Errno::EFAULT));
        assert_eq!(mm.madvise(guard, len::<F>(1), UNGUARD), Ok(()));
        poke(&mm, guard, 3);
        assert_eq!(mm.madvise(at, len::<F>(2), UNGUARD), Ok(()));
        assert_eq!(peek(&mm, guard), 3, "what is no guard stays");
        let again = MapRequest::anonymous(len::<F>(4), RW).fixed(at);
        mm.mmap(&again).unwrap();
        assert_eq!(peek(&mm, plus::<F>(at, 2)), 0);
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }

    pub fn guards_move_and_are_inherited<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let hull = anonymous(&mm, 16);
        let guard = plus::<F>(hull, 1);
        mm.madvise(guard, len::<F>(1), INSTALL).unwrap();
        let child = mm.fork().unwrap();
        assert_eq!(signal_code(&child, guard, Access::Read), NOT_MAPPED);
        let to = plus::<F>(hull, 8);
        assert_eq!(mm.mremap(hull, len::<F>(3), len::<F>(3), 3, to), Ok(to));
        assert_eq!(signal_code(&mm, plus::<F>(to, 1), Access::Read), NOT_MAPPED);
        assert_eq!(peek(&mm, to), 0);
        drop((mm, child));
        world.finish();
    }

    pub fn guards_refuse_locked_memory_and_a_failure_changes_nothing<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        mm.madvise(at, len::<F>(1), INSTALL).unwrap();
        assert_eq!(mm.mlock(at, len::<F>(4), 0), Err(Errno::ENOMEM));
        assert_eq!(mm.madvise(at, len::<F>(4), INSTALL), Err(Errno::EINVAL));
        assert_eq!(mm.madvise(at, len::<F>(4), UNGUARD), Ok(()));
        mm.munlock(at, len::<F>(4)).unwrap();
        mm.munmap(at, len::<F>(4)).unwrap();
        let at = anonymous(&mm, 4);
        let mut nth = 1;
        loop {
            world.machine.fail_point().arm(nth);
            let result = mm.madvise(at, len::<F>(4), INSTALL);
            if !world.machine.fail_point().disarm() {
                assert_eq!(result, Ok(()));
                break;
            }
            assert_eq!(result, Err(Errno::ENOMEM));
            assert_eq!(peek(&mm, at), 0);
            nth += 1;
        }
        assert_eq!(signal_code(&mm, at, Access::Read), NOT_MAPPED);
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }

    pub fn guards_of_files_outlive_truncation<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![7; 4 * page::<F>() as usize]);
        let request = MapRequest::file(file.clone(), len::<F>(4), RW, Map::SHARED);
        let at = mm.mmap(&request).unwrap();
        assert_eq!(peek(&mm, at), 7);
        mm.madvise(at, len::<F>(2), INSTALL).unwrap();
        let cache = file.cache().unwrap();
        cache.truncate(0).unwrap();
        cache.truncate(len::<F>(4)).unwrap();
        assert_eq!(signal_code(&mm, at, Access::Read), NOT_MAPPED);
        mm.madvise(at, len::<F>(2), UNGUARD).unwrap();
        assert_eq!(peek(&mm, at), 0);
        drop((mm, file, request));
        world.finish();
    }

    pub fn a_seal_refuses_every_change<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 6);
        let middle = plus::<F>(at, 2);
        assert_eq!(mm.mseal(middle, len::<F>(2), 1), Err(Errno::EINVAL));
        let odd = VirtAddr::new(middle.get() + 1);
        assert_eq!(mm.mseal(odd, len::<F>(1), 0), Err(Errno::EINVAL));
        assert_eq!(mm.mseal(middle, u64::MAX, 0), Err(Errno::EINVAL));
        assert_eq!(mm.mseal(middle, 0, 0), Ok(()));
        assert_eq!(mm.mseal(middle, len::<F>(2), 0), Ok(()));
        assert_eq!(mm.mseal(middle, len::<F>(2), 0), Ok(()));
        let refused = Err(Errno::EPERM);
        assert_eq!(mm.munmap(at, len::<F>(6)), refused);
        assert_eq!(mm.mprotect(at, len::<F>(6), 1), refused);
        let moved = mm.mremap(middle, len::<F>(2), len::<F>(3), 1, at);
        assert_eq!(moved, Err(Errno::EPERM));
        let over = MapRequest::anonymous(len::<F>(6), RW).fixed(at);
        assert_eq!(mm.mmap(&over), Err(Errno::EPERM));
        assert_eq!(map_lines(&mm, at).len(), 3, "nothing has changed");
        poke(&mm, middle, 1);
        assert_eq!(mm.madvise(middle, len::<F>(1), DONTNEED), Ok(()));
        let child = mm.fork().unwrap();
        assert_eq!(child.munmap(middle, len::<F>(1)), refused);
        mm.check().unwrap();
        drop((mm, child));
        world.finish();
    }

    pub fn a_seal_with_a_hole_seals_nothing<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        mm.munmap(plus::<F>(at, 2), len::<F>(1)).unwrap();
        assert_eq!(mm.mseal(at, len::<F>(4), 0), Err(Errno::ENOMEM));
        assert_eq!(mm.munmap(at, len::<F>(4)), Ok(()));
        drop(mm);
        world.finish();
    }

    pub fn sealed_memory_that_cannot_be_written_is_not_discarded<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 2);
        poke(&mm, at, 9);
        mm.mprotect(at, len::<F>(2), 1).unwrap();
        mm.mseal(at, len::<F>(2), 0).unwrap();
        for advice in [DONTNEED, 24, 8, REMOVE, DONTFORK, 18, INSTALL] {
            assert_eq!(mm.madvise(at, len::<F>(1), advice), Err(Errno::EPERM));
        }
        for advice in [0, 1, 2, 3, 11, 16, 17, 19, 20, 21, POPULATE_READ, UNGUARD] {
            assert_eq!(mm.madvise(at, len::<F>(1), advice), Ok(()), "{advice}");
        }
        assert_eq!(peek(&mm, at), 9);
        let file = world.file(&vec![7; page::<F>() as usize]);
        let request = MapRequest::file(file, len::<F>(1), Prot::READ, Map::PRIVATE);
        let shown = mm.mmap(&request).unwrap();
        mm.mseal(shown, len::<F>(1), 0).unwrap();
        assert_eq!(mm.madvise(shown, len::<F>(1), DONTNEED), Ok(()));
        drop((mm, request));
        world.finish();
    }

    pub fn file_pages_are_shown_in_another_order<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let bytes: Vec<u8> = (0..4u8)
            .flat_map(|n| vec![n + 1; page::<F>() as usize])
            .collect();
        let file = world.file(&bytes);
        let request = MapRequest::file(file, len::<F>(4), RW, Map::SHARED);
        let at = mm.mmap(&request).unwrap();
        assert_eq!(mm.remap_file_pages(at, len::<F>(1), 0, 3, 0), Ok(()));
        assert_eq!(mm.rss().total(), 1, "it is populated");
        let odd = VirtAddr::new(plus::<F>(at, 3).get() + 7);
        assert_eq!(mm.remap_file_pages(odd, len::<F>(1) + 9, 0, 0, 0), Ok(()));
        let seen: Vec<u8> = (0..4).map(|n| peek(&mm, plus::<F>(at, n))).collect();
        assert_eq!(seen, [4, 2, 3, 1]);
        assert_eq!(map_lines(&mm, at).len(), 3);
        assert_eq!(mm.remap_file_pages(at, len::<F>(4), 0, 0, 0), Ok(()));
        assert_eq!(map_lines(&mm, at).len(), 1, "the run is one again");
        mm.check().unwrap();
        drop((mm, request));
        world.finish();
    }

    pub fn what_is_not_one_shared_run_is_refused<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let private = anonymous(&mm, 2);
        let mut request = MapRequest::anonymous(len::<F>(4), RW);
        request.flags = request.flags & !3 | Map::SHARED.bits();
        let at = mm.mmap(&request).unwrap();
        let refused = Err(Errno::EINVAL);
        assert_eq!(mm.remap_file_pages(private, len::<F>(1), 0, 0, 0), refused);
        assert_eq!(mm.remap_file_pages(at, len::<F>(1), 1, 0, 0), refused);
        assert_eq!(mm.remap_file_pages(at, 5, 0, 0, 0), refused);
        assert_eq!(
            mm.remap_file_pages(at, len::<F>(1), 0, u64::MAX, 0),
            refused
        );
        let beyond = mm.remap_file_pages(at, len::<F>(1), 0, u64::MAX >> 4, 0);
        assert_eq!(beyond, Err(Errno::EOVERFLOW));
        mm.mprotect(plus::<F>(at, 1), len::<F>(1), 1).unwrap();
        assert_eq!(mm.remap_file_pages(at, len::<F>(2), 0, 0, 0), refused);
        assert_eq!(mm.remap_file_pages(at, len::<F>(9), 0, 0, 0), refused);
        let area = mm.map_count();
        assert_eq!(mm.remap_file_pages(at, len::<F>(1), 0, 2, 0), Ok(()));
        assert_eq!(mm.map_count(), area);
        mm.for_each_area(|area| {
            assert!(!area.flags.contains(VmFlags::LOCKED));
        });
        drop(mm);
        world.finish();
    }
}

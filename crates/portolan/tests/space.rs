//! What the operations on a space do, over every page-table format: results, errors, partial effects, merges, and that every frame
//! comes back. Comparisons with the running kernel live with the command; here the expectations are written out.

mod common;

over_formats!(
    anonymous_memory_is_zero_and_keeps_what_is_written,
    neighbours_merge_and_splits_part_them,
    unmapping_the_middle_leaves_both_sides,
    fixed_replaces_and_noreplace_refuses,
    protect_stops_at_a_hole_and_keeps_what_it_changed,
    faults_say_why_they_fail,
    fork_shares_until_someone_writes,
    the_last_owner_of_a_page_reuses_it,
    private_file_writes_stay_private,
    shared_file_writes_reach_the_file,
    access_past_the_end_of_a_file_is_a_bus_error,
    truncation_takes_pages_from_everyone,
    a_stack_grows_to_its_limit,
    brk_grows_and_shrinks,
    remap_moves_grows_and_shrinks,
    remap_dontunmap_leaves_an_empty_range,
    dontneed_gives_zeros_again,
    shared_anonymous_memory_is_shared_with_children,
    file_splits_keep_their_offsets,
    wipe_and_dont_fork,
    counts_follow_every_change,
    users_keep_mappings_and_references_do_not,
);

mod generic {
    use super::common::*;
    use portolan::addr::VirtAddr;
    use portolan::errno::Errno;
    use portolan::paging::{Access, Format};
    use portolan::space::{Map, MapRequest, Prot};

    const RW: Prot = Prot::READ.union(Prot::WRITE);
    const MADV_DONTNEED: u32 = 4;
    const MADV_DONTFORK: u32 = 10;
    const MADV_WIPEONFORK: u32 = 18;
    const MREMAP_MAYMOVE: u32 = 1;
    const MREMAP_FIXED: u32 = 2;
    const MREMAP_DONTUNMAP: u32 = 4;

    pub fn anonymous_memory_is_zero_and_keeps_what_is_written<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        assert_eq!(peek(&mm, at), 0);
        assert_eq!(
            mm.rss().total(),
            0,
            "a read maps the zero page, which counts for nobody"
        );
        poke(&mm, at, 7);
        poke(&mm, plus::<F>(at, 3), 8);
        assert_eq!((peek(&mm, at), peek(&mm, plus::<F>(at, 3))), (7, 8));
        assert_eq!(mm.rss().anon, 2);
        assert!(mm.table_bytes() > 0);
        drop(mm);
        world.finish();
    }

    pub fn neighbours_merge_and_splits_part_them<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let base = anonymous(&mm, 6);
        mm.mprotect(plus::<F>(base, 2), 2 * page::<F>(), Prot::READ.bits())
            .unwrap();
        assert_eq!(mm.map_count(), 3);
        mm.mprotect(plus::<F>(base, 2), 2 * page::<F>(), RW.bits())
            .unwrap();
        assert_eq!(mm.map_count(), 1);
        let below = anonymous(&mm, 2);
        assert_eq!(
            below,
            VirtAddr::new(base.get() - 2 * page::<F>()),
            "top-down placement is next to it"
        );
        assert_eq!(mm.map_count(), 1);
        drop(mm);
        world.finish();
    }

    pub fn unmapping_the_middle_leaves_both_sides<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let base = anonymous(&mm, 5);
        (0..5).for_each(|n| poke(&mm, plus::<F>(base, n), n as u8 + 1));
        mm.munmap(plus::<F>(base, 1), 3 * page::<F>()).unwrap();
        assert_eq!(mm.map_count(), 2);
        assert_eq!((peek(&mm, base), peek(&mm, plus::<F>(base, 4))), (1, 5));
        assert_eq!(signal_code(&mm, plus::<F>(base, 2), Access::Read), Some(1));
        assert_eq!(mm.rss().anon, 2);
        mm.munmap(VirtAddr::new(0x10000), page::<F>())
            .expect("a hole is fine");
        assert_eq!(mm.munmap(base, 0), Err(Errno::EINVAL));
        assert_eq!(
            mm.munmap(VirtAddr::new(base.get() + 1), page::<F>()),
            Err(Errno::EINVAL)
        );
        drop(mm);
        world.finish();
    }

    pub fn fixed_replaces_and_noreplace_refuses<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let base = anonymous(&mm, 3);
        poke(&mm, plus::<F>(base, 1), 9);
        let one = || MapRequest::anonymous(page::<F>(), RW).fixed(plus::<F>(base, 1));
        let careful = MapRequest {
            flags: one().flags | Map::FIXED_NOREPLACE.bits(),
            ..one()
        };
        assert_eq!(mm.mmap(&careful), Err(Errno::EEXIST));
        assert_eq!(peek(&mm, plus::<F>(base, 1)), 9);
        mm.mmap(&one()).unwrap();
        assert_eq!(peek(&mm, plus::<F>(base, 1)), 0);
        assert_eq!(mm.map_count(), 1, "the new one merged with both sides");
        drop(mm);
        world.finish();
    }

    pub fn protect_stops_at_a_hole_and_keeps_what_it_changed<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let base = anonymous(&mm, 5);
        poke(&mm, base, 1);
        mm.munmap(plus::<F>(base, 2), page::<F>()).unwrap();
        assert_eq!(
            mm.mprotect(base, 5 * page::<F>(), Prot::READ.bits()),
            Err(Errno::ENOMEM)
        );
        assert_eq!(signal_code(&mm, base, Access::Write), Some(2));
        assert_eq!(signal_code(&mm, plus::<F>(base, 3), Access::Write), None);
        assert_eq!(mm.mprotect(base, page::<F>(), 0x100), Err(Errno::EINVAL));
        drop(mm);
        world.finish();
    }

    pub fn faults_say_why_they_fail<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let none = mm
            .mmap(&MapRequest::anonymous(page::<F>(), Prot::empty()))
            .unwrap();
        for access in [Access::Read, Access::Write, Access::Execute] {
            assert_eq!(signal_code(&mm, none, access), Some(2));
            assert_eq!(signal_code(&mm, VirtAddr::new(8), access), Some(1));
            assert_eq!(signal_code(&mm, VirtAddr::new(u64::MAX), access), Some(1));
        }
        let data = anonymous(&mm, 1);
        assert_eq!(signal_code(&mm, data, Access::Execute), Some(2));
        drop(mm);
        world.finish();
    }

    pub fn fork_shares_until_someone_writes<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let base = anonymous(&mm, 2);
        poke(&mm, base, 1);
        poke(&mm, plus::<F>(base, 1), 2);
        let child = mm.fork().unwrap();
        assert_eq!(child.rss().anon, 2);
        let shared = world.machine.phys().free_frames();
        poke(&child, base, 11);
        poke(&mm, plus::<F>(base, 1), 12);
        assert_eq!(world.machine.phys().free_frames(), shared - 2);
        assert_eq!((peek(&mm, base), peek(&child, base)), (1, 11));
        assert_eq!(
            (
                peek(&mm, plus::<F>(base, 1)),
                peek(&child, plus::<F>(base, 1))
            ),
            (12, 2)
        );
        drop(child);
        drop(mm);
        world.finish();
    }

    pub fn the_last_owner_of_a_page_reuses_it<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let base = anonymous(&mm, 1);
        poke(&mm, base, 1);
        drop(mm.fork().unwrap());
        world.machine.quiesce();
        let before = world.machine.phys().free_frames();
        poke(&mm, base, 2);
        assert_eq!(world.machine.phys().free_frames(), before);
        assert_eq!((mm.statistics().reuses, mm.statistics().copies), (1, 0));
        drop(mm);
        world.finish();
    }

    pub fn private_file_writes_stay_private<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![5; 3 * page::<F>() as usize]);
        let at = mm
            .mmap(&MapRequest::file(
                file.clone(),
                3 * page::<F>(),
                RW,
                Map::PRIVATE,
            ))
            .unwrap();
        assert_eq!(peek(&mm, plus::<F>(at, 1)), 5);
        poke(&mm, at, 6);
        poke(&mm, plus::<F>(at, 1), 7);
        let mut bytes = [0];
        file.cache().unwrap().read(0, &mut bytes).unwrap();
        assert_eq!(
            (bytes[0], peek(&mm, at), peek(&mm, plus::<F>(at, 1))),
            (5, 6, 7)
        );
        assert_eq!(mm.rss().anon, 2);
        drop((mm, file));
        world.finish();
    }

    pub fn shared_file_writes_reach_the_file<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![5; page::<F>() as usize]);
        let at = mm
            .mmap(&MapRequest::file(
                file.clone(),
                page::<F>(),
                RW,
                Map::SHARED,
            ))
            .unwrap();
        assert_eq!(peek(&mm, at), 5);
        poke(&mm, at, 6);
        let mut bytes = [0];
        file.cache().unwrap().read(0, &mut bytes).unwrap();
        assert_eq!(bytes[0], 6);
        mm.msync(at, page::<F>(), 4).unwrap();
        poke(&mm, at, 7);
        assert_eq!(
            mm.statistics().shared_write_faults,
            2,
            "written back pages fault again when stored to"
        );
        drop((mm, file));
        world.finish();
    }

    pub fn access_past_the_end_of_a_file_is_a_bus_error<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&[5; 10]);
        let at = mm
            .mmap(&MapRequest::file(
                file.clone(),
                2 * page::<F>(),
                RW,
                Map::PRIVATE,
            ))
            .unwrap();
        assert_eq!(peek(&mm, VirtAddr::new(at.get() + 9)), 5);
        assert_eq!(peek(&mm, VirtAddr::new(at.get() + 10)), 0);
        assert_eq!(signal_code(&mm, plus::<F>(at, 1), Access::Read), Some(2));
        drop((mm, file));
        world.finish();
    }

    pub fn truncation_takes_pages_from_everyone<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![5; 2 * page::<F>() as usize]);
        let shared = mm
            .mmap(&MapRequest::file(
                file.clone(),
                2 * page::<F>(),
                RW,
                Map::SHARED,
            ))
            .unwrap();
        let private = mm
            .mmap(&MapRequest::file(
                file.clone(),
                2 * page::<F>(),
                RW,
                Map::PRIVATE,
            ))
            .unwrap();
        poke(&mm, plus::<F>(private, 1), 9);
        assert_eq!(peek(&mm, plus::<F>(shared, 1)), 5);
        file.cache().unwrap().truncate(page::<F>()).unwrap();
        assert_eq!(
            signal_code(&mm, plus::<F>(shared, 1), Access::Read),
            Some(2)
        );
        assert_eq!(
            signal_code(&mm, plus::<F>(private, 1), Access::Read),
            Some(2)
        );
        assert_eq!(peek(&mm, shared), 5);
        drop((mm, file));
        world.finish();
    }

    pub fn a_stack_grows_to_its_limit<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        mm.limits()
            .stack
            .store(8 * page::<F>(), std::sync::atomic::Ordering::Relaxed);
        let request = MapRequest::anonymous(2 * page::<F>(), RW);
        let stack = MapRequest {
            flags: request.flags | Map::GROWSDOWN.bits(),
            ..request
        };
        let at = mm.mmap(&stack).unwrap();
        poke(&mm, VirtAddr::new(at.get() - 1), 1);
        poke(&mm, VirtAddr::new(at.get() - 6 * page::<F>()), 2);
        assert_eq!(mm.counts().stack, 8);
        assert_eq!(
            signal_code(
                &mm,
                VirtAddr::new(at.get() - 6 * page::<F>() - 1),
                Access::Write
            ),
            Some(1)
        );
        assert_eq!(mm.map_count(), 1);
        drop(mm);
        world.finish();
    }

    pub fn brk_grows_and_shrinks<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let start = VirtAddr::new(0x1000_0000);
        mm.set_layout(|layout| (layout.start_brk, layout.brk) = (start.get(), start.get()));
        let end = VirtAddr::new(start.get() + 3 * page::<F>() + 5);
        assert_eq!(mm.brk(end), end);
        poke(&mm, VirtAddr::new(end.get() - 1), 3);
        assert_eq!(mm.brk(VirtAddr::new(0)), end, "below the start it stays");
        let less = plus::<F>(start, 1);
        assert_eq!(mm.brk(less), less);
        assert_eq!(signal_code(&mm, less, Access::Read), Some(1));
        assert_eq!(mm.brk(end), end);
        assert_eq!(peek(&mm, VirtAddr::new(end.get() - 1)), 0);
        drop(mm);
        world.finish();
    }

    pub fn remap_moves_grows_and_shrinks<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let hull = anonymous(&mm, 64);
        mm.munmap(hull, 64 * page::<F>()).unwrap();
        let at = mm
            .mmap(&MapRequest::anonymous(4 * page::<F>(), RW).fixed(hull))
            .unwrap();
        (0..4).for_each(|n| poke(&mm, plus::<F>(at, n), n as u8 + 1));
        let len = |pages: u64| pages * page::<F>();
        assert_eq!(
            mm.mremap(at, len(4), len(6), 0, at),
            Ok(at),
            "grows in place"
        );
        assert_eq!(
            mm.mremap(at, len(6), len(4), 0, at),
            Ok(at),
            "shrinks in place"
        );
        let to = plus::<F>(hull, 32);
        assert_eq!(
            mm.mremap(at, len(4), len(5), MREMAP_MAYMOVE | MREMAP_FIXED, to),
            Ok(to)
        );
        (0..4).for_each(|n| assert_eq!(peek(&mm, plus::<F>(to, n)), n as u8 + 1));
        assert_eq!(peek(&mm, plus::<F>(to, 4)), 0);
        assert_eq!(signal_code(&mm, at, Access::Read), Some(1));
        assert_eq!(mm.mremap(to, len(1), 0, 0, to), Err(Errno::EINVAL));
        assert_eq!(
            mm.mremap(at, len(1), len(2), MREMAP_MAYMOVE, at),
            Err(Errno::EFAULT)
        );
        assert_eq!(mm.rss().anon, 5 - (mm.rss().anon == 4) as u64);
        drop(mm);
        world.finish();
    }

    pub fn remap_dontunmap_leaves_an_empty_range<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 2);
        poke(&mm, at, 1);
        let len = 2 * page::<F>();
        let flags = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;
        let to = mm.mremap(at, len, len, flags, VirtAddr::new(0)).unwrap();
        assert_ne!(to, at);
        assert_eq!((peek(&mm, to), peek(&mm, at)), (1, 0));
        drop(mm);
        world.finish();
    }

    pub fn dontneed_gives_zeros_again<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 3);
        (0..3).for_each(|n| poke(&mm, plus::<F>(at, n), 1));
        mm.madvise(plus::<F>(at, 1), page::<F>(), MADV_DONTNEED)
            .unwrap();
        assert_eq!(mm.rss().anon, 2);
        assert_eq!((peek(&mm, at), peek(&mm, plus::<F>(at, 1))), (1, 0));
        assert_eq!(mm.madvise(at, page::<F>(), 12345), Err(Errno::EINVAL));
        drop(mm);
        world.finish();
    }

    pub fn shared_anonymous_memory_is_shared_with_children<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let request = MapRequest::anonymous(2 * page::<F>(), RW);
        let shared = MapRequest {
            flags: (Map::SHARED | Map::ANONYMOUS).bits(),
            ..request
        };
        let at = mm.mmap(&shared).unwrap();
        let child = mm.fork().unwrap();
        poke(&child, at, 4);
        assert_eq!(peek(&mm, at), 4);
        assert_eq!(mm.rss().shmem, 1);
        drop((mm, child));
        world.finish();
    }

    pub fn file_splits_keep_their_offsets<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let size = page::<F>() as usize;
        let bytes: Vec<u8> = (0..6 * size).map(|n| (n / size) as u8).collect();
        let file = world.file(&bytes);
        let at = mm
            .mmap(&MapRequest::file(
                file.clone(),
                6 * page::<F>(),
                Prot::READ,
                Map::PRIVATE,
            ))
            .unwrap();
        mm.munmap(plus::<F>(at, 2), page::<F>()).unwrap();
        mm.mprotect(plus::<F>(at, 4), page::<F>(), RW.bits())
            .unwrap();
        for n in [0, 1, 3, 4, 5] {
            assert_eq!(peek(&mm, plus::<F>(at, n)), n as u8, "page {n}");
        }
        let offsets: Vec<String> = map_lines(&mm, at)
            .iter()
            .map(|line| line.split('+').next_back().unwrap().into())
            .collect();
        assert_eq!(offsets, ["0", "3", "4", "5"]);
        drop((mm, file));
        world.finish();
    }

    pub fn wipe_and_dont_fork<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 3);
        (0..3).for_each(|n| poke(&mm, plus::<F>(at, n), 1));
        mm.madvise(at, page::<F>(), MADV_WIPEONFORK).unwrap();
        mm.madvise(plus::<F>(at, 2), page::<F>(), MADV_DONTFORK)
            .unwrap();
        let child = mm.fork().unwrap();
        assert_eq!((peek(&child, at), peek(&child, plus::<F>(at, 1))), (0, 1));
        assert_eq!(signal_code(&child, plus::<F>(at, 2), Access::Read), Some(1));
        drop((mm, child));
        world.finish();
    }

    pub fn counts_follow_every_change<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 10);
        assert_eq!((mm.counts().total, mm.counts().data), (10, 10));
        assert_eq!(world.machine.committed_pages(), 10);
        mm.mprotect(at, 4 * page::<F>(), Prot::READ.bits()).unwrap();
        assert_eq!((mm.counts().total, mm.counts().data), (10, 6));
        mm.munmap(plus::<F>(at, 3), 2 * page::<F>()).unwrap();
        assert_eq!((mm.counts().total, mm.counts().data), (8, 5));
        assert_eq!(
            world.machine.committed_pages(),
            5,
            "untouched and read-only is not charged"
        );
        mm.limits()
            .address_space
            .store(9 * page::<F>(), std::sync::atomic::Ordering::Relaxed);
        assert_eq!(
            mm.mmap(&MapRequest::anonymous(2 * page::<F>(), RW)),
            Err(Errno::ENOMEM)
        );
        let again = MapRequest::anonymous(2 * page::<F>(), RW).fixed(at);
        assert_eq!(
            mm.mmap(&again),
            Ok(at),
            "what a fixed mapping replaces counts off"
        );
        drop(mm);
        assert_eq!(world.machine.committed_pages(), 0);
        world.finish();
    }

    pub fn users_keep_mappings_and_references_do_not<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 1);
        poke(&mm, at, 1);
        let reference = mm.grab();
        let second = reference.upgrade().expect("a user is left");
        drop(mm);
        assert_eq!(peek(&second, at), 1);
        drop(second);
        assert!(reference.upgrade().is_none());
        drop(reference);
        world.finish();
    }
}

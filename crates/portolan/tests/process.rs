//! One process at the memory of another, over every format: what is copied, what stops it, what a debugger may force. The results are those of the
//! same calls on Linux 6.18.

mod common;

over_formats!(
    bytes_go_between_two_spaces,
    a_copy_ends_where_either_side_does,
    a_copy_needs_the_rights_of_an_access,
    pages_are_reached_before_any_is_copied,
    a_debugger_forces_private_mappings,
    a_debugger_grows_a_stack,
    advice_on_other_processes_destroys_nothing,
    advice_on_ranges_ends_at_the_first_that_fails,
);

mod generic {
    use super::common::*;
    use portolan::addr::VirtAddr;
    use portolan::errno::Errno;
    use portolan::paging::Format;
    use portolan::sim::Sim;
    use portolan::space::{Advised, Map, MapRequest, MmUser, Piece, Prot, Rights};

    const RW: Prot = Prot::READ.union(Prot::WRITE);
    const DONTNEED: u32 = 4;
    const INSTALL: u32 = 102;

    fn len<F: Format>(pages: u64) -> u64 {
        pages * page::<F>()
    }

    fn piece(addr: VirtAddr, len: u64) -> Piece {
        Piece { addr, len }
    }

    fn at(addr: VirtAddr, bytes: u64) -> VirtAddr {
        VirtAddr::new(addr.get() + bytes)
    }

    /// Two spaces with the same five pages at the same place, the fourth a hole; the remote one holds 1, 2, 3, -, 5.
    fn pair<F: Format>(world: &World<F>) -> (MmUser<Sim<F>>, MmUser<Sim<F>>, VirtAddr) {
        let (remote, local) = (world.space(), world.space());
        let base = anonymous(&remote, 5);
        assert_eq!(anonymous(&local, 5), base);
        for n in [0, 1, 2, 4] {
            let bytes = vec![n as u8 + 1; page::<F>() as usize];
            remote.copy_to_user(plus::<F>(base, n), &bytes).unwrap();
        }
        for mm in [&remote, &local] {
            mm.munmap(plus::<F>(base, 3), len::<F>(1)).unwrap();
        }
        (remote, local, base)
    }

    pub fn bytes_go_between_two_spaces<F: Format>() {
        let world = World::<F>::new();
        let (remote, local, base) = pair(&world);
        let from = [
            piece(at(base, page::<F>() - 2), 4),
            piece(base, 0),
            piece(plus::<F>(base, 4), 3),
        ];
        let to = [
            piece(at(base, 7), 5),
            piece(base, 0),
            piece(at(base, 100), 50),
        ];
        assert_eq!(remote.process_vm_read(&from, &local, &to), Ok(7));
        let mut bytes = [0; 6];
        local.copy_from_user(at(base, 7), &mut bytes).unwrap();
        assert_eq!(bytes, [1, 1, 2, 2, 5, 0]);
        local.copy_from_user(at(base, 100), &mut bytes).unwrap();
        assert_eq!(bytes, [5, 5, 0, 0, 0, 0]);
        let whole = [piece(base, len::<F>(3))];
        poke(&local, plus::<F>(base, 2), 9);
        assert_eq!(
            remote.process_vm_write(&whole, &local, &whole),
            Ok(len::<F>(3))
        );
        assert_eq!(peek(&remote, plus::<F>(base, 2)), 9);
        assert_eq!(peek(&remote, at(base, 7)), 1);
        assert_eq!(
            local.process_vm_read(&whole, &local, &whole),
            Ok(len::<F>(3))
        );
        remote.check().unwrap();
        local.check().unwrap();
        drop((remote, local));
        world.finish();
    }

    pub fn a_copy_ends_where_either_side_does<F: Format>() {
        let world = World::<F>::new();
        let (remote, local, base) = pair(&world);
        let read = |from, to| remote.process_vm_read(&[from], &local, &[to]);
        let hole = plus::<F>(base, 3);
        let big = anonymous(&local, 16);
        let room = piece(big, len::<F>(16));
        assert_eq!(read(piece(base, len::<F>(5)), room), Ok(len::<F>(3)));
        assert_eq!(read(piece(hole, 10), room), Err(Errno::EFAULT));
        assert_eq!(read(piece(base, 10), piece(hole, 10)), Err(Errno::EFAULT));
        let late = piece(at(plus::<F>(base, 2), 50), len::<F>(2));
        assert_eq!(read(piece(base, len::<F>(2)), late), Ok(page::<F>() - 50));
        assert_eq!(read(piece(base, u64::MAX), piece(big, 9)), Ok(9));
        assert_eq!(
            read(piece(hole, u64::MAX), piece(big, 9)),
            Err(Errno::EFAULT)
        );
        let last = VirtAddr::new(u64::MAX - 4095);
        assert_eq!(read(piece(last, 10), room), Err(Errno::EFAULT));
        assert_eq!(read(piece(base, 10), piece(last, 10)), Err(Errno::EFAULT));
        assert_eq!(read(piece(hole, 0), room), Ok(0));
        assert_eq!(read(piece(hole, 10), piece(big, 0)), Ok(0));
        let some = [piece(base, 10), piece(hole, 10), piece(base, 10)];
        assert_eq!(remote.process_vm_read(&some, &local, &[room]), Ok(10));
        assert_eq!(remote.process_vm_read(&[], &local, &[room]), Ok(0));
        drop((remote, local));
        world.finish();
    }

    pub fn a_copy_needs_the_rights_of_an_access<F: Format>() {
        let world = World::<F>::new();
        let (remote, local, base) = pair(&world);
        let here = [piece(base, 10)];
        let read = || remote.process_vm_read(&here, &local, &here);
        let write = || remote.process_vm_write(&here, &local, &here);
        let refused = Err(Errno::EFAULT);
        let allow = |prot: Prot| remote.mprotect(base, len::<F>(1), prot.bits()).unwrap();
        allow(Prot::empty());
        assert_eq!((read(), write()), (refused, refused));
        allow(Prot::READ);
        assert_eq!((read(), write()), (Ok(10), refused));
        allow(Prot::EXEC);
        assert_eq!((read(), write()), (refused, refused));
        allow(Prot::WRITE);
        assert_eq!((read(), write()), (refused, Ok(10)));
        allow(RW);
        remote.madvise(base, len::<F>(1), INSTALL).unwrap();
        assert_eq!((read(), write()), (refused, refused));
        let file = world.file(&[1; 10]);
        let request = MapRequest::file(file, len::<F>(2), RW, Map::SHARED);
        let shown = remote.mmap(&request).unwrap();
        let both = [piece(shown, len::<F>(2))];
        let to = [piece(anonymous(&local, 2), len::<F>(2))];
        assert_eq!(remote.process_vm_write(&both, &local, &to), Ok(len::<F>(1)));
        let mut byte = [7];
        request
            .file
            .as_ref()
            .unwrap()
            .cache()
            .unwrap()
            .read(3, &mut byte)
            .unwrap();
        assert_eq!(byte, [0], "what is written reaches the file");
        drop((remote, local, request));
        world.finish();
    }

    pub fn pages_are_reached_before_any_is_copied<F: Format>() {
        let world = World::<F>::new();
        let (remote, local, base) = pair(&world);
        let many = anonymous(&remote, 10);
        let before = remote.rss().anon;
        let (all, one) = ([piece(many, len::<F>(10))], [piece(base, 1)]);
        assert_eq!(remote.process_vm_write(&all, &local, &one), Ok(1));
        assert_eq!(remote.rss().anon - before, 10);
        drop((remote, local));
        world.finish();
    }

    pub fn a_debugger_forces_private_mappings<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![4; page::<F>() as usize]);
        let map = |map| MapRequest::file(file.clone(), len::<F>(2), Prot::READ, map);
        let private = mm.mmap(&map(Map::PRIVATE)).unwrap();
        let shared = mm.mmap(&map(Map::SHARED)).unwrap();
        let none = anonymous(&mm, 2);
        poke(&mm, none, 6);
        mm.mprotect(none, len::<F>(2), 0).unwrap();
        let mut bytes = [0; 4];
        assert_eq!(mm.read_remote(none, &mut bytes, Rights::Checked), 0);
        assert_eq!(mm.read_remote(none, &mut bytes, Rights::Forced), 4);
        assert_eq!(bytes, [6, 0, 0, 0]);
        assert_eq!(
            mm.read_remote(plus::<F>(none, 1), &mut bytes, Rights::Forced),
            4
        );
        for at in [none, plus::<F>(none, 1), private] {
            assert_eq!(mm.write_remote(at, &[8, 9], Rights::Checked), 0);
            assert_eq!(mm.write_remote(at, &[8, 9], Rights::Forced), 2);
            assert_eq!(mm.write_remote(at, &[8], Rights::Forced), 1);
        }
        assert_eq!(peek(&mm, private), 8);
        let child = mm.fork().unwrap();
        assert_eq!(child.write_remote(private, &[11], Rights::Forced), 1);
        assert_eq!((peek(&mm, private), peek(&child, private)), (8, 11));
        assert_eq!(mm.write_remote(shared, &[8], Rights::Forced), 0);
        assert_eq!(peek(&mm, shared), 4);
        assert_eq!(mm.copy_to_user(private, &[1]), Err(Errno::EFAULT));
        assert_eq!(mm.copy_from_user(none, &mut [0]), Err(Errno::EFAULT));
        let mut long = vec![0; len::<F>(2) as usize];
        let done = mm.read_remote(shared, &mut long, Rights::Forced) as u64;
        assert_eq!(done, len::<F>(1), "the file ends");
        mm.check().unwrap();
        drop((mm, child, file));
        world.finish();
    }

    pub fn a_debugger_grows_a_stack<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let hull = anonymous(&mm, 600);
        mm.munmap(hull, len::<F>(600)).unwrap();
        let mut request = MapRequest::anonymous(len::<F>(1), RW).fixed(plus::<F>(hull, 590));
        request.flags |= Map::GROWSDOWN.bits();
        let stack = mm.mmap(&request).unwrap();
        let below = VirtAddr::new(stack.get() - 8);
        assert_eq!(mm.write_remote(below, &[1; 16], Rights::Checked), 16);
        assert_eq!(mm.counts().total, 2);
        assert_eq!(
            mm.read_remote(VirtAddr::new(8), &mut [0], Rights::Forced),
            0
        );
        drop(mm);
        world.finish();
    }

    pub fn advice_on_other_processes_destroys_nothing<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let here = anonymous(&mm, 1);
        let range = [piece(here, page::<F>())];
        for advice in (0..30).chain(100..105) {
            let harmless = matches!(advice, 3 | 20 | 21);
            let result = mm.process_madvise(&range, advice, Advised::Other);
            let expected = if harmless {
                Ok(page::<F>())
            } else {
                Err(Errno::EINVAL)
            };
            assert_eq!(result, expected, "{advice}");
            let result = mm.process_madvise(&range, advice, Advised::OtherWithoutRight);
            let expected = if harmless {
                Errno::EPERM
            } else {
                Errno::EINVAL
            };
            assert_eq!(result, Err(expected), "{advice}");
        }
        assert_eq!(
            mm.process_madvise(&[], 9999, Advised::Other),
            Err(Errno::EINVAL)
        );
        drop(mm);
        world.finish();
    }

    pub fn advice_on_ranges_ends_at_the_first_that_fails<F: Format>() {
        let world = World::<F>::new();
        let (mm, _local, base) = pair(&world);
        let one = |n| piece(plus::<F>(base, n), page::<F>());
        let holed = piece(plus::<F>(base, 2), len::<F>(3));
        let advise = |pieces: &[Piece], advice| mm.process_madvise(pieces, advice, Advised::Own);
        assert_eq!(advise(&[one(0), holed, one(1)], DONTNEED), Ok(page::<F>()));
        assert_eq!((peek(&mm, base), peek(&mm, plus::<F>(base, 1))), (0, 2));
        let behind = peek(&mm, plus::<F>(base, 4));
        assert_eq!(behind, 0, "the failed one was done but for its hole");
        assert_eq!(advise(&[holed, one(1)], DONTNEED), Err(Errno::ENOMEM));
        assert_eq!(advise(&[], 9999), Ok(0));
        assert_eq!(advise(&[one(0)], 9999), Err(Errno::EINVAL));
        assert_eq!(advise(&[piece(base, 1)], DONTNEED), Ok(1));
        let odd = piece(at(base, 1), 0);
        assert_eq!(advise(&[one(0), odd, one(1)], DONTNEED), Ok(len::<F>(2)));
        assert_eq!(
            advise(&[piece(base, u64::MAX)], DONTNEED),
            Err(Errno::EINVAL)
        );
        assert_eq!(advise(&[one(0)], INSTALL), Ok(page::<F>()));
        drop((mm, _local));
        world.finish();
    }
}

//! Every advice on every kind of mapping, over every format: the errors of Linux 6.18, as a table that a C program filled in.

mod common;

over_formats!(
    every_advice_on_every_kind_of_mapping,
    what_is_no_advice_or_no_range,
    holes_are_told_of_after_the_rest_is_done,
    droppable_memory_is_wiped_and_never_charged,
);

mod generic {
    use super::common::*;
    use portolan::addr::VirtAddr;
    use portolan::errno::Errno;
    use portolan::object::{Cache, FileMode, VmFlags};
    use portolan::paging::Format;
    use portolan::sim::Sim;
    use portolan::space::{Map, MapRequest, MmUser, Prot};
    use std::sync::atomic::Ordering;

    const RW: Prot = Prot::READ.union(Prot::WRITE);
    const DROPPABLE: u32 = 8;
    const WIPEONFORK: u32 = 18;
    const DONTFORK: u32 = 10;

    /// The columns of the table.
    const ADVICE: [u32; 20] = [
        0, 1, 2, 3, 4, 8, 9, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23, 24, 102, 103,
    ];

    fn len<F: Format>(pages: u64) -> u64 {
        pages * page::<F>()
    }

    /// Whether it must fail: I is EINVAL, A is EACCES, O is EOPNOTSUPP (a backing that cannot punch holes).
    fn expected(cell: u8) -> Result<(), Errno> {
        match cell {
            b'I' => Err(Errno::EINVAL),
            b'A' => Err(Errno::EACCES),
            b'O' => Err(Errno::EOPNOTSUPP),
            _ => Ok(()),
        }
    }

    fn check_row<F: Format>(mm: &MmUser<Sim<F>>, request: &MapRequest<Sim<F>>, row: &str) {
        assert_eq!(row.len(), ADVICE.len());
        let at = mm.mmap(request).expect(row);
        for (advice, cell) in ADVICE.into_iter().zip(row.bytes()) {
            let result = mm.madvise(at, len::<F>(1), advice);
            assert_eq!(result, expected(cell), "{row}: advice {advice}");
            if advice == WIPEONFORK {
                let _ = mm.madvise(at, len::<F>(1), 19);
            }
            if advice == DONTFORK {
                mm.madvise(at, len::<F>(1), 11).unwrap();
            }
        }
        mm.check().unwrap();
        mm.munmap(at, len::<F>(2)).unwrap();
    }

    pub fn every_advice_on_every_kind_of_mapping<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        mm.limits().may_lock_any.store(true, Ordering::Relaxed);
        let anonymous = |prot, kind| {
            let plain = MapRequest::anonymous(len::<F>(2), prot);
            MapRequest {
                flags: plain.flags & !0xf | kind,
                ..plain
            }
        };
        let (private, shared) = (Map::PRIVATE.bits(), Map::SHARED.bits());
        let locked = Map::LOCKED.bits();
        let stack = Map::GROWSDOWN.bits();
        check_row(&mm, &anonymous(RW, private), "......I.............");
        check_row(
            &mm,
            &anonymous(Prot::empty(), private),
            "......I........II...",
        );
        check_row(&mm, &anonymous(Prot::READ, private), "......I.........I...");
        check_row(&mm, &anonymous(RW, shared), ".....I.....I........");
        check_row(&mm, &anonymous(RW, DROPPABLE), "......I...I.I.......");
        check_row(
            &mm,
            &anonymous(RW, private | locked),
            "....III......II...I.",
        );
        check_row(&mm, &anonymous(RW, private | stack), "......I.............");
        let bytes = vec![1; 2 * page::<F>() as usize];
        let file = world.file(&bytes);
        let reader = world.file_opened(&bytes, FileMode::READ);
        let of = |file: &std::sync::Arc<_>, prot, map| {
            MapRequest::file(std::sync::Arc::clone(file), len::<F>(2), prot, map)
        };
        check_row(&mm, &of(&file, RW, Map::PRIVATE), ".....IA....I........");
        check_row(
            &mm,
            &of(&file, Prot::READ, Map::PRIVATE),
            ".....IA....I....I...",
        );
        check_row(&mm, &of(&file, RW, Map::SHARED), ".....IO....I........");
        check_row(
            &mm,
            &of(&reader, Prot::READ, Map::SHARED),
            ".....IA....I....I...",
        );
        let both = Map::SHARED | Map::LOCKED;
        check_row(&mm, &of(&file, RW, both), "....III....I.II...I.");
        let cache = Cache::anonymous_shared(
            &world.machine,
            len::<F>(2),
            portolan::object::Commit::Unreserved,
        );
        let memory = world.open(cache.unwrap(), FileMode::READ | FileMode::WRITE);
        check_row(&mm, &of(&memory, RW, Map::SHARED), ".....I.....I........");
        check_row(&mm, &of(&memory, RW, Map::PRIVATE), ".....IA....I........");
        drop((mm, file, reader, memory));
        world.finish();
    }

    pub fn what_is_no_advice_or_no_range<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 8);
        let odd = VirtAddr::new(at.get() + 1);
        let minus_a_page = u64::MAX << F::GRANULE.shift();
        let refused = Err(Errno::EINVAL);
        for unknown in [5, 12, 13, 14, 15, 25, 26, 100, 101, 104, 9999, u32::MAX] {
            assert_eq!(mm.madvise(at, len::<F>(1), unknown), refused, "{unknown}");
            assert_eq!(mm.madvise(at, 0, unknown), refused);
        }
        assert_eq!(mm.madvise(odd, len::<F>(1), 4), refused);
        assert_eq!(mm.madvise(odd, 0, 4), refused);
        assert_eq!(mm.madvise(at, u64::MAX, 22), refused);
        assert_eq!(mm.madvise(at, minus_a_page, 4), refused);
        assert_eq!(mm.madvise(at, 0, 4), Ok(()));
        drop(mm);
        world.finish();
    }

    pub fn holes_are_told_of_after_the_rest_is_done<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let hull = anonymous(&mm, 12);
        let at = plus::<F>(hull, 2);
        mm.munmap(hull, len::<F>(2)).unwrap();
        mm.munmap(plus::<F>(hull, 6), len::<F>(1)).unwrap();
        let holed = |advice| mm.madvise(hull, len::<F>(12), advice);
        poke(&mm, at, 1);
        poke(&mm, plus::<F>(hull, 11), 1);
        for advice in [0, 3, 20, 21, 8, 4] {
            assert_eq!(holed(advice), Err(Errno::ENOMEM), "{advice}");
        }
        assert_eq!((peek(&mm, at), peek(&mm, plus::<F>(hull, 11))), (0, 0));
        assert_eq!(
            holed(9),
            Err(Errno::EINVAL),
            "an area that cannot comes first"
        );
        assert_eq!(holed(22), Err(Errno::ENOMEM));
        assert_eq!(mm.madvise(at, len::<F>(10), 23), Err(Errno::ENOMEM));
        assert_eq!(mm.rss().anon, 4, "up to the hole");
        assert_eq!(holed(102), Err(Errno::ENOMEM));
        assert_eq!(mm.rss().anon, 0);
        let last = plus::<F>(hull, 11);
        assert_eq!(mm.copy_to_user(last, &[1]), Err(Errno::EFAULT));
        assert_eq!(mm.madvise(hull, len::<F>(1), 4), Err(Errno::ENOMEM));
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }

    pub fn droppable_memory_is_wiped_and_never_charged<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        mm.limits().may_lock_any.store(true, Ordering::Relaxed);
        let droppable = |more: Map| {
            let plain = MapRequest::anonymous(len::<F>(2), RW);
            MapRequest {
                flags: plain.flags & !0xf | DROPPABLE | more.bits(),
                ..plain
            }
        };
        for bad in [Map::LOCKED, Map::GROWSDOWN] {
            assert_eq!(mm.mmap(&droppable(bad)), Err(Errno::EINVAL));
        }
        mm.mlockall(2).unwrap();
        let at = mm
            .mmap(&droppable(Map::empty()))
            .expect("locks pass over it");
        assert_eq!(
            (mm.counts().locked, world.machine.committed_pages()),
            (0, 0)
        );
        mm.for_each_area(|area| {
            let told = VmFlags::DROPPABLE | VmFlags::WIPEONFORK | VmFlags::DONTDUMP;
            assert!(area.flags.contains(told | VmFlags::NORESERVE));
            assert!(!area.flags.contains(VmFlags::LOCKED));
        });
        poke(&mm, at, 5);
        let child = mm.fork().unwrap();
        assert_eq!((peek(&mm, at), peek(&child, at)), (5, 0));
        drop((mm, child));
        world.finish();
    }
}

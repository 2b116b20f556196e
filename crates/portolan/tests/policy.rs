//! NUMA policies on one node, over every format. The results are those of the same calls on Linux 6.18 on a machine with one node.

mod common;

over_formats!(
    every_mode_takes_the_nodes_that_linux_takes,
    areas_part_and_merge_by_policy,
    holes_and_lengths,
    strictness_asks_where_pages_are,
    rights_to_move,
    home_nodes_need_a_policy,
    what_get_mempolicy_tells,
    pages_are_on_the_one_node,
    policies_are_inherited_and_move,
    no_heap_changes_nothing,
);

mod generic {
    use super::common::*;
    use portolan::addr::VirtAddr;
    use portolan::errno::Errno;
    use portolan::paging::Format;
    use portolan::sim::Sim;
    use portolan::space::{Map, MapRequest, Mempolicy, MmUser, NodeMask, PolicyMode, Prot};
    use std::sync::atomic::Ordering;

    const RW: Prot = Prot::READ.union(Prot::WRITE);
    const DEFAULT: u32 = 0;
    const PREFERRED: u32 = 1;
    const BIND: u32 = 2;
    const INTERLEAVE: u32 = 3;
    const LOCAL: u32 = 4;
    const STATIC: u32 = 1 << 15;
    const RELATIVE: u32 = 1 << 14;
    const BALANCING: u32 = 1 << 13;
    const STRICT: u32 = 1;
    const NODE: u32 = 1;
    const ADDR: u32 = 2;

    fn len<F: Format>(pages: u64) -> u64 {
        pages * page::<F>()
    }

    /// The nodes whose bits `bits` has.
    fn nodes<F: Format>(bits: u64) -> NodeMask {
        NodeMask::parse(65, F::GRANULE, |_| Ok(bits)).unwrap()
    }

    fn bind<F: Format>(
        mm: &MmUser<Sim<F>>,
        at: VirtAddr,
        pages: u64,
        mode: u32,
        bits: u64,
        flags: u32,
    ) -> Result<(), Errno> {
        let mode = PolicyMode::parse(mode)?;
        mm.mbind(at, len::<F>(pages), mode, &nodes::<F>(bits), flags)
    }

    /// The policy at an address: mode and the first nodes.
    fn policy<F: Format>(mm: &MmUser<Sim<F>>, at: VirtAddr) -> (u32, u64) {
        let (mode, nodes) = mm.get_mempolicy(None, at, ADDR).unwrap();
        (mode, nodes.first_word())
    }

    pub fn every_mode_takes_the_nodes_that_linux_takes<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 1);
        // For each mode whether no node, node 0 and node 1 are taken: plain, balancing, relative, static.
        let table: [[u32; 4]; 9] = [
            [0b001, 0, 0b001, 0b001],
            [0b011, 0, 0b110, 0b010],
            [0b010, 0b010, 0b110, 0b010],
            [0b010, 0, 0b110, 0b010],
            [0b001, 0, 0, 0],
            [0b010, 0b010, 0b110, 0b010],
            [0b010, 0, 0b110, 0b010],
            [0; 4],
            [0; 4],
        ];
        for (mode, row) in (0..).zip(table) {
            for (flag, taken) in [0, BALANCING, RELATIVE, STATIC].into_iter().zip(row) {
                for (n, bits) in [0, 1, 2].into_iter().enumerate() {
                    let expected = match taken >> n & 1 {
                        0 => Err(Errno::EINVAL),
                        _ => Ok(()),
                    };
                    let result = bind(&mm, at, 1, mode | flag, bits, 0);
                    assert_eq!(result, expected, "{mode} {flag:#x} {bits}");
                }
            }
        }
        for bad in [u32::MAX, BIND | STATIC | RELATIVE, BIND | 1 << 12] {
            assert_eq!(bind(&mm, at, 1, bad, 1, 0), Err(Errno::EINVAL));
        }
        let parse = |maxnode, bits: [u64; 2]| {
            let word = |index| Ok(*bits.get(index as usize).unwrap_or(&0));
            NodeMask::parse(maxnode, F::GRANULE, word).map(|mask| mask.first_word())
        };
        let page_bits = page::<F>() * 8;
        assert_eq!(parse(0, [1, 0]), Err(Errno::EINVAL));
        assert_eq!(parse(1, [1, 0]), Ok(0));
        assert_eq!(parse(2, [3, 0]), Ok(1));
        assert_eq!(parse(65, [3, 9]), Ok(3));
        assert_eq!(parse(page_bits + 1, [3, 0]), Ok(3));
        assert_eq!(parse(page_bits + 2, [3, 0]), Err(Errno::EINVAL));
        let beyond = |index| Ok((index == 16) as u64);
        assert_eq!(
            NodeMask::parse(1025, F::GRANULE, beyond).map(|_| ()),
            Ok(())
        );
        let refused = NodeMask::parse(1026, F::GRANULE, beyond);
        assert_eq!(refused, Err(Errno::EINVAL));
        let unreadable = NodeMask::parse(2, F::GRANULE, |_| Err(Errno::EFAULT));
        assert_eq!(unreadable, Err(Errno::EFAULT));
        assert_eq!(NodeMask::written_bytes(0, F::GRANULE), Err(Errno::EINVAL));
        assert_eq!(NodeMask::written_bytes(1, F::GRANULE), Ok(0));
        assert_eq!(NodeMask::written_bytes(1025, F::GRANULE), Ok(128));
        let most = NodeMask::written_bytes(page_bits + 2, F::GRANULE);
        assert_eq!(most, Err(Errno::EINVAL));
        drop(mm);
        world.finish();
    }

    pub fn areas_part_and_merge_by_policy<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 10);
        let count = || mm.map_count();
        bind(&mm, plus::<F>(at, 2), 2, BIND, 1, 0).unwrap();
        assert_eq!(count(), 3);
        bind(&mm, plus::<F>(at, 4), 2, BIND, 3, 0).unwrap();
        assert_eq!(count(), 3, "the same nodes that exist");
        bind(&mm, plus::<F>(at, 6), 2, BIND | STATIC, 3, 0).unwrap();
        assert_eq!(count(), 4);
        assert_eq!(policy(&mm, plus::<F>(at, 6)), (BIND | STATIC, 3));
        bind(&mm, at, 10, BIND, 1, 0).unwrap();
        assert_eq!(count(), 1);
        bind(&mm, at, 10, DEFAULT, 0, STRICT).unwrap();
        assert_eq!((count(), policy(&mm, at)), (1, (0, 0)));
        bind(&mm, at, 10, PREFERRED, 0, 0).unwrap();
        assert_eq!(policy(&mm, at), (LOCAL, 0));
        anonymous(&mm, 1);
        assert_eq!(count(), 2, "a new mapping has the default policy");
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }

    pub fn holes_and_lengths<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let hull = anonymous(&mm, 12);
        mm.munmap(hull, len::<F>(1)).unwrap();
        mm.munmap(plus::<F>(hull, 11), len::<F>(1)).unwrap();
        let at = plus::<F>(hull, 1);
        let refused = Err(Errno::EFAULT);
        assert_eq!(bind(&mm, at, 11, BIND, 1, 0), refused);
        assert_eq!(bind(&mm, hull, 4, BIND, 1, 0), refused);
        assert_eq!(bind(&mm, hull, 1, DEFAULT, 0, 0), refused);
        assert_eq!(bind(&mm, hull, 12, DEFAULT, 0, 0), Ok(()));
        assert_eq!(mm.map_count(), 1);
        let mode = PolicyMode::parse(BIND).unwrap();
        let long = |len| mm.mbind(at, len, mode, &NodeMask::ALL, 0);
        assert_eq!(long(u64::MAX), Ok(()));
        assert_eq!(long(u64::MAX << F::GRANULE.shift()), Err(Errno::EINVAL));
        assert_eq!(mm.mbind(at, 0, mode, &NodeMask::EMPTY, 0), Ok(()));
        let odd = VirtAddr::new(at.get() + 1);
        assert_eq!(
            mm.mbind(odd, 1, mode, &NodeMask::ALL, 0),
            Err(Errno::EINVAL)
        );
        assert_eq!(bind(&mm, at, 1, BIND, 1, 8), Err(Errno::EINVAL));
        drop(mm);
        world.finish();
    }

    pub fn strictness_asks_where_pages_are<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 10);
        mm.munmap(plus::<F>(at, 8), len::<F>(1)).unwrap();
        poke(&mm, at, 1);
        peek(&mm, plus::<F>(at, 5));
        assert_eq!(bind(&mm, at, 8, LOCAL, 0, STRICT), Err(Errno::EIO));
        assert_eq!(mm.map_count(), 2, "nothing has changed");
        assert_eq!(bind(&mm, at, 10, LOCAL, 0, STRICT), Err(Errno::EFAULT));
        assert_eq!(
            bind(&mm, plus::<F>(at, 4), 2, LOCAL, 0, STRICT),
            Ok(()),
            "the zero page"
        );
        assert_eq!(bind(&mm, at, 8, LOCAL, 0, STRICT | 2), Ok(()));
        assert_eq!(bind(&mm, at, 8, BIND, 1, STRICT), Ok(()));
        assert_eq!(
            bind(&mm, at, 8, BIND | RELATIVE, 2, STRICT),
            Err(Errno::EIO)
        );
        assert_eq!(bind(&mm, at, 8, BIND | RELATIVE, 2, STRICT | 2), Ok(()));
        assert_eq!(policy(&mm, at), (BIND | RELATIVE, 2));
        drop(mm);
        world.finish();
    }

    pub fn rights_to_move<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 1);
        let odd = VirtAddr::new(at.get() + 1);
        let beyond = nodes::<F>(2);
        assert_eq!(bind(&mm, odd, 1, BIND, 2, 4), Err(Errno::EPERM));
        assert_eq!(bind(&mm, odd, 1, BIND, 1, 12), Err(Errno::EINVAL));
        assert_eq!(mm.check_move_flags(4), Err(Errno::EPERM));
        assert_eq!(mm.check_move_flags(12), Err(Errno::EINVAL));
        assert_eq!(mm.check_migration(&beyond), Err(Errno::EPERM));
        assert_eq!(mm.check_migration(&nodes::<F>(3)), Err(Errno::EPERM));
        mm.limits().nice.store(true, Ordering::Relaxed);
        assert_eq!(bind(&mm, at, 1, BIND, 1, 4), Ok(()));
        assert_eq!(mm.check_move_flags(4), Ok(()));
        assert_eq!(mm.check_migration(&beyond), Err(Errno::EINVAL));
        assert_eq!(mm.check_migration(&nodes::<F>(3)), Ok(()));
        assert_eq!(mm.check_migration(&NodeMask::EMPTY), Err(Errno::EINVAL));
        drop(mm);
        world.finish();
    }

    pub fn home_nodes_need_a_policy<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 10);
        let home =
            |at, pages, node, flags| mm.set_mempolicy_home_node(at, len::<F>(pages), node, flags);
        assert_eq!(home(at, 1, 0, 0), Err(Errno::ENOENT));
        assert_eq!(
            home(VirtAddr::new(at.get() + 1), 1, 0, 0),
            Err(Errno::EINVAL)
        );
        assert_eq!(home(at, 1, 1, 0), Err(Errno::EINVAL));
        assert_eq!(home(at, 0, 1, 0), Err(Errno::EINVAL));
        assert_eq!(home(at, 1, 0, 1), Err(Errno::EINVAL));
        assert_eq!(home(at, 0, 0, 0), Ok(()));
        bind(&mm, at, 4, BIND, 1, 0).unwrap();
        assert_eq!((home(at, 2, 0, 0), mm.map_count()), (Ok(()), 3));
        assert_eq!((home(at, 10, 0, 0), mm.map_count()), (Ok(()), 2));
        bind(&mm, plus::<F>(at, 6), 2, INTERLEAVE, 1, 0).unwrap();
        assert_eq!(home(at, 10, 0, 0), Err(Errno::EOPNOTSUPP));
        bind(&mm, at, 2, BIND, 1, 0).unwrap();
        assert_eq!(mm.map_count(), 5);
        drop(mm);
        world.finish();
    }

    pub fn what_get_mempolicy_tells<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 2);
        bind(&mm, at, 1, BIND, 1, 0).unwrap();
        let zero = VirtAddr::new(0);
        let get = |task: Option<&Mempolicy>, at, flags| {
            let told = mm.get_mempolicy(task, at, flags)?;
            Ok((told.0, told.1.first_word()))
        };
        let task = |mode, bits| {
            let mode = PolicyMode::parse(mode).unwrap();
            Mempolicy::new(mode, &nodes::<F>(bits)).unwrap()
        };
        assert_eq!(task(DEFAULT, 0), None);
        let (bound, woven) = (task(BIND, 1), task(INTERLEAVE, 1));
        let invalid = Err(Errno::EINVAL);
        assert_eq!(get(None, zero, 0), Ok((0, 0)));
        assert_eq!(get(bound.as_ref(), zero, 0), Ok((BIND, 1)));
        assert_eq!(get(bound.as_ref(), zero, NODE), invalid);
        assert_eq!(get(woven.as_ref(), zero, NODE), Ok((0, 1)));
        assert_eq!(get(woven.as_ref(), plus::<F>(at, 1), ADDR), Ok((0, 0)));
        assert_eq!(get(None, at, 0), invalid);
        assert_eq!(get(None, zero, NODE), invalid);
        assert_eq!(get(None, at, ADDR), Ok((BIND, 1)));
        assert_eq!(get(None, at, ADDR | NODE), Ok((0, 1)));
        assert_eq!(get(None, VirtAddr::new(8), ADDR), Err(Errno::EFAULT));
        assert_eq!(get(None, at, 4), Ok((0, 1)));
        assert_eq!(get(None, zero, 5), invalid);
        assert_eq!(get(None, zero, 8), invalid);
        mm.mprotect(at, len::<F>(1), 0).unwrap();
        assert_eq!(get(None, at, ADDR | NODE), Err(Errno::EFAULT));
        assert_eq!(woven.unwrap().to_string(), "interleave:0");
        let mixed = task(BIND | STATIC | BALANCING, 3).unwrap();
        assert_eq!(mixed.to_string(), "bind=static|balancing:0");
        assert_eq!(task(LOCAL, 0).unwrap().to_string(), "local");
        drop(mm);
        world.finish();
    }

    pub fn pages_are_on_the_one_node<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        poke(&mm, at, 1);
        peek(&mm, plus::<F>(at, 1));
        let status: Vec<i32> = (0..5).map(|n| mm.page_node(plus::<F>(at, n))).collect();
        let gone = mm.page_node(VirtAddr::new(u64::MAX));
        assert_eq!(status[..4], [0, -14, -2, -2]);
        assert_eq!(gone, -14);
        assert_eq!(mm.page_node(VirtAddr::new(at.get() + 9)), 0);
        assert_eq!(mm.move_page(at, 0), Ok(0));
        assert_eq!(mm.move_page(at, 1), Err(Errno::ENODEV));
        assert_eq!(mm.move_page(at, -1), Err(Errno::ENODEV));
        assert_eq!(mm.rss().anon, 1);
        drop(mm);
        world.finish();
    }

    pub fn policies_are_inherited_and_move<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        bind(&mm, plus::<F>(at, 1), 2, BIND, 1, 0).unwrap();
        let child = mm.fork().unwrap();
        assert_eq!(policy(&child, plus::<F>(at, 2)), (BIND, 1));
        mm.mprotect(plus::<F>(at, 1), len::<F>(1), 1).unwrap();
        assert_eq!(policy(&mm, plus::<F>(at, 1)), (BIND, 1));
        let to = anonymous(&mm, 8);
        let from = plus::<F>(at, 2);
        let moved = mm.mremap(from, len::<F>(1), len::<F>(2), 3, to).unwrap();
        assert_eq!(policy(&mm, plus::<F>(moved, 1)), (BIND, 1));
        let over = MapRequest::anonymous(len::<F>(1), RW).fixed(moved);
        mm.mmap(&over).unwrap();
        assert_eq!(policy(&mm, moved), (0, 0));
        let file = world.file(&[1; 10]);
        let request = MapRequest::file(file, len::<F>(1), RW, Map::SHARED);
        let shown = mm.mmap(&request).unwrap();
        assert_eq!(bind(&mm, shown, 1, INTERLEAVE, 1, 0), Ok(()));
        assert_eq!(policy(&mm, shown), (INTERLEAVE, 1));
        mm.check().unwrap();
        drop((mm, child, request));
        world.finish();
    }

    pub fn no_heap_changes_nothing<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 6);
        let mut nth = 1;
        loop {
            world.machine.fail_point().arm(nth);
            let result = bind(&mm, plus::<F>(at, 2), 2, BIND, 1, 0);
            if !world.machine.fail_point().disarm() {
                assert_eq!(result, Ok(()));
                break;
            }
            assert_eq!((result, mm.map_count()), (Err(Errno::ENOMEM), 1));
            nth += 1;
        }
        assert!(nth > 3, "each allocation has failed once");
        assert_eq!(mm.map_count(), 3);
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }
}

//! Trees of every format: what walkers see, how tables come, what moves and what is copied.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::collections::BTreeSet;
use std::thread;

use super::world::*;
use crate::addr::{Pfn, VirtAddr, VirtRange};
use crate::paging::*;

every_format!(
    walkers_and_lookups_agree,
    refused_tables_leave_nothing,
    failed_tables_leave_nothing,
    entry_zero_keeps_its_lock,
    cursor_finds_what_is_there,
    entries_move,
    a_failed_reserve_moves_nothing,
    fork_copies,
);

fn walkers_and_lookups_agree<F: Format>() {
    let world = World::<F>::new();
    let addrs = spread::<F>();
    let frames: Vec<Pfn> = addrs
        .iter()
        .enumerate()
        .map(|(n, &at)| world.map(at, RW | USED, n as u8 + 1))
        .collect();
    for (n, (&at, &frame)) in addrs.iter().zip(&frames).enumerate() {
        let expected = Entry::Present(Leaf {
            frame,
            flags: RW | USED,
            cache: CacheMode::WriteBack,
        });
        assert_eq!(world.lookup(VirtAddr::new(at)), (0, expected));
        let table = world.leaf(&world.phys, VirtAddr::new(at)).unwrap();
        assert_eq!(table.peek(F::index(0, at)), expected);
        assert!(table.covers().contains(VirtAddr::new(at)));
        assert_eq!(world.byte(at), Some(n as u8 + 1));
        let beyond = at + page_bytes::<F>();
        assert_eq!(world.byte(beyond).is_some(), addrs.contains(&beyond));
    }
    assert!(world.lookup(VirtAddr::new(1 << F::VA_BITS)).1 == Entry::Absent);
    assert!(world.leaf(&world.phys, VirtAddr::new(u64::MAX)).is_none());
    assert_eq!(world.byte(u64::MAX), None);
}

fn refused_tables_leave_nothing<F: Format>() {
    let world = World::<F>::new();
    let free = world.phys.free_frames();
    let at = VirtAddr::new(table_span::<F>());
    assert!(
        world
            .leaf_or_create(&world.phys, at, || false)
            .unwrap()
            .is_none()
    );
    assert_eq!((world.tables(), world.phys.free_frames()), (0, free));
    let beyond = VirtAddr::new(1 << F::VA_BITS);
    assert!(
        world
            .leaf_or_create(&world.phys, beyond, || true)
            .unwrap()
            .is_none()
    );
    // Refused on the way down: what is linked already stays and is counted.
    let asked = AtomicU64::new(0);
    let once = || asked.fetch_add(1, Ordering::Relaxed) == 0;
    assert!(
        world
            .leaf_or_create(&world.phys, at, once)
            .unwrap()
            .is_none()
    );
    assert_eq!(world.phys.free_frames(), free - 1);
}

fn failed_tables_leave_nothing<F: Format>() {
    let world = World::<F>::new();
    let at = VirtAddr::new(0);
    for nth in 1..F::LEVELS as u64 {
        world.phys.inject().arm(1);
        assert!(world.leaf_or_create(&world.phys, at, || true).is_err());
        assert!(world.phys.inject().disarm());
        let asked = AtomicU64::new(0);
        let once = || asked.fetch_add(1, Ordering::Relaxed) == 0;
        let made = world.leaf_or_create(&world.phys, at, once).unwrap();
        assert_eq!(made.is_some(), nth + 1 == F::LEVELS as u64);
    }
    let counted = F::LEVELS.min(4) as u64 - 1;
    assert_eq!(world.tables(), counted, "levels 0 to 2 below the root");
}

fn entry_zero_keeps_its_lock<F: Format>() {
    let world = World::<F>::new();
    world.map(0, RW, 1);
    let table = world.leaf(&world.phys, VirtAddr::new(0)).unwrap();
    let is_locked = || table.cell(0).load(Ordering::Relaxed) & F::LOCK_BIT != 0;
    assert!(!is_locked());
    let mut locked = table.lock();
    let Entry::Present(leaf) = locked.get(0) else {
        panic!()
    };
    // A walker that sets its bits meanwhile.
    let _ = world.byte(0);
    assert!(is_locked());
    let dirty = Leaf {
        flags: leaf.flags | USED,
        ..leaf
    };
    assert!(!locked.compare_set(0, Entry::Absent, Entry::Present(dirty)));
    let expected = locked.get(0);
    assert!(locked.compare_set(0, expected, Entry::Present(dirty)));
    assert!(is_locked());
    locked.set(0, Entry::Present(leaf));
    assert!(is_locked());
    assert_eq!(locked.raise(0, USED), Some(leaf));
    assert!(is_locked() && locked.get(0) == Entry::Present(dirty));
    assert_eq!(locked.protect_write(0), Some(dirty.flags));
    assert!(is_locked());
    let raw = locked.take(0);
    assert!(is_locked() && locked.get(0) == Entry::Absent && raw & F::LOCK_BIT == 0);
    locked.set(0, F::decode(0, raw));
    let waiter = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _second = table.lock();
            waiter.store(true, Ordering::Relaxed);
        });
        for _ in 0..100 {
            thread::yield_now();
            assert!(!waiter.load(Ordering::Relaxed), "two holders of one lock");
        }
        drop(locked);
    });
    assert!(waiter.load(Ordering::Relaxed) && !is_locked());
}

fn cursor_finds_what_is_there<F: Format>() {
    let world = World::<F>::new();
    let addrs = spread::<F>();
    for &at in &addrs {
        world
            .leaf_or_create(&world.phys, VirtAddr::new(at), || true)
            .unwrap()
            .unwrap();
    }
    let tables: BTreeSet<u64> = addrs.iter().map(|at| at / table_span::<F>()).collect();
    let page = page_bytes::<F>();
    let mut ends = addrs.clone();
    ends.extend(addrs.iter().map(|at| at + page));
    for &start in &addrs {
        for &end in ends.iter().filter(|&&end| end > start) {
            let want = range(start, end - start);
            let expected: Vec<u64> = tables
                .range(start / table_span::<F>()..=(end - 1) / table_span::<F>())
                .copied()
                .collect();
            for cursor in [
                Cursor::new(&world, &world.phys, want),
                Cursor::reading(&world, &world.phys, want),
            ] {
                let found: Vec<u64> = cursor
                    .map(|(part, table)| {
                        assert_eq!(table.covers().intersection(want), Some(part));
                        part.start().get() / table_span::<F>()
                    })
                    .collect();
                assert_eq!(found, expected, "{want:?}");
            }
        }
    }
    let beyond = VirtRange::new(VirtAddr::new(1 << F::VA_BITS), VirtAddr::new(u64::MAX)).unwrap();
    assert_eq!(Cursor::new(&world, &world.phys, beyond).count(), 0);
    assert_eq!(Cursor::new(&world, &world.phys, range(0, 0)).count(), 0);
}

fn entries_move<F: Format>() {
    let (page, span) = (page_bytes::<F>(), table_span::<F>());
    let cases = [
        (0, 4 * page),
        (0, span),
        (page, 3 * span + 2 * page),
        (span - 2 * page, 4 * span - page),
        (0, 1 << (F::USER_BITS - 1)),
    ];
    for (from, to) in cases {
        let world = World::<F>::new();
        for n in 0..4 {
            world.map(
                from + n * page,
                if n == 2 {
                    RW - LeafFlags::READ
                } else {
                    RW | USED
                },
                n as u8,
            );
        }
        let swap = SwapEntry {
            area: 1,
            slot: 99,
            soft_dirty: false,
        };
        let table = world
            .leaf_or_create(&world.phys, VirtAddr::new(from + 4 * page), || true)
            .unwrap()
            .unwrap();
        let last = from + 3 * page;
        let table = if table.covers().contains(VirtAddr::new(last)) {
            table
        } else {
            world.leaf(&world.phys, VirtAddr::new(last)).unwrap()
        };
        let leaf = table.peek(F::index(0, last));
        assert_eq!(
            (world.byte(from), world.byte(from + page)),
            (Some(0), Some(1))
        );
        let free = world.phys.free_frames();
        let mut batch = world.batch();
        let (start, there) = (range(from, 4 * page), VirtAddr::new(to));
        batch.reserve_move(&world, start, there).unwrap();
        batch.move_range(&world, start, there);
        batch.finish();
        assert_eq!(
            [0, 1, 3].map(|n| world.byte(to + n * page)),
            [Some(0), Some(1), Some(3)]
        );
        assert_eq!(
            (0..4)
                .map(|n| world.byte(from + n * page))
                .collect::<Vec<_>>(),
            [None; 4]
        );
        assert_eq!(
            world.leaf_flags(to + 2 * page),
            (RW - LeafFlags::READ) | LeafFlags::SOFT_DIRTY
        );
        let Entry::Present(moved) = world.entry(to + 3 * page) else {
            panic!()
        };
        assert_eq!(
            leaf,
            Entry::Present(Leaf {
                flags: moved.flags - LeafFlags::SOFT_DIRTY,
                ..moved
            })
        );
        let tables = free - world.phys.free_frames();
        // And back, which needs no table, with an entry that is not present.
        let there = world.leaf(&world.phys, VirtAddr::new(to)).unwrap();
        let mut batch = world.batch();
        batch.clear_range(&world, range(to, page), |_, _| {});
        there.lock().set(F::index(0, to), Entry::Swap(swap));
        world.phys.inject().arm(1);
        batch.move_range(&world, range(to, 4 * page), VirtAddr::new(from));
        world.phys.inject().disarm();
        batch.finish();
        assert_eq!(
            world.entry(from),
            Entry::Swap(SwapEntry {
                soft_dirty: true,
                ..swap
            })
        );
        assert_eq!(
            (world.byte(from + page), world.byte(to + page)),
            (Some(1), None)
        );
        assert_eq!(world.phys.free_frames(), free - tables + 1);
    }
}

fn a_failed_reserve_moves_nothing<F: Format>() {
    let (page, span) = (page_bytes::<F>(), table_span::<F>());
    let world = World::<F>::new();
    world.map(span - page, RW | USED, 1);
    world.map(span, RW | USED, 2);
    let from = range(span - page, 2 * page);
    let far = VirtAddr::new((1 << (F::USER_BITS - 1)) + span - page);
    let mut nth = 0;
    loop {
        nth += 1;
        world.phys.inject().arm(nth);
        let result = world.batch().reserve_move(&world, from, far);
        if !world.phys.inject().disarm() {
            assert!(result.is_ok() && nth > 1);
            break;
        }
        assert!(result.is_err());
        world.unmap(range(far.get(), 2 * page));
    }
    assert_eq!(
        (world.byte(span - page), world.byte(span)),
        (Some(1), Some(2))
    );
    assert_eq!(world.byte(far.get()), None);
    let mut batch = world.batch();
    batch.move_range(&world, from, far);
    batch.finish();
    assert_eq!((world.byte(span - page), world.byte(span)), (None, None));
    assert_eq!(
        (world.byte(far.get()), world.byte(far.get() + page)),
        (Some(1), Some(2))
    );
}

fn fork_copies<F: Format>() {
    for sharing in [Sharing::CopyOnWrite, Sharing::Shared] {
        let world = World::<F>::new();
        let child = PageTable::new(&world.phys).unwrap();
        let page = page_bytes::<F>();
        world.map(0, RW | USED, 1);
        world.map(2 * page, (RW - LeafFlags::WRITE) | USED, 2);
        let marker = Entry::Marker(Marker::Guard);
        let from = world.leaf(&world.phys, VirtAddr::new(0)).unwrap();
        from.lock().set(3, marker);
        let into = child
            .leaf_or_create(&world.phys, VirtAddr::new(0), || true)
            .unwrap()
            .unwrap();
        let mut frames = 0;
        let tightened =
            from.lock()
                .copy_to(&mut into.lock(), range(0, 4 * page), sharing, |leaf| {
                    // SAFETY: the parent's entry has a reference, and is locked.
                    unsafe { world.phys.get_raw(leaf.frame) };
                    frames += 1;
                });
        assert_eq!(frames, 2);
        let private = sharing == Sharing::CopyOnWrite;
        assert_eq!(tightened, private.then_some(range(0, page)));
        assert_eq!(world.leaf_flags(0).contains(LeafFlags::WRITE), !private);
        assert_eq!(
            world.leaf_flags(0) - LeafFlags::WRITE,
            LeafFlags::READ | LeafFlags::USER | USED
        );
        let flags = |index| match into.peek(index) {
            Entry::Present(leaf) => leaf.flags,
            other => panic!("{other:?}"),
        };
        let kept = if private {
            LeafFlags::DIRTY
        } else {
            LeafFlags::WRITE
        };
        assert_eq!(flags(0), LeafFlags::READ | LeafFlags::USER | kept);
        assert_eq!(
            flags(2) & !LeafFlags::DIRTY,
            LeafFlags::READ | LeafFlags::USER
        );
        assert_eq!((into.peek(1), into.peek(3)), (Entry::Absent, marker));
        let mut batch = world.batch();
        batch.clear_range(&child, all::<F>(), |_, _| {});
        batch.free_tables(&child, all::<F>(), all::<F>());
        batch.finish();
    }
}

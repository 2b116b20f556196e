//! The flush batch over every format: what it takes away, what it flushes, when it gives back.

use std::thread;

use super::world::*;
use crate::addr::{Pfn, VirtAddr, VirtRange};
use crate::paging::*;
use crate::platform::CpuId;

every_format!(
    frames_go_back_only_after_the_flush,
    only_what_is_wanted_goes,
    full_batches_flush_early,
    nothing_present_nothing_flushed,
    tables_are_freed_within_the_hull,
    no_heap_no_harm,
    protection_reaches_the_cpus,
);

fn frames_go_back_only_after_the_flush<F: Format>() {
    let world = World::<F>::new();
    let page = page_bytes::<F>();
    world.map(0, RW | USED, 1);
    world.map(page, RW | USED | LeafFlags::SPECIAL, 2);
    let special = match world.entry(page) {
        Entry::Present(leaf) => leaf.frame,
        _ => panic!(),
    };
    assert_eq!((world.byte(0), world.byte(page)), (Some(1), Some(2)));
    let free = world.phys.free_frames();
    let mut seen = Vec::new();
    let mut batch = world.batch();
    batch.clear_range(&world, range(0, 10 * page), |at, leaf| {
        seen.push((at.get(), leaf.flags))
    });
    assert_eq!(
        seen,
        [(0, RW | USED), (page, RW | USED | LeafFlags::SPECIAL)]
    );
    assert_eq!(world.entry(0), Entry::Absent);
    assert_eq!(
        world.byte(0),
        Some(1),
        "a stale translation, legal before the flush"
    );
    assert_eq!(world.phys.free_frames(), free);
    batch.finish();
    assert_eq!((world.byte(0), world.byte(page)), (None, None));
    assert_eq!(
        world.phys.free_frames(),
        free + 1,
        "the special page was nobody's"
    );
    // SAFETY: the reference that `map` gave out, which a special entry does not own.
    drop(unsafe { world.phys.from_raw(special) });
}

fn only_what_is_wanted_goes<F: Format>() {
    let world = World::<F>::new();
    let page = page_bytes::<F>();
    let frames: Vec<Pfn> = (0..4)
        .map(|n| world.map(n * page, RW | USED, n as u8))
        .collect();
    let guard = Entry::Marker(Marker::Guard);
    let table = world.leaf(&world.phys, VirtAddr::new(0)).unwrap();
    table.lock().set(4, guard);
    let free = world.phys.free_frames();
    let mut batch = world.batch();
    let odd = |leaf: &Leaf| leaf.frame == frames[1] || leaf.frame == frames[3];
    batch.clear_range_where(&world, range(0, 10 * page), odd, |at, _| {
        assert_eq!(at.get() / page % 2, 1);
    });
    batch.finish();
    let seen: Vec<_> = (0..4).map(|n| world.byte(n * page)).collect();
    assert_eq!(seen, [Some(0), None, Some(2), None]);
    assert_eq!(
        (world.entry(4 * page), world.phys.free_frames()),
        (guard, free + 2)
    );
}

fn full_batches_flush_early<F: Format>() {
    let world = World::<F>::new();
    let page = page_bytes::<F>();
    let free = world.phys.free_frames();
    for n in 0..100 {
        world.map(n * page, RW | USED, 1);
    }
    let tables = free - 100 - world.phys.free_frames();
    // The heap is exhausted twice: the batch clears as many as it has room for, and flushes.
    world.phys.inject().arm(1);
    let mut batch = world.batch();
    let mut count = 0;
    batch.clear_range(&world, range(0, 100 * page), |_, _| {
        count += 1;
        if count == 1 {
            assert!(world.phys.inject().disarm());
            world.phys.inject().arm(1);
        }
    });
    batch.finish();
    assert!(world.phys.inject().disarm());
    assert_eq!(count, 100);
    assert_eq!(
        world.phys.platform().tlb_counts().flushes,
        2 * 2,
        "two flushes on two CPUs"
    );
    assert_eq!(world.phys.free_frames(), free - tables);
}

fn nothing_present_nothing_flushed<F: Format>() {
    let world = World::<F>::new();
    let page = page_bytes::<F>();
    world.map(5 * page, RW - LeafFlags::READ, 1);
    let flushes = || world.phys.platform().tlb_counts().flushes;
    let mut batch = world.batch();
    batch.clear_range(&world, range(0, 5 * page), |_, _| {
        panic!("nothing is there")
    });
    batch.clear_range(&world, range(5 * page, page), |_, leaf| {
        assert_eq!(leaf.flags, RW - LeafFlags::READ)
    });
    batch.finish();
    assert_eq!(flushes(), 0, "no TLB can know an entry that is not valid");
    world.map(0, RW, 1);
    world.cpus.remove(CpuId(1));
    let mut batch = world.batch();
    batch.clear_range(&world, range(0, page), |_, _| {});
    drop(batch);
    assert_eq!(flushes(), 1, "only the CPU that runs on the space");
}

fn tables_are_freed_within_the_hull<F: Format>() {
    let world = World::<F>::new();
    let (page, span) = (page_bytes::<F>(), table_span::<F>());
    let shared = F::LEVELS.min(4) as u64 - 2;
    for n in 0..3 {
        world.map(n * span, RW | USED, n as u8);
    }
    assert_eq!(world.tables(), shared + 3);
    let free = |bounds, unmapped: VirtRange| {
        let mut batch = world.batch();
        batch.clear_range(&world, unmapped, |_, _| {});
        batch.free_tables(&world, bounds, unmapped);
        batch.finish();
        world.tables()
    };
    let middle = range(span, page);
    assert_eq!(
        free(range(span, span - page), middle),
        shared + 3,
        "a neighbour lies in the same table"
    );
    assert_eq!(
        free(range(span + page, 2 * span), range(span + page, page)),
        shared + 3,
        "the bounds start too late"
    );
    assert_eq!(free(range(span, span), middle), shared + 2);
    assert!(world.leaf(&world.phys, VirtAddr::new(span)).is_none());
    assert_eq!(world.byte(2 * span), Some(2));
    assert_eq!(
        free(range(span, 1 << F::level_shift(2)), range(2 * span, page)),
        shared + 1,
        "upper tables stay"
    );
    assert_eq!(free(all::<F>(), range(0, page)), 0, "all the way up");
}

fn no_heap_no_harm<F: Format>() {
    let span = table_span::<F>();
    for nth in 1..40 {
        let world = World::<F>::new();
        let free = world.phys.free_frames();
        for n in 0..70 {
            world.map(n * span, RW | USED, 1);
        }
        world.phys.inject().arm(nth);
        world.unmap(all::<F>());
        let fired = world.phys.inject().disarm();
        world.domain.synchronize(|_| thread::yield_now());
        assert_eq!((world.tables(), world.phys.free_frames()), (0, free));
        if !fired {
            assert!(nth > 3, "two allocations for frames and tables at least");
            return;
        }
    }
    panic!("so many allocations to unmap 70 pages");
}

fn protection_reaches_the_cpus<F: Format>() {
    let world = World::<F>::new();
    let at = VirtAddr::new(3 * page_bytes::<F>());
    world.map(at.get(), RW | USED, 1);
    let flushes = || world.phys.platform().tlb_counts().flushes;
    let store = || world.cpu(1).store(world.space(), at, &[2]);
    store().unwrap();
    let change = |change: fn(LeafFlags) -> LeafFlags| {
        let mut batch = world.batch();
        batch.change_range(&world, all::<F>(), |_, leaf| {
            let flags = change(leaf.flags);
            Some(Entry::Present(Leaf { flags, ..leaf }))
        });
        batch.finish();
    };
    change(|flags| flags | LeafFlags::EXEC | LeafFlags::SOFT_DIRTY);
    assert_eq!(flushes(), 0, "more is allowed than before");
    assert!(world.cpu(0).fetch(world.space(), at).is_ok());
    change(|flags| flags - LeafFlags::WRITE);
    assert_eq!(flushes(), 2);
    let fault = store().unwrap_err();
    assert!(fault.present && fault.addr == at && fault.access == Access::Write);
    change(|flags| flags - LeafFlags::READ);
    assert!(!store().unwrap_err().present);
    assert_eq!(world.byte(at.get()), None);
    change(|flags| flags | LeafFlags::READ | LeafFlags::WRITE);
    store().unwrap();
    change(|flags| flags - LeafFlags::DIRTY);
    assert!(!world.leaf_flags(at.get()).contains(LeafFlags::DIRTY));
    let again = store();
    assert_eq!(again.is_ok(), F::HARDWARE_DIRTY, "by hardware, or by fault");
    assert_eq!(
        world.leaf_flags(at.get()).contains(LeafFlags::DIRTY),
        F::HARDWARE_DIRTY
    );
}

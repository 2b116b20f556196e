//! What happens at the same time, over every format: walkers that write, descents, and faults against sweeps.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::world::*;
use crate::addr::VirtAddr;
use crate::paging::*;
use crate::phys::FrameKind;
use crate::platform::CpuId;

every_format!(
    what_the_walker_writes_is_not_lost,
    a_change_sees_what_the_walker_wrote_last,
    a_sweep_waits_for_who_links_a_table,
    replaced_pages_are_never_both_seen,
    a_replaced_page_is_flushed_at_once,
    faults_against_unmapping,
    descents_hold_back_freed_tables,
);

/// One CPU stores all the time while the other side cleans the entry and takes its write permission away and gives it back. A store that went
/// through must be followed by a dirty entry, once the cleaning is over.
fn what_the_walker_writes_is_not_lost<F: Format>() {
    if !F::HARDWARE_DIRTY {
        return;
    }
    let world = World::<F>::new();
    let at = VirtAddr::new(0);
    world.map(0, RW, 0);
    let (rounds, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let stores = scope.spawn(|| {
            let mut stores = 0u64;
            while !stop.load(Ordering::Relaxed) {
                stores += world.cpu(1).store(world.space(), at, &[1]).is_ok() as u64;
                rounds.fetch_add(1, Ordering::Relaxed);
            }
            stores
        });
        let mut dirty = 0u64;
        for _ in 0..2000 {
            let mut batch = world.batch();
            batch.change_range(&world, range(0, page_bytes::<F>()), |_, leaf| {
                let flags = leaf.flags - USED - LeafFlags::WRITE;
                Some(Entry::Present(Leaf { flags, ..leaf }))
            });
            batch.finish();
            assert!(
                !world.leaf_flags(0).contains(LeafFlags::DIRTY),
                "no store goes through now"
            );
            world
                .leaf(&world.phys, at)
                .unwrap()
                .lock()
                .raise(0, LeafFlags::WRITE);
            if world.cpu(0).store(world.space(), at, &[2]).is_ok() {
                dirty += 1;
            }
            assert!(world.leaf_flags(0).contains(USED), "a store went through");
        }
        assert_eq!(dirty, 2000);
        stop.store(true, Ordering::Relaxed);
        stores.join().unwrap();
    });
}

fn a_change_sees_what_the_walker_wrote_last<F: Format>() {
    if !F::HARDWARE_DIRTY {
        return;
    }
    let world = World::<F>::new();
    world.map(0, RW, 0);
    let mut asked = 0;
    let mut batch = world.batch();
    batch.change_range(&world, range(0, page_bytes::<F>()), |at, leaf| {
        asked += 1;
        world.cpu(1).store(world.space(), at, &[1]).unwrap();
        let flags = leaf.flags | LeafFlags::SOFT_DIRTY;
        Some(Entry::Present(Leaf { flags, ..leaf }))
    });
    batch.finish();
    assert_eq!(
        (asked, world.leaf_flags(0)),
        (2, RW | USED | LeafFlags::SOFT_DIRTY)
    );
}

/// A table is being linked while its mapping is found attached: a sweep must not pass by before it can be seen.
fn a_sweep_waits_for_who_links_a_table<F: Format>() {
    let world = World::<F>::new();
    for level in (1..F::LEVELS).rev() {
        let (linking, swept) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !linking.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                let found = Cursor::new(&world, &world.phys, all::<F>()).count();
                swept.store(true, Ordering::Release);
                assert_eq!(
                    found == 1,
                    level == 1,
                    "the table is whole once the last level is linked"
                );
            });
            let asked = AtomicU64::new(0);
            let attached = || {
                if asked.fetch_add(1, Ordering::Relaxed) != 0 {
                    return false;
                }
                linking.store(true, Ordering::Release);
                for _ in 0..100 {
                    thread::yield_now();
                    assert!(!swept.load(Ordering::Acquire), "the sweep went past");
                }
                true
            };
            let linked = world.leaf_or_create(&world.phys, VirtAddr::new(0), attached);
            assert_eq!(linked.unwrap().is_some(), level == 1);
        });
    }
}

/// One CPU loads a word twice from a page that is being replaced by a newer copy, again and again: it must never see it go back.
fn replaced_pages_are_never_both_seen<F: Format>() {
    let world = World::<F>::new();
    world.map(0, RW | USED, 0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for id in 0..2 {
            let (world, stop) = (&world, &stop);
            scope.spawn(move || {
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut byte = [0];
                    if world
                        .cpu(id)
                        .load(world.space(), VirtAddr::new(0), &mut byte)
                        .is_ok()
                    {
                        assert!(byte[0] >= last, "an older page after a newer one");
                        last = byte[0];
                    }
                }
            });
        }
        for turn in 1..=200u8 {
            let page = world.phys.alloc(FrameKind::Anon).unwrap();
            page.fill(0, 8, turn);
            let leaf = Leaf {
                frame: page.into_raw(),
                flags: RW | USED,
                cache: CacheMode::WriteBack,
            };
            let mut batch = world.batch();
            batch.replace(
                &mut world.leaf(&world.phys, VirtAddr::new(0)).unwrap().lock(),
                0,
                Entry::Present(leaf),
            );
            batch.finish();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn a_replaced_page_is_flushed_at_once<F: Format>() {
    let world = World::<F>::new();
    let old = world.map(0, RW | USED, 1);
    assert_eq!(world.byte(0), Some(1));
    let free = world.phys.free_frames();
    let page = world.phys.alloc_zeroed(FrameKind::Anon).unwrap();
    let leaf = Leaf {
        frame: page.into_raw(),
        flags: RW | USED,
        cache: CacheMode::WriteBack,
    };
    let table = world.leaf(&world.phys, VirtAddr::new(0)).unwrap();
    let mut batch = world.batch();
    batch.replace(&mut table.lock(), 0, Entry::Present(leaf));
    assert_eq!(
        world.byte(0),
        Some(0),
        "no translation of the old page is left"
    );
    assert_ne!(leaf.frame, old);
    batch.finish();
    assert_eq!(world.phys.free_frames(), free);
}

/// Two threads fault pages in where a third maps and unmaps, tables and all: nothing is installed after an unmapping is over, no CPU
/// reaches what was freed, and every frame comes back.
fn faults_against_unmapping<F: Format>() {
    let world = World::<F>::new();
    let (page, span) = (page_bytes::<F>(), table_span::<F>());
    let area = range(span - 2 * page, 4 * page);
    // Odd while a mapping stands, and another number for each: what is detached never comes back.
    let (mapping, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let faults = AtomicU64::new(0);
    let fault = |at: VirtAddr| {
        let new = world.phys.alloc(FrameKind::Anon).unwrap();
        let _guard = world.domain.pin(CpuId(0));
        let seen = mapping.load(Ordering::Acquire);
        if seen.is_multiple_of(2) {
            return;
        }
        let is_attached = || mapping.load(Ordering::Acquire) == seen;
        let Some(table) = world.leaf_or_create(&world.phys, at, is_attached).unwrap() else {
            return;
        };
        let mut locked = table.lock();
        let leaf = Leaf {
            frame: new.pfn(),
            flags: RW | USED,
            cache: CacheMode::WriteBack,
        };
        if is_attached()
            && locked.compare_set(F::index(0, at.get()), Entry::Absent, Entry::Present(leaf))
        {
            new.into_raw();
            faults.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for id in 0..2u16 {
            let (world, fault, stop) = (&world, &fault, &stop);
            scope.spawn(move || {
                let mut n = id as u64;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let at = VirtAddr::new(area.start().get() + n % 4 * page);
                    if world.cpu(id).store(world.space(), at, &[id as u8]).is_err() {
                        fault(at);
                    }
                }
            });
        }
        for turn in 0..150 {
            mapping.fetch_add(1, Ordering::Release);
            if turn % 3 == 0 {
                thread::yield_now();
            }
            mapping.fetch_add(1, Ordering::Release);
            world.unmap(area);
            for n in 0..4 {
                assert_eq!(
                    world.entry(area.start().get() + n * page),
                    Entry::Absent,
                    "turn {turn}"
                );
            }
            assert_eq!(world.phys.platform().cached_pages(ASID), 0);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn descents_hold_back_freed_tables<F: Format>() {
    let world = World::<F>::new();
    let at = VirtAddr::new(table_span::<F>());
    world.map(at.get(), RW | USED, 1);
    let guard = world.domain.pin(CpuId(0));
    let table = world.leaf(&world.phys, at).unwrap();
    assert_eq!(world.byte(at.get()), Some(1));
    let free = world.phys.free_frames();
    world.unmap(all::<F>());
    assert_eq!(
        world.phys.free_frames(),
        free + 1,
        "the page, not the tables"
    );
    assert_eq!(table.peek(0), Entry::Absent);
    assert_eq!(world.tables(), 0);
    drop(guard);
    world.domain.synchronize(|_| thread::yield_now());
    assert_eq!(world.phys.free_frames(), free + F::LEVELS as u64);
}

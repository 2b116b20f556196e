//! Trees of every format on the in-memory machine: what walkers see, what goes back, and when.

use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::collections::BTreeSet;
use std::thread;

use crate::addr::{Pfn, VirtAddr, VirtRange};
use crate::epoch::Domain;
use crate::paging::*;
use crate::phys::{FrameKind, PhysOwner};
use crate::platform::{Asid, CpuId};
use crate::sim::{Cpu, Sim, Space};

every_format!(
    walkers_and_lookups_agree,
    refused_tables_leave_nothing,
    failed_tables_leave_nothing,
    entry_zero_keeps_its_lock,
    cursor_finds_what_is_there,
    frames_go_back_only_after_the_flush,
    only_what_is_wanted_goes,
    full_batches_flush_early,
    nothing_present_nothing_flushed,
    tables_are_freed_within_the_hull,
    descents_hold_back_freed_tables,
    no_heap_no_harm,
    protection_reaches_the_cpus,
    what_the_walker_writes_is_not_lost,
    entries_move,
    a_failed_reserve_moves_nothing,
    fork_copies,
    replaced_pages_are_never_both_seen,
    faults_against_unmapping,
);

const ASID: Asid = Asid(7);
const RW: LeafFlags = LeafFlags::READ
    .union(LeafFlags::WRITE)
    .union(LeafFlags::USER);
const USED: LeafFlags = LeafFlags::ACCESSED.union(LeafFlags::DIRTY);

/// A machine of two CPUs with one space. When it goes, every frame must be back.
struct World<F: Format> {
    table: Option<PageTable<Sim<F>>>,
    cpus: ActiveCpus,
    domain: Domain,
    free: u64,
    phys: PhysOwner<Sim<F>>,
}

impl<F: Format> World<F> {
    fn new() -> Self {
        let phys = PhysOwner::new(Sim::<F>::new(128 << 20, 2)).unwrap();
        let free = phys.free_frames();
        let table = PageTable::new(&phys).unwrap();
        let cpus = ActiveCpus::new();
        cpus.insert(CpuId(0));
        cpus.insert(CpuId(1));
        Self {
            table: Some(table),
            cpus,
            domain: Domain::new(2).unwrap(),
            free,
            phys,
        }
    }

    fn space(&self) -> Space {
        Space {
            root: self.root(),
            asid: ASID,
        }
    }

    fn cpu(&self, id: u16) -> Cpu<'_, F> {
        Cpu::new(&self.phys, CpuId(id))
    }

    fn batch(&self) -> FlushBatch<'_, Sim<F>> {
        FlushBatch::new(&self.phys, &self.domain, ASID, &self.cpus)
    }

    /// Maps a new page of this byte.
    fn map(&self, addr: u64, flags: LeafFlags, byte: u8) -> Pfn {
        let page = self.phys.alloc(FrameKind::Anon).unwrap();
        page.fill(0, page_bytes::<F>() as usize, byte);
        let frame = page.into_raw();
        let leaf = Leaf {
            frame,
            flags,
            cache: CacheMode::WriteBack,
        };
        let table = self
            .leaf_or_create(&self.phys, VirtAddr::new(addr), || true)
            .unwrap()
            .unwrap();
        table.lock().set(F::index(0, addr), Entry::Present(leaf));
        frame
    }

    fn byte(&self, addr: u64) -> Option<u8> {
        let mut byte = [0];
        self.cpu(0)
            .load(self.space(), VirtAddr::new(addr), &mut byte)
            .ok()?;
        Some(byte[0])
    }

    fn entry(&self, addr: u64) -> Entry {
        self.lookup(VirtAddr::new(addr)).1
    }

    fn leaf_flags(&self, addr: u64) -> LeafFlags {
        match self.entry(addr) {
            Entry::Present(leaf) => leaf.flags,
            other => panic!("no page at {addr:#x}: {other:?}"),
        }
    }

    /// Unmaps a range in which no mapping stays, and its tables.
    fn unmap(&self, at: VirtRange) {
        let mut batch = self.batch();
        batch.clear_range(self, at, |_, _| {});
        batch.free_tables(self, all::<F>(), at);
        batch.finish();
    }

    fn tables(&self) -> u64 {
        self.table_bytes() / page_bytes::<F>()
    }
}

impl<F: Format> Deref for World<F> {
    type Target = PageTable<Sim<F>>;
    fn deref(&self) -> &PageTable<Sim<F>> {
        self.table.as_ref().unwrap()
    }
}

impl<F: Format> Drop for World<F> {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        self.unmap(all::<F>());
        assert_eq!(self.table_bytes(), 0);
        self.table = None;
        self.domain.synchronize(|_| thread::yield_now());
        assert_eq!(self.phys.free_frames(), self.free, "every frame is back");
        assert_eq!(
            self.phys.platform().tlb_counts().stale,
            0,
            "no CPU used what was freed"
        );
    }
}

fn page_bytes<F: Format>() -> u64 {
    F::GRANULE.bytes()
}

/// What a level-0 table covers, in bytes.
fn table_span<F: Format>() -> u64 {
    1 << F::level_shift(1)
}

fn range(start: u64, bytes: u64) -> VirtRange {
    VirtRange::with_len(VirtAddr::new(start), bytes).unwrap()
}

fn all<F: Format>() -> VirtRange {
    range(0, 1 << F::USER_BITS)
}

/// Addresses that share tables at every level with some and none with others.
fn spread<F: Format>() -> Vec<u64> {
    let mut addrs = vec![
        0,
        page_bytes::<F>(),
        (1 << F::USER_BITS) - page_bytes::<F>(),
    ];
    addrs.extend((1..F::LEVELS).map(|level| 1 << F::level_shift(level)));
    addrs.extend((1..F::LEVELS).map(|level| (1 << F::level_shift(level)) - page_bytes::<F>()));
    addrs.sort_unstable();
    addrs.dedup();
    addrs
}

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

/// Two threads fault pages in where a third maps and unmaps, tables and all: nothing is installed after an unmapping is over, no CPU
/// reaches what was freed, and every frame comes back.
fn faults_against_unmapping<F: Format>() {
    let world = World::<F>::new();
    let (page, span) = (page_bytes::<F>(), table_span::<F>());
    let area = range(span - 2 * page, 4 * page);
    let (attached, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let faults = AtomicU64::new(0);
    let fault = |at: VirtAddr| {
        let new = world.phys.alloc(FrameKind::Anon).unwrap();
        let is_attached = || attached.load(Ordering::Acquire);
        let _guard = world.domain.pin(CpuId(0));
        if !is_attached() {
            return;
        }
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
            attached.store(true, Ordering::Release);
            if turn % 3 == 0 {
                thread::yield_now();
            }
            attached.store(false, Ordering::Release);
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

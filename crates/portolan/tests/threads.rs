//! Threads on one space: software CPUs, whose TLBs forget nothing by themselves, load and store while others change what is mapped. Each test
//! says what must hold whatever the schedule; `PORTOLAN_LONG=1` runs them much longer.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::*;
use portolan::addr::VirtAddr;
use portolan::machine::{Machine, Settings};
use portolan::object::{Cache, Commit, FileMode};
use portolan::paging::{Aarch64, Aarch64Soft, Access, Format, Granule4K, X86_64};
use portolan::platform::CpuId;
use portolan::sim::{Cpu, PageFault, Sim, Space, Width};
use portolan::space::{FaultError, Map, MapRequest, MmUser, Prot};

macro_rules! over_three_formats {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            use super::*;
            #[test]
            fn x86_64() { generic::$test::<X86_64>(); }
            #[test]
            fn aarch64() { generic::$test::<Aarch64<Granule4K>>(); }
            #[test]
            fn aarch64_soft() { generic::$test::<Aarch64Soft<Granule4K>>(); }
        })*
    };
}

over_three_formats!(
    own_pages_keep_what_is_stored,
    a_snapshot_has_what_came_before_what_it_has,
    a_page_that_moves_is_one_page,
    truncation_leaves_nothing_behind,
    a_child_has_no_page_that_was_truncated_away,
    everything_at_once,
);

const RW: Prot = Prot::READ.union(Prot::WRITE);
const MADV_DONTNEED: u32 = 4;
const MADV_FREE: u32 = 8;
const MADV_DONTFORK: u32 = 10;
const MADV_DOFORK: u32 = 11;
const MS_SYNC: u32 = 4;
/// MAYMOVE and FIXED.
const MOVE: u32 = 3;

/// How many turns of a loop, `PORTOLAN_LONG` considered.
fn turns(short: u64) -> u64 {
    match std::env::var_os("PORTOLAN_LONG") {
        Some(_) => short * 50,
        None => short,
    }
}

/// What a call answers here depends on the schedule; what it must not do shows at the end.
fn ignore<T>(_: T) {}

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ word >> 31) % end
    }
}

/// A program thread: a CPU that runs on a space.
struct Runner<'a, F: Format> {
    mm: &'a MmUser<Sim<F>>,
    cpu: Cpu<'a, F>,
}

impl<'a, F: Format> Runner<'a, F> {
    fn new(mm: &'a MmUser<Sim<F>>, cpu: u16) -> Self {
        Sim::<F>::set_cpu(CpuId(cpu));
        mm.activate(CpuId(cpu));
        Self {
            mm,
            cpu: Cpu::new(mm.machine().phys(), CpuId(cpu)),
        }
    }

    /// An access as a program makes it; `None` for a signal.
    fn access<T>(&self, mut access: impl FnMut(Space) -> Result<T, PageFault>) -> Option<T> {
        let space = Space {
            root: self.mm.root(),
            asid: self.mm.asid(),
        };
        let serve = |fault: PageFault| match self.mm.handle_fault(fault.addr, fault.access) {
            Ok(_) => Ok(()),
            Err(FaultError::Signal(_)) => Err(()),
            Err(FaultError::OutOfMemory) => panic!("out of memory"),
        };
        self.cpu.retry(|_| access(space), serve).ok()
    }

    fn load(&self, at: VirtAddr) -> Option<u64> {
        self.access(|space| self.cpu.load_number(space, at, Width::Double))
    }

    fn store(&self, at: VirtAddr, value: u64) -> Option<()> {
        self.access(|space| self.cpu.store_number(space, at, Width::Double, value))
    }
}

/// A machine with four CPUs.
fn world<F: Format>() -> World<F> {
    World::with_machine(Machine::new(Sim::new(MEMORY, 4), Settings::default()).expect("a machine"))
}

/// What every test ends with.
fn finish<F: Format>(world: World<F>, mm: MmUser<Sim<F>>) {
    mm.check().expect("a sound space");
    drop(mm);
    assert_eq!(
        world.machine.platform().tlb_counts().stale,
        0,
        "an access reached a frame that had been freed"
    );
    assert_eq!(world.machine.committed_pages(), 0);
    world.finish();
}

/// Sets a flag when it goes, so that the others stop when one panics.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

mod generic {
    use super::*;

    /// Two threads count, each in pages of its own; two others fork, split, merge, write back and make frames come and go around them.
    pub fn own_pages_keep_what_is_stored<F: Format>() {
        let world = world::<F>();
        let mm = world.space();
        let file = world.file(&vec![0; 4 * page::<F>() as usize]);
        let base = anonymous(&mm, 16);
        let shared = mm
            .mmap(&MapRequest::file(
                file.clone(),
                4 * page::<F>(),
                RW,
                Map::SHARED,
            ))
            .unwrap();
        let stop = AtomicBool::new(false);
        let counter = |cpu: u16, pages: [VirtAddr; 3]| {
            let _stop = StopOnDrop(&stop);
            let runner = Runner::new(&mm, cpu);
            for n in 0..turns(4000) {
                for at in pages {
                    assert_eq!(runner.load(at), Some(n), "a store to {at:?} was lost");
                    runner.store(at, n + 1).expect("always writable");
                }
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| counter(0, [plus::<F>(base, 1), plus::<F>(base, 8), shared]));
            scope.spawn(|| {
                counter(
                    1,
                    [
                        plus::<F>(base, 2),
                        plus::<F>(base, 15),
                        plus::<F>(shared, 2),
                    ],
                )
            });
            scope.spawn(|| disturb(&mm, 2, base, shared, &stop));
            scope.spawn(|| make_frames_come_and_go(&mm, 3, &stop));
        });
        let mut bytes = [0; 8];
        mm.msync(shared, 4 * page::<F>(), MS_SYNC).unwrap();
        file.cache().unwrap().read(0, &mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), turns(4000));
        assert_eq!(file.cache().unwrap().dirty_pages(), 0);
        drop(file);
        finish(world, mm);
    }

    fn disturb<F: Format>(
        mm: &MmUser<Sim<F>>,
        cpu: u16,
        base: VirtAddr,
        shared: VirtAddr,
        stop: &AtomicBool,
    ) {
        Sim::<F>::set_cpu(CpuId(cpu));
        let mut random = Random(cpu as u64);
        let mut child = None;
        while !stop.load(Ordering::SeqCst) {
            let first = random.below(16);
            let (at, len) = (
                plus::<F>(base, first),
                (1 + random.below(16 - first)) * page::<F>(),
            );
            match random.below(9) {
                0 | 1 => child = Some(mm.fork().unwrap()),
                2 => child = None,
                3 => mm.mprotect(at, len, (RW | Prot::EXEC).bits()).unwrap(),
                4 => mm.mprotect(at, len, RW.bits()).unwrap(),
                5 => mm.madvise(at, len, MADV_FREE).unwrap(),
                6 => mm.madvise(at, len, MADV_DONTFORK).unwrap(),
                7 => mm.madvise(at, len, MADV_DOFORK).unwrap(),
                _ => mm.msync(shared, 4 * page::<F>(), MS_SYNC).unwrap(),
            }
        }
        drop(child);
    }

    /// Frames that others lost by mistake would be written to here.
    fn make_frames_come_and_go<F: Format>(mm: &MmUser<Sim<F>>, cpu: u16, stop: &AtomicBool) {
        let runner = Runner::new(mm, cpu);
        while !stop.load(Ordering::SeqCst) {
            let at = anonymous(mm, 8);
            for n in 0..8 {
                assert_eq!(
                    runner.load(plus::<F>(at, n)),
                    Some(0),
                    "fresh memory is zeros"
                );
                runner.store(plus::<F>(at, n), u64::MAX).unwrap();
            }
            mm.madvise(at, 4 * page::<F>(), MADV_DONTNEED).unwrap();
            assert_eq!(runner.load(at), Some(0));
            assert_eq!(runner.load(plus::<F>(at, 4)), Some(u64::MAX));
            mm.munmap(at, 8 * page::<F>()).unwrap();
        }
    }

    /// One thread stores a number to one page, then to another. Who sees the second store, another thread or a forked child, sees the first.
    pub fn a_snapshot_has_what_came_before_what_it_has<F: Format>() {
        let world = world::<F>();
        let mm = world.space();
        let far = 600;
        let base = anonymous(&mm, far + 1);
        // The first and the second store of a number, in both orders of address, and in other page-table pages.
        let pairs = [(0, 1), (3, 2), (4, far), (far - 1, 5)]
            .map(|(a, b)| (plus::<F>(base, a), plus::<F>(base, b)));
        let stop = AtomicBool::new(false);
        let stored = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let runner = Runner::new(&mm, 0);
                while !stop.load(Ordering::SeqCst) {
                    let n = stored.load(Ordering::SeqCst) + 1;
                    for (first, second) in pairs {
                        runner.store(first, n).unwrap();
                        runner.store(second, n).unwrap();
                    }
                    stored.store(n, Ordering::SeqCst);
                }
            });
            scope.spawn(|| {
                let _stop = StopOnDrop(&stop);
                let runner = Runner::new(&mm, 1);
                while !stop.load(Ordering::SeqCst) {
                    for (first, second) in pairs {
                        let after = runner.load(second).unwrap();
                        let before = runner.load(first).unwrap();
                        assert!(before >= after, "a thread saw {after} before {before}");
                    }
                }
            });
            scope.spawn(|| {
                let _stop = StopOnDrop(&stop);
                Sim::<F>::set_cpu(CpuId(2));
                for _ in 0..turns(300) {
                    let known = stored.load(Ordering::SeqCst);
                    let child = mm.fork().unwrap();
                    let runner = Runner::new(&child, 2);
                    for (first, second) in pairs {
                        let before = runner.load(first).unwrap();
                        let after = runner.load(second).unwrap();
                        assert!(
                            before >= after && before <= after + 1,
                            "a child has {after} and {before}"
                        );
                        assert!(
                            after >= known,
                            "a child lacks what was stored before the fork"
                        );
                        assert_eq!(
                            runner.load(first),
                            Some(before),
                            "a parent's store reached the child"
                        );
                        runner.store(second, u64::MAX).unwrap();
                    }
                }
            });
        });
        finish(world, mm);
    }

    /// A page wanders between two places; whoever reaches it at either sees one page.
    pub fn a_page_that_moves_is_one_page<F: Format>() {
        let world = world::<F>();
        let mm = world.space();
        let base = anonymous(&mm, 2000);
        let places = [plus::<F>(base, 10), plus::<F>(base, 1500)];
        mm.munmap(base, 2000 * page::<F>()).unwrap();
        mm.mmap(&MapRequest::anonymous(page::<F>(), RW).fixed(places[0]))
            .unwrap();
        let stop = AtomicBool::new(false);
        let wander = |cpu: u16| {
            let runner = Runner::new(&mm, cpu);
            let at = if cpu == 0 { 0 } else { 8 };
            let mut last = 0;
            while !stop.load(Ordering::SeqCst) {
                for place in places {
                    let word = VirtAddr::new(place.get() + at);
                    if let Some(value) = runner.load(word) {
                        assert_eq!(value, last, "a store was lost on the way");
                    }
                    if runner.store(word, last + 1).is_some() {
                        last += 1;
                    }
                }
            }
            last
        };
        thread::scope(|scope| {
            let wanderers = [0, 1].map(|cpu| scope.spawn(move || wander(cpu)));
            scope.spawn(|| {
                let _stop = StopOnDrop(&stop);
                Sim::<F>::set_cpu(CpuId(2));
                for n in 0..turns(3000) as usize {
                    let (from, to) = (places[n % 2], places[(n + 1) % 2]);
                    assert_eq!(mm.mremap(from, page::<F>(), page::<F>(), MOVE, to), Ok(to));
                }
            });
            scope.spawn(|| make_frames_come_and_go(&mm, 3, &stop));
            for wanderer in wanderers {
                wanderer.join().expect("no lost store");
            }
        });
        finish(world, mm);
    }

    /// A file grows and shrinks under shared and private mappings: after it has shrunk, nothing of what was beyond is seen again.
    pub fn truncation_leaves_nothing_behind<F: Format>() {
        let world = world::<F>();
        let mm = world.space();
        let files = [
            world
                .file(&vec![0; 8 * page::<F>() as usize])
                .cache()
                .unwrap()
                .clone(),
            Cache::anonymous_shared(&world.machine, 8 * page::<F>(), Commit::Unreserved).unwrap(),
        ];
        let stop = AtomicBool::new(false);
        let mapped = files.clone().map(|cache| {
            let file = world.open(cache, FileMode::READ | FileMode::WRITE);
            let map = |how| {
                mm.mmap(&MapRequest::file(file.clone(), 8 * page::<F>(), RW, how))
                    .unwrap()
            };
            [map(Map::SHARED), map(Map::PRIVATE)]
        });
        thread::scope(|scope| {
            for cpu in 0..2 {
                let (mm, stop) = (&mm, &stop);
                scope.spawn(move || {
                    let runner = Runner::new(mm, cpu);
                    let mut random = Random(77 + cpu as u64);
                    while !stop.load(Ordering::SeqCst) {
                        let at = plus::<F>(
                            mapped[random.below(2) as usize][random.below(2) as usize],
                            random.below(8),
                        );
                        match random.below(2) {
                            0 => drop(runner.load(at)),
                            _ => drop(runner.store(at, 1)),
                        }
                    }
                });
            }
            scope.spawn(|| make_frames_come_and_go(&mm, 3, &stop));
            scope.spawn(|| {
                let _stop = StopOnDrop(&stop);
                Sim::<F>::set_cpu(CpuId(2));
                for n in 0..turns(400) {
                    let cache = &files[n as usize % 2];
                    cache.truncate(0).unwrap();
                    assert_eq!(cache.cached_pages(), 0);
                    cache.truncate(8 * page::<F>()).unwrap();
                }
            });
        });
        for cache in &files {
            cache.truncate(0).unwrap();
            cache.truncate(8 * page::<F>()).unwrap();
        }
        for at in mapped.into_iter().flatten() {
            (0..8).for_each(|n| assert_eq!(peek(&mm, plus::<F>(at, n)), 0));
        }
        drop(files);
        finish(world, mm);
    }

    /// A fork and a truncation at the same time: private copies go from the child as well, whichever of the two the truncation comes to first.
    pub fn a_child_has_no_page_that_was_truncated_away<F: Format>() {
        let world = world::<F>();
        let mm = world.space();
        let pages = 64;
        let file = world.file(&vec![1; (pages * page::<F>()) as usize]);
        let cache = file.cache().unwrap();
        let map = || {
            mm.mmap(&MapRequest::file(
                file.clone(),
                pages * page::<F>(),
                RW,
                Map::PRIVATE,
            ))
        };
        let (first, at) = (map().unwrap(), map().unwrap());
        mm.munmap(first, pages * page::<F>()).unwrap();
        for _ in 0..turns(200) {
            cache.truncate(pages * page::<F>()).unwrap();
            (0..pages).for_each(|n| poke(&mm, plus::<F>(at, n), 2));
            let child = thread::scope(|scope| {
                let child = scope.spawn(|| mm.fork().unwrap());
                cache.truncate(0).unwrap();
                child.join().expect("a fork")
            });
            for space in [&mm, &child] {
                assert_eq!(
                    space.rss().total(),
                    0,
                    "a page past the end is still mapped"
                );
                assert_eq!(signal_code(space, at, Access::Read), Some(2));
            }
        }
        drop(file);
        finish(world, mm);
    }

    /// Every call at once, over one arena: whatever it does, no frame is used after it was freed, and all come back.
    pub fn everything_at_once<F: Format>() {
        let world = world::<F>();
        let mm = world.space();
        let file = world.file(&vec![7; 16 * page::<F>() as usize]);
        let arena = anonymous(&mm, 1200);
        thread::scope(|scope| {
            for cpu in 0..4 {
                let (mm, file) = (&mm, &file);
                scope.spawn(move || {
                    let runner = Runner::new(mm, cpu);
                    let mut random = Random(1000 + cpu as u64);
                    for _ in 0..turns(6000) {
                        step(&runner, &mut random, arena, file);
                    }
                });
            }
        });
        drop(file);
        finish(world, mm);
    }

    fn step<F: Format>(
        runner: &Runner<'_, F>,
        random: &mut Random,
        arena: VirtAddr,
        file: &std::sync::Arc<portolan::object::File<Sim<F>>>,
    ) {
        let mm = runner.mm;
        // Around the border of two page-table pages, and far from it.
        let mut place = || {
            plus::<F>(
                arena,
                if random.below(2) == 0 {
                    random.below(20)
                } else {
                    1000 + random.below(20)
                },
            )
        };
        let (at, to) = (place(), place());
        let pages = 1 + random.below(6);
        let len = pages * page::<F>();
        match random.below(26) {
            0 => ignore(mm.mmap(&MapRequest::anonymous(len, RW).fixed(at))),
            1 => {
                let how = if random.below(2) == 0 {
                    Map::SHARED
                } else {
                    Map::PRIVATE
                };
                let request = MapRequest::file(file.clone(), len, RW, how)
                    .offset(random.below(12) * page::<F>());
                ignore(mm.mmap(&request.fixed(at)));
            }
            2 | 3 => ignore(mm.munmap(at, len)),
            4 => ignore(mm.mprotect(at, len, [0, 1, 3, 7][random.below(4) as usize])),
            5 | 6 => ignore(mm.mremap(at, len, len, MOVE, to)),
            7 => ignore(mm.mremap(at, len, len, MOVE | 4, to)),
            8 => ignore(mm.mremap(at, len, (1 + random.below(6)) * page::<F>(), 0, to)),
            9 => ignore(mm.madvise(at, len, MADV_DONTNEED)),
            10 => ignore(mm.madvise(at, len, MADV_FREE)),
            11 if random.below(4) == 0 => {
                let child = mm.fork().expect("memory is plenty");
                let _ = child.copy_to_user(at, &[9; 100]);
            }
            12 if random.below(4) == 0 => file
                .cache()
                .unwrap()
                .truncate(random.below(17) * page::<F>())
                .unwrap(),
            13 => ignore(mm.msync(at, len, MS_SYNC)),
            14 => ignore(mm.madvise(at, len, 23)),
            15..20 => (0..pages).for_each(|n| ignore(runner.load(plus::<F>(at, n)))),
            _ => (0..pages).for_each(|n| ignore(runner.store(plus::<F>(at, n), 5))),
        }
    }
}

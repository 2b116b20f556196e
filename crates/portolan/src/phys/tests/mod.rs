//! Tests of frames as a whole, on a platform of a few megabytes of heap. What one file does alone is tested there.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::addr::PhysAddr;

mod ram;
use ram::{CPU, CPUS, Ram};

type Ram4K = Ram<12>;

/// A machine with a hole in it, neither end on a block boundary.
const HOLED: [(u64, u64); 3] = [(5, 300), (300, 1100), (1500, 2600)];

fn holed() -> PhysOwner<Ram4K> {
    PhysOwner::new(Ram::new(&HOLED)).unwrap()
}

fn small(frames: u64) -> PhysOwner<Ram4K> {
    PhysOwner::new(Ram::new(&[(1024, 1024 + frames)])).unwrap()
}

/// xorshift64*: the same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// Every frame is back, and merged as it was.
fn assert_all_back<const SHIFT: u32>(phys: &Phys<Ram<SHIFT>>, blocks: [u64; ORDERS]) {
    assert_eq!(phys.free_frames(), phys.total_frames() - 1);
    phys.drain();
    assert_eq!(phys.free_frames(), phys.total_frames() - 1);
    assert_eq!(phys.free_blocks(), blocks);
}

#[test]
fn sizes() {
    assert_eq!(size_of::<Page>(), 32);
    assert_eq!(size_of::<PageRef<Ram4K>>(), 16);
    assert_eq!(size_of::<Option<PageRef<Ram4K>>>(), 16);
    assert_eq!(size_of::<Padded<List>>() % 128, 0);
    assert_eq!(size_of::<Padded<List>>(), 512);
}

#[test]
fn memory_that_cannot_be() {
    let range = |start, end| PhysRange::new(PhysAddr::new(start), PhysAddr::new(end)).unwrap();
    let refused = |ranges| {
        PhysOwner::new(Ram4K {
            ranges,
            buffers: Vec::new(),
            gone: Arc::default(),
        })
        .unwrap_err()
    };
    assert_eq!(refused(vec![]), Errno::ENOMEM);
    assert_eq!(refused(vec![range(0x1000, 0x1000)]), Errno::ENOMEM);
    assert_eq!(refused(vec![range(0x1000, 0x1800)]), Errno::EINVAL);
    assert_eq!(refused(vec![range(0x1800, 0x3000)]), Errno::EINVAL);
    assert_eq!(
        refused(vec![range(0x1000, 0x3000), range(0x2000, 0x4000)]),
        Errno::EINVAL
    );
    assert_eq!(
        refused(vec![range(0x4000, 0x5000), range(0x1000, 0x2000)]),
        Errno::EINVAL
    );
    assert_eq!(refused(vec![range(0, 1 << 44)]), Errno::EINVAL);
    assert_eq!(
        refused(vec![
            range(0, 0x1000),
            range(u64::MAX - 0xfff, u64::MAX - 0xfff)
        ]),
        Errno::EINVAL
    );
}

#[test]
fn holes_are_never_handed_out() {
    let phys = holed();
    let blocks = phys.free_blocks();
    assert_eq!(phys.total_frames(), 295 + 800 + 1100);
    let all: Vec<_> = std::iter::from_fn(|| phys.alloc(FrameKind::Anon).ok()).collect();
    let mut seen: BTreeSet<u64> = all.iter().map(|frame| frame.pfn().get()).collect();
    assert!(
        seen.insert(phys.zero_page().get()),
        "the zero page was handed out"
    );
    let memory: BTreeSet<u64> = HOLED.iter().flat_map(|&(first, end)| first..end).collect();
    assert_eq!(seen, memory);
    assert_eq!(
        phys.page(Pfn::new(1200)).unwrap().kind(),
        FrameKind::Reserved
    );
    for pfn in [0, 4, 1100, 1499, 2600, u64::MAX] {
        assert!(phys.get(Pfn::new(pfn)).is_none());
    }
    assert!(phys.page(Pfn::new(2600)).is_none());
    assert!(phys.page(Pfn::new(u64::MAX)).is_none());
    assert_eq!(phys.free_frames(), 0);
    drop(all);
    assert_all_back(&phys, blocks);
}

#[test]
fn every_granule() {
    fn check<const SHIFT: u32>() {
        let phys = PhysOwner::new(Ram::<SHIFT>::new(&[(3, 40)])).unwrap();
        let size = 1usize << SHIFT;
        let frame = phys.alloc_zeroed(FrameKind::Anon).unwrap();
        let mut bytes = vec![1; size];
        frame.read(0, &mut bytes);
        assert_eq!(bytes, vec![0; size]);
        frame.fill(size - 1, 1, 7);
        let copy = frame.duplicate(FrameKind::Cache).unwrap();
        copy.read(0, &mut bytes);
        assert_eq!((bytes[size - 1], bytes[size - 2]), (7, 0));
        assert!(catch_unwind(AssertUnwindSafe(|| frame.write(size, &[0]))).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| frame.fill(usize::MAX, 2, 0))).is_err());
        frame.write(size, &[]);
        let zero = phys.ptr(phys.zero_page());
        // SAFETY: the zero page is a frame, and nobody writes it.
        let zeros = unsafe { std::slice::from_raw_parts(zero, size) };
        assert!(zeros.iter().all(|&byte| byte == 0));
        drop((frame, copy));
        assert_eq!(phys.free_frames(), 36);
    }
    check::<12>();
    check::<14>();
    check::<16>();
}

#[test]
fn references_count() {
    let phys = small(64);
    let blocks = phys.free_blocks();
    let frame = phys.alloc(FrameKind::Cache).unwrap();
    assert!(frame.is_exclusive() && frame.kind() == FrameKind::Cache);
    let pfn = frame.pfn();
    let other = frame.clone();
    assert_eq!((frame.count(), other == frame), (2, true));
    let found = phys.get(pfn).unwrap();
    assert_eq!(found.into_raw(), pfn);
    assert_eq!(frame.count(), 3);
    // SAFETY: the reference that `found` was.
    let found = unsafe { phys.from_raw(pfn) };
    // SAFETY: `frame` is a reference.
    unsafe { phys.get_raw(pfn) };
    assert_eq!(frame.count(), 4);
    drop((other, found));
    frame.into_raw();
    // SAFETY: the two references that are left: of `get_raw` and `into_raw`.
    unsafe { phys.put_many(&[pfn, pfn]) };
    assert!(phys.get(pfn).is_none());
    assert_eq!(phys.page(pfn).unwrap().kind(), FrameKind::Free);
    assert_all_back(&phys, blocks);
}

#[test]
fn owners_words_start_at_zero() {
    let phys = small(8);
    for _ in 0..2 {
        let frame = phys.alloc(FrameKind::Anon).unwrap();
        let page = frame.page();
        assert_eq!(page.private().swap(7, Ordering::Relaxed), 0);
        assert_eq!(page.index().swap(8, Ordering::Relaxed), 0);
        assert_eq!(
            page.set_flags(PageFlags::DIRTY | PageFlags::LOCKED),
            PageFlags::empty()
        );
        assert_eq!(
            page.clear_flags(PageFlags::LOCKED),
            PageFlags::DIRTY | PageFlags::LOCKED
        );
        assert_eq!(
            (page.flags(), page.kind(), page.order()),
            (PageFlags::DIRTY, FrameKind::Anon, 0)
        );
    }
}

#[test]
fn too_many_references_leak_instead_of_wrapping() {
    let phys = small(8);
    let frame = phys.alloc(FrameKind::Anon).unwrap();
    let pfn = frame.pfn();
    frame.page().set_refs(i32::MAX as u32);
    let one = frame.clone();
    let two = frame.clone();
    assert!(frame.count() > i32::MAX as u32);
    drop((one, two, phys.get(pfn).unwrap(), frame));
    let page = phys.page(pfn).unwrap();
    assert!(page.refs() > i32::MAX as u32);
    assert_eq!(phys.free_frames(), phys.total_frames() - 2);
    // Put right, so that the machine can go.
    page.set_refs(1);
    // SAFETY: all references were dropped, and one was put there.
    drop(unsafe { phys.from_raw(pfn) });
}

#[test]
fn a_reference_too_few_is_noticed() {
    let phys = small(8);
    let frame = phys.alloc(FrameKind::Anon).unwrap();
    let page = frame.page();
    page.set_refs(0);
    let put = catch_unwind(AssertUnwindSafe(|| page.put()));
    assert_eq!(put.is_err(), cfg!(debug_assertions));
    assert!(
        page.refs() > i32::MAX as u32,
        "the frame must never be freed again"
    );
    page.set_refs(0);
    let get = catch_unwind(AssertUnwindSafe(|| page.get()));
    assert_eq!(get.is_err(), cfg!(debug_assertions));
    page.set_refs(1);
}

#[test]
fn running_out_is_an_error_and_uses_every_list() {
    let phys = small(200);
    let blocks = phys.free_blocks();
    for cpu in 0..CPUS as u16 {
        CPU.set(cpu);
        drop(phys.alloc(FrameKind::Anon).unwrap());
    }
    assert_eq!(phys.free_frames(), 199);
    assert_eq!(
        phys.free_blocks()
            .iter()
            .enumerate()
            .map(|(order, n)| n << order)
            .sum::<u64>(),
        199 - 4 * 32
    );
    // A number beyond the last CPU is only a hint.
    CPU.set(1000);
    let all: Vec<_> = std::iter::from_fn(|| phys.alloc(FrameKind::Anon).ok()).collect();
    assert_eq!(all.len(), 199);
    assert_eq!(phys.alloc(FrameKind::Anon).unwrap_err(), OutOfMemory);
    assert_eq!(
        phys.alloc_order(1, FrameKind::Anon).unwrap_err(),
        OutOfMemory
    );
    let mut slots = [const { None }; 3];
    assert_eq!(phys.alloc_many(FrameKind::Anon, &mut slots), 0);
    drop(all);
    assert_eq!(phys.alloc_many(FrameKind::Anon, &mut slots), 3);
    drop(slots);
    CPU.set(0);
    assert_all_back(&phys, blocks);
}

#[test]
fn a_large_block_is_found_behind_the_lists() {
    let phys = small(2048);
    CPU.set(2);
    // Fills the list of this CPU with one frame of each half of memory at least.
    let all: Vec<_> = std::iter::from_fn(|| phys.alloc(FrameKind::Anon).ok()).collect();
    drop(all);
    CPU.set(0);
    let block = phys.alloc_order(MAX_ORDER, FrameKind::Kernel).unwrap();
    assert_eq!(block.pfn().get() % 1024, 0);
}

#[test]
fn neighbours_come_in_a_row() {
    let phys = small(1024);
    let frames: Vec<_> = (0..64)
        .map(|_| phys.alloc(FrameKind::Anon).unwrap())
        .collect();
    for batch in frames[31..].chunks(BATCH) {
        let steps: Vec<_> = batch
            .windows(2)
            .map(|pair| pair[1].pfn().get() - pair[0].pfn().get())
            .collect();
        assert!(steps.iter().all(|&step| step == 1), "{steps:?}");
    }
}

#[test]
fn blocks_of_every_order() {
    let phys = holed();
    let blocks = phys.free_blocks();
    assert!(
        phys.alloc_order(11, FrameKind::Kernel).is_err()
            && phys.alloc_order(255, FrameKind::Kernel).is_err()
    );
    for order in 0..=if cfg!(miri) { 3 } else { 9 } {
        let block = phys.alloc_order_zeroed(order, FrameKind::Kernel).unwrap();
        assert_eq!(
            (block.order(), block.pfn().get() % (1 << order)),
            (order, 0)
        );
        assert_eq!(block.bytes(), 4096 << order);
        assert_eq!(phys.free_frames(), phys.total_frames() - 1 - (1 << order));
        let last = Pfn::new(block.pfn().get() + (1 << order) - 1);
        assert_eq!(phys.page(last).unwrap().kind(), FrameKind::Kernel);
        assert_eq!(phys.get(last).is_some(), order == 0);
        let mut bytes = vec![1; block.bytes()];
        block.read(0, &mut bytes);
        assert!(bytes.iter().all(|&byte| byte == 0));
        assert!(catch_unwind(AssertUnwindSafe(|| block.read(1, &mut bytes))).is_err());
        let pfn = block.into_raw();
        // SAFETY: given out just above.
        drop(unsafe { phys.block_from_raw(pfn) });
        assert_all_back(&phys, blocks);
    }
}

#[test]
fn a_reference_to_the_head_keeps_the_block() {
    let phys = small(64);
    let blocks = phys.free_blocks();
    let block = phys.alloc_order(4, FrameKind::Kernel).unwrap();
    let head = phys.get(block.pfn()).unwrap();
    drop(block);
    assert_eq!(phys.free_frames(), 63 - 16);
    drop(head);
    assert_all_back(&phys, blocks);
}

#[test]
fn blocks_split_into_references() {
    let phys = small(64);
    let blocks = phys.free_blocks();
    let block = phys.alloc_order(3, FrameKind::Kernel).unwrap();
    // Across a boundary of frames.
    block.write(4090, b"twelve bytes");
    block.fill(2 * 4096 - 3, 6, 9);
    let mut bytes = [0; 12];
    block.read(4090, &mut bytes);
    assert_eq!(&bytes, b"twelve bytes");
    let mut frames = block.split();
    let first = frames.next().unwrap();
    let second = frames.next().unwrap();
    assert_eq!(
        (first.pfn().get() + 1, frames.len()),
        (second.pfn().get(), 6)
    );
    second.read(0, &mut bytes[..6]);
    assert_eq!(&bytes[..6], b" bytes");
    drop(first);
    drop(frames);
    assert_eq!(
        (second.count(), second.kind(), phys.free_frames()),
        (1, FrameKind::Kernel, 62)
    );
    drop(second);
    assert_all_back(&phys, blocks);
}

#[test]
fn bytes_at_any_offset() {
    let phys = small(8);
    let (frame, other) = (
        phys.alloc_zeroed(FrameKind::Anon).unwrap(),
        phys.alloc(FrameKind::Anon).unwrap(),
    );
    let mut model = vec![0u8; 4096];
    let mut random = Random(0x0ff5_e750);
    for _ in 0..if cfg!(miri) { 60 } else { 3000 } {
        let offset = random.below(4097) as usize;
        let len = random.below((4096 - offset).min(600) as u64 + 1) as usize;
        let value = random.below(256) as u8;
        if random.below(2) == 0 {
            let from: Vec<u8> = (0..len).map(|n| value.wrapping_add(n as u8)).collect();
            frame.write(offset, &from);
            model[offset..offset + len].copy_from_slice(&from);
        } else {
            frame.fill(offset, len, value);
            model[offset..offset + len].fill(value);
        }
        let offset = random.below(4097) as usize;
        let mut out = vec![0; (4096 - offset).min(random.below(700) as usize)];
        frame.read(offset, &mut out);
        assert_eq!(out, model[offset..offset + out.len()]);
    }
    other.copy_from(&frame);
    frame.copy_from(&frame);
    let mut out = vec![0; 4096];
    other.read(0, &mut out);
    assert_eq!(out, model);
}

#[test]
fn injected_failures_change_nothing() {
    let phys = small(256);
    let blocks = phys.free_blocks();
    for nth in 1..=12 {
        phys.inject().arm(nth);
        let work = || -> Result<(), OutOfMemory> {
            let frame = phys.alloc(FrameKind::Anon)?;
            let _copy = frame.duplicate(FrameKind::Anon)?;
            let _zeroed = phys.alloc_zeroed(FrameKind::Table)?;
            let _block = phys.alloc_order(3, FrameKind::Kernel)?;
            let mut slots = [const { None }; 4];
            slots[1] = Some(frame);
            if phys.alloc_many(FrameKind::Anon, &mut slots) < 4 {
                return Err(OutOfMemory);
            }
            heap::try_box(phys.inject(), 1)?;
            heap::try_arc(phys.inject(), 2)?;
            Ok(())
        };
        let failed = work().is_err();
        assert_eq!(failed, phys.inject().disarm());
        assert_eq!(failed, nth <= 9);
        assert_all_back(&phys, blocks);
    }
}

/// All that is free, merged as far as can be, from what is out: (first frame, order).
fn expected_blocks(out: &BTreeSet<u64>) -> [u64; ORDERS] {
    let free = |pfn: u64| {
        HOLED
            .iter()
            .any(|&(first, end)| (first..end).contains(&pfn))
            && !out.contains(&pfn)
    };
    let mut counts = [0; ORDERS];
    let mut pfn = 0;
    while pfn < 2600 {
        let fits = |order: &u8| pfn % (1 << order) == 0 && (pfn..pfn + (1 << order)).all(free);
        match (0..=MAX_ORDER).rev().find(fits) {
            Some(order) => {
                counts[order as usize] += 1;
                pfn += 1 << order;
            }
            None => pfn += 1,
        }
    }
    counts
}

#[test]
fn random_blocks_against_a_model() {
    for seed in [1, 0xdead_beef, 0x5eed_0000_0001] {
        let phys = holed();
        let mut random = Random(seed);
        let mut held: Vec<Block<Ram4K>> = Vec::new();
        let mut out = BTreeSet::from([phys.zero_page().get()]);
        for step in 0..if cfg!(miri) { 30 } else { 1500 } {
            let frames =
                |block: &Block<Ram4K>| block.pfn().get()..block.pfn().get() + (1 << block.order());
            if random.below(100) < 55 || held.is_empty() {
                let order = random.below(11).min(random.below(11)) as u8;
                match phys.alloc_order(order, FrameKind::Kernel) {
                    Ok(block) => {
                        assert_eq!(block.pfn().get() % (1 << order), 0);
                        assert!(
                            frames(&block).all(|pfn| out.insert(pfn)),
                            "seed {seed:#x} step {step}: handed out twice"
                        );
                        held.push(block);
                    }
                    Err(OutOfMemory) => {
                        phys.drain();
                        let larger: u64 = expected_blocks(&out)[order as usize..].iter().sum();
                        assert_eq!(
                            larger, 0,
                            "seed {seed:#x} step {step}: a block of order {order} was free"
                        );
                    }
                }
            } else {
                let block = held.swap_remove(random.below(held.len() as u64) as usize);
                frames(&block).for_each(|pfn| assert!(out.remove(&pfn)));
                if random.below(3) == 0 {
                    block.split().for_each(drop);
                } else {
                    drop(block);
                }
            }
            assert_eq!(
                phys.free_frames(),
                phys.total_frames() - out.len() as u64,
                "seed {seed:#x} step {step}"
            );
            if step % 16 == 0 {
                phys.drain();
                assert_eq!(
                    phys.free_blocks(),
                    expected_blocks(&out),
                    "seed {seed:#x} step {step}"
                );
            }
        }
        held.clear();
        assert_all_back(
            &phys,
            expected_blocks(&BTreeSet::from([phys.zero_page().get()])),
        );
    }
}

#[test]
fn many_frames_come_and_go_at_once() {
    let phys = holed();
    let blocks = phys.free_blocks();
    let mut random = Random(0xba7c4);
    for _ in 0..if cfg!(miri) { 4 } else { 200 } {
        let mut slots: Vec<Option<PageRef<Ram4K>>> = (0..random.below(500)).map(|_| None).collect();
        assert_eq!(phys.alloc_many(FrameKind::Anon, &mut slots), slots.len());
        let mut frames: Vec<Pfn> = slots.into_iter().flatten().map(PageRef::into_raw).collect();
        assert_eq!(
            frames
                .iter()
                .map(|pfn| pfn.get())
                .collect::<BTreeSet<_>>()
                .len(),
            frames.len()
        );
        match random.below(3) {
            0 => frames.reverse(),
            1 => frames.sort_by_key(|pfn| pfn.get().wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            _ => {}
        }
        // SAFETY: the references that `into_raw` gave out.
        unsafe { phys.put_many(&frames) };
        assert_eq!(phys.free_frames(), phys.total_frames() - 1);
    }
    let block = phys.alloc_order(2, FrameKind::Kernel).unwrap().into_raw();
    // SAFETY: the reference that the block was.
    unsafe { phys.put_many(&[block]) };
    assert_all_back(&phys, blocks);
}

#[test]
fn threads_on_few_cpus_lose_no_frame() {
    let phys = holed();
    let blocks = phys.free_blocks();
    let rounds = if cfg!(miri) { 20 } else { 4000 };
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let phys = &phys;
            scope.spawn(move || {
                // Two threads share a CPU number.
                CPU.set(thread as u16 % 3);
                let mut random = Random(thread + 1);
                let mut held: Vec<PageRef<Ram4K>> = Vec::new();
                for round in 0..rounds {
                    match random.below(8) {
                        0..4 => held.extend(phys.alloc(FrameKind::Anon)),
                        4 => held.extend(
                            phys.alloc_order(random.below(6) as u8, FrameKind::Kernel)
                                .into_iter()
                                .flat_map(Block::split),
                        ),
                        5 if round % 64 == 0 => phys.drain(),
                        5 => held.truncate(held.len() / 2),
                        _ => drop(held.pop()),
                    }
                    if let Some(frame) = held.last() {
                        frame.write(8, &thread.to_ne_bytes());
                        let mut back = [0; 8];
                        frame.read(8, &mut back);
                        assert_eq!(
                            u64::from_ne_bytes(back),
                            thread,
                            "two threads were given the same frame"
                        );
                    }
                }
            });
        }
    });
    assert_all_back(&phys, blocks);
}

#[test]
fn lookups_race_with_the_last_put() {
    let phys = small(8);
    let blocks = phys.free_blocks();
    let done = AtomicBool::new(false);
    let found = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            CPU.set(1);
            while !done.load(Ordering::Relaxed) {
                for pfn in 1024..1032 {
                    if pfn != phys.zero_page().get()
                        && let Some(frame) = phys.get(Pfn::new(pfn))
                    {
                        assert!(frame.count() >= 1);
                        found.fetch_add(1, Ordering::Relaxed);
                    }
                }
                std::thread::yield_now();
            }
        });
        for _ in 0..if cfg!(miri) { 50 } else { 20_000 } {
            let frame = phys.alloc(FrameKind::Cache).unwrap();
            drop(frame.clone());
        }
        let frame = phys.alloc(FrameKind::Cache).unwrap();
        let before = found.load(Ordering::Relaxed);
        while found.load(Ordering::Relaxed) == before {
            std::thread::yield_now();
        }
        drop(frame);
        done.store(true, Ordering::Relaxed);
    });
    assert_all_back(&phys, blocks);
}

#[test]
fn the_machine_goes_when_all_frames_are_back() {
    let platform = Ram4K::new(&[(0, 64)]);
    let gone = platform.gone.clone();
    let phys = PhysOwner::new(platform).unwrap();
    drop(phys.alloc(FrameKind::Anon).unwrap());
    drop(phys.alloc_order(3, FrameKind::Anon).unwrap());
    drop(phys);
    assert!(gone.load(Ordering::Relaxed));
}

#[test]
fn a_reference_may_outlive_the_machine() {
    let platform = Ram4K::new(&[(0, 64)]);
    let gone = platform.gone.clone();
    let phys = PhysOwner::new(platform).unwrap();
    let frame = phys.alloc_zeroed(FrameKind::Anon).unwrap();
    let whole = phys.0;
    drop(phys);
    assert!(!gone.load(Ordering::Relaxed));
    frame.write(0, b"still here");
    let mut bytes = [0; 10];
    frame.clone().read(0, &mut bytes);
    assert_eq!(&bytes, b"still here");
    drop(frame);
    assert!(!gone.load(Ordering::Relaxed));
    // The leak is deliberate; taking it up again keeps the leak checkers quiet.
    // SAFETY: it was leaked, since a frame was out when the owner was dropped.
    drop(PhysOwner(whole));
    assert!(gone.load(Ordering::Relaxed));
}

#[test]
fn a_reference_to_the_zero_page_keeps_the_machine_too() {
    let platform = Ram4K::new(&[(0, 64)]);
    let gone = platform.gone.clone();
    let phys = PhysOwner::new(platform).unwrap();
    let whole = phys.0;
    let zero = phys.get(phys.zero_page()).unwrap();
    drop(phys);
    assert!(!gone.load(Ordering::Relaxed) && zero.kind() == FrameKind::Zero);
    drop(zero);
    // SAFETY: it was leaked, since a reference was out when the owner was dropped.
    drop(PhysOwner(whole));
    assert!(gone.load(Ordering::Relaxed));
}

#[test]
fn words_are_atomics() {
    let phys = small(8);
    let frame = phys.alloc_zeroed(FrameKind::Anon).unwrap();
    assert_eq!(
        frame.with_u32(4092, |word| word.fetch_add(0x0102_0304, Ordering::SeqCst)),
        0
    );
    let mut bytes = [0; 4];
    frame.read(4092, &mut bytes);
    assert_eq!(u32::from_ne_bytes(bytes), 0x0102_0304);
    for offset in [4096, 4094, 2, usize::MAX - 3] {
        assert!(catch_unwind(AssertUnwindSafe(|| frame.with_u32(offset, |_| ()))).is_err());
    }
}

#[test]
fn the_last_put_may_race_with_the_end_of_the_machine() {
    for _ in 0..if cfg!(miri) { 10 } else { 300 } {
        let platform = Ram4K::new(&[(0, 64)]);
        let gone = platform.gone.clone();
        let phys = PhysOwner::new(platform).unwrap();
        let frame = phys.alloc(FrameKind::Anon).unwrap();
        let block = phys.alloc_order(2, FrameKind::Anon).unwrap();
        let whole = phys.0.as_ptr().expose_provenance();
        let other = std::thread::spawn(move || {
            drop(block);
            drop(frame);
        });
        drop(phys);
        other.join().unwrap();
        if !gone.load(Ordering::Relaxed) {
            // SAFETY: it was leaked, since a frame was out when the owner was dropped.
            drop(PhysOwner(
                NonNull::new(std::ptr::with_exposed_provenance_mut::<Phys<Ram4K>>(whole)).unwrap(),
            ));
            assert!(gone.load(Ordering::Relaxed));
        }
    }
}

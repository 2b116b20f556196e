//! Several threads on one object: no page twice, no store lost, no stale page, no frame left over.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use super::platform::{Disk, Ram, Random, Space, TestMachine};
use crate::errno::Errno;
use crate::object::{Backing, Cache, MappingKind};

const PAGES: u64 = 24;

fn with_file(frames: u64) -> (TestMachine<12>, Arc<Disk>, Arc<Cache<Ram<12>>>) {
    let machine = TestMachine::<12>::new(frames);
    let bytes: Vec<u8> = (0..PAGES as usize * 4096)
        .map(|at| (at >> 12) as u8)
        .collect();
    let disk = Disk::new::<12>(bytes);
    let cache = Cache::new(&machine.machine, disk.clone(), PAGES * 4096).unwrap();
    (machine, disk, cache)
}

#[test]
fn all_who_look_for_a_page_get_the_same() {
    let (machine, _, cache) = with_file(512);
    cache.set_read_ahead(4 * 4096);
    for round in 0..50 {
        let pfns: Vec<Vec<_>> = std::thread::scope(|threads| {
            let look = |seed: u64| {
                let cache = &cache;
                threads.spawn(move || {
                    let mut pages: Vec<_> = (0..PAGES).map(|n| (n * 7 + seed) % PAGES).collect();
                    pages.sort_by_key(|n| n ^ seed);
                    let mut held: Vec<_> = pages
                        .into_iter()
                        .map(|at| (at, cache.page(at).unwrap()))
                        .collect();
                    held.sort_by_key(|&(at, _)| at);
                    for (at, page) in &held {
                        let mut byte = [0];
                        page.read(4095, &mut byte);
                        assert_eq!(u64::from(byte[0]), *at);
                    }
                    held
                })
            };
            let threads: Vec<_> = (0..4).map(|n| look(n + round)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(pfns.iter().all(|held| *held == pfns[0]));
        drop(pfns);
        assert_eq!(cache.reclaim(1000), PAGES);
    }
    drop(cache);
    machine.assert_all_back();
}

#[test]
fn no_store_through_a_mapping_is_lost() {
    let (machine, disk, cache) = with_file(512);
    let (space, id) = Space::map(&cache, PAGES, MappingKind::SharedWritable);
    let done = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    let last: Vec<Vec<u32>> = std::thread::scope(|threads| {
        let storing = |n: u64| {
            let (cache, space, rounds) = (&cache, &space, &rounds);
            threads.spawn(move || {
                let mut random = Random(n + 1);
                let mut last = vec![0u32; PAGES as usize];
                let mut value = 0u32;
                while value < 6000 || rounds.load(Ordering::Relaxed) < 50 {
                    value += 1;
                    let page = random.below(PAGES);
                    let offset = page * 4096 + 64 * (n + 1);
                    assert!(space.store(cache, offset, &value.to_le_bytes()));
                    last[page as usize] = value;
                }
                last
            })
        };
        let meddling = threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                cache.writeback(0..PAGES / 2).unwrap();
                cache.invalidate(PAGES * 4096).unwrap();
                cache.reclaim(5);
                cache.writeback(0..u64::MAX).unwrap();
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let storing: Vec<_> = (0..2).map(storing).collect();
        let last = storing
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        done.store(true, Ordering::Relaxed);
        meddling.join().unwrap();
        last
    });
    cache.sync().unwrap();
    let bytes = disk.contents();
    for (n, last) in last.iter().enumerate() {
        for (page, value) in last.iter().enumerate().filter(|(_, value)| **value != 0) {
            let at = page * 4096 + 64 * (n + 1);
            assert_eq!(
                bytes[at..at + 4],
                value.to_le_bytes(),
                "thread {n} page {page}"
            );
        }
    }
    cache.remove_mapping(id);
    drop((cache, space));
    machine.assert_all_back();
}

#[test]
fn truncation_leaves_no_entry_and_no_frame_behind() {
    let (machine, _, cache) = with_file(512);
    let (space, id) = Space::map(&cache, PAGES, MappingKind::SharedWritable);
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let using = |n: u64| {
            let (cache, space, done) = (&cache, &space, &done);
            threads.spawn(move || {
                let mut random = Random(n + 1);
                let mut to = vec![0; 9000];
                while !done.load(Ordering::Relaxed) {
                    space.store(cache, random.below(PAGES * 4096), &[1]);
                    space.load(cache, random.below(PAGES * 4096));
                    cache.read(random.below(PAGES * 4096), &mut to).unwrap();
                    if n == 0 {
                        cache.write(random.below((PAGES - 3) * 4096), &to).unwrap();
                        cache.writeback(0..u64::MAX).unwrap();
                    }
                }
            })
        };
        let threads: Vec<_> = (0..2).map(using).collect();
        let mut random = Random(9);
        for _ in 0..400 {
            cache.truncate(random.below(PAGES * 4096)).unwrap();
            cache.punch_hole(random.below(PAGES)..PAGES).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
    // Whatever is still mapped is the page that is cached.
    for (&index, entry) in space.entries.lock().unwrap().iter() {
        assert!(
            cache.lookup(index).as_ref() == Some(&entry.page),
            "page {index} is mapped but not cached"
        );
    }
    cache.truncate(0).unwrap();
    assert!(space.entries.lock().unwrap().is_empty());
    assert_eq!(cache.cached_pages(), 0);
    machine.assert_all_back();
    cache.remove_mapping(id);
}

/// A backing that has read, and waits until it may say what.
struct Slow {
    reading: Barrier,
    answer: Barrier,
}

impl Backing for Slow {
    fn read_page(&self, _: u64, page: &mut [u8]) -> Result<(), Errno> {
        page.fill(1);
        self.reading.wait();
        self.answer.wait();
        Ok(())
    }

    fn write_page(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Ok(())
    }

    fn set_len(&self, _: u64) -> Result<(), Errno> {
        Ok(())
    }
}

#[test]
fn what_was_read_before_a_write_does_not_come_after_it() {
    let machine = TestMachine::<12>::new(64);
    let slow = Arc::new(Slow {
        reading: Barrier::new(2),
        answer: Barrier::new(2),
    });
    let cache = Cache::new(&machine.machine, slow.clone(), 4096).unwrap();
    std::thread::scope(|threads| {
        let reader = threads.spawn(|| cache.page(0).unwrap());
        slow.reading.wait();
        assert_eq!(cache.write(0, &[2; 4096]), Ok(4096));
        cache.writeback(0..1).unwrap();
        // Clean and unused, but a reader is under way with what was there before.
        let reclaimed = cache.reclaim(10);
        slow.answer.wait();
        assert_eq!(reclaimed, 0);
        let mut byte = [0];
        reader.join().unwrap().read(0, &mut byte);
        assert_eq!(byte, [2]);
    });
    assert_eq!(cache.reclaim(10), 1);
}

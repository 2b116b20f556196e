use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;

use super::*;
use crate::platform::CpuId;

#[derive(Debug, PartialEq)]
struct Area {
    start: u64,
    end: u64,
    guard: u64,
    stamp: u64,
    live: Live,
}

/// Counts what lives.
#[derive(Debug, Clone)]
struct Live(Arc<AtomicUsize>);

impl PartialEq for Live {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        self.live.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Span for Area {
    fn start(&self) -> u64 {
        self.start
    }

    fn end(&self) -> u64 {
        self.end
    }

    fn gap_before(&self) -> u64 {
        self.guard
    }
}

/// A small generator with a fixed seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// The index beside a model of it: start -> (end, guard, stamp).
struct Twin {
    domain: Domain,
    fail: FailPoint,
    writer: Writer<Area>,
    reader: Reader<Area>,
    model: BTreeMap<u64, (u64, u64, u64)>,
    live: Live,
    stamp: u64,
}

impl Twin {
    fn new() -> Self {
        let (domain, fail) = (Domain::new(2).unwrap(), FailPoint::new());
        let (writer, reader) = Index::new(&fail, &domain).unwrap();
        let live = Live(Arc::new(AtomicUsize::new(0)));
        Self {
            domain,
            fail,
            writer,
            reader,
            model: BTreeMap::new(),
            live,
            stamp: 0,
        }
    }

    fn area(&mut self, start: u64, end: u64, guard: u64) -> Box<Slot<Area>> {
        self.stamp += 1;
        self.live.0.fetch_add(1, Ordering::Relaxed);
        Slot::try_new(
            &self.fail,
            Area {
                start,
                end,
                guard,
                stamp: self.stamp,
                live: self.live.clone(),
            },
        )
        .unwrap()
    }

    /// Grows `start..end` until no item straddles its ends.
    fn hull(&self, mut start: u64, mut end: u64) -> (u64, u64) {
        if let Some((&low, &(high, ..))) = self.model.range(..start).next_back()
            && high > start
        {
            start = low;
        }
        if let Some((_, &(high, ..))) = self.model.range(..end).next_back() {
            end = end.max(high);
        }
        (start, end)
    }

    fn replace(&mut self, start: u64, end: u64, parts: &[(u64, u64, u64)]) {
        let new: Vec<_> = parts
            .iter()
            .map(|&(start, end, guard)| self.area(start, end, guard))
            .collect();
        self.writer.reserve(new.len(), &self.fail).unwrap();
        let stamps: Vec<_> = new.iter().map(|area| area.stamp).collect();
        let removed = self.writer.replace(start, end, new);
        let gone: Vec<_> = removed.iter().map(|area| area.stamp).collect();
        removed.retire(&self.domain);
        let keys: Vec<_> = self.model.range(start..end).map(|(&key, _)| key).collect();
        let expected: Vec<_> = keys
            .iter()
            .map(|key| self.model.remove(key).unwrap().2)
            .collect();
        assert_eq!(gone, expected);
        for (&(start, end, guard), stamp) in parts.iter().zip(stamps) {
            self.model.insert(start, (end, guard, stamp));
        }
    }

    fn compare_at(&self, addr: u64) {
        let stamp = |area: Option<&Area>| area.map(|area| area.stamp);
        let below = self
            .model
            .range(..=addr)
            .next_back()
            .filter(|(_, value)| value.0 > addr);
        let next = below.or_else(|| self.model.range(addr..).next());
        assert_eq!(
            stamp(self.writer.find(addr)),
            next.map(|(_, value)| value.2),
            "find {addr:#x}"
        );
        assert_eq!(
            stamp(self.writer.get(addr)),
            below.map(|(_, value)| value.2),
            "get {addr:#x}"
        );
        let prev = self
            .model
            .range(..addr)
            .next_back()
            .map(|(_, value)| value.2);
        assert_eq!(
            stamp(self.writer.find_prev(addr)),
            prev,
            "find_prev {addr:#x}"
        );
        let before = self
            .model
            .range(..addr)
            .rev()
            .find(|(_, value)| value.0 <= addr)
            .map(|(_, value)| value.2);
        assert_eq!(stamp(self.writer.before(addr)), before, "before {addr:#x}");
        let guard = self.domain.pin(CpuId(0));
        assert_eq!(
            stamp(self.reader.find(addr, &guard).unwrap()),
            next.map(|(_, value)| value.2)
        );
    }

    fn compare(&self) {
        self.writer.check().unwrap();
        assert_eq!(self.writer.len(), self.model.len());
        assert!(
            self.writer
                .iter()
                .map(|area| area.stamp)
                .eq(self.model.values().map(|value| value.2))
        );
        assert_eq!(
            self.writer.first().map(|area| area.start),
            self.model.keys().next().copied()
        );
        assert_eq!(
            self.writer.last().map(|area| area.start),
            self.model.keys().next_back().copied()
        );
        assert_eq!(
            self.writer.last_end(),
            self.model.values().next_back().map_or(0, |value| value.0)
        );
    }

    /// The free runs, guards not free.
    fn gaps(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        let mut before = 0;
        let mut gaps = Vec::new();
        for (&start, &(end, guard, _)) in &self.model {
            gaps.push((before, start.saturating_sub(guard)));
            before = end;
        }
        gaps.push((before, u64::MAX));
        gaps.into_iter().filter(|(from, to)| from < to)
    }

    fn compare_gaps(&self, low: u64, high: u64, len: u64, align: u64, offset: u64) {
        let cut = |(from, to): (u64, u64)| (from.max(low), to.min(high));
        let up = |at: u64| {
            (at..)
                .find(|at| at.wrapping_sub(offset) % align == 0)
                .unwrap()
        };
        let down = |at: u64| {
            (0..=at)
                .rev()
                .find(|at| at.wrapping_sub(offset) % align == 0)
        };
        let lowest = self
            .gaps()
            .map(cut)
            .find_map(|(from, to)| Some(up(from)).filter(|at| at + len <= to));
        let highest = self.gaps().rev().map(cut).find_map(|(from, to)| {
            let at = down(to.checked_sub(len)?)?;
            (at >= from).then_some(at)
        });
        assert_eq!(
            self.writer.lowest_gap(low..high, len, align, offset),
            lowest,
            "lowest {low}..{high} {len} {align} {offset}"
        );
        assert_eq!(
            self.writer.highest_gap(low..high, len, align, offset),
            highest,
            "highest {low}..{high} {len} {align} {offset}"
        );
    }
}

/// Random parts of a hull: what a mapping operation may leave there.
fn parts(random: &mut Random, start: u64, end: u64) -> Vec<(u64, u64, u64)> {
    let mut parts = Vec::new();
    let mut at = start;
    for _ in 0..random.below(4) {
        let from = at + random.below(3) * random.below(8);
        let to = from + 1 + random.below(end.saturating_sub(from).min(64));
        if to > end {
            break;
        }
        parts.push((
            from,
            to,
            if random.below(10) == 0 {
                random.below(40)
            } else {
                0
            },
        ));
        at = to;
    }
    parts
}

fn exercise(seed: u64, space: u64, reach: u64, rounds: usize) {
    let mut random = Random(seed);
    let mut twin = Twin::new();
    for round in 0..rounds {
        let start = random.below(space);
        let (start, end) = twin.hull(start, start + 1 + random.below(reach));
        let new = parts(&mut random, start, end);
        twin.replace(start, end, &new);
        twin.compare_at(random.below(space + 100));
        twin.compare_at(start);
        twin.compare_at(end);
        if round % 16 == 0 {
            twin.compare();
            let (low, align) = (random.below(space), 1 << random.below(6));
            let (high, offset) = (low + 1 + random.below(space), random.below(align));
            twin.compare_gaps(low, high, 1 + random.below(100), align, offset);
        }
    }
    twin.compare_at(u64::MAX);
    twin.replace(0, u64::MAX, &[]);
    twin.compare();
    twin.domain.synchronize(|_| ());
    assert_eq!(twin.live.0.load(Ordering::Relaxed), 0);
}

const SCALE: usize = if cfg!(miri) { 100 } else { 1 };

#[test]
fn agrees_with_a_model_when_dense() {
    for seed in 1..=4 {
        exercise(seed, 4000, 40, 6000 / SCALE);
    }
}

#[test]
fn agrees_with_a_model_when_large_runs_vanish() {
    for seed in 11..=14 {
        exercise(seed, 20_000, 30, 3000 / SCALE);
        exercise(seed, 20_000, 3000, 2000 / SCALE);
    }
}

#[test]
fn agrees_with_a_model_when_sparse() {
    exercise(21, 1 << 40, 1 << 20, 4000 / SCALE);
}

#[test]
fn holds_many_items_in_every_order_of_insertion() {
    let count = 100_000 / SCALE as u64;
    for order in 0..3 {
        let mut random = Random(31);
        let mut twin = Twin::new();
        for n in 0..count {
            let at = match order {
                0 => n,
                1 => count - 1 - n,
                _ => (n * 7919 + 13) % count,
            };
            twin.replace(at * 16, at * 16 + 8, &[(at * 16, at * 16 + 8, 0)]);
        }
        twin.compare();
        let leaves = twin.writer.shape.nodes[0] as u64;
        assert!(
            leaves * 7 <= count,
            "order {order}: {leaves} leaves hold {count} items"
        );
        for _ in 0..count {
            let at = random.below(count) * 16;
            let new = if random.below(2) == 0 {
                None
            } else {
                Some((at, at + 8, 0))
            };
            twin.replace(at, at + 8, new.as_slice());
            twin.compare_at(random.below(count * 16));
        }
        twin.compare();
    }
}

#[test]
fn the_ends_of_the_address_range_are_usable() {
    let mut twin = Twin::new();
    twin.replace(0, 1, &[(0, 1, 0)]);
    twin.replace(
        u64::MAX - 1,
        u64::MAX,
        &[(u64::MAX - 1, u64::MAX, u64::MAX)],
    );
    twin.compare();
    assert_eq!(twin.writer.lowest_gap(0..u64::MAX, 1, 1, 0), None);
    assert_eq!(
        twin.writer.find(u64::MAX - 1).map(Span::end),
        Some(u64::MAX)
    );
    assert!(twin.writer.find(u64::MAX).is_none() && twin.writer.before(u64::MAX).is_some());
    twin.replace(u64::MAX - 1, u64::MAX, &[(u64::MAX - 1, u64::MAX, 0)]);
    twin.compare();
    assert_eq!(
        twin.writer.lowest_gap(0..u64::MAX, u64::MAX - 2, 1, 0),
        Some(1)
    );
    assert_eq!(
        twin.writer.highest_gap(0..u64::MAX, u64::MAX - 1, 1, 0),
        None
    );
    for nonsense in [(0, 1), (1, 0), (1, 3)] {
        assert_eq!(
            twin.writer
                .lowest_gap(0..u64::MAX, nonsense.0, nonsense.1, 0),
            None
        );
    }
    assert_eq!(
        twin.writer.lowest_gap(0..u64::MAX, 1, 1 << 63, u64::MAX),
        Some((1 << 63) - 1)
    );
    twin.replace(0, u64::MAX, &[]);
    twin.compare();
}

#[test]
fn ranges_iterate_what_they_touch() {
    let mut twin = Twin::new();
    for n in 0..1000 {
        twin.replace(n * 10, n * 10 + 5, &[(n * 10, n * 10 + 5, 0)]);
    }
    let starts = |range: core::ops::Range<u64>| {
        twin.writer
            .overlapping(range)
            .map(|area| area.start)
            .collect::<Vec<_>>()
    };
    assert_eq!(starts(14..31), [10, 20, 30]);
    assert_eq!(starts(15..20), []);
    assert_eq!(starts(12..12), []);
    assert_eq!(
        twin.writer
            .iter_from(9_985)
            .map(|area| area.start)
            .collect::<Vec<_>>(),
        [9_990]
    );
    assert_eq!(twin.writer.iter_range(0, 10_000).count(), 1000);
}

#[test]
fn an_allocation_that_fails_changes_nothing() {
    let mut twin = Twin::new();
    let mut failures = 0;
    for n in 0..400 {
        let at = (n * 37 % 400) * 10;
        for nth in 1.. {
            let mut inserts = 1 + n as usize % 3;
            if n == 300 {
                inserts = 1000;
            }
            twin.fail.arm(nth);
            let result = twin.writer.reserve(inserts, &twin.fail);
            twin.writer.check().unwrap();
            if !twin.fail.disarm() {
                result.unwrap();
                break;
            }
            assert_eq!(result, Err(OutOfMemory));
            failures += 1;
        }
        twin.replace(at, at + 5, &[(at, at + 5, 0)]);
        twin.compare();
    }
    assert!(failures >= 50, "{failures}");
    let fail = FailPoint::new();
    for nth in 1..=2 {
        fail.arm(nth);
        assert!(Index::new::<Area>(&fail, &twin.domain).is_err() && fail.disarm());
    }
}

#[test]
fn reserved_insertions_never_allocate() {
    let mut random = Random(41);
    let mut twin = Twin::new();
    for _ in 0..300 / SCALE {
        let inserts = random.below(200) as usize;
        twin.writer.reserve(inserts, &twin.fail).unwrap();
        for _ in 0..inserts {
            // The debug assertion in `Spare::take` is the test.
            let at = random.below(1 << 20) * 8;
            let new = twin.area(at, at + 8, 0);
            twin.writer.replace(at, at + 8, [new]).retire(&twin.domain);
            let gone = random.below(1 << 20) * 8;
            twin.writer
                .replace(gone, gone + 8 * random.below(64), [])
                .retire(&twin.domain);
        }
        twin.writer.check().unwrap();
    }
}

#[test]
fn a_guard_of_another_domain_finds_nothing() {
    let twin = Twin::new();
    let foreign = Domain::new(1).unwrap();
    assert_eq!(twin.reader.find(0, &foreign.pin(CpuId(0))), Err(Contended));
}

#[test]
fn readers_see_whole_changes_only() {
    // The writer splits, joins and replaces areas of a fully covered range: a reader must always find its address covered.
    const PAGES: u64 = 2000;
    let rounds = 40_000 / SCALE;
    let mut twin = Twin::new();
    twin.replace(0, PAGES, &[(0, PAGES, 0)]);
    let domain = Arc::new(core::mem::replace(
        &mut twin.domain,
        Domain::new(1).unwrap(),
    ));
    let stop = AtomicBool::new(false);
    let lock = RwLock::new(());
    thread::scope(|scope| {
        for n in 0..2 {
            let (reader, domain, stop, lock) = (twin.reader.clone(), &domain, &stop, &lock);
            scope.spawn(move || {
                let mut random = Random(51 + u64::from(n));
                let (mut found, mut gave_up) = (0, 0);
                while !stop.load(Ordering::Relaxed) || found == 0 {
                    let addr = random.below(PAGES);
                    let guard = domain.pin(CpuId(n));
                    match reader.find(addr, &guard) {
                        Ok(area) => {
                            let area = area.expect("covered");
                            assert!(area.start <= addr && addr < area.end && area.stamp != 0);
                            found += 1;
                        }
                        Err(Contended) => {
                            drop(guard);
                            gave_up += 1;
                            drop(lock.read().unwrap());
                        }
                    }
                }
                assert!(found > 0, "gave up {gave_up} times");
            });
        }
        let mut random = Random(61);
        for _ in 0..rounds {
            let _locked = lock.write().unwrap();
            let start = random.below(PAGES);
            let size = if random.below(50) == 0 { 400 } else { 6 };
            let (start, end) = twin.hull(start, start + 1 + random.below(size));
            let end = end.min(PAGES);
            let middle = start + random.below(end - start);
            let new: Vec<_> = [(start, middle, 0), (middle, end, 0)]
                .into_iter()
                .filter(|part| part.0 < part.1)
                .collect();
            let boxes: Vec<_> = new
                .iter()
                .map(|&(start, end, guard)| twin.area(start, end, guard))
                .collect();
            twin.writer.reserve(boxes.len(), &twin.fail).unwrap();
            twin.writer.replace(start, end, boxes).retire(&domain);
            twin.model.retain(|&key, _| key < start || key >= end);
            twin.model.extend(
                new.iter()
                    .map(|&(start, end, guard)| (start, (end, guard, 0))),
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
    twin.writer.check().unwrap();
    let (len, live) = (twin.writer.len(), twin.live.clone());
    domain.synchronize(|_| thread::yield_now());
    assert_eq!(live.0.load(Ordering::Relaxed), len);
    drop(twin);
    assert_eq!(live.0.load(Ordering::Relaxed), 0);
}

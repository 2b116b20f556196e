//! The index of VMAs beside what one would use instead: `BTreeMap`, the crate `rangemap`, and for lookups a sorted array. One run prints all
//! of them at 10^2, 10^4 and 10^6 areas, in nanoseconds for each operation: the median of many rounds. Maps and index box their values, which
//! is part of what is measured.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use portolan::epoch::Domain;
use portolan::phys::FailPoint;
use portolan::platform::CpuId;
use portolan::space::index::{Index, Reader, Slot, Span, Writer};
use rangemap::RangeMap;

const PAGE: u64 = 4096;
/// Every area lies somewhere in a stride of its own; every other stride is free.
const STRIDE: u64 = 64 * PAGE;

/// As large as a small VMA.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Area {
    start: u64,
    end: u64,
    rest: [u64; 10],
}

impl Area {
    fn new(start: u64, end: u64) -> Self {
        Self {
            start,
            end,
            rest: [start; 10],
        }
    }
}

impl Span for Area {
    fn start(&self) -> u64 {
        self.start
    }

    fn end(&self) -> u64 {
        self.end
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((u128::from(self.0) * u128::from(bound)) >> 64) as u64
    }
}

/// One that takes part: its name and what it does with a part of the input.
type Turn<'w, C, I> = (&'static str, &'w dyn Fn(&mut C, &[I]));

/// How often each has its turn, so that what else the machine does hits all of them alike. In between each goes on long enough to have the
/// caches to itself.
const TURNS: usize = 4;

/// What each of `turns` takes for one operation, in nanoseconds: the median of the rounds, each of which does one part of the input. No part
/// is done twice, so that neither branches are learnt by heart nor one finds what another has just fetched.
fn medians<C, I>(
    who: &mut C,
    input: &[I],
    part: usize,
    turns: &[Turn<C, I>],
) -> Vec<(&'static str, f64)> {
    let mut times = vec![Vec::new(); turns.len()];
    let mut parts = input.chunks_exact(part);
    let rounds = parts.len() / turns.len() / TURNS;
    for _ in 0..TURNS {
        for (times, (_, work)) in times.iter_mut().zip(turns) {
            for part in parts.by_ref().take(rounds) {
                let start = Instant::now();
                work(who, part);
                times.push(start.elapsed().as_nanos() as f64 / part.len() as f64);
            }
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_unstable_by(f64::total_cmp);
        times[times.len() / 2]
    };
    times
        .iter_mut()
        .zip(turns)
        .map(|(times, turn)| (turn.0, median(times)))
        .collect()
}

const ARRAY: &str = "sorted array";
const BTREE: &str = "BTreeMap";
const RANGES: &str = "rangemap";

struct Contestants {
    domain: Domain,
    fail: FailPoint,
    writer: Writer<Area>,
    reader: Reader<Area>,
    tree: BTreeMap<u64, (u64, Box<Area>)>,
    ranges: RangeMap<u64, Box<Area>>,
    ends: Vec<u64>,
    areas: Vec<Area>,
    free: Vec<(u64, u64)>,
    top: u64,
}

impl Contestants {
    /// `count` areas in random order of insertion.
    fn new(count: u64, random: &mut Random) -> Self {
        let (domain, fail) = (Domain::new(2).unwrap(), FailPoint::new());
        let (writer, reader) = Index::new(&fail, &domain).unwrap();
        let mut places: Vec<(u64, u64)> = (0..2 * count).map(|n| place(n, random)).collect();
        for n in (1..places.len()).rev() {
            places.swap(n, random.below(n as u64 + 1) as usize);
        }
        let free = places.split_off(count as usize);
        let mut this = Self {
            domain,
            fail,
            writer,
            reader,
            tree: BTreeMap::new(),
            ranges: RangeMap::new(),
            ends: Vec::new(),
            areas: Vec::new(),
            free,
            top: 2 * count * STRIDE,
        };
        for &(start, end) in &places {
            this.insert(start, end);
            this.tree
                .insert(start, (end, Box::new(Area::new(start, end))));
            this.ranges
                .insert(start..end, Box::new(Area::new(start, end)));
        }
        places.sort_unstable();
        this.ends = places.iter().map(|place| place.1).collect();
        this.areas = places
            .iter()
            .map(|&(start, end)| Area::new(start, end))
            .collect();
        this
    }

    fn insert(&mut self, start: u64, end: u64) {
        let new = Slot::try_new(&self.fail, Area::new(start, end)).unwrap();
        self.writer.reserve(1, &self.fail).unwrap();
        self.writer.replace(start, end, [new]).retire(&self.domain);
    }

    fn find(&mut self, random: &mut Random) {
        let addrs: Vec<u64> = (0..6 << 18).map(|_| random.below(self.top)).collect();
        let pointer =
            |area: Option<&Area>| area.map_or(0, |area| std::ptr::from_ref(area).addr() as u64);
        let turns: [Turn<Self, u64>; 6] = [
            ("pinned", &|this, addrs| {
                let guard = this.domain.pin(CpuId(0));
                for &addr in addrs {
                    black_box(pointer(this.reader.find(addr, &guard).unwrap()));
                }
            }),
            ("pinning", &|this, addrs| {
                for &addr in addrs {
                    let guard = this.domain.pin(CpuId(0));
                    black_box(pointer(this.reader.find(addr, &guard).unwrap()));
                }
            }),
            ("writer", &|this, addrs| {
                for &addr in addrs {
                    black_box(pointer(this.writer.find(addr)));
                }
            }),
            (ARRAY, &|this, addrs| {
                for &addr in addrs {
                    let at = this.ends.partition_point(|&end| end <= addr);
                    black_box(pointer(this.areas.get(at)));
                }
            }),
            (BTREE, &|this, addrs| {
                for &addr in addrs {
                    let below = this.tree.range(..=addr).next_back();
                    let below = below.filter(|(_, area)| area.0 > addr);
                    black_box(pointer(below.map(|(_, area)| &*area.1)));
                }
            }),
            (RANGES, &|this, addrs| {
                for addr in addrs {
                    black_box(this.ranges.get(addr).map_or(0, |area| pointer(Some(area))));
                }
            }),
        ];
        let times = medians(self, &addrs, 1 << 12, &turns);
        let goals = [(ARRAY, 1.0 / 1.5), (BTREE, 3.0)];
        row("find, one pin for all", times[0].1, &times[3..], &goals);
        row("find, a pin for each", times[1].1, &times[3..], &goals);
        row("find by the writer", times[2].1, &times[3..], &goals);
    }

    /// 64 areas go in at random free places, and leave again in the same order.
    fn insert_and_remove(&mut self, random: &mut Random) {
        let mut picks = Vec::new();
        for _ in 0..3 << 11 {
            for n in 0..64 {
                let other = n + random.below((self.free.len() - n) as u64) as usize;
                self.free.swap(n, other);
            }
            picks.extend_from_slice(&self.free[..64]);
        }
        let turns: [Turn<Self, (u64, u64)>; 3] = [
            ("index", &|this, picks| {
                for batch in picks.chunks(64) {
                    for &(start, end) in batch {
                        this.insert(start, end);
                    }
                    for &(start, end) in batch {
                        this.writer.replace(start, end, []).retire(&this.domain);
                    }
                }
            }),
            (BTREE, &|this, picks| {
                for batch in picks.chunks(64) {
                    for &(start, end) in batch {
                        let new = (end, Box::new(Area::new(start, end)));
                        this.tree.insert(start, new);
                    }
                    for (start, _) in batch {
                        this.tree.remove(start);
                    }
                }
            }),
            (RANGES, &|this, picks| {
                for batch in picks.chunks(64) {
                    for &(start, end) in batch {
                        let new = Box::new(Area::new(start, end));
                        this.ranges.insert(start..end, new);
                    }
                    for &(start, end) in batch {
                        this.ranges.remove(start..end);
                    }
                }
            }),
        ];
        let times = medians(self, &picks, 16 * 64, &turns);
        let mut goals = vec![(BTREE, 2.0)];
        if self.tree.len() == 10_000 {
            goals.push((RANGES, 4.0));
        }
        row("insert + remove", times[0].1, &times[1..], &goals);
    }

    /// Room for three strides and more, of which there is one place, in the middle.
    fn gap(&mut self, random: &mut Random) {
        for (start, end) in std::mem::take(&mut self.free) {
            self.insert(start, end);
            self.tree
                .insert(start, (end, Box::new(Area::new(start, end))));
        }
        let middle = self.top / 2;
        let (low, high) = (middle - 2 * STRIDE, middle + 2 * STRIDE);
        self.writer.replace(low, high, []).retire(&self.domain);
        self.tree.retain(|&start, _| start < low || start >= high);
        let lens: Vec<u64> = (0..1024)
            .map(|_| (3 * 64 + random.below(64)) * PAGE)
            .collect();
        let index: Turn<Self, u64> = ("index", &|this, lens| {
            for &len in lens {
                black_box(this.writer.highest_gap(0..this.top, len, PAGE, 0)).unwrap();
            }
        });
        let btree: Turn<Self, u64> = ("BTreeMap, walked", &|this, lens| {
            for &len in lens {
                let mut above = this.top;
                let fit = this.tree.iter().rev().find_map(|(&start, &(end, _))| {
                    let room = above - end;
                    above = start;
                    (room >= len).then_some(end + room - len)
                });
                black_box(fit).unwrap();
            }
        });
        let walks = (10_000_000 / self.tree.len()).clamp(2 * TURNS, lens.len());
        let index = medians(self, &lens, 64, &[index]);
        let btree = medians(self, &lens[..walks], 1, &[btree]);
        row("find a gap", index[0].1, &btree, &[]);
    }
}

/// An area somewhere in the `n`th stride.
fn place(n: u64, random: &mut Random) -> (u64, u64) {
    let start = n * STRIDE + random.below(8) * PAGE;
    (start, start + (1 + random.below(48)) * PAGE)
}

/// Prints what the index takes beside the others, and for each that there is a goal for, how many times as fast the index should be.
fn row(what: &str, index: f64, others: &[(&str, f64)], goals: &[(&str, f64)]) {
    print!("  {what:<22} portolan {index:8.1} ns");
    for (name, time) in others {
        let ratio = time / index;
        print!("   {name} {time:8.1} ns ({ratio:.2}x");
        if let Some((_, goal)) = goals.iter().find(|goal| goal.0 == *name) {
            let verdict = if ratio >= *goal { "met" } else { "missed" };
            print!(", goal {goal:.2}x {verdict}");
        }
        print!(")");
    }
    println!();
}

fn main() {
    // `cargo test --benches` only wants to see that it runs.
    let quick = std::env::args().any(|arg| arg == "--test");
    println!(
        "nanoseconds for each operation; in brackets how many times the time of portolan's index"
    );
    for count in [100, 10_000, 1_000_000] {
        if quick && count > 100 {
            break;
        }
        let random = &mut Random(0x5eed);
        let mut contestants = Contestants::new(count, random);
        println!("{count} areas");
        contestants.find(random);
        contestants.insert_and_remove(random);
        contestants.gap(random);
        contestants.writer.check().unwrap();
    }
}

//! The index of VMAs beside what one would use instead: `BTreeMap`, the crate `rangemap`, and for lookups a sorted array. One run prints all
//! of them at 10^2, 10^4 and 10^6 areas, in nanoseconds for each operation, the best of several rounds.

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

/// The best of the rounds of `work`, each of which does one part of the input, in nanoseconds for each operation. Rounds are short, so
/// that some run undisturbed on a busy machine, and never the same, so that branches are not learnt by heart.
fn best<I>(input: &[I], part: usize, mut work: impl FnMut(&[I])) -> f64 {
    let mut best = f64::INFINITY;
    for part in input.chunks_exact(part) {
        let start = Instant::now();
        work(part);
        best = best.min(start.elapsed().as_nanos() as f64 / part.len() as f64);
    }
    best
}

struct Contestants {
    domain: Domain,
    fail: FailPoint,
    writer: Writer<Area>,
    reader: Reader<Area>,
    tree: BTreeMap<u64, (u64, Box<Area>)>,
    ranges: RangeMap<u64, u64>,
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
            this.ranges.insert(start..end, start);
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
        let addrs: Vec<u64> = (0..1 << 18).map(|_| random.below(self.top)).collect();
        let pointer =
            |area: Option<&Area>| area.map_or(0, |area| std::ptr::from_ref(area).addr() as u64);
        let each = |look: &mut dyn FnMut(&[u64])| best(&addrs, 1 << 12, look);
        let pinned = each(&mut |addrs| {
            let guard = self.domain.pin(CpuId(0));
            for &addr in addrs {
                black_box(pointer(self.reader.find(addr, &guard).unwrap()));
            }
        });
        let pinning = each(&mut |addrs| {
            for &addr in addrs {
                black_box(pointer(
                    self.reader.find(addr, &self.domain.pin(CpuId(0))).unwrap(),
                ));
            }
        });
        let writer = each(&mut |addrs| {
            for &addr in addrs {
                black_box(pointer(self.writer.find(addr)));
            }
        });
        let array = each(&mut |addrs| {
            for &addr in addrs {
                let at = self.ends.partition_point(|&end| end <= addr);
                black_box(pointer(self.areas.get(at)));
            }
        });
        let btree = each(&mut |addrs| {
            for &addr in addrs {
                let below = self.tree.range(..=addr).next_back();
                black_box(pointer(
                    below
                        .filter(|(_, area)| area.0 > addr)
                        .map(|(_, area)| &*area.1),
                ));
            }
        });
        let ranges = each(&mut |addrs| {
            for addr in addrs {
                black_box(self.ranges.get(addr).copied().unwrap_or(0));
            }
        });
        let others = [
            ("sorted array", array),
            ("BTreeMap", btree),
            ("rangemap", ranges),
        ];
        row("find, one pin for all", pinned, &others);
        row("find, a pin for each", pinning, &others);
        row("find by the writer", writer, &others);
    }

    /// 64 areas go in at random free places, and leave again in the same order.
    fn insert_and_remove(&mut self, random: &mut Random) {
        let mut picks = Vec::new();
        for _ in 0..1024 {
            for n in 0..64 {
                let other = n + random.below((self.free.len() - n) as u64) as usize;
                self.free.swap(n, other);
            }
            picks.extend_from_slice(&self.free[..64]);
        }
        let index = best(&picks, 16 * 64, |picks| {
            for batch in picks.chunks(64) {
                for &(start, end) in batch {
                    self.insert(start, end);
                }
                for &(start, end) in batch {
                    self.writer.replace(start, end, []).retire(&self.domain);
                }
            }
        });
        let btree = best(&picks, 16 * 64, |picks| {
            for batch in picks.chunks(64) {
                for &(start, end) in batch {
                    self.tree
                        .insert(start, (end, Box::new(Area::new(start, end))));
                }
                for (start, _) in batch {
                    self.tree.remove(start);
                }
            }
        });
        let ranges = best(&picks, 16 * 64, |picks| {
            for batch in picks.chunks(64) {
                for &(start, end) in batch {
                    self.ranges.insert(start..end, start);
                }
                for &(start, end) in batch {
                    self.ranges.remove(start..end);
                }
            }
        });
        row(
            "insert + remove",
            index,
            &[("BTreeMap", btree), ("rangemap", ranges)],
        );
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
        let window = 0..self.top;
        let index = best(&lens, 128, |lens| {
            for &len in lens {
                black_box(self.writer.highest_gap(window.clone(), len, PAGE, 0)).unwrap();
            }
        });
        let btree = best(
            &lens[..(100_000_000 / self.tree.len()).clamp(3, lens.len())],
            1,
            |lens| {
                for &len in lens {
                    let mut above = window.end;
                    let fit = self.tree.iter().rev().find_map(|(&start, &(end, _))| {
                        let room = above - end;
                        above = start;
                        (room >= len).then_some(end + room - len)
                    });
                    black_box(fit).unwrap();
                }
            },
        );
        row("find a gap", index, &[("BTreeMap, walked", btree)]);
    }
}

/// An area somewhere in the `n`th stride.
fn place(n: u64, random: &mut Random) -> (u64, u64) {
    let start = n * STRIDE + random.below(8) * PAGE;
    (start, start + (1 + random.below(48)) * PAGE)
}

fn row(what: &str, index: f64, others: &[(&str, f64)]) {
    print!("  {what:<22} portolan {index:8.1} ns");
    for (name, time) in others {
        print!("   {name} {time:8.1} ns ({:.2}x)", time / index);
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

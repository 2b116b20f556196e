//! A run: many sequences on both sides, in parallel, and what came of it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use portolan::paging::{
    Aarch64, Aarch64Soft, Granule4K, Granule16K, Granule64K, X86_64, X86_64La57,
};

use crate::calls::CallId;
use crate::compare::{Difference, difference};
use crate::coverage::Coverage;
use crate::generate;
use crate::linux::{Base, HostSettings, Linux, SLOTS};
use crate::op::Sequence;
use crate::ours::{Checks, Library, Ours};
use crate::shrink::shrink;

/// A page-table format by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FormatName {
    /// x86-64 with four levels.
    X86_64,
    /// x86-64 with five levels.
    X86_64La57,
    /// AArch64, 4 KiB, hardware access and dirty state.
    Aarch64,
    /// AArch64, 4 KiB, without.
    Aarch64Soft,
    /// AArch64, 16 KiB. Linux here has other pages, so only the library's own invariants are checked.
    Aarch64Granule16,
    /// AArch64, 64 KiB, likewise.
    Aarch64Granule64,
}

impl FormatName {
    /// All of them, with their names.
    pub const ALL: [(&'static str, FormatName); 6] = [
        ("x86_64", FormatName::X86_64),
        ("x86_64-5", FormatName::X86_64La57),
        ("aarch64", FormatName::Aarch64),
        ("aarch64-sw", FormatName::Aarch64Soft),
        ("aarch64-16k", FormatName::Aarch64Granule16),
        ("aarch64-64k", FormatName::Aarch64Granule64),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(_, format)| *format == self);
        named.map_or("", |(name, _)| name)
    }

    /// Whether its pages are those of the outer kernel, so that the two can be compared.
    pub fn has_oracle(self) -> bool {
        self < Self::Aarch64Granule16
    }

    fn library(self, host: HostSettings) -> Box<dyn Library> {
        match self {
            Self::X86_64 => Box::new(Ours::<X86_64>::new(host)),
            Self::X86_64La57 => Box::new(Ours::<X86_64La57>::new(host)),
            Self::Aarch64 => Box::new(Ours::<Aarch64<Granule4K>>::new(host)),
            Self::Aarch64Soft => Box::new(Ours::<Aarch64Soft<Granule4K>>::new(host)),
            Self::Aarch64Granule16 => Box::new(Ours::<Aarch64<Granule16K>>::new(host)),
            Self::Aarch64Granule64 => Box::new(Ours::<Aarch64<Granule64K>>::new(host)),
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Steps for each seed.
    pub ops: u64,
    /// The first seed.
    pub seed: u64,
    /// How many seeds, one after the other.
    pub seeds: u64,
    /// The calls that sequences use.
    pub calls: Vec<CallId>,
    /// Whether to go on after a difference.
    pub keep_going: bool,
    /// The formats.
    pub formats: Vec<FormatName>,
    /// How many sequences at the same time.
    pub jobs: usize,
}

/// A difference, made short.
#[derive(Clone, Debug)]
pub struct Found {
    /// The seed of the sequence that showed it first; the sequence below is shorter.
    pub seed: u64,
    /// Where.
    pub format: FormatName,
    /// The short sequence.
    pub sequence: Sequence,
    /// What differs.
    pub difference: Difference,
    /// How many sequences showed the same.
    pub times: u64,
}

/// What a run found.
#[derive(Default, Debug)]
pub struct Report {
    /// The differences.
    pub found: Vec<Found>,
    /// What was reached.
    pub coverage: Coverage,
    /// Sequences done.
    pub sequences: u64,
    /// Steps done.
    pub ops: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// What the jobs of a run share.
struct Work<'a> {
    options: &'a Options,
    next: Mutex<Next>,
    found: Mutex<BTreeMap<String, Option<Found>>>,
}

/// Which sequence is next.
struct Next {
    seed: u64,
    number: u64,
    ops: u64,
    sequences: u64,
    done: u64,
    stopped: bool,
}

impl Work<'_> {
    fn next(&self) -> Option<(u64, Sequence)> {
        let mut next = self.next.lock().expect("no panic in here");
        let options = self.options;
        if next.ops >= options.ops {
            (next.seed, next.number, next.ops) = (next.seed + 1, 0, 0);
        }
        if next.stopped || next.seed >= options.seed.saturating_add(options.seeds) {
            return None;
        }
        let seed = next
            .seed
            .wrapping_mul(0x1_0000_0000)
            .wrapping_add(next.number);
        let sequence = generate::sequence(seed, &options.calls);
        next.number += 1;
        next.ops += sequence.ops.len().max(1) as u64;
        next.sequences += 1;
        next.done += sequence.ops.len() as u64;
        Some((seed, sequence))
    }

    fn stop(&self) {
        self.next.lock().expect("no panic in here").stopped = true;
    }

    /// Whether a difference of this kind is new; counts it if not.
    fn is_new(&self, key: &str) -> bool {
        let mut found = self.found.lock().expect("no panic in here");
        match found.get_mut(key) {
            Some(known) => {
                if let Some(known) = known {
                    known.times += 1;
                }
                false
            }
            None => found.insert(key.to_owned(), None).is_none(),
        }
    }
}

/// Both sides, in one thread.
pub struct Sides {
    linux: Option<Linux>,
    libraries: Vec<(FormatName, Box<dyn Library>)>,
}

impl Sides {
    /// Starts the Linux side if a format needs it.
    ///
    /// # Errors
    /// It does not start.
    pub fn new(formats: &[FormatName]) -> io::Result<Self> {
        let host = HostSettings::read();
        let oracle = formats.iter().any(|format| format.has_oracle());
        Ok(Self {
            linux: oracle.then(Linux::start).transpose()?,
            libraries: formats
                .iter()
                .map(|format| (*format, format.library(host)))
                .collect(),
        })
    }

    /// Does one sequence everywhere: the first difference.
    ///
    /// # Errors
    /// The Linux side is gone.
    pub fn try_one(&mut self, sequence: &Sequence) -> io::Result<Option<(FormatName, Difference)>> {
        let status = match &self.linux {
            Some(linux) => {
                linux.begin(0, sequence)?;
                linux.finish()?
            }
            None => 0,
        };
        Ok(self.judge(sequence, 0, status, Checks::Always, None))
    }

    /// Compares the trace in a slot with what the library does.
    fn judge(
        &mut self,
        sequence: &Sequence,
        slot: usize,
        status: i32,
        checks: Checks,
        mut coverage: Option<&mut Coverage>,
    ) -> Option<(FormatName, Difference)> {
        let slot = self.linux.as_ref().map(|linux| linux.slot(slot));
        let base = slot.map_or(Base::default(), |slot| slot.base());
        let trace = slot.map(|slot| slot.trace());
        for (format, library) in &mut self.libraries {
            let oracle = format.has_oracle();
            let checks = if oracle { checks } else { Checks::Always };
            let base = if oracle { base } else { Base::default() };
            let ours = match library.run(sequence, base, checks) {
                Ok(ours) => ours,
                Err(text) => return Some((*format, Difference::broken(&text))),
            };
            if let Some(coverage) = coverage.take() {
                coverage.add(&sequence.ops, trace, &ours);
            }
            let Some(trace) = trace.filter(|_| oracle) else {
                continue;
            };
            if status != 0 {
                return Some((*format, Difference::died(status)));
            }
            if let Some(found) = difference(&sequence.ops, trace, &ours) {
                return Some((*format, found));
            }
        }
        None
    }

    /// The shortest sequence that shows the same difference.
    fn shorten(&mut self, sequence: Sequence, key: &str) -> Sequence {
        shrink(sequence, |shorter| match self.try_one(shorter) {
            Ok(Some((_, found))) => found.key == key,
            _ => false,
        })
    }
}

/// Runs sequences until there are enough, or a difference is found and the run is not to go on.
///
/// # Errors
/// The Linux side does not start, or is gone.
pub fn run(options: &Options) -> io::Result<Report> {
    let started = Instant::now();
    let work = Work {
        options,
        next: Mutex::new(Next {
            seed: options.seed,
            number: 0,
            ops: 0,
            sequences: 0,
            done: 0,
            stopped: false,
        }),
        found: Mutex::new(BTreeMap::new()),
    };
    // All processes before any thread: each is a copy of this one.
    let sides: Vec<Sides> = (0..options.jobs.max(1))
        .map(|_| Sides::new(&options.formats))
        .collect::<io::Result<_>>()?;
    let coverages: Vec<io::Result<Coverage>> = std::thread::scope(|scope| {
        let jobs: Vec<_> = sides
            .into_iter()
            .map(|sides| scope.spawn(|| job(&work, sides)))
            .collect();
        let ended = jobs.into_iter().map(|job| job.join());
        ended
            .map(|result| result.unwrap_or_else(|_| Err(io::Error::other("a job panicked"))))
            .collect()
    });
    let mut coverage = Coverage::default();
    for part in coverages {
        coverage.merge(&part?);
    }
    let next = work.next.into_inner().expect("no panic in a job");
    let found = work.found.into_inner().expect("no panic in a job");
    Ok(Report {
        found: found.into_values().flatten().collect(),
        coverage,
        sequences: next.sequences,
        ops: next.done,
        elapsed: started.elapsed(),
    })
}

/// One thread's part: while the library does one sequence, Linux does the next.
fn job(work: &Work<'_>, mut sides: Sides) -> io::Result<Coverage> {
    let mut coverage = Coverage::default();
    let mut under_way: VecDeque<(u64, Sequence, usize)> = VecDeque::new();
    let mut slot = 0;
    loop {
        while under_way.len() < SLOTS
            && let Some((seed, sequence)) = work.next()
        {
            if let Some(linux) = &sides.linux {
                linux.begin(slot, &sequence)?;
            }
            under_way.push_back((seed, sequence, slot));
            slot = (slot + 1) % SLOTS;
        }
        let Some((seed, sequence, at)) = under_way.pop_front() else {
            return Ok(coverage);
        };
        let status = match &sides.linux {
            Some(linux) => linux.finish()?,
            None => 0,
        };
        let judged = sides.judge(
            &sequence,
            at,
            status,
            Checks::Sometimes,
            Some(&mut coverage),
        );
        if let Some((format, difference)) = judged {
            // Nothing else may be under way while this is made short.
            let waiting: Vec<_> = under_way.drain(..).collect();
            if let Some(linux) = &sides.linux {
                for _ in &waiting {
                    linux.finish()?;
                }
            }
            report(work, &mut sides, seed, sequence, format, difference);
            slot = 0;
            for (seed, sequence, _) in waiting {
                if let Some(linux) = &sides.linux {
                    linux.begin(slot, &sequence)?;
                }
                under_way.push_back((seed, sequence, slot));
                slot = (slot + 1) % SLOTS;
            }
        }
    }
}

fn report(
    work: &Work<'_>,
    sides: &mut Sides,
    seed: u64,
    sequence: Sequence,
    format: FormatName,
    difference: Difference,
) {
    if !work.options.keep_going {
        work.stop();
    }
    if !work.is_new(&difference.key) {
        return;
    }
    let key = difference.key.clone();
    let sequence = sides.shorten(sequence, &key);
    let again = sides.try_one(&sequence).ok().flatten();
    let (format, difference) = again.unwrap_or((format, difference));
    let found = Found {
        seed,
        format,
        sequence,
        difference,
        times: 1,
    };
    let mut all = work.found.lock().expect("no panic in here");
    all.insert(key, Some(found));
}

//! Where two traces differ, in words for a person.

use crate::arena::{ARENA_END, BASE, PAGE};
use crate::calls::CallId;
use crate::op::Op;
use crate::smaps;
use crate::trace::{Section, Tag, sections};
use portolan::errno::Errno;

/// The first place where two sides differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The step, as far as one had begun.
    pub step: Option<usize>,
    /// What differs, in a few words: two differences with equal ones count as the same.
    pub key: String,
    /// What Linux said.
    pub linux: String,
    /// What the library said.
    pub ours: String,
}

impl Difference {
    /// The library did not come to an end, or not to a good one.
    pub fn broken(text: &str) -> Self {
        let first = text.lines().last().unwrap_or("");
        Self {
            step: None,
            key: format!("library: {first}"),
            linux: "came to an end".to_owned(),
            ours: text.to_owned(),
        }
    }

    /// The process on Linux did not come to a good end.
    pub fn died(status: i32) -> Self {
        Self {
            step: None,
            key: format!("linux: ended with {status:#x}"),
            linux: format!("the process ended with wait status {status:#x}"),
            ours: String::new(),
        }
    }
}

/// Compares what Linux saw with what the library saw.
pub fn difference(ops: &[Op], linux: &[u64], ours: &[u64]) -> Option<Difference> {
    if linux == ours {
        return None;
    }
    let (mut theirs, mut mine) = (sections(linux), sections(ours));
    let touches = ops.iter().any(marks_pages_used);
    let mut step = None;
    loop {
        let (a, b) = (theirs.next(), mine.next());
        if a.is_none() && b.is_none() {
            return None;
        }
        if let Some(section) = a.or(b)
            && section.tag == Tag::Result
        {
            step = section.words.first().map(|n| *n as usize);
        }
        if a != b && !(touches && differ_in_use_only(a, b)) {
            let call = step.and_then(|n| ops.get(n)).map(|op| op.call);
            return Some(Difference {
                step,
                key: key(call, a, b),
                linux: a.map_or("nothing more".to_owned(), describe),
                ours: b.map_or("nothing more".to_owned(), describe),
            });
        }
    }
}

/// Whether a step makes Linux note on the page itself, and not in an entry, that it was used: populating does, and what undoes that.
fn marks_pages_used(op: &Op) -> bool {
    match op.call {
        CallId::Mmap => op.args[3] & 0xa000 != 0,
        CallId::Madvise => matches!(op.args[2], 8 | 20 | 22 | 23),
        CallId::ProcessMadvise => matches!(op.args[4], 8 | 20 | 22 | 23),
        CallId::Mlock2
        | CallId::Mlockall
        | CallId::ProcessVmReadv
        | CallId::ProcessVmWritev
        | CallId::GetMempolicy => true,
        _ => false,
    }
}

/// Whether two sections of smaps are equal but for `Referenced`.
fn differ_in_use_only(a: Option<Section<'_>>, b: Option<Section<'_>>) -> bool {
    let (Some(a), Some(b)) = (a, b) else {
        return false;
    };
    let is_use = |n: usize| n % smaps::AREA_WORDS == 2 + smaps::REFERENCED;
    let mut words = a.words.iter().zip(b.words).enumerate();
    a.tag == Tag::Smaps
        && b.tag == Tag::Smaps
        && a.words.len() == b.words.len()
        && words.all(|(n, (a, b))| a == b || is_use(n))
}

fn key(call: Option<CallId>, a: Option<Section<'_>>, b: Option<Section<'_>>) -> String {
    let call = call.map_or("start", CallId::name);
    let tag = a.or(b).map_or("", |section| section.tag.name());
    let result = |section: Option<Section<'_>>| {
        let word = section.and_then(|section| section.words.get(2).copied());
        word.map(|word| match word as i64 {
            0.. => "success".to_owned(),
            _ => result_text(word),
        })
    };
    match (a.or(b).map(|section| section.tag), result(a), result(b)) {
        (Some(Tag::Result), Some(a), Some(b)) if a != b => format!("{call}: {a}, not {b}"),
        (Some(Tag::Smaps), ..) => format!("smaps {}", smaps_key(a, b)),
        (Some(Tag::Counts | Tag::Pagemap | Tag::Memory | Tag::Files), ..) => tag.to_owned(),
        _ => format!("{call}: {tag}"),
    }
}

/// Which figures of smaps differ first.
fn smaps_key(a: Option<Section<'_>>, b: Option<Section<'_>>) -> String {
    let words = |section: Option<Section<'_>>| section.map_or(Vec::new(), |s| s.words.to_vec());
    let (a, b) = (words(a), words(b));
    let areas = a.chunks(smaps::AREA_WORDS).zip(b.chunks(smaps::AREA_WORDS));
    for (a, b) in areas {
        let figures = smaps::FIGURES.iter().enumerate();
        let differ: Vec<&str> = figures
            .filter(|(n, _)| a.get(n + 2) != b.get(n + 2))
            .map(|(_, key)| *key)
            .collect();
        if !differ.is_empty() {
            return differ.join(" ");
        }
        if a != b {
            return "VmFlags".to_owned();
        }
    }
    "areas".to_owned()
}

/// A result: a number, an address, an errno or a signal.
pub fn result_text(word: u64) -> String {
    let value = word as i64;
    match value {
        -4095..0 => Errno::from_raw(-value as i32).name().to_owned(),
        ..0 => {
            let signal = -value - 0x1_0000;
            let name = match signal / 256 {
                11 => "SIGSEGV",
                7 => "SIGBUS",
                _ => "signal",
            };
            let code = match (signal / 256, signal % 256) {
                (11, 1) => "SEGV_MAPERR".to_owned(),
                (11, 2) => "SEGV_ACCERR".to_owned(),
                (7, 2) => "BUS_ADRERR".to_owned(),
                (_, code) => format!("{code}"),
            };
            format!("{name} {code}")
        }
        _ => place(word),
    }
}

fn place(word: u64) -> String {
    match word {
        BASE..=ARENA_END => format!("A+{:#x}", word - BASE),
        0..PAGE => format!("{word}"),
        _ => format!("{word:#x}"),
    }
}

fn describe(section: Section<'_>) -> String {
    let words = section.words;
    match section.tag {
        Tag::Result => {
            let extra: Vec<String> = words
                .iter()
                .skip(3)
                .map(|word| result_text(*word))
                .collect();
            let result = words
                .get(2)
                .map_or(String::new(), |word| result_text(*word));
            format!("result {result} {}", extra.join(" "))
                .trim_end()
                .to_owned()
        }
        Tag::Maps => {
            let lines: Vec<String> = words.chunks_exact(3).map(area_text).collect();
            format!("maps\n    {}", lines.join("\n    "))
        }
        Tag::Smaps => {
            let areas: Vec<String> = words.chunks(smaps::AREA_WORDS).map(figures_text).collect();
            format!("smaps, in kB\n    {}", areas.join("\n    "))
        }
        Tag::Pagemap => {
            let shown: Vec<String> = words.iter().map(|word| pagemap_text(*word)).collect();
            format!("pagemap {}", shown.join(" "))
        }
        tag => {
            let shown: Vec<String> = words.iter().map(|word| result_text(*word)).collect();
            format!("{} {}", tag.name(), shown.join(" "))
        }
    }
}

/// The figures of an area that are not 0.
fn figures_text(words: &[u64]) -> String {
    let place_of = |at: usize| words.get(at).map_or(String::new(), |word| place(*word));
    let figures = smaps::FIGURES.iter().zip(words.iter().skip(2));
    let shown: Vec<String> = figures
        .filter(|(_, value)| **value != 0)
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    let flags = words.get(2 + smaps::FIGURES.len()..).unwrap_or(&[]);
    format!(
        "{}-{} {} ({})",
        place_of(0),
        place_of(1),
        shown.join(", "),
        smaps::flags_text(flags)
    )
}

/// Letters for the bits: present, file or shared, guard, exclusive, swapped.
fn pagemap_text(word: u64) -> String {
    let bits = [(63, 'p'), (61, 'f'), (58, 'g'), (56, 'x'), (62, 's')];
    let shown: String = bits
        .into_iter()
        .filter(|(bit, _)| word >> bit & 1 != 0)
        .map(|(_, letter)| letter)
        .collect();
    if shown.is_empty() {
        "-".to_owned()
    } else {
        shown
    }
}

fn area_text(words: &[u64]) -> String {
    let (start, end) = (words[0] & !0xfff, words[1] & !0xfff);
    let bit = |bit: u64, letter: char| if words[0] & bit != 0 { letter } else { '-' };
    let shared = if words[0] & 8 != 0 { 's' } else { 'p' };
    let name = match words[1] & 0xfff {
        0 => "",
        1 => "memfd:one",
        2 => "memfd:two",
        3 => "/dev/zero",
        4 => "[heap]",
        _ => "?",
    };
    let line = format!(
        "{}-{} {}{}{}{shared} {:#x} {name}",
        place(start),
        place(end),
        bit(1, 'r'),
        bit(2, 'w'),
        bit(4, 'x'),
        words[2]
    );
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Sink, signal_word};

    #[test]
    fn the_first_difference_is_found() {
        let op = Op {
            call: CallId::Munmap,
            args: [0; 6],
        };
        let trace = |result: i64| {
            let mut words = Vec::new();
            let at = words.open(Tag::Result);
            for word in [0, 0, result as u64] {
                Sink::push(&mut words, word);
            }
            words.close(at);
            words
        };
        assert_eq!(difference(&[op], &trace(0), &trace(0)), None);
        let found = difference(&[op], &trace(-22), &trace(0)).expect("a difference");
        assert_eq!(found.key, "munmap: EINVAL, not success");
        assert_eq!(found.step, Some(0));
        let signal = signal_word(11, 2) as u64;
        assert_eq!(result_text(signal), "SIGSEGV SEGV_ACCERR");
        assert!(difference(&[op], &trace(0), &[]).is_some());
    }
}

//! smaps taken apart, without allocating: the same code reads the text of Linux and of the library.

use crate::arena::{ARENA_END, LOW_START};
use crate::trace::{Name, Sink, area_words};

/// An area, as its line in maps says.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Its first address.
    pub start: u64,
    /// Its end.
    pub end: u64,
    /// The same with rights, name and offset, as a trace has it.
    pub words: [u64; 3],
}

/// The figures that are compared, in kB, in the order of a trace. What follows the area's two addresses there.
pub const FIGURES: [&str; 13] = [
    "Rss:",
    "Pss:",
    "Pss_Dirty:",
    "Shared_Clean:",
    "Shared_Dirty:",
    "Private_Clean:",
    "Private_Dirty:",
    "Referenced:",
    "Anonymous:",
    "KSM:",
    "Swap:",
    "SwapPss:",
    "Locked:",
];

/// Words of an area in a trace: two addresses, the figures, and the flags four to a word.
pub const AREA_WORDS: usize = 2 + FIGURES.len() + FLAG_WORDS;
const FLAG_WORDS: usize = 6;

/// Which of [`FIGURES`] says what was used: only private anonymous memory has it from the entries alone.
pub const REFERENCED: usize = 7;

/// Whether an area can be of the sequence's making.
pub fn is_inside(start: u64, arena_end: u64) -> bool {
    start < arena_end && start != LOW_START
}

fn hex(text: &[u8]) -> u64 {
    text.iter().fold(0, |sum, &byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => 0,
        };
        sum << 4 | u64::from(digit)
    })
}

/// The first number in a text.
pub fn number(text: &[u8]) -> u64 {
    text.iter()
        .skip_while(|byte| !byte.is_ascii_digit())
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |sum, byte| sum * 10 + u64::from(byte - b'0'))
}

/// Takes a line of maps (or the first of an area in smaps) apart; `None` for another line.
pub fn line(text: &[u8]) -> Option<Line> {
    // The names of figures begin with capitals.
    text.first()
        .filter(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())?;
    let mut words = text
        .split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty());
    let range = words.next()?;
    let dash = range.iter().position(|&byte| byte == b'-')?;
    let perms = words.next().filter(|perms| perms.len() == 4)?;
    let offset = hex(words.next()?);
    let name = match words.nth(2) {
        None => Name::None,
        Some(b"/memfd:one") => Name::First,
        Some(b"/memfd:two") => Name::Second,
        Some(b"/dev/zero") => Name::Zero,
        Some(b"[heap]") => Name::Heap,
        Some(_) => Name::Other,
    };
    let bit = |at: usize, letter: u8| u64::from(perms[at] == letter) << at;
    let perms = bit(0, b'r') | bit(1, b'w') | bit(2, b'x') | bit(3, b's');
    let (start, end) = (hex(&range[..dash]), hex(&range[dash + 1..]));
    Some(Line {
        start,
        end,
        words: area_words(start, end, perms, offset, name),
    })
}

/// Writes the figures of every area of the sequence's making into a trace.
pub fn figures(text: &[u8], arena_end: u64, sink: &mut impl Sink) {
    let mut area: Option<(Line, [u64; FIGURES.len()])> = None;
    for text in text.split(|&byte| byte == b'\n') {
        if let Some(line) = line(text) {
            area = is_inside(line.start, arena_end).then_some((line, [0; FIGURES.len()]));
            continue;
        }
        let Some((line, figures)) = &mut area else {
            continue;
        };
        if let Some(flags) = text.strip_prefix(b"VmFlags:") {
            // Shared pages are also marked as used by whoever else uses them.
            if line.words[0] & 8 != 0 || !matches!(line.words[1] & 0xfff, 0 | 4) {
                figures[REFERENCED] = 0;
            }
            sink.push(line.start);
            sink.push(line.end.min(arena_end.max(ARENA_END)));
            figures.iter().for_each(|figure| sink.push(*figure));
            flag_words(flags).iter().for_each(|word| sink.push(*word));
            area = None;
        } else if let Some(n) = FIGURES
            .iter()
            .position(|key| text.starts_with(key.as_bytes()))
        {
            figures[n] = number(text);
        }
    }
}

/// The flags, without soft-dirty, which not every kernel has.
fn flag_words(text: &[u8]) -> [u64; FLAG_WORDS] {
    let mut words = [0; FLAG_WORDS];
    let flags = text
        .split(|&byte| byte == b' ')
        .filter(|flag| flag.len() == 2 && *flag != b"sd");
    for (n, flag) in flags.enumerate().take(4 * FLAG_WORDS) {
        let letters = u64::from(flag[0]) << 8 | u64::from(flag[1]);
        words[n / 4] |= letters << (n % 4 * 16);
    }
    words
}

/// The flags as text.
pub fn flags_text(words: &[u64]) -> String {
    let letters = words
        .iter()
        .flat_map(|word| (0..4).map(move |n| word >> (n * 16)));
    let shown: Vec<String> = letters
        .filter(|pair| pair & 0xffff != 0)
        .map(|pair| format!("{}{}", (pair >> 8) as u8 as char, pair as u8 as char))
        .collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_is_taken_apart() {
        let text = b"1000003000-1000005000 rw-p 00002000 00:01 12   /memfd:two (deleted)\n\
            Size:                  8 kB\nRss:                   4 kB\nReferenced:            4 kB\n\
            Private_Dirty:         4 kB\nVmFlags: rd wr mr mw me sd \n\
            7000000000-7000001000 r--p 00000000 00:00 0\nRss: 4 kB\nVmFlags: rd \n";
        let mut words = Vec::new();
        figures(text, ARENA_END, &mut words);
        assert_eq!(words.len(), AREA_WORDS);
        assert_eq!(words[..2], [0x10_0000_3000, 0x10_0000_5000]);
        assert_eq!((words[2], words[8], words[9]), (4, 4, 0));
        assert_eq!(
            flags_text(&words[AREA_WORDS - FLAG_WORDS..]),
            "rd wr mr mw me"
        );
        assert!(line(b"Rss:   4 kB").is_none());
    }
}

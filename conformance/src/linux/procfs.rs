//! What `/proc/self` says, read and taken apart without allocating.

use super::sys;
use crate::arena::{ARENA_END, LOW_START, PAGE};
use crate::trace::{Name, area_words};

/// An area, as its line in maps says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub start: u64,
    pub end: u64,
    pub words: [u64; 3],
}

/// Reads a file from its start into `buffer`, until `enough` says so or it ends.
pub(super) fn read_while(fd: i32, buffer: &mut [u8], enough: impl Fn(&[u8]) -> bool) -> &[u8] {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        let (at, len) = (rest.as_mut_ptr() as u64, rest.len().min(4096) as u64);
        let read = sys(libc::SYS_pread64, [fd as u64, at, len, done as u64, 0, 0]);
        if read <= 0 {
            break;
        }
        done += read as usize;
        if enough(&buffer[..done]) {
            break;
        }
    }
    &buffer[..done]
}

/// Opens a file of `/proc/self`; its path ends with a NUL.
pub(super) fn open(path: &[u8]) -> i32 {
    debug_assert_eq!(path.last(), Some(&0));
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as u64;
    sys(libc::SYS_open, [path.as_ptr() as u64, flags, 0, 0, 0, 0]) as i32
}

/// The number behind `key` in a file of "key: number kB" lines.
pub(super) fn field(text: &[u8], key: &[u8]) -> u64 {
    let line = text
        .split(|&byte| byte == b'\n')
        .find(|line| line.starts_with(key));
    let digits = line
        .unwrap_or(b"")
        .iter()
        .skip(key.len())
        .skip_while(|byte| !byte.is_ascii_digit());
    digits
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |sum, byte| sum * 10 + u64::from(byte - b'0'))
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

/// Takes a line of maps (or the first of an area in smaps) apart; `None` for another line.
pub(super) fn line(text: &[u8]) -> Option<Line> {
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

/// The areas of maps that lie below the end of the arena.
pub(super) fn areas(text: &[u8]) -> impl Iterator<Item = Line> {
    text.split(|&byte| byte == b'\n')
        .filter_map(line)
        .take_while(|line| line.start < ARENA_END)
        .filter(is_inside)
}

/// Whether an area can be of the sequence's making.
pub(super) fn is_inside(line: &Line) -> bool {
    line.start < ARENA_END && line.start != LOW_START
}

/// Whether maps has been read to the end of the arena: its last whole line lies beyond.
pub(super) fn has_arena(text: &[u8]) -> bool {
    let Some(end) = text.iter().rposition(|&byte| byte == b'\n') else {
        return false;
    };
    let whole = &text[..end];
    let start = whole
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |at| at + 1);
    line(&whole[start..]).is_some_and(|line| line.start >= ARENA_END)
}

/// Whether smaps has been read to the end of the arena.
pub(super) fn has_arena_in_smaps(text: &[u8]) -> bool {
    let tail = &text[text.len().saturating_sub(4096 + 512)..];
    tail.split(|&byte| byte == b'\n')
        .filter_map(line)
        .any(|line| line.start >= ARENA_END)
}

/// Pages of a line of maps that can never be locked.
pub(super) fn unlockable(text: &[u8]) -> u64 {
    let special = |line: &&[u8]| {
        line.ends_with(b"[vvar]") || line.ends_with(b"[vdso]") || line.ends_with(b"[vvar_vclock]")
    };
    text.split(|&byte| byte == b'\n')
        .filter(special)
        .filter_map(line)
        .map(|line| (line.end - line.start) / PAGE)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_fields() {
        let text = b"VmPeak:\t     100 kB\nVmSize:\t      42 kB\nVmLck:\t       0 kB\n";
        assert_eq!(field(text, b"VmSize:"), 42);
        assert_eq!(field(text, b"VmLck:"), 0);
        let line = line(b"1000003000-1000005000 rw-s 00002000 00:01 12   /memfd:two (deleted)");
        let line = line.expect("a line");
        assert_eq!((line.start, line.end), (0x10_0000_3000, 0x10_0000_5000));
        assert_eq!(line.words, [0x10_0000_300b, 0x10_0000_5002, 0x2000]);
        assert!(super::line(b"Rss:   4 kB").is_none());
    }
}

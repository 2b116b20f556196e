//! What `/proc/self` says, read and taken apart without allocating.

use super::sys;
use crate::arena::{ARENA_END, PAGE};
use crate::smaps::{Line, is_inside, line, number};

/// How much of a file is asked for at a time: the kernel makes up lines until it has so much, and most of those would be the tester's own.
const CHUNK: usize = 600;

/// Reads a file from its start into `buffer`, until `enough` says so or it ends.
pub(super) fn read_while(fd: i32, buffer: &mut [u8], enough: impl Fn(&[u8]) -> bool) -> &[u8] {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        let (at, len) = (rest.as_mut_ptr() as u64, rest.len().min(CHUNK) as u64);
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
    number(line.unwrap_or(b""))
}

/// The areas of maps that lie below the end of the arena.
pub(super) fn areas(text: &[u8]) -> impl Iterator<Item = Line> {
    text.split(|&byte| byte == b'\n')
        .filter_map(line)
        .take_while(|line| line.start < ARENA_END)
        .filter(|line| is_inside(line.start, ARENA_END))
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
    }
}

//! `/proc/PID/maps`. `fs/proc/task_mmu.c: show_map_vma`.

use core::fmt::{self, Write};

use crate::addr::{VirtAddr, VirtRange};
use crate::object::VmFlags;
use crate::platform::Platform;
use crate::space::{Area, AreaName, Linked, Mm};

/// Where the name starts in a line: what comes before is padded to here.
const NAME_COLUMN: usize = 73;

/// Writes the mappings of a space, a line each, as `/proc/PID/maps` shows them.
///
/// # Errors
/// Only what `out` answers.
///
/// Holds the mmap lock for reading while it writes, so `out` must not fault on this space.
pub fn write_maps<P: Platform>(mm: &Mm<P>, out: &mut impl Write) -> fmt::Result {
    let mut result = Ok(());
    mm.for_each_area(|area| {
        if result.is_ok() {
            result = write_area(area, out);
        }
    });
    result
}

/// Writes the line of x86-64's `[vsyscall]` page, which lies above every space and is shown at the end of each. `get_gate_vma`.
///
/// # Errors
/// Only what `out` answers.
pub fn write_vsyscall(out: &mut impl Write) -> fmt::Result {
    write_area(&vsyscall_area().ok_or(fmt::Error)?, out)
}

/// The area of the `[vsyscall]` page.
pub(super) fn vsyscall_area() -> Option<Area<'static>> {
    let start = VirtAddr::new(0xffff_ffff_ff60_0000);
    Some(Area {
        range: VirtRange::with_len(start, 0x1000)?,
        flags: VmFlags::EXEC,
        offset: 0,
        major: 0,
        minor: 0,
        inode: 0,
        name: AreaName::Special("[vsyscall]"),
    })
}

/// Writes the line that heads what is told of all mappings together. `show_vma_header_prefix`.
pub(super) fn write_header(
    start: VirtAddr,
    end: VirtAddr,
    name: &'static str,
    out: &mut impl Write,
) -> fmt::Result {
    let range = VirtRange::new(start, end).ok_or(fmt::Error)?;
    let area = Area {
        range,
        flags: VmFlags::empty(),
        offset: 0,
        major: 0,
        minor: 0,
        inode: 0,
        name: AreaName::Special(name),
    };
    write_area(&area, out)
}

/// Writes the line of one mapping.
pub(super) fn write_area(area: &Area<'_>, out: &mut impl Write) -> fmt::Result {
    let mut line = Counting { out, written: 0 };
    let line = &mut line;
    let flag = |flag: VmFlags, letter: char| {
        if area.flags.contains(flag) {
            letter
        } else {
            '-'
        }
    };
    let shared = if area.flags.contains(VmFlags::MAYSHARE) {
        's'
    } else {
        'p'
    };
    write!(
        line,
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
        area.range.start(),
        area.range.end(),
        flag(VmFlags::READ, 'r'),
        flag(VmFlags::WRITE, 'w'),
        flag(VmFlags::EXEC, 'x'),
        shared,
        area.offset,
        area.major,
        area.minor,
        area.inode,
    )?;
    if !matches!(area.name, AreaName::None) {
        while line.written < NAME_COLUMN {
            line.write_char(' ')?;
        }
    }
    match &area.name {
        AreaName::None => {}
        AreaName::Special(name) => line.write_str(name)?,
        AreaName::Anonymous(name) => write!(line, "[anon:{name}]")?,
        AreaName::AnonymousShared(name) => write!(line, "[anon_shmem:{name}]")?,
        AreaName::Path(path, linked) => write_path(path, *linked, "\n", line)?,
    }
    line.write_char('\n')
}

/// A path, marked if it is no name any more, with the ASCII letters of `escaped` written in octal. `seq_path`.
pub(super) fn write_path(
    path: &[u8],
    linked: Linked,
    escaped: &str,
    line: &mut impl Write,
) -> fmt::Result {
    let mark: &[u8] = match linked {
        Linked::Yes => b"",
        Linked::No => b" (deleted)",
    };
    for part in path.utf8_chunks().chain(mark.utf8_chunks()) {
        for letter in part.valid().chars() {
            match letter {
                letter if escaped.contains(letter) => write!(line, "\\{:03o}", letter as u32)?,
                letter => line.write_char(letter)?,
            }
        }
        for &byte in part.invalid() {
            write!(line, "\\{byte:03o}")?;
        }
    }
    Ok(())
}

/// Counts the bytes of a line.
struct Counting<'a, W: Write> {
    out: &'a mut W,
    written: usize,
}

impl<W: Write> Write for Counting<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.written += text.len();
        self.out.write_str(text)
    }
}

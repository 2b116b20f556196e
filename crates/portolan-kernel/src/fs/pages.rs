//! The files of /proc that are not text but a window on a task's memory: pagemap and clear_refs, coredump_filter, and the requests PAGEMAP_SCAN and
//! PROCMAP_QUERY. Not for what they say, which is the library's.

use alloc::vec::Vec;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::platform::Platform;
use portolan::space::{ClearRefs, CoreFilter, MmUser};
use portolan::view::{PageRegion, PageScan, ProcmapQuery, ShowFrames, query_procmap, scan_pages};

use super::vfs::Session;

fn mm<'a, P: Platform>(session: &Session<'a, P>) -> Result<&'a MmUser<P>, Errno> {
    session.task.mm().ok_or(Errno::ESRCH)
}

/// Reads /proc/PID/pagemap. Frame numbers are for the superuser.
///
/// # Errors
/// `EINVAL`: no whole words.
pub fn read_pagemap<P: Platform>(
    session: &Session<'_, P>,
    offset: u64,
    into: &mut [u8],
) -> Result<usize, Errno> {
    let frames = match session.vfs.identity().uid[1] {
        0 => ShowFrames::Yes,
        _ => ShowFrames::No,
    };
    portolan::view::read_pagemap(mm(session)?, offset, into, frames)
}

/// Writes /proc/PID/clear_refs.
///
/// # Errors
/// `EINVAL`: not a number from 1 to 5. `ERANGE`: not even 32 bits.
pub fn clear_refs<P: Platform>(session: &Session<'_, P>, from: &[u8]) -> Result<(), Errno> {
    // What is longer than this is cut, as in Linux.
    const MOST: usize = 12;
    let number = parse(&from[..from.len().min(MOST)], 10)?;
    let number = i32::try_from(number).map_err(|_| Errno::ERANGE)?;
    mm(session)?.clear_refs(ClearRefs::from_number(number.into())?);
    Ok(())
}

/// Writes /proc/PID/coredump_filter.
///
/// # Errors
/// `EINVAL`: not a number. `ERANGE`: more than 32 bits.
pub fn set_core_filter<P: Platform>(session: &Session<'_, P>, from: &[u8]) -> Result<(), Errno> {
    let number = parse(from, 0)?;
    let bits = u32::try_from(number).map_err(|_| match number < 0 {
        true => Errno::EINVAL,
        false => Errno::ERANGE,
    })?;
    session
        .task
        .set_core_filter(CoreFilter::from_bits_truncate(bits).bits());
    Ok(())
}

/// A number as a program writes it; base 0 goes by its prefix. `kstrtoint`.
fn parse(from: &[u8], base: u32) -> Result<i64, Errno> {
    let text = core::str::from_utf8(from)
        .map_err(|_| Errno::EINVAL)?
        .trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixed = |prefix: &str| digits.strip_prefix(prefix).filter(|_| base == 0);
    let (digits, base) = match (prefixed("0x").or_else(|| prefixed("0X")), prefixed("0")) {
        (Some(hex), _) => (hex, 16),
        (None, Some(octal)) if !octal.is_empty() => (octal, 8),
        _ => (digits, if base == 0 { 10 } else { base }),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return Err(Errno::EINVAL);
    }
    let number = i64::from_str_radix(digits, base).map_err(|_| Errno::ERANGE)?;
    Ok(if negative { -number } else { number })
}

/// PAGEMAP_SCAN: the structure lies at `arg`, in the memory of the task that asks, and is about that same memory.
///
/// # Errors
/// Those of [`PageScan::parse`] and [`scan_pages`]; `EFAULT`: what it points at cannot be reached.
pub fn pagemap_scan<P: Platform>(mm: &MmUser<P>, arg: VirtAddr) -> Result<u64, Errno> {
    let mut bytes = [0; PageScan::BYTES];
    mm.copy_from_user(arg, &mut bytes)?;
    let scan = PageScan::parse::<P>(&bytes, VirtAddr::new(mm.layout().task_size_max))?;
    let mut at = VirtAddr::new(scan.vec);
    let (result, walk_end) = scan_pages(mm, &scan, |regions| {
        let bytes: Vec<u8> = regions
            .iter()
            .flat_map(|region| region.to_bytes())
            .collect();
        mm.copy_to_user(at, &bytes)?;
        at = at
            .checked_add((regions.len() * PageRegion::BYTES) as u64)
            .ok_or(Errno::EFAULT)?;
        Ok(())
    });
    let told = arg.checked_add(PageScan::WALK_END).ok_or(Errno::EFAULT)?;
    mm.copy_to_user(told, &walk_end.get().to_ne_bytes())?;
    result
}

/// PROCMAP_QUERY: the structure lies at `arg`, in the memory of the task that asks, and is about that same memory.
///
/// # Errors
/// - `E2BIG`: a structure larger than a page, or with something set that this version does not know. `EINVAL`: one that is too small.
/// - `EFAULT`: what it points at cannot be reached. Those of [`ProcmapQuery::parse`] and [`query_procmap`].
pub fn procmap_query<P: Platform>(mm: &MmUser<P>, arg: VirtAddr) -> Result<u64, Errno> {
    let mut size = [0; 8];
    mm.copy_from_user(arg, &mut size)?;
    let size = u64::from_ne_bytes(size);
    if size > PAGE {
        return Err(Errno::E2BIG);
    }
    let size = size as usize;
    if size < ProcmapQuery::LEAST {
        return Err(Errno::EINVAL);
    }
    let mut given = alloc::vec![0; size.max(ProcmapQuery::BYTES)];
    mm.copy_from_user(arg, &mut given[..size])?;
    let (known, unknown) = given.split_at(ProcmapQuery::BYTES);
    if unknown.iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    let known = known.first_chunk().ok_or(Errno::EINVAL)?;
    let query = ProcmapQuery::parse(known)?;
    let room = (query.name.1 as usize).min(ProcmapQuery::NAME_MOST);
    let mut name = alloc::vec![0; room];
    let answer = query_procmap(mm, &query, &mut name)?;
    mm.copy_to_user(VirtAddr::new(query.name.0), &name[..answer.name_len])?;
    if let Some(id) = &answer.build_id {
        mm.copy_to_user(VirtAddr::new(query.build_id.0), id.as_bytes())?;
    }
    mm.copy_to_user(arg, &answer.bytes[..size.min(ProcmapQuery::BYTES)])?;
    Ok(0)
}

/// The largest structure that is looked at.
const PAGE: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_linux_reads_them() {
        assert_eq!(parse(b"4\n", 10), Ok(4));
        assert_eq!(parse(b" 0x33 ", 0), Ok(0x33));
        assert_eq!((parse(b"017", 0), parse(b"0", 0)), (Ok(15), Ok(0)));
        assert_eq!(parse(b"-1", 10), Ok(-1));
        for wrong in [&b""[..], b"x", b"1 2", b"0x", b"08", b"+-1", b"\xff"] {
            assert_eq!(parse(wrong, 0), Err(Errno::EINVAL), "{wrong:?}");
        }
        assert_eq!(parse(b"99999999999999999999", 0), Err(Errno::ERANGE));
    }
}

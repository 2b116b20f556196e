//! The memory lines of `/proc/PID/status`, and `/proc/PID/statm`. `fs/proc/task_mmu.c: task_mem`, `task_statm`.

use core::fmt::{self, Write};

use crate::paging::Format;
use crate::platform::Platform;
use crate::space::Mm;

/// Writes the lines from `VmPeak` to `HugetlbPages`.
///
/// # Errors
/// Only what `out` answers.
pub fn write_status_memory<P: Platform>(mm: &Mm<P>, out: &mut impl Write) -> fmt::Result {
    let (counts, rss) = (mm.counts(), mm.rss());
    let kilo = |pages: u64| (pages << P::Format::GRANULE.shift()) >> 10;
    let code = code_pages(mm).min(counts.exec);
    let rows = [
        ("VmPeak", kilo(counts.peak.max(counts.total))),
        ("VmSize", kilo(counts.total)),
        ("VmLck", kilo(counts.locked)),
        ("VmPin", 0),
        ("VmHWM", kilo(mm.peak_rss().max(rss.total()))),
        ("VmRSS", kilo(rss.total())),
        ("RssAnon", kilo(rss.anon)),
        ("RssFile", kilo(rss.file)),
        ("RssShmem", kilo(rss.shmem)),
        ("VmData", kilo(counts.data)),
        ("VmStk", kilo(counts.stack)),
        ("VmExe", kilo(code)),
        ("VmLib", kilo(counts.exec - code)),
        ("VmPTE", mm.table_bytes() >> 10),
        ("VmSwap", kilo(rss.swap)),
        ("HugetlbPages", 0),
    ];
    rows.into_iter()
        .try_for_each(|(name, value)| writeln!(out, "{name}:\t{value:8} kB"))
}

/// Writes the line of statm: size, resident, shared, code, 0, data, 0, in pages.
///
/// # Errors
/// Only what `out` answers.
pub fn write_statm<P: Platform>(mm: &Mm<P>, out: &mut impl Write) -> fmt::Result {
    let (counts, rss) = (mm.counts(), mm.rss());
    writeln!(
        out,
        "{} {} {} {} 0 {} 0",
        counts.total,
        rss.total(),
        rss.file + rss.shmem,
        code_pages(mm),
        counts.data + counts.stack,
    )
}

/// Pages from the start to the end of the program's code, whatever is mapped there.
fn code_pages<P: Platform>(mm: &Mm<P>) -> u64 {
    let (layout, granule) = (mm.layout(), P::Format::GRANULE);
    let end = granule.round_up(layout.end_code).unwrap_or(layout.end_code);
    end.saturating_sub(granule.round_down(layout.start_code)) >> granule.shift()
}

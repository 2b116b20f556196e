//! `/proc/PID/smaps` and `/proc/PID/smaps_rollup`. `fs/proc/task_mmu.c: show_smap`, `show_smaps_rollup`.

use core::fmt::{self, Write};

use super::maps::{vsyscall_area, write_area, write_header};
use crate::addr::{VirtAddr, VirtRange};
use crate::object::VmFlags;
use crate::paging::Format;
use crate::platform::Platform;
use crate::space::{Area, AreaUsage, Mm, SHARE_SHIFT};

/// The codes of the VM_* flags that have one, by bit number. `show_smap_vma_flags`. Protection keys have a line of their own.
const CODES: [(VmFlags, &str); 39] = [
    (VmFlags::READ, "rd"),
    (VmFlags::WRITE, "wr"),
    (VmFlags::EXEC, "ex"),
    (VmFlags::SHARED, "sh"),
    (VmFlags::MAYREAD, "mr"),
    (VmFlags::MAYWRITE, "mw"),
    (VmFlags::MAYEXEC, "me"),
    (VmFlags::MAYSHARE, "ms"),
    (VmFlags::GROWSDOWN, "gd"),
    (VmFlags::UFFD_MISSING, "um"),
    (VmFlags::PFNMAP, "pf"),
    (VmFlags::MAYBE_GUARD, "gu"),
    (VmFlags::UFFD_WP, "uw"),
    (VmFlags::LOCKED, "lo"),
    (VmFlags::IO, "io"),
    (VmFlags::SEQ_READ, "sr"),
    (VmFlags::RAND_READ, "rr"),
    (VmFlags::DONTCOPY, "dc"),
    (VmFlags::DONTEXPAND, "de"),
    (VmFlags::LOCKONFAULT, "lf"),
    (VmFlags::ACCOUNT, "ac"),
    (VmFlags::NORESERVE, "nr"),
    (VmFlags::HUGETLB, "ht"),
    (VmFlags::SYNC, "sf"),
    (VmFlags::ARCH_1, "ar"),
    (VmFlags::WIPEONFORK, "wf"),
    (VmFlags::DONTDUMP, "dd"),
    (VmFlags::SOFTDIRTY, "sd"),
    (VmFlags::MIXEDMAP, "mm"),
    (VmFlags::HUGEPAGE, "hg"),
    (VmFlags::NOHUGEPAGE, "nh"),
    (VmFlags::MERGEABLE, "mg"),
    (VmFlags::PKEY_BIT0, ""),
    (VmFlags::PKEY_BIT1, ""),
    (VmFlags::PKEY_BIT2, ""),
    (VmFlags::PKEY_BIT3, ""),
    (VmFlags::UFFD_MINOR, "ui"),
    (VmFlags::DROPPABLE, "dp"),
    (VmFlags::SEALED, "sl"),
];

/// Writes what of each mapping is in memory, a paragraph each, as `/proc/PID/smaps` shows it.
///
/// There are no huge pages, no swap and no merging of equal pages: their lines are there and say 0. No line `ProtectionKey`, as on a CPU without.
///
/// # Errors
/// Only what `out` answers.
///
/// Holds the mmap lock for reading while it writes, so `out` must not fault on this space.
pub fn write_smaps<P: Platform>(mm: &Mm<P>, out: &mut impl Write) -> fmt::Result {
    let mut result = Ok(());
    mm.for_each_area_usage(|area, usage| {
        if result.is_ok() {
            result = write_entry::<P>(area, usage, out);
        }
    });
    result
}

/// Writes the paragraph of x86-64's `[vsyscall]` page, which ends every smaps there.
///
/// # Errors
/// Only what `out` answers.
pub fn write_smaps_vsyscall<P: Platform>(out: &mut impl Write) -> fmt::Result {
    let area = vsyscall_area().ok_or(fmt::Error)?;
    write_entry::<P>(&area, &AreaUsage::default(), out)
}

/// Writes the sums over all mappings, as `/proc/PID/smaps_rollup` shows them.
///
/// # Errors
/// Only what `out` answers.
///
/// Holds the mmap lock for reading while it adds up, but not while it writes.
pub fn write_smaps_rollup<P: Platform>(mm: &Mm<P>, out: &mut impl Write) -> fmt::Result {
    let mut sum = AreaUsage::default();
    let mut hull: Option<VirtRange> = None;
    mm.for_each_area_usage(|area, usage| {
        sum += *usage;
        let start = hull.map_or(area.range.start(), |hull| hull.start());
        hull = VirtRange::new(start, area.range.end());
    });
    let zero = VirtAddr::new(0);
    let (start, end) = hull.map_or((zero, zero), |hull| (hull.start(), hull.end()));
    write_header(start, end, "[rollup]", out)?;
    write_figures(&sum, Detail::Kinds, out)
}

fn write_entry<P: Platform>(
    area: &Area<'_>,
    usage: &AreaUsage,
    out: &mut impl Write,
) -> fmt::Result {
    let page = P::Format::GRANULE.bytes();
    write_area(area, out)?;
    line("Size", area.range.bytes(), out)?;
    line("KernelPageSize", page, out)?;
    line("MMUPageSize", page, out)?;
    write_figures(usage, Detail::Plain, out)?;
    writeln!(out, "THPeligible:    {:8}", 0)?;
    write_flags(area.flags, out)
}

/// Whether the proportional share is told by kind of page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    Plain,
    Kinds,
}

/// `__show_smap`.
fn write_figures(usage: &AreaUsage, detail: Detail, out: &mut impl Write) -> fmt::Result {
    let share = |value: u64| value >> SHARE_SHIFT;
    line("Rss", usage.resident, out)?;
    line("Pss", share(usage.share), out)?;
    line("Pss_Dirty", share(usage.share_dirty), out)?;
    if detail == Detail::Kinds {
        line("Pss_Anon", share(usage.share_anon), out)?;
        line("Pss_File", share(usage.share_file), out)?;
        line("Pss_Shmem", share(usage.share_shmem), out)?;
    }
    let rows = [
        ("Shared_Clean", usage.shared_clean),
        ("Shared_Dirty", usage.shared_dirty),
        ("Private_Clean", usage.private_clean),
        ("Private_Dirty", usage.private_dirty),
        ("Referenced", usage.referenced),
        ("Anonymous", usage.anonymous),
        ("KSM", 0),
        ("LazyFree", usage.lazy_free),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", usage.swap),
        ("SwapPss", share(usage.swap_share)),
        ("Locked", share(usage.share_locked)),
    ];
    rows.into_iter()
        .try_for_each(|(name, bytes)| line(name, bytes, out))
}

fn line(name: &str, bytes: u64, out: &mut impl Write) -> fmt::Result {
    let width = 15 - name.len();
    writeln!(out, "{name}:{:width$}{:8} kB", "", bytes >> 10)
}

/// The line of VM_* flags, each code followed by a space.
fn write_flags(flags: VmFlags, out: &mut impl Write) -> fmt::Result {
    out.write_str("VmFlags: ")?;
    for bit in flags.iter() {
        let code = CODES
            .iter()
            .find(|(flag, _)| *flag == bit)
            .map_or("??", |(_, code)| code);
        if !code.is_empty() {
            write!(out, "{code} ")?;
        }
    }
    out.write_char('\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    #[test]
    fn flags_are_told_by_bit_number_with_a_trailing_space() {
        let mut text = String::new();
        write_flags(
            VmFlags::ACCOUNT | VmFlags::READ | VmFlags::PKEY_BIT2,
            &mut text,
        )
        .unwrap();
        assert_eq!(text, "VmFlags: rd ac \n");
        text.clear();
        write_flags(VmFlags::ALLOW_ANY_UNCACHED | VmFlags::SEALED, &mut text).unwrap();
        assert_eq!(text, "VmFlags: ?? sl \n");
    }

    #[test]
    fn every_name_ends_in_the_same_column() {
        let mut text = String::new();
        line("Rss", 8192, &mut text).unwrap();
        line("Private_Hugetlb", 0, &mut text).unwrap();
        assert_eq!(
            text,
            "Rss:                   8 kB\nPrivate_Hugetlb:       0 kB\n"
        );
    }
}

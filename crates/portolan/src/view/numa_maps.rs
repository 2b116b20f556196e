//! `/proc/PID/numa_maps`: the memory policy of each mapping and on which nodes its pages lie. There is one node. `fs/proc/task_mmu.c: show_numa_map`.

use core::fmt::{self, Write};

use super::maps::write_path;
use crate::paging::Format;
use crate::platform::Platform;
use crate::space::{Area, AreaName, AreaPages, Mempolicy, Mm};

/// Writes a line for each mapping.
///
/// # Errors
/// Only what `out` answers.
///
/// Holds the mmap lock for reading while it writes, so `out` must not fault on this space.
pub fn write_numa_maps<P: Platform>(mm: &Mm<P>, out: &mut impl Write) -> fmt::Result {
    let mut result = Ok(());
    mm.for_each_area_pages(|area, pages, policy| {
        if result.is_ok() {
            result = write_line(area, pages, policy, P::Format::GRANULE.bytes(), out);
        }
    });
    result
}

fn write_line(
    area: &Area<'_>,
    pages: &AreaPages,
    policy: Option<&Mempolicy>,
    page: u64,
    out: &mut impl Write,
) -> fmt::Result {
    write!(out, "{:08x} ", area.range.start())?;
    match policy {
        Some(policy) => write!(out, "{policy}")?,
        None => out.write_str("default")?,
    }
    match area.name {
        AreaName::Path(path, linked) => {
            out.write_str(" file=")?;
            write_path(path, linked, "\n\t= ", out)?;
        }
        AreaName::Special("[heap]") => out.write_str(" heap")?,
        AreaName::Special("[stack]") => out.write_str(" stack")?,
        _ => {}
    }
    if pages.mapped == 0 {
        return out.write_char('\n');
    }
    let mut tell = |name: &str, count: u64, told: bool| match told {
        true => write!(out, " {name}={count}"),
        false => Ok(()),
    };
    tell("anon", pages.anonymous, pages.anonymous != 0)?;
    tell("dirty", pages.dirty, pages.dirty != 0)?;
    let others = pages.mapped != pages.anonymous && pages.mapped != pages.dirty;
    tell("mapped", pages.mapped, others)?;
    tell("mapmax", pages.most_mappings, pages.most_mappings > 1)?;
    tell("active", pages.active, pages.active < pages.mapped)?;
    writeln!(out, " N0={} kernelpagesize_kB={}", pages.mapped, page >> 10)
}

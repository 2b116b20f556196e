//! /proc/meminfo: the machine's memory by what it holds. What Linux counts and this machine has none of (slabs, swap, kernel stacks) is 0, which is true:
//! the kernel's own data lies outside the machine's memory.

use alloc::format;
use alloc::string::String;
use core::fmt::Write;

use portolan::errno::Errno;
use portolan::object::VmFlags;
use portolan::paging::Format;
use portolan::platform::Platform;

use super::vfs::Session;

/// The text. `fs/proc/meminfo.c: meminfo_proc_show`.
///
/// # Errors
/// `ESRCH`: no task asks.
pub fn render<P: Platform>(session: &Session<'_, P>) -> Result<String, Errno> {
    let machine = &session.vfs.machine;
    let (phys, census) = (machine.phys(), machine.phys().census());
    let granule = P::Format::GRANULE;
    let kilo = |pages: u64| pages << (granule.shift() - 10);
    let mut locked = 0;
    let page = granule.bytes();
    session
        .task
        .mm()
        .ok_or(Errno::ESRCH)?
        .for_each_area_usage(|area, usage| {
            if area.flags.contains(VmFlags::LOCKED) {
                locked += usage.resident / page;
            }
        });
    let dirty = session.vfs.inodes.all();
    let dirty: u64 = dirty.iter().map(|inode| inode.cache().dirty_pages()).sum();
    let locked_anon = locked.min(census.anon + census.shmem);
    let inactive_anon = census.anon + census.shmem - locked_anon;
    let inactive_file = census.cache.saturating_sub(locked - locked_anon);
    let free = phys.free_frames();
    let rows = [
        ("MemTotal", phys.total_frames()),
        ("MemFree", free),
        ("MemAvailable", free + census.cache),
        ("Buffers", 0),
        ("Cached", census.cache + census.shmem),
        ("SwapCached", 0),
        ("Active", 0),
        ("Inactive", inactive_anon + inactive_file),
        ("Active(anon)", 0),
        ("Inactive(anon)", inactive_anon),
        ("Active(file)", 0),
        ("Inactive(file)", inactive_file),
        ("Unevictable", locked),
        ("Mlocked", locked),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", dirty),
        ("Writeback", 0),
        ("AnonPages", census.anon),
        ("Mapped", census.mapped),
        ("Shmem", census.shmem),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", census.tables),
        ("SecPageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", machine.commit_limit_pages()),
        ("Committed_AS", machine.committed_pages()),
        ("VmallocTotal", 0),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("Percpu", 0),
    ];
    let mut text = String::new();
    for (name, pages) in rows {
        let name = format!("{name}:");
        let _ = writeln!(text, "{name:<15} {:>8} kB", kilo(pages));
    }
    Ok(text)
}

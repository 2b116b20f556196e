//! What the files of /proc say, in Linux's formats, and what may be written to them. Not for: where they hang in the tree (`proc`).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::time::Duration;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::paging::Format;
use portolan::platform::Platform;
use portolan::space::MmUser;
use portolan::view::{
    write_maps, write_numa_maps, write_smaps, write_smaps_rollup, write_smaps_vsyscall,
    write_statm, write_status_memory, write_vsyscall,
};

use super::abi;
use super::proc::{ProcNode, TextFile};
use super::vfs::Session;

/// The whole text of a file, as it is now.
///
/// # Errors
/// `EIO`: it could not be made. `ENOENT`: the descriptor is closed. Those of the outer file where it is that file's text.
pub fn render<P: Platform>(session: &Session<'_, P>, node: ProcNode) -> Result<Vec<u8>, Errno> {
    match node {
        ProcNode::Text(file) => text(session, file),
        ProcNode::Setting(setting) => Ok(setting.read(session, 0)),
        ProcNode::FdInfo(fd) => fd_info(session, fd),
        _ => Err(Errno::EINVAL),
    }
}

fn text<P: Platform>(session: &Session<'_, P>, file: TextFile) -> Result<Vec<u8>, Errno> {
    let names = &session.vfs.identity().names;
    let line = |value: u64| {
        let mut text = String::new();
        let _ = writeln!(text, "{value}");
        text.into_bytes()
    };
    let name_line = |name: &[u8]| [name, b"\n"].concat();
    let mm: &MmUser<P> = mm(session)?;
    let layout = mm.layout();
    Ok(match file {
        TextFile::Maps => written(|text| {
            write_maps(mm, text)?;
            write_vsyscall(text)
        })?,
        TextFile::Smaps => written(|text| {
            write_smaps(mm, text)?;
            write_smaps_vsyscall::<P>(text)
        })?,
        TextFile::SmapsRollup => written(|text| write_smaps_rollup(mm, text))?,
        TextFile::NumaMaps => written(|text| write_numa_maps(mm, text))?,
        TextFile::CoredumpFilter => {
            written(|text| writeln!(text, "{:08x}", session.task.core_filter()))?
        }
        TextFile::Pagemap | TextFile::ClearRefs => return Err(Errno::EINVAL),
        TextFile::Status => status(session)?.into_bytes(),
        TextFile::Statm => written(|text| write_statm(mm, text))?,
        TextFile::Stat => task_stat(session)?,
        TextFile::Auxv => session
            .task
            .auxv()
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect(),
        TextFile::Cmdline => memory(session, layout.arg_start, layout.arg_end)?,
        TextFile::Environ => memory(session, layout.env_start, layout.env_end)?,
        TextFile::Comm => name_line(&session.task.name()),
        TextFile::Limits => limits(session).into_bytes(),
        TextFile::Mounts => outer(session, b"/proc/self/mounts")?,
        TextFile::MountInfo => outer(session, b"/proc/self/mountinfo")?,
        TextFile::Cgroup => outer(session, b"/proc/self/cgroup")?,
        TextFile::Personality => {
            let mut text = String::new();
            let _ = writeln!(text, "{:08x}", session.task.personality());
            text.into_bytes()
        }
        TextFile::OomScore | TextFile::OomScoreAdj => line(0),
        TextFile::MemInfo => super::meminfo::render(session)?.into_bytes(),
        TextFile::CpuInfo => outer(session, b"/proc/cpuinfo")?,
        TextFile::SystemStat => outer(session, b"/proc/stat")?,
        TextFile::Uptime => outer(session, b"/proc/uptime")?,
        TextFile::LoadAvg => outer(session, b"/proc/loadavg")?,
        TextFile::FileSystems => outer(session, b"/proc/filesystems")?,
        TextFile::Version => outer(session, b"/proc/version")?,
        TextFile::CorePattern => name_line(b"core"),
        TextFile::OsRelease => name_line(&names.release),
        TextFile::OsType => name_line(&names.sysname),
        TextFile::OsVersion => name_line(&names.version),
        TextFile::HostName => name_line(&names.nodename),
        TextFile::RandomizeVaSpace => line(session.task.randomize().into()),
        TextFile::PidMax => line(4_194_304),
        TextFile::CapLastCap => line(40),
        TextFile::ThreadsMax => line(192_730),
        TextFile::FileMax => line(i64::MAX as u64),
        TextFile::NrOpen => line(1_048_576),
        TextFile::PipeMaxSize => line(1_048_576),
    })
}

/// A text as the library writes it.
fn written(write: impl FnOnce(&mut String) -> core::fmt::Result) -> Result<Vec<u8>, Errno> {
    let mut text = String::new();
    write(&mut text).map_err(|_| Errno::EIO)?;
    Ok(text.into_bytes())
}

/// What the outer /proc says where the guest may know it as it is.
fn outer<P: Platform>(session: &Session<'_, P>, path: &[u8]) -> Result<Vec<u8>, Errno> {
    let file = session.out.open(path, abi::O_RDONLY, 0)?;
    let (mut text, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match file.read(&mut part)? {
            0 => return Ok(text),
            count => text.extend_from_slice(&part[..count]),
        }
    }
}

/// What lies between two addresses of the task, as far as it can be read. The two are what the program says of itself.
fn memory<P: Platform>(session: &Session<'_, P>, start: u64, end: u64) -> Result<Vec<u8>, Errno> {
    const MOST: u64 = 4 << 20;
    let mut bytes = alloc::vec![0; end.saturating_sub(start).min(MOST) as usize];
    match mm(session)?.copy_from_user(VirtAddr::new(start), &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(Errno::EFAULT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn mm<'a, P: Platform>(session: &Session<'a, P>) -> Result<&'a MmUser<P>, Errno> {
    session.task.mm().ok_or(Errno::ESRCH)
}

fn status<P: Platform>(session: &Session<'_, P>) -> Result<String, Errno> {
    let task = session.task;
    let identity = session.vfs.identity();
    let [ppid, pgid, sid] = task.family();
    let (pid, tid) = (task.pid(), task.tid());
    let ids = |ids: [u32; 3]| alloc::format!("{}\t{}\t{}\t{}", ids[0], ids[1], ids[2], ids[1]);
    let highest = task
        .descriptors()
        .keys()
        .next_back()
        .map_or(0, |&fd| fd as usize + 1);
    let size = highest.max(64).next_power_of_two();
    let groups: String = identity
        .groups
        .iter()
        .map(|group| alloc::format!("{group} "))
        .collect();
    let mut text = String::new();
    let name = task.name();
    let _ = write!(
        text,
        "Name:\t{}\nUmask:\t{:04o}\nState:\tR (running)\nTgid:\t{pid}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{ppid}\nTracerPid:\t0\n\
         Uid:\t{}\nGid:\t{}\nFDSize:\t{size}\nGroups:\t{groups} \nNStgid:\t{pid}\nNSpid:\t{tid}\nNSpgid:\t{pgid}\nNSsid:\t{sid}\nKthread:\t0\n",
        String::from_utf8_lossy(&name),
        task.place().umask,
        ids(identity.uid),
        ids(identity.gid),
    );
    let _ = write_status_memory(&**mm(session)?, &mut text);
    let signals = task.signals();
    let capable: u64 = if identity.uid[1] == 0 {
        (1 << 41) - 1
    } else {
        0
    };
    let _ = write!(
        text,
        "CoreDumping:\t0\nTHP_enabled:\t0\nuntag_mask:\t0xffffffffffffffff\nThreads:\t{}\nSigQ:\t0/{}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\n\
         SigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\nCapInh:\t{:016x}\nCapPrm:\t{capable:016x}\nCapEff:\t{capable:016x}\n\
         CapBnd:\t{:016x}\nCapAmb:\t{:016x}\nNoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n",
        task.threads(),
        task.limits()[11].0,
        signals.pending,
        signals.shared_pending,
        signals.blocked,
        signals.ignored,
        signals.caught,
        0,
        (1u64 << 41) - 1,
        0,
    );
    Ok(text)
}

/// Clock ticks of a duration. `USER_HZ` is 100.
fn ticks(time: Duration) -> u64 {
    (time.as_millis() / 10) as u64
}

fn task_stat<P: Platform>(session: &Session<'_, P>) -> Result<Vec<u8>, Errno> {
    let task = session.task;
    let (mm, [ppid, pgid, sid], [minor, major]) = (mm(session)?, task.family(), task.faults());
    let (layout, counts, signals) = (mm.layout(), mm.counts(), task.signals());
    let (user, system) = session.out.cpu_time();
    let started = ticks(session.out.boottime()).saturating_sub(ticks(user + system));
    let mut text = Vec::new();
    text.extend_from_slice(alloc::format!("{} (", task.tid()).as_bytes());
    text.extend_from_slice(&task.name());
    let mut rest = String::new();
    let _ = write!(
        rest,
        ") R {ppid} {pgid} {sid} 0 -1 4194304 {minor} 0 {major} 0 {} {} 0 0 20 0 ",
        ticks(user),
        ticks(system)
    );
    let _ = write!(
        rest,
        "{} 0 {started} {} {} ",
        task.threads(),
        counts.total << P::Format::GRANULE.shift(),
        mm.rss().total()
    );
    let _ = write!(
        rest,
        "{} {} {} {} 0 0 ",
        task.limits()[5].0,
        layout.start_code,
        layout.end_code,
        layout.start_stack
    );
    let _ = write!(
        rest,
        "{} {} {} {} ",
        signals.pending, signals.blocked, signals.ignored, signals.caught
    );
    let _ = write!(
        rest,
        "0 0 0 17 0 0 0 0 0 0 {} {} {} ",
        layout.start_data, layout.end_data, layout.start_brk
    );
    let _ = writeln!(
        rest,
        "{} {} {} {} 0",
        layout.arg_start, layout.arg_end, layout.env_start, layout.env_end
    );
    text.extend_from_slice(rest.as_bytes());
    Ok(text)
}

const LIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

fn limits<P: Platform>(session: &Session<'_, P>) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<25} {:<20} {:<20} {:<10}",
        "Limit", "Soft Limit", "Hard Limit", "Units"
    );
    let value = |limit: u64| {
        if limit == u64::MAX {
            String::from("unlimited")
        } else {
            alloc::format!("{limit}")
        }
    };
    for ((name, unit), (soft, hard)) in LIMITS.iter().zip(session.task.limits()) {
        let (soft, hard) = (value(soft), value(hard));
        let _ = match unit.is_empty() {
            true => writeln!(text, "{name:<25} {soft:<20} {hard:<20} "),
            false => writeln!(text, "{name:<25} {soft:<20} {hard:<20} {unit:<10}"),
        };
    }
    text
}

fn fd_info<P: Platform>(session: &Session<'_, P>, fd: u32) -> Result<Vec<u8>, Errno> {
    let descriptors = session.task.descriptors();
    let (file, on_exec) = descriptors.get(&fd).ok_or(Errno::ENOENT)?;
    let close = if *on_exec == super::fdtable::OnExec::Close {
        abi::O_CLOEXEC
    } else {
        0
    };
    let flags = file.flags() | close;
    let ino = file.stat(session).map_or(0, |stat| stat.ino);
    Ok(alloc::format!(
        "pos:\t{}\nflags:\t0{flags:o}\nmnt_id:\t0\nino:\t{ino}\n",
        file.position()
    )
    .into_bytes())
}

/// Writes to a file of /proc.
///
/// # Errors
/// `EINVAL`: not a number, none of the values it has, or not a file to be written. `EPERM`: not the user's to change.
pub fn store<P: Platform>(
    session: &Session<'_, P>,
    file: TextFile,
    from: &[u8],
) -> Result<(), Errno> {
    match file {
        TextFile::ClearRefs => super::pages::clear_refs(session, from)?,
        TextFile::CoredumpFilter => super::pages::set_core_filter(session, from)?,
        TextFile::Comm => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

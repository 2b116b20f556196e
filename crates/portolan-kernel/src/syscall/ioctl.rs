//! `ioctl`: the requests of terminals and streams that programs make on any descriptor. What is not known answers `ENOTTY`.

use alloc::sync::Arc;

use portolan::errno::Errno;

use super::fd::usable;
use super::{Arg, Call, SyscallContext, SyscallResult, call};
use crate::engine::Engine;
use crate::fs::file::Body;
use crate::fs::proc::{ProcNode, TextFile};
use crate::fs::{OnExec, OpenFile, abi, pagemap_scan, procmap_query};

/// The calls of this module.
pub fn calls<E: Engine>() -> impl IntoIterator<Item = Call<E>> {
    [call(16, "ioctl", &[Arg::Fd, Arg::Hex, Arg::Hex], ioctl).restarts()]
}

const FIONREAD: u32 = 0x541b;
const FIONBIO: u32 = 0x5421;
const FIONCLEX: u32 = 0x5450;
const FIOCLEX: u32 = 0x5451;
const FIOASYNC: u32 = 0x5452;
const FICLONE: u32 = 0x4004_9409;
const FICLONERANGE: u32 = 0x4020_940d;
const PAGEMAP_SCAN: u32 = 0xc060_6610;
const PROCMAP_QUERY: u32 = 0xc068_6611;

/// How a request that is passed on carries its argument.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carries {
    /// A structure of this many bytes that the call fills.
    Out(usize),
    /// One that it reads.
    In(usize),
    /// A number in the register itself, passed on as four bytes.
    Number,
}

/// The requests that outer files are asked.
const PASSED: &[(u32, Carries)] = &[
    (0x5401, Carries::Out(36)), // TCGETS
    (0x5402, Carries::In(36)),  // TCSETS
    (0x5403, Carries::In(36)),  // TCSETSW
    (0x5404, Carries::In(36)),  // TCSETSF
    (0x5405, Carries::Out(18)), // TCGETA
    (0x5409, Carries::Number),  // TCSBRK
    (0x540a, Carries::Number),  // TCXONC
    (0x540b, Carries::Number),  // TCFLSH
    (0x540f, Carries::Out(4)),  // TIOCGPGRP
    (0x5410, Carries::In(4)),   // TIOCSPGRP
    (0x5411, Carries::Out(4)),  // TIOCOUTQ
    (0x5413, Carries::Out(8)),  // TIOCGWINSZ
    (0x5414, Carries::In(8)),   // TIOCSWINSZ
    (FIONREAD, Carries::Out(4)),
    (0x5429, Carries::Out(4)),       // TIOCGSID
    (0x802c_542a, Carries::Out(44)), // TCGETS2
    (0x402c_542b, Carries::In(44)),  // TCSETS2
    (0x402c_542c, Carries::In(44)),  // TCSETSW2
    (0x402c_542d, Carries::In(44)),  // TCSETSF2
    (0x8004_5430, Carries::Out(4)),  // TIOCGPTN
    (0x5460, Carries::Out(8)),       // FIOQSIZE
    (0x8008_6601, Carries::Out(8)),  // FS_IOC_GETFLAGS
];

fn ioctl<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let (file, fd, request) = (usable(cx, 0)?, cx.uint(0), cx.uint(1));
    match request {
        FIOCLEX => cx
            .task
            .files
            .write()
            .set_on_exec(fd, OnExec::Close)
            .map(|()| 0),
        FIONCLEX => cx
            .task
            .files
            .write()
            .set_on_exec(fd, OnExec::Keep)
            .map(|()| 0),
        FIONBIO => {
            let flag = if cx.read_u32(cx.addr(2))? != 0 {
                abi::O_NONBLOCK
            } else {
                0
            };
            file.set_flags(file.flags() & !abi::O_NONBLOCK | flag)
                .map(|()| 0)
        }
        FIOASYNC => Err(Errno::ENOTTY),
        FIONREAD if !matches!(file.body, Body::Stream(_)) => {
            let bytes = file.waiting_bytes()?.min(i32::MAX as u64) as u32;
            cx.write_u32(cx.addr(2), bytes).map(|()| 0)
        }
        FICLONE | FICLONERANGE => Err(Errno::EOPNOTSUPP),
        PAGEMAP_SCAN if is_proc_file(&file, TextFile::Pagemap) => {
            pagemap_scan(&cx.task.mm, cx.addr(2))
        }
        PROCMAP_QUERY if is_proc_file(&file, TextFile::Maps) => {
            procmap_query(&cx.task.mm, cx.addr(2))
        }
        // What pagemap does not know it answers itself.
        _ if is_proc_file(&file, TextFile::Pagemap) => Err(Errno::EINVAL),
        _ => pass_on(cx, &file, request),
    }
}

fn is_proc_file<E: Engine>(file: &OpenFile<E>, which: TextFile) -> bool {
    matches!(&file.body, Body::Text(text) if text.node == ProcNode::Text(which))
}

fn pass_on<E: Engine>(
    cx: &SyscallContext<'_, E>,
    file: &Arc<OpenFile<E>>,
    request: u32,
) -> SyscallResult {
    const LARGEST: usize = 64;
    let known = PASSED.iter().find(|(number, _)| *number == request);
    let (&(_, carries), Some(outer)) = (known.ok_or(Errno::ENOTTY)?, file.outer()) else {
        return Err(Errno::ENOTTY);
    };
    let mut data = [0; LARGEST];
    let len = match carries {
        Carries::Out(len) | Carries::In(len) => len,
        Carries::Number => 4,
    };
    let data = &mut data[..len];
    match carries {
        Carries::In(_) => cx.read(cx.addr(2), data)?,
        Carries::Number => data.copy_from_slice(&cx.uint(2).to_ne_bytes()),
        Carries::Out(_) => {}
    }
    let answer = outer.ioctl(request, data)?;
    if matches!(carries, Carries::Out(_)) {
        cx.write(cx.addr(2), data)?;
    }
    Ok(answer)
}

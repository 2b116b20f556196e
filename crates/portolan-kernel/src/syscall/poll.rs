//! Waiting for files: poll, ppoll, select, pselect6. Files of ours know at once whether they are ready; for the rest the outside waits.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;

use super::{Arg, Call, SyscallContext, SyscallResult, call};
use crate::engine::Engine;
use crate::fs::OpenFile;
use crate::fs::file::Body;
use crate::fs::poll::{
    POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, POLLRDNORM, POLLWRNORM,
};
use crate::outside::PollItem;
use crate::signal::SignalSet;

/// The calls of this module.
pub fn calls<E: Engine>() -> impl IntoIterator<Item = Call<E>> {
    use Arg::{Int, Pointer, Size};
    [
        call(7, "poll", &[Pointer, Size, Int], poll).restarts_without_handler(),
        call(
            23,
            "select",
            &[Int, Pointer, Pointer, Pointer, Pointer],
            select,
        )
        .restarts_without_handler(),
        call(
            270,
            "pselect6",
            &[Int, Pointer, Pointer, Pointer, Pointer, Pointer],
            pselect6,
        )
        .restarts_without_handler(),
        call(
            271,
            "ppoll",
            &[Pointer, Size, Pointer, Pointer, Size],
            ppoll,
        )
        .restarts_without_handler(),
    ]
}

/// One descriptor that is waited for.
struct Item {
    fd: i32,
    events: u16,
    revents: u16,
}

/// Waits until an item is ready. Returns how many are.
fn wait<E: Engine>(
    cx: &SyscallContext<'_, E>,
    items: &mut [Item],
    timeout: Option<Duration>,
) -> Result<usize, Errno> {
    let always = POLLERR | POLLHUP | POLLNVAL;
    let mut outer: Vec<(usize, Arc<OpenFile<E>>)> = Vec::new();
    let mut ready = 0;
    for (n, item) in items.iter_mut().enumerate() {
        item.revents = 0;
        let Ok(fd) = u32::try_from(item.fd) else {
            continue;
        };
        let file = cx.task.files.read().get(fd).cloned();
        match file {
            Err(_) => item.revents = POLLNVAL,
            Ok(file) => match file.ready() {
                Some(events) => item.revents = events & (item.events | always),
                None => outer.push((n, file)),
            },
        }
        ready += usize::from(item.revents != 0);
    }
    let mut asked = Vec::with_capacity(outer.len());
    for (n, file) in &outer {
        let Body::Stream(stream) = &file.body else {
            continue;
        };
        asked.push(PollItem {
            handle: stream.handle(),
            events: items[*n].events,
            revents: 0,
        });
    }
    if asked.is_empty() && (ready != 0 || timeout == Some(Duration::ZERO)) {
        return Ok(ready);
    }
    let timeout = if ready != 0 {
        Some(Duration::ZERO)
    } else {
        timeout
    };
    cx.outside().poll(&mut asked, timeout)?;
    for ((n, _), answer) in outer.iter().zip(&asked) {
        items[*n].revents = answer.revents & (items[*n].events | always);
        ready += usize::from(items[*n].revents != 0);
    }
    Ok(ready)
}

fn poll_list<E: Engine>(cx: &SyscallContext<'_, E>, timeout: Option<Duration>) -> SyscallResult {
    let (at, count) = (cx.addr(0), cx.args[1]);
    if count > cx.task.files.read().limit().into() {
        return Err(Errno::EINVAL);
    }
    let mut bytes = cx.read_vec(at, count as usize * 8)?;
    let mut items: Vec<Item> = bytes.chunks_exact(8).map(pollfd).collect();
    let ready = wait(cx, &mut items, timeout)?;
    for (slot, item) in bytes.chunks_exact_mut(8).zip(&items) {
        slot[6..8].copy_from_slice(&item.revents.to_ne_bytes());
    }
    cx.write(at, &bytes)?;
    Ok(ready as u64)
}

/// One `struct pollfd`.
fn pollfd(bytes: &[u8]) -> Item {
    let fd = i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    Item {
        fd,
        events: u16::from_ne_bytes([bytes[4], bytes[5]]),
        revents: 0,
    }
}

fn poll<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let timeout = u64::try_from(cx.int(2)).ok().map(Duration::from_millis);
    poll_list(cx, timeout)
}

/// A `struct timespec` or `struct timeval` at an address, whose second word counts `1 / parts` seconds; `None` for NULL.
fn timeout_at<E: Engine>(
    cx: &SyscallContext<'_, E>,
    at: Option<VirtAddr>,
    parts: u64,
) -> Result<Option<Duration>, Errno> {
    let Some(at) = at else { return Ok(None) };
    let [seconds, fraction]: [u64; 2] = cx.read_words(at)?;
    // select takes microseconds beyond a second and carries them over; negative is wrong everywhere.
    let carries = parts == MICROS && fraction <= i64::MAX as u64;
    if seconds > i64::MAX as u64 || fraction >= parts && !carries {
        return Err(Errno::EINVAL);
    }
    let nanoseconds = (fraction % parts) * (NANOS / parts);
    Ok(Some(Duration::new(
        seconds.saturating_add(fraction / parts),
        nanoseconds as u32,
    )))
}

const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;

/// Tells the program what is left of its timeout, as Linux does; that it cannot be told is no error.
fn store_left<E: Engine>(
    cx: &SyscallContext<'_, E>,
    at: Option<VirtAddr>,
    parts: u64,
    until: Option<Duration>,
) {
    if let (Some(at), Some(until)) = (at, until) {
        let left = until.saturating_sub(cx.outside().monotonic());
        let fraction = u64::from(left.subsec_nanos()) / (NANOS / parts);
        let _ = cx.write_words(at, [left.as_secs(), fraction]);
    }
}

/// Blocks the signals of the mask at an address while the call waits; the old mask comes back when its signals are delivered.
fn set_mask<E: Engine>(
    cx: &mut SyscallContext<'_, E>,
    at: Option<VirtAddr>,
    size: u64,
) -> Result<(), Errno> {
    let Some(at) = at else { return Ok(()) };
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    let mask = SignalSet(cx.read_u64(at)?).maskable();
    let old = core::mem::replace(&mut *cx.task.thread.blocked.lock(), mask);
    cx.task.saved_mask = Some(old);
    Ok(())
}

/// The call is over without a signal: the old mask comes back now.
fn restore_mask<E: Engine>(cx: &mut SyscallContext<'_, E>, result: &SyscallResult) {
    if *result == Err(Errno::EINTR) {
        return;
    }
    if let Some(old) = cx.task.saved_mask.take() {
        *cx.task.thread.blocked.lock() = old;
    }
}

fn ppoll<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let at = cx.addr_opt(2);
    let timeout = timeout_at(cx, at, NANOS)?;
    set_mask(cx, cx.addr_opt(3), cx.args[4])?;
    let until = timeout.map(|timeout| cx.outside().monotonic().saturating_add(timeout));
    let result = poll_list(cx, timeout);
    restore_mask(cx, &result);
    store_left(cx, at, NANOS, until);
    result
}

const READ_EVENTS: u16 = POLLIN | POLLRDNORM | POLLHUP | POLLERR;
const WRITE_EVENTS: u16 = POLLOUT | POLLWRNORM | POLLERR;

/// The bits of a `fd_set` with room for `count` descriptors; all clear for NULL.
fn bits_at<E: Engine>(
    cx: &SyscallContext<'_, E>,
    at: Option<VirtAddr>,
    count: usize,
) -> Result<Vec<u8>, Errno> {
    let bytes = count.div_ceil(64) * 8;
    at.map_or_else(|| Ok(alloc::vec![0; bytes]), |at| cx.read_vec(at, bytes))
}

fn bit(bits: &[u8], n: usize) -> bool {
    bits[n / 8] >> (n % 8) & 1 == 1
}

fn select_sets<E: Engine>(cx: &SyscallContext<'_, E>, timeout: Option<Duration>) -> SyscallResult {
    let count = usize::try_from(cx.int(0)).map_err(|_| Errno::EINVAL)?;
    let count = count.min(cx.task.files.read().size().max(1024));
    let at = [cx.addr_opt(1), cx.addr_opt(2), cx.addr_opt(3)];
    let mut sets = Vec::new();
    for at in at {
        sets.push(bits_at(cx, at, count)?);
    }
    let mut items = Vec::new();
    for n in 0..count {
        let wanted = [
            READ_EVENTS & !(POLLHUP | POLLERR),
            WRITE_EVENTS & !POLLERR,
            POLLPRI,
        ];
        let events =
            sets.iter().zip(wanted).fold(
                0,
                |events, (set, wanted)| if bit(set, n) { events | wanted } else { events },
            );
        if events != 0 {
            items.push(Item {
                fd: n as i32,
                events,
                revents: 0,
            });
        }
    }
    wait(cx, &mut items, timeout)?;
    if items.iter().any(|item| item.revents & POLLNVAL != 0) {
        return Err(Errno::EBADF);
    }
    let mut ready = 0;
    for (set, meaning) in sets.iter_mut().zip([READ_EVENTS, WRITE_EVENTS, POLLPRI]) {
        let asked = core::mem::replace(set, alloc::vec![0; set.len()]);
        for item in &items {
            let n = item.fd as usize;
            if bit(&asked, n) && item.revents & meaning != 0 {
                set[n / 8] |= 1 << (n % 8);
                ready += 1;
            }
        }
    }
    for (at, set) in at.into_iter().zip(&sets) {
        if let Some(at) = at {
            cx.write(at, set)?;
        }
    }
    Ok(ready)
}

fn select<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let at = cx.addr_opt(4);
    let timeout = timeout_at(cx, at, MICROS)?;
    let until = timeout.map(|timeout| cx.outside().monotonic().saturating_add(timeout));
    let result = select_sets(cx, timeout);
    store_left(cx, at, MICROS, until);
    result
}

fn pselect6<E: Engine>(cx: &mut SyscallContext<'_, E>) -> SyscallResult {
    let at = cx.addr_opt(4);
    let timeout = timeout_at(cx, at, NANOS)?;
    if let Some(pair) = cx.addr_opt(5) {
        let [mask, size]: [u64; 2] = cx.read_words(pair)?;
        set_mask(
            cx,
            Some(VirtAddr::new(mask)).filter(|mask| mask.get() != 0),
            size,
        )?;
    }
    let until = timeout.map(|timeout| cx.outside().monotonic().saturating_add(timeout));
    let result = select_sets(cx, timeout);
    restore_mask(cx, &result);
    store_left(cx, at, NANOS, until);
    result
}

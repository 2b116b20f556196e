//! Waits of a guest's kernel in the outside (a read from a terminal, a sleep) that a kick of its vcpu ends with EINTR.
//!
//! A thread that runs a vcpu waits on that vcpu's event descriptor as well. A kick stays pending until the vcpu's next run, so one
//! that comes between the check and the wait is not lost.

use std::cell::RefCell;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan::errno::Errno;

use crate::space::Lane;

thread_local! {
    /// The vcpu that this thread runs.
    static CURRENT: RefCell<Option<Arc<Lane>>> = const { RefCell::new(None) };
}

/// This thread runs this vcpu from now on.
pub(crate) fn set_current(lane: Option<Arc<Lane>>) {
    CURRENT.set(lane);
}

/// The process of the vcpu that this thread runs.
pub(crate) fn current_process() -> Option<i32> {
    CURRENT
        .with_borrow(|lane| lane.as_ref().map(|lane| lane.state().pid))
        .filter(|&pid| pid > 0)
}

/// Whether this thread's vcpu was kicked.
pub(crate) fn is_kicked() -> bool {
    CURRENT.with_borrow(|lane| lane.as_ref().is_some_and(|lane| lane.is_kicked()))
}

/// The errno of the last call.
pub(crate) fn last_errno() -> Errno {
    Errno::from_raw(
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

/// Makes a call until it is not interrupted, or until the vcpu is kicked.
pub(crate) fn retry(mut call: impl FnMut() -> isize) -> Result<usize, Errno> {
    loop {
        if let Ok(done) = usize::try_from(call()) {
            return Ok(done);
        }
        let why = last_errno();
        if why != Errno::EINTR || is_kicked() {
            return Err(why);
        }
    }
}

/// Waits until one of the files is ready, the time is over or the vcpu is kicked (EINTR). How many files are ready.
pub(crate) fn poll(files: &mut [libc::pollfd], timeout: Option<Duration>) -> Result<usize, Errno> {
    let lane = CURRENT.with_borrow(Clone::clone);
    let mut all = Vec::new();
    all.try_reserve_exact(files.len() + 1)
        .map_err(|_| Errno::ENOMEM)?;
    all.extend_from_slice(files);
    if let Some(lane) = &lane {
        all.push(libc::pollfd {
            fd: lane.event(),
            events: libc::POLLIN,
            revents: 0,
        });
    }
    let deadline = timeout.and_then(|time| Instant::now().checked_add(time));
    loop {
        if lane.as_ref().is_some_and(|lane| lane.is_kicked()) {
            return Err(Errno::EINTR);
        }
        let left = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let time = left.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the array and the time are live for the call, and the length is the array's.
        let ready = unsafe {
            libc::ppoll(
                all.as_mut_ptr(),
                all.len() as libc::nfds_t,
                time,
                std::ptr::null(),
            )
        };
        if ready < 0 {
            match last_errno() {
                Errno::EINTR => continue,
                why => return Err(why),
            }
        }
        for (file, now) in files.iter_mut().zip(&all) {
            file.revents = now.revents;
        }
        let count = files.iter().filter(|file| file.revents != 0).count();
        if count > 0 || ready == 0 {
            return Ok(count);
        }
        // Only the event: a kick, or what is left of one that was already taken.
        if let Some(lane) = &lane {
            lane.drain();
        }
    }
}

/// Waits until a file is ready for `events`.
pub(crate) fn wait_ready(fd: RawFd, events: i16) -> Result<(), Errno> {
    poll(
        &mut [libc::pollfd {
            fd,
            events,
            revents: 0,
        }],
        None,
    )
    .map(drop)
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

//! Which vcpus run on an address space, and the two sides of a flush: what a vcpu's process has mapped, what it must still unmap, and
//! whether it runs guest code at this moment.
//!
//! Each vcpu has a process and so a TLB of its own, as each CPU has. A flush cuts the record of every vcpu of the space; the
//! unmapping itself is queued and made in one batch before that process next runs guest code. Only a vcpu that runs guest code at
//! the moment, and has something of the range mapped, is stopped.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};
use portolan::platform::Asid;

use crate::stub::GUEST_TOP;
use crate::tlb::Tlb;
use crate::tracee;

/// The first page that a guest cannot have.
pub(crate) const TOP_PAGE: u64 = GUEST_TOP / crate::memory::PAGE;
/// More queued ranges than this become one flush of everything.
const MOST_PENDING: usize = 128;

/// One address space as the engine sees it.
pub(crate) struct Space {
    pub(crate) asid: Asid,
    lanes: RwLock<Vec<Arc<Lane>>>,
}

/// What others may do to a vcpu while its own thread runs it.
pub(crate) struct Lane {
    state: Mutex<LaneState>,
    left: Condvar,
    kicked: AtomicBool,
    /// Readable after a kick: ends waits in the outside.
    event: OwnedFd,
}

/// What a lane's lock guards.
#[derive(Default)]
pub(crate) struct LaneState {
    /// What the process will have mapped once `pending` is carried out.
    pub(crate) tlb: Tlb,
    /// Ranges of pages to unmap before guest code runs again.
    pub(crate) pending: Vec<(u64, u64)>,
    /// How many flushes there were: a translation read before one must not be installed after it.
    pub(crate) flushes: u64,
    /// Whether guest code runs.
    pub(crate) running: bool,
    /// Whether a flush waits for it to stop.
    awaited: bool,
    /// The process; 0 when there is none.
    pub(crate) pid: i32,
}

impl LaneState {
    /// Queues the unmapping of everything.
    pub(crate) fn drop_all(&mut self) {
        self.tlb.clear();
        self.pending.clear();
        self.pending.push((0, TOP_PAGE));
    }

    /// Cuts pages from the record and queues their unmapping. Whether any was installed.
    fn flush(&mut self, from: u64, to: u64) -> bool {
        self.flushes += 1;
        let Some((start, end)) = self.tlb.cut(from, to) else {
            return false;
        };
        if let Some(last) = self.pending.last_mut()
            && last.1 == start
        {
            last.1 = end;
        } else if self.pending.len() >= MOST_PENDING {
            self.drop_all();
        } else {
            self.pending.push((start, end));
        }
        true
    }
}

impl Lane {
    /// A lane without a process.
    pub(crate) fn new() -> io::Result<Lane> {
        // SAFETY: a call on numbers.
        let event = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if event < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above returned this descriptor, and nothing else owns it.
        let event = unsafe { OwnedFd::from_raw_fd(event) };
        Ok(Lane {
            state: Mutex::default(),
            left: Condvar::new(),
            kicked: AtomicBool::new(false),
            event,
        })
    }

    /// The descriptor that is readable after a kick.
    pub(crate) fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Makes it unreadable again.
    pub(crate) fn drain(&self) {
        let mut count = 0_u64;
        // SAFETY: a live local of the size that is named. Fails when there is nothing to read.
        unsafe { libc::read(self.event(), (&raw mut count).cast(), size_of_val(&count)) };
    }

    /// Whether there was a kick that no run has answered.
    pub(crate) fn is_kicked(&self) -> bool {
        self.kicked.load(Ordering::SeqCst)
    }

    /// The state, locked.
    pub(crate) fn state(&self) -> parking_lot::MutexGuard<'_, LaneState> {
        self.state.lock()
    }

    /// Guest code has stopped.
    pub(crate) fn leave(&self) {
        let mut state = self.state.lock();
        state.running = false;
        if std::mem::take(&mut state.awaited) {
            self.left.notify_all();
        }
    }

    /// Makes the vcpu leave guest code, or not enter it, once.
    pub(crate) fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        let one = 1_u64;
        // SAFETY: a live local of the size that is named. Fails only when the event is set many times over.
        unsafe { libc::write(self.event(), (&raw const one).cast(), size_of_val(&one)) };
        let state = self.state.lock();
        if state.running && state.pid != 0 {
            tracee::kick(state.pid);
        }
    }

    /// Whether there was a kick since the last time this was asked.
    pub(crate) fn take_kick(&self) -> bool {
        let kicked =
            self.kicked.load(Ordering::Relaxed) && self.kicked.swap(false, Ordering::SeqCst);
        if kicked {
            self.drain();
        }
        kicked
    }

    fn flush(&self, from: u64, to: u64) -> bool {
        let mut state = self.state.lock();
        let hit = state.flush(from, to);
        if hit && state.running {
            state.awaited = true;
            tracee::kick(state.pid);
        }
        hit && state.running
    }

    fn wait(&self) {
        let mut state = self.state.lock();
        while state.awaited {
            self.left.wait(&mut state);
        }
    }
}

impl Space {
    /// A space that no vcpu runs on.
    pub(crate) fn new(asid: Asid) -> Space {
        Space {
            asid,
            lanes: RwLock::new(Vec::new()),
        }
    }

    /// A vcpu runs on it from now on.
    pub(crate) fn join(&self, lane: &Arc<Lane>) {
        self.lanes.write().push(Arc::clone(lane));
    }

    /// A vcpu runs on it no longer.
    pub(crate) fn part(&self, lane: &Arc<Lane>) {
        self.lanes.write().retain(|other| !Arc::ptr_eq(other, lane));
    }

    /// Whether no vcpu runs on it.
    pub(crate) fn is_idle(&self) -> bool {
        self.lanes.read().is_empty()
    }

    /// Starts to forget the pages `from..to`. Whether a vcpu must be waited for.
    pub(crate) fn flush(&self, from: u64, to: u64) -> bool {
        let mut wait = false;
        for lane in self.lanes.read().iter() {
            wait |= lane.flush(from, to);
        }
        wait
    }

    /// Waits until no vcpu uses what earlier calls of [`Space::flush`] named.
    pub(crate) fn wait(&self) {
        for lane in self.lanes.read().iter() {
            lane.wait();
        }
    }
}

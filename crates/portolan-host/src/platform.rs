//! The machine that a host process is: memory in a file, locks of `parking_lot`, flushes that reach into traced processes.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use portolan::addr::{PhysAddr, PhysRange};
use portolan::paging::X86_64;
use portolan::platform::{Asid, CpuId, FlushRequest, FlushScope, MAX_CPUS, Platform};

use crate::error::HostError;
use crate::memory::{GuestMemory, PAGE};
use crate::outside::HostOutside;
use crate::pin::{Loads, Pin};
use crate::space::{Lane, Space, TOP_PAGE};
use crate::tracee::{SecondWall, Tracee};
use crate::vcpu::Vcpu;

/// Whether a guest thread and the thread that drives it are held on one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Placement {
    /// They are: a stop costs about two thirds of what it costs across CPUs.
    #[default]
    Together,
    /// The outer scheduler places them.
    Free,
}

/// What a host is made of.
#[derive(Clone, Copy, Debug)]
pub struct HostConfig {
    /// The guest's physical memory, bytes: a whole number of pages. Taken from the system only where touched.
    pub memory: u64,
    /// Where guest threads run.
    pub placement: Placement,
}

/// The host engine: the [`Platform`] of a machine whose CPUs are traced processes.
pub struct Host {
    shared: Arc<Shared>,
    ram: [PhysRange; 1],
    started: Instant,
    cpus: usize,
    outside: HostOutside,
}

/// What vcpus need of their host.
pub(crate) struct Shared {
    pub(crate) memory: GuestMemory,
    spaces: RwLock<HashMap<Asid, Arc<Space>>>,
    loads: Loads,
    placement: Placement,
    /// The process with which the host found out that tracing works, for the first vcpu on the same thread.
    spare: Mutex<Option<Tracee>>,
    notes: Mutex<Vec<String>>,
}

impl Host {
    /// Makes the memory and finds out whether this system lets a process be traced.
    ///
    /// # Errors
    /// [`HostError`], whose text says what to allow.
    pub fn new(config: HostConfig) -> Result<Host, HostError> {
        let memory = GuestMemory::new(config.memory)?;
        let ram = PhysRange::with_len(PhysAddr::new(0), memory.bytes());
        let ram = ram.ok_or(HostError::BadMemorySize(config.memory))?;
        let mut spare = Tracee::spawn(memory.fd())?;
        spare.check_sysemu()?;
        let shared = Shared {
            memory,
            spaces: RwLock::default(),
            loads: Loads::new(),
            placement: config.placement,
            spare: Mutex::new(Some(spare)),
            notes: Mutex::default(),
        };
        let cpus = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MAX_CPUS);
        Ok(Host {
            shared: Arc::new(shared),
            ram: [ram],
            started: Instant::now(),
            cpus,
            outside: HostOutside::new(),
        })
    }

    /// A vcpu. Its process is made when it first runs, on the thread that runs it.
    pub(crate) fn vcpu(&self) -> std::io::Result<Vcpu> {
        Vcpu::new(Arc::clone(&self.shared))
    }

    /// The outside.
    pub(crate) fn files(&self) -> &HostOutside {
        &self.outside
    }

    /// The lowest address, in bytes, that the outer kernel lets a process map (its `vm.mmap_min_addr`): a guest's kernel must keep its
    /// own limit at least there.
    pub fn lowest_address(&self) -> u64 {
        let text = std::fs::read_to_string("/proc/sys/vm/mmap_min_addr").unwrap_or_default();
        text.trim().parse().unwrap_or(64 << 10)
    }

    /// What the engine could not tell the guest's kernel in a trap, one line each; taken out by the call.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.notes.lock())
    }

    /// Whether the seccomp filter stands behind `PTRACE_SYSEMU`; `None` once the first guest has started.
    pub fn second_wall(&self) -> Option<SecondWall> {
        self.shared.spare.lock().as_ref().map(Tracee::wall)
    }
}

impl Shared {
    /// Notes a line.
    pub(crate) fn note(&self, line: String) {
        let mut notes = self.notes.lock();
        if notes.len() < 100 {
            notes.push(line);
        }
    }

    /// A process for the calling thread.
    pub(crate) fn tracee(&self) -> Result<Tracee, HostError> {
        let mut spare = self.spare.lock();
        if spare.as_ref().is_some_and(Tracee::is_mine)
            && let Some(tracee) = spare.take()
        {
            tracee.follow();
            return Ok(tracee);
        }
        drop(spare.take());
        Tracee::spawn(self.memory.fd())
    }

    /// Pins the calling thread, if guests are to be pinned.
    pub(crate) fn pin(&self) -> Option<Pin> {
        match self.placement {
            Placement::Together => Pin::here(&self.loads),
            Placement::Free => None,
        }
    }

    pub(crate) fn unpin(&self, pin: Pin) {
        pin.release(&self.loads);
    }

    /// Enters a vcpu among those of a space.
    pub(crate) fn join(&self, asid: Asid, lane: &Arc<Lane>) -> Arc<Space> {
        let mut spaces = self.spaces.write();
        let space = spaces
            .entry(asid)
            .or_insert_with(|| Arc::new(Space::new(asid)));
        space.join(lane);
        Arc::clone(space)
    }

    /// Removes it again.
    pub(crate) fn part(&self, space: &Arc<Space>, lane: &Arc<Lane>) {
        let mut spaces = self.spaces.write();
        space.part(lane);
        if space.is_idle() {
            spaces.remove(&space.asid);
        }
    }

    fn space(&self, asid: Asid) -> Option<Arc<Space>> {
        self.spaces.read().get(&asid).cloned()
    }
}

/// A flush under way: the space, where a vcpu must be waited for.
pub struct HostFlush(Option<Arc<Space>>);

/// The next thread's CPU number.
static NEXT_SLOT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SLOT: Cell<usize> = const { Cell::new(usize::MAX) };
}

// SAFETY: `ram` is the whole mapping, which lives as long as the value, is page-aligned, and is used by nothing but the library and
// the traced processes that its page tables allow. `flush_wait` returns only when every vcpu that had something of the range
// mapped has stopped; none runs guest code again before the range is unmapped (`Vcpu::enter`), and a translation read
// before the flush is not installed after it (`LaneState::flushes`).
unsafe impl Platform for Host {
    type Format = X86_64;
    type RawMutex = parking_lot::RawMutex;
    type RawRwLock = parking_lot::RawRwLock;
    type Flush = HostFlush;

    fn ram(&self) -> &[PhysRange] {
        &self.ram
    }

    fn direct_map(&self, at: PhysAddr) -> *mut u8 {
        self.shared.memory.base().wrapping_add(at.get() as usize)
    }

    fn cpus(&self) -> usize {
        self.cpus
    }

    fn cpu(&self) -> CpuId {
        let slot = SLOT.get();
        let slot = if slot == usize::MAX {
            first_slot()
        } else {
            slot
        };
        // One thread is the common case; a division would be most of the cost of this call.
        CpuId(if slot < self.cpus {
            slot
        } else {
            slot % self.cpus
        } as u16)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        // SAFETY: a pointer to a live local and its size. With 8 bytes the call is not interrupted once the pool is ready.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if got == 8 {
            u64::from_ne_bytes(bytes)
        } else {
            self.started.elapsed().as_nanos() as u64
        }
    }

    fn relax(&self, turn: u32) {
        if turn < 64 {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }

    fn flush_begin(&self, request: FlushRequest<'_>) -> HostFlush {
        let Some(space) = self.shared.space(request.asid) else {
            return HostFlush(None);
        };
        let (from, to) = match request.scope {
            FlushScope::Pages(range) => {
                (range.start().get() / PAGE, range.end().get().div_ceil(PAGE))
            }
            FlushScope::Space => (0, TOP_PAGE),
        };
        let wait = space.flush(from, to);
        HostFlush(wait.then_some(space))
    }

    fn flush_wait(&self, flush: HostFlush) {
        if let Some(space) = flush.0 {
            space.wait();
        }
    }

    fn space_released(&self, asid: Asid) {
        let Some(space) = self.shared.space(asid) else {
            return;
        };
        if space.flush(0, TOP_PAGE) {
            space.wait();
        }
        self.shared.spaces.write().remove(&asid);
    }
}

#[cold]
fn first_slot() -> usize {
    let slot = NEXT_SLOT.fetch_add(1, Ordering::Relaxed);
    SLOT.set(slot);
    slot
}

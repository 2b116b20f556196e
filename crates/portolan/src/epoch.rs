//! Grace periods: when what a lock-free reader may still see can be freed. The role of SRCU in Linux: one domain for each machine,
//! nothing global or thread-local, no allocation after the start, and a grace period can be waited for.
//! Not for: deciding what is still reachable; whoever retires a thing has unlinked it first.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::{NonNull, null_mut};

use self::sync::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
use crate::phys::OutOfMemory;
use crate::platform::{CpuId, Padded};

/// The atomics that this room and the index are written with, so that a model checker can stand in for them.
pub(crate) mod sync {
    #[cfg(not(loom))]
    pub(crate) use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
    #[cfg(loom)]
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
}

/// `struct rcu_head`: what a retired object carries so that it can wait in a list without an allocation.
pub struct Header {
    next: AtomicPtr<Header>,
    free: UnsafeCell<Option<Free>>,
}

type Free = unsafe fn(NonNull<Header>);

// SAFETY: `free` is written once, by whoever retires the object and so owns it, before the header is pushed (release) and is
// read only by the thread that took the header off the list (acquire). `next` is atomic.
unsafe impl Sync for Header {}

impl Header {
    /// A header of an object that is not retired.
    pub fn new() -> Self {
        Self {
            next: AtomicPtr::new(null_mut()),
            free: UnsafeCell::new(None),
        }
    }
}

impl Default for Header {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Header")
    }
}

/// What can be retired in its box.
///
/// # Safety
/// The type is `#[repr(C)]` and its first field is a [`Header`] that nothing else uses.
pub unsafe trait Retire: Send + Sync + 'static {}

/// Headers that were unlinked and wait to be retired together, in the order they were added. Dropping it leaks them.
pub(crate) struct Chain {
    first: *mut Header,
    last: *mut Header,
    len: usize,
}

// SAFETY: a chain owns what it links, and all of that may go to another thread (`Retire: Send`, and the contract of `Chain::append`).
unsafe impl Send for Chain {}
// SAFETY: a shared chain can only be walked.
unsafe impl Sync for Chain {}

impl Chain {
    pub(crate) const EMPTY: Chain = Chain {
        first: null_mut(),
        last: null_mut(),
        len: 0,
    };

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds an object at the end.
    ///
    /// # Safety
    /// The header lives, is in no chain, and its object is owned by the caller, who gives it up. `free` frees the object when it is handed the header,
    /// on any thread.
    pub(crate) unsafe fn append(&mut self, header: NonNull<Header>, free: Free) {
        // SAFETY: the header lives and is the caller's alone, apart from readers, who do not look at it.
        let this = unsafe { header.as_ref() };
        // SAFETY: as above; the one write of `free`.
        unsafe { *this.free.get() = Some(free) };
        this.next.store(null_mut(), Ordering::Relaxed);
        if self.last.is_null() {
            self.first = header.as_ptr();
        } else {
            // SAFETY: what is in the chain lives until the chain is retired.
            unsafe { (*self.last).next.store(header.as_ptr(), Ordering::Relaxed) };
        }
        self.last = header.as_ptr();
        self.len += 1;
    }

    /// Adds a box.
    ///
    /// # Safety
    /// `object` came from `Box::into_raw` and is given up by its owner; only pinned readers may still look at it.
    pub(crate) unsafe fn append_box<T: Retire>(&mut self, object: NonNull<T>) {
        // SAFETY: the header is the first field (`Retire`), the rest is the caller's promise.
        unsafe { self.append(object.cast(), free_box::<T>) };
    }

    /// Adds another chain at the end.
    pub(crate) fn join(&mut self, other: Chain) {
        if self.last.is_null() {
            *self = other;
        } else if !other.first.is_null() {
            // SAFETY: what is in the chain lives until the chain is retired.
            unsafe { (*self.last).next.store(other.first, Ordering::Relaxed) };
            self.last = other.last;
            self.len += other.len;
        }
    }

    /// The headers, first to last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = NonNull<Header>> + '_ {
        let mut at = self.first;
        core::iter::from_fn(move || {
            let header = NonNull::new(at)?;
            // SAFETY: what is in the chain lives until the chain is retired.
            at = unsafe { header.as_ref() }.next.load(Ordering::Relaxed);
            Some(header)
        })
    }

    /// Frees everything and returns how many objects that were.
    ///
    /// # Safety
    /// No reader can still see any of them.
    unsafe fn free(self) -> usize {
        let mut at = self.first;
        let mut freed = 0;
        while let Some(header) = NonNull::new(at) {
            // SAFETY: owned by the chain and not freed yet.
            let this = unsafe { header.as_ref() };
            at = this.next.load(Ordering::Relaxed);
            // SAFETY: only the owner of the chain looks at it.
            let free = unsafe { *this.free.get() };
            freed += 1;
            if let Some(free) = free {
                // SAFETY: by the contract of `append`; no reader is left.
                unsafe { free(header) };
            }
        }
        freed
    }
}

/// # Safety
/// The header is the first field of a `T` that came from `Box::into_raw` and that nobody else uses.
unsafe fn free_box<T: Retire>(header: NonNull<Header>) {
    // SAFETY: the caller's promise; the pointer was made from that of the whole object.
    drop(unsafe { Box::from_raw(header.cast::<T>().as_ptr()) });
}

/// Tells domains apart: a guard of one does not protect what is retired through another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DomainId(usize);

/// A read-side section. Until it is dropped, nothing that is retired after its start is freed. It may move to another thread.
#[must_use = "the section ends when the guard is dropped"]
pub struct Guard<'d> {
    readers: &'d AtomicUsize,
    id: DomainId,
}

impl Guard<'_> {
    pub(crate) fn domain(&self) -> DomainId {
        self.id
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // Release: what the section read was read before the scan that finds the count at zero.
        self.readers.fetch_sub(1, Ordering::Release);
    }
}

impl fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.id).finish()
    }
}

/// `struct srcu_struct`: the readers of one machine and what waits for them.
///
/// # Why it is right
/// Every section is counted in one counter, chosen by CPU and phase, from its start to its end. A grace period begins with a
/// `SeqCst` fence and ends when each counter has been seen at zero at some moment after it. Take a section and a thing unlinked
/// before the fence.
/// - The scan's zero includes the section's increment: then it includes its decrement as well, and the acquire load of the scan
///   meets the release of that decrement: all reads of the section happen before the free.
/// - It does not: then the section's increment comes after it in the counter's modification order. The increment is followed
///   by the section's own full fence, which is therefore ordered after the fence of the grace period, so every load of the section
///   sees the unlinking: the section never gets hold of the thing.
///
/// Phases are for progress only: after the flip, new sections count elsewhere, so a counter that is scanned runs dry.
/// Linux keeps two sums of increments and decrements since a section there may end on another CPU's counter; a guard remembers its counter.
pub struct Domain {
    phase: Padded<AtomicUsize>,
    readers: Vec<Padded<[AtomicUsize; 2]>>,
    incoming: Padded<Incoming>,
    /// Held by whoever drives grace periods; only [`Domain::synchronize`] waits for it.
    busy: Padded<AtomicBool>,
    progress: UnsafeCell<Progress>,
    /// Every 2^batch things that are retired, what is due is freed.
    batch: u32,
}

// SAFETY: `progress` is touched only by the holder of `busy` (taken with acquire, given back with release); the rest is atomic
// or constant; what it frees is `Send`.
unsafe impl Sync for Domain {}
// SAFETY: as above.
unsafe impl Send for Domain {}

struct Incoming {
    head: AtomicPtr<Header>,
    /// Retired and not freed yet, wherever it waits.
    waiting: AtomicUsize,
}

/// The grace period under way: what waits for it and which counters are still to be seen at zero.
struct Progress {
    waiting: Chain,
    stage: Stage,
    cpu: usize,
}

#[derive(Clone, Copy)]
enum Stage {
    /// The phase that new sections do not use is scanned: only sections that read the phase long ago are in it.
    Idle,
    /// The phases were exchanged; the one with this index, that sections used before, is scanned.
    Flipped(usize),
}

impl Domain {
    /// A domain for CPUs numbered below `cpus` (0 is taken as 1).
    ///
    /// # Errors
    /// The heap is exhausted.
    pub fn new(cpus: usize) -> Result<Self, OutOfMemory> {
        let cpus = cpus.max(1);
        let mut readers = Vec::new();
        readers.try_reserve_exact(cpus).map_err(|_| OutOfMemory)?;
        readers.resize_with(cpus, || Padded([AtomicUsize::new(0), AtomicUsize::new(0)]));
        Ok(Self {
            phase: Padded(AtomicUsize::new(0)),
            readers,
            incoming: Padded(Incoming {
                head: AtomicPtr::new(null_mut()),
                waiting: AtomicUsize::new(0),
            }),
            busy: Padded(AtomicBool::new(false)),
            progress: UnsafeCell::new(Progress {
                waiting: Chain::EMPTY,
                stage: Stage::Idle,
                cpu: 0,
            }),
            batch: cpus.max(32).next_power_of_two().trailing_zeros(),
        })
    }

    pub(crate) fn id(&self) -> DomainId {
        // The table stays where it is when the domain moves, and no guard outlives it.
        DomainId(self.readers.as_ptr() as usize)
    }

    /// `srcu_read_lock`: starts a section. `cpu` spreads the counters; two threads may name the same one, and a number beyond the last wraps.
    #[inline]
    pub fn pin(&self, cpu: CpuId) -> Guard<'_> {
        let at = cpu.0 as usize;
        let counters = match self.readers.get(at) {
            Some(counters) => &counters.0,
            None => &self.readers[at % self.readers.len()].0,
        };
        let readers = &counters[self.phase.0.load(Ordering::Relaxed) & 1];
        enter(readers);
        Guard {
            readers,
            id: self.id(),
        }
    }

    /// `call_srcu` with `kfree`: frees `object` once every section that may see it has ended. Never waits, fails or allocates.
    ///
    /// Now and then it frees what is due, so drops of retired things run here; where the caller holds a spin lock, use
    /// [`Domain::retire_later`]. The drop of a retired thing may retire, pin and poll, but not [`Domain::synchronize`].
    pub fn retire<T: Retire>(&self, object: Box<T>) {
        let count = self.push_box(object);
        self.poll_if_due(count, 1);
    }

    /// As [`Domain::retire`], but frees nothing here and now.
    pub fn retire_later<T: Retire>(&self, object: Box<T>) {
        self.push_box(object);
    }

    /// As [`Domain::retire_later`] for an object that is not a box: after the grace period `free` is called with its header.
    ///
    /// # Safety
    /// The header stays in place and unused until `free` is called; `free` may be called on any thread and must be sound
    /// once no section that began before this call is left.
    pub unsafe fn retire_raw(&self, header: NonNull<Header>, free: unsafe fn(NonNull<Header>)) {
        let mut chain = Chain::EMPTY;
        // SAFETY: the caller's promise.
        unsafe { chain.append(header, free) };
        self.push(chain);
    }

    /// Retires a chain at once.
    #[inline]
    pub(crate) fn retire_chain(&self, chain: Chain) {
        let len = chain.len;
        if len != 0 {
            let count = self.push(chain);
            self.poll_if_due(count, len);
        }
    }

    /// How many things are retired and not freed yet.
    pub fn retired(&self) -> usize {
        self.incoming.0.waiting.load(Ordering::Relaxed)
    }

    /// Frees what is due, without waiting: right where a CPU is about to idle or return to user mode.
    pub fn poll(&self) {
        if self.retired() == 0 || self.busy.0.load(Ordering::Relaxed) {
            return;
        }
        if let Some(mut driver) = Driver::try_new(self) {
            // Twice: the batch that waits, and the one that gathered behind it.
            let _ = driver.step() && driver.step();
        }
    }

    /// `srcu_barrier`: waits for a grace period and returns when everything retired before the call is freed. `relax` is called in each turn of
    /// the wait. Must not be called from within a section of this domain, or from the drop of a retired thing: it would wait for itself.
    pub fn synchronize(&self, relax: impl Fn(u32)) {
        let mut turn = 0;
        let mut wait = || {
            relax(turn);
            turn = turn.saturating_add(1);
        };
        let mut driver = loop {
            match Driver::try_new(self) {
                Some(driver) => break driver,
                None => wait(),
            }
        };
        for _ in 0..2 {
            while !driver.step() {
                wait();
            }
        }
    }

    fn push_box<T: Retire>(&self, object: Box<T>) -> usize {
        let mut chain = Chain::EMPTY;
        // SAFETY: a reference to a leaked box is never null; the box is given up.
        unsafe { chain.append_box(NonNull::new_unchecked(Box::into_raw(object))) };
        self.push(chain)
    }

    /// Returns how many things waited before.
    #[inline]
    fn push(&self, chain: Chain) -> usize {
        let incoming = &self.incoming.0;
        let count = incoming.waiting.fetch_add(chain.len, Ordering::Relaxed);
        let mut head = incoming.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: not pushed yet, so still the caller's.
            unsafe { (*chain.last).next.store(head, Ordering::Relaxed) };
            // Release: the unlinking, and the links within the chain, come before whoever takes the list.
            match incoming.head.compare_exchange_weak(
                head,
                chain.first,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return count,
                Err(now) => head = now,
            }
        }
    }

    fn poll_if_due(&self, before: usize, added: usize) {
        if before >> self.batch != before.wrapping_add(added) >> self.batch {
            self.poll();
        }
    }
}

/// Counts a section in and orders that before all it will read.
#[inline(always)]
fn enter(readers: &AtomicUsize) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    {
        // A locked instruction is a full fence on x86; the compiler is told the rest. Saves an `mfence`, three times the price.
        readers.fetch_add(1, Ordering::SeqCst);
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    {
        readers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
}

/// The right to drive the grace periods of a domain, given back on drop.
struct Driver<'d> {
    domain: &'d Domain,
}

impl<'d> Driver<'d> {
    fn try_new(domain: &'d Domain) -> Option<Self> {
        let taken =
            domain
                .busy
                .0
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then(|| Self { domain })
    }

    /// Brings the grace period under way, or else a new one for what has gathered, as far as it goes without waiting; true when it
    /// came to its end (or nothing was to do) and what waited for it is freed.
    fn step(&mut self) -> bool {
        // SAFETY: this driver holds `busy`; the reference ends before anything is freed, since a drop may run anything.
        let progress = unsafe { &mut *self.domain.progress.get() };
        if progress.waiting.len == 0 && !self.begin(progress) {
            return true;
        }
        if !self.scan(progress) {
            return false;
        }
        let due = core::mem::replace(&mut progress.waiting, Chain::EMPTY);
        // SAFETY: unlinked before their grace period began, which is over: see `Domain`.
        let freed = unsafe { due.free() };
        self.domain
            .incoming
            .0
            .waiting
            .fetch_sub(freed, Ordering::Relaxed);
        true
    }

    /// Starts a grace period for what has gathered; false when nothing has.
    fn begin(&mut self, progress: &mut Progress) -> bool {
        // Acquire: meets the release of every push in the list.
        let first = self
            .domain
            .incoming
            .0
            .head
            .swap(null_mut(), Ordering::Acquire);
        if first.is_null() {
            return false;
        }
        // A taken list is only walked by `next`; `last` and the exact length are not needed any more.
        *progress = Progress {
            waiting: Chain {
                first,
                last: null_mut(),
                len: 1,
            },
            stage: Stage::Idle,
            cpu: 0,
        };
        fence(Ordering::SeqCst);
        true
    }

    /// Whether every counter has been seen at zero since the grace period began; goes on where the last call stopped.
    fn scan(&mut self, progress: &mut Progress) -> bool {
        let domain = self.domain;
        loop {
            let phase = match progress.stage {
                Stage::Idle => 1 ^ (domain.phase.0.load(Ordering::Relaxed) & 1),
                Stage::Flipped(phase) => phase,
            };
            while let Some(counters) = domain.readers.get(progress.cpu) {
                if counters.0[phase].load(Ordering::Acquire) != 0 {
                    return false;
                }
                progress.cpu += 1;
            }
            match progress.stage {
                Stage::Idle => {
                    domain.phase.0.store(phase, Ordering::Relaxed);
                    *progress = Progress {
                        waiting: core::mem::replace(&mut progress.waiting, Chain::EMPTY),
                        stage: Stage::Flipped(1 ^ phase),
                        cpu: 0,
                    };
                }
                Stage::Flipped(_) => return true,
            }
        }
    }
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        self.domain.busy.0.store(false, Ordering::Release);
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // No section is left, since a guard borrows the domain; what is freed can not retire to it either.
        let waiting = core::mem::replace(&mut self.progress.get_mut().waiting, Chain::EMPTY);
        let first = self.incoming.0.head.swap(null_mut(), Ordering::Acquire);
        for chain in [
            waiting,
            Chain {
                first,
                last: null_mut(),
                len: 1,
            },
        ] {
            // SAFETY: no reader is left.
            unsafe { chain.free() };
        }
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain")
            .field("cpus", &self.readers.len())
            .field("retired", &self.retired())
            .finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::sync::Arc;
    use core::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;

    #[repr(C)]
    struct Counted {
        header: Header,
        value: AtomicU64,
        drops: Arc<AtomicUsize>,
        child: Option<(Arc<Domain>, Box<Counted>)>,
    }

    // SAFETY: `repr(C)` with the header first.
    unsafe impl Retire for Counted {}

    impl Drop for Counted {
        fn drop(&mut self) {
            self.value.store(u64::MAX, Ordering::Relaxed);
            self.drops.fetch_add(1, Ordering::Relaxed);
            if let Some((domain, child)) = self.child.take() {
                domain.retire(child);
            }
        }
    }

    fn counted(drops: &Arc<AtomicUsize>, value: u64) -> Box<Counted> {
        Box::new(Counted {
            header: Header::new(),
            value: AtomicU64::new(value),
            drops: drops.clone(),
            child: None,
        })
    }

    #[test]
    fn a_pinned_section_holds_back_what_is_retired_after_its_start() {
        let (domain, drops) = (Domain::new(4).unwrap(), Arc::new(AtomicUsize::new(0)));
        let guard = domain.pin(CpuId(2));
        for _ in 0..100 {
            domain.retire(counted(&drops, 0));
        }
        domain.poll();
        assert_eq!((drops.load(Ordering::Relaxed), domain.retired()), (0, 100));
        drop(guard);
        domain.synchronize(|_| panic!("nobody to wait for"));
        assert_eq!((drops.load(Ordering::Relaxed), domain.retired()), (100, 0));
    }

    #[test]
    fn a_later_section_does_not_hold_it_back() {
        let (domain, drops) = (Domain::new(1).unwrap(), Arc::new(AtomicUsize::new(0)));
        let old = domain.pin(CpuId(0));
        domain.retire_later(counted(&drops, 0));
        domain.poll();
        let new = domain.pin(CpuId(7));
        drop(old);
        domain.poll();
        assert_eq!(drops.load(Ordering::Relaxed), 1);
        drop(new);
    }

    #[test]
    fn retiring_frees_what_is_due_and_dropping_the_domain_frees_the_rest() {
        let (domain, drops) = (Domain::new(1).unwrap(), Arc::new(AtomicUsize::new(0)));
        for _ in 0..1000 {
            domain.retire(counted(&drops, 0));
            assert!(domain.retired() <= 64);
        }
        domain.retire_later(counted(&drops, 0));
        drop(domain);
        assert_eq!(drops.load(Ordering::Relaxed), 1001);
    }

    #[test]
    fn a_drop_may_retire() {
        let (domain, drops) = (
            Arc::new(Domain::new(1).unwrap()),
            Arc::new(AtomicUsize::new(0)),
        );
        let mut object = counted(&drops, 0);
        for _ in 0..10_000 {
            let mut parent = counted(&drops, 0);
            parent.child = Some((domain.clone(), object));
            object = parent;
        }
        domain.retire(object);
        while domain.retired() != 0 {
            domain.synchronize(|_| ());
        }
        assert_eq!(drops.load(Ordering::Relaxed), 10_001);
    }

    #[test]
    fn readers_never_see_a_freed_object() {
        let rounds: u64 = if cfg!(miri) { 50 } else { 50_000 };
        let (domain, drops) = (
            Arc::new(Domain::new(2).unwrap()),
            Arc::new(AtomicUsize::new(0)),
        );
        let shared = Arc::new(AtomicPtr::new(Box::into_raw(counted(&drops, 0))));
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..3)
            .map(|n| {
                let (domain, shared, stop) = (domain.clone(), shared.clone(), stop.clone());
                thread::spawn(move || {
                    let mut last = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let guard = domain.pin(CpuId(n % 2));
                        let object = shared.load(Ordering::Acquire);
                        // SAFETY: linked while pinned, so not freed before the guard goes.
                        let value = unsafe { (*object).value.load(Ordering::Relaxed) };
                        assert!(value != u64::MAX && value >= last);
                        last = value;
                        drop(guard);
                    }
                })
            })
            .collect();
        for value in 1..=rounds {
            let old = shared.swap(Box::into_raw(counted(&drops, value)), Ordering::AcqRel);
            let mut chain = Chain::EMPTY;
            // SAFETY: unlinked just now, and it came from a box.
            unsafe { chain.append_box(NonNull::new(old).unwrap()) };
            domain.retire_chain(chain);
        }
        stop.store(true, Ordering::Relaxed);
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
        domain.synchronize(|_| thread::yield_now());
        assert_eq!(drops.load(Ordering::Relaxed), rounds as usize);
        // SAFETY: the last one, and no reader is left.
        drop(unsafe { Box::from_raw(shared.load(Ordering::Relaxed)) });
    }
}

#[cfg(all(test, loom))]
mod model {
    use alloc::sync::Arc;
    use loom::cell::UnsafeCell as Watched;
    use loom::thread;

    use super::*;

    #[repr(C)]
    struct Object {
        header: Header,
        value: Watched<u32>,
    }

    // SAFETY: `repr(C)` with the header first.
    unsafe impl Retire for Object {}
    // SAFETY: the model checker watches `value` for races, which is the point of the test.
    unsafe impl Sync for Object {}

    impl Drop for Object {
        fn drop(&mut self) {
            // A write: the model reports it when a reader's access is not ordered before it.
            // SAFETY: exclusive unless the code under test is wrong.
            self.value.with_mut(|value| unsafe { *value = 0 });
        }
    }

    fn object(value: u32) -> *mut Object {
        Box::into_raw(Box::new(Object {
            header: Header::new(),
            value: Watched::new(value),
        }))
    }

    fn read(domain: &Domain, shared: &AtomicPtr<Object>, cpu: u16) {
        let _guard = domain.pin(CpuId(cpu));
        let object = shared.load(Ordering::Acquire);
        // SAFETY: linked while pinned.
        let value = unsafe { (*object).value.with(|value| *value) };
        assert_ne!(value, 0);
    }

    fn unlink(domain: &Domain, shared: &AtomicPtr<Object>, value: u32) {
        let old = shared.swap(object(value), Ordering::AcqRel);
        let mut chain = Chain::EMPTY;
        // SAFETY: unlinked just now, and it came from a box.
        unsafe { chain.append_box(NonNull::new(old).unwrap()) };
        domain.push(chain);
    }

    fn finish(domain: &Domain, shared: &AtomicPtr<Object>) {
        domain.synchronize(|_| thread::yield_now());
        // SAFETY: the last one; all threads are joined.
        drop(unsafe { Box::from_raw(shared.load(Ordering::Acquire)) });
    }

    #[test]
    fn a_reader_against_unlink_retire_poll() {
        loom::model(|| {
            let domain = Arc::new(Domain::new(1).unwrap());
            let shared = Arc::new(AtomicPtr::new(object(1)));
            let reader = {
                let (domain, shared) = (domain.clone(), shared.clone());
                thread::spawn(move || read(&domain, &shared, 0))
            };
            unlink(&domain, &shared, 2);
            domain.poll();
            unlink(&domain, &shared, 3);
            domain.poll();
            reader.join().unwrap();
            finish(&domain, &shared);
        });
    }

    #[test]
    fn two_writers_hand_a_grace_period_over() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let domain = Arc::new(Domain::new(2).unwrap());
            let shared = Arc::new(AtomicPtr::new(object(1)));
            let reader = {
                let (domain, shared) = (domain.clone(), shared.clone());
                thread::spawn(move || read(&domain, &shared, 1))
            };
            let writer = {
                let (domain, shared) = (domain.clone(), shared.clone());
                thread::spawn(move || {
                    unlink(&domain, &shared, 2);
                    domain.poll();
                })
            };
            unlink(&domain, &shared, 3);
            domain.poll();
            reader.join().unwrap();
            writer.join().unwrap();
            finish(&domain, &shared);
        });
    }
}

//! One machine: its platform and memory, its grace periods, and the settings that Linux keeps under `/proc/sys/vm`.
//! A [`Machine`] is a handle; address spaces and caches hold one. Nothing outside a machine is shared by two of them.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::addr::Granule;
use crate::epoch::{Domain, Guard};
use crate::errno::Errno;
use crate::paging::Format;
use crate::percpu::Counter;
use crate::phys::{FailPoint, OutOfMemory, Phys, PhysOwner, heap};
use crate::platform::{Asid, Platform};

/// How freely memory is promised. `/proc/sys/vm/overcommit_memory`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Overcommit {
    /// Refuse only what could never be had at all (`OVERCOMMIT_GUESS`).
    Guess = 0,
    /// Refuse nothing (`OVERCOMMIT_ALWAYS`).
    Always = 1,
    /// Promise no more than the commit limit (`OVERCOMMIT_NEVER`).
    Never = 2,
}

/// What can be tuned. Every field may be changed while the machine runs.
#[derive(Debug)]
pub struct Settings {
    overcommit: AtomicU8,
    /// Percent of memory that counts towards the commit limit. `overcommit_ratio`.
    pub overcommit_ratio: AtomicU64,
    /// If not 0, KiB that the commit limit is instead. `overcommit_kbytes`.
    pub overcommit_kbytes: AtomicU64,
    /// KiB of the commit limit that are kept for those with CAP_SYS_ADMIN. A new machine lowers it to a 32nd of its memory. `admin_reserve_kbytes`.
    pub admin_reserve_kbytes: AtomicU64,
    /// KiB of the commit limit that are kept from one space at most; no more than a 32nd of what it has mapped. A new machine lowers it to a 32nd of its memory.
    /// `user_reserve_kbytes`.
    pub user_reserve_kbytes: AtomicU64,
    /// The most mappings a space may have. `max_map_count`.
    pub max_map_count: AtomicU64,
    /// The lowest address, in bytes, that an unprivileged space may map. `mmap_min_addr`.
    pub mmap_min_addr: AtomicU64,
    /// Bytes kept free below a stack. `stack_guard_gap` (there in pages).
    pub stack_guard_gap: AtomicU64,
    /// How many bytes around a file fault are mapped if cached. `fault_around_bytes`.
    pub fault_around: AtomicU64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            overcommit: AtomicU8::new(Overcommit::Guess as u8),
            overcommit_ratio: AtomicU64::new(50),
            overcommit_kbytes: AtomicU64::new(0),
            admin_reserve_kbytes: AtomicU64::new(8 << 10),
            user_reserve_kbytes: AtomicU64::new(128 << 10),
            max_map_count: AtomicU64::new(65530),
            mmap_min_addr: AtomicU64::new(65536),
            stack_guard_gap: AtomicU64::new(256 * 4096),
            fault_around: AtomicU64::new(65536),
        }
    }
}

impl Settings {
    /// The overcommit mode.
    pub fn overcommit(&self) -> Overcommit {
        match self.overcommit.load(Ordering::Relaxed) {
            1 => Overcommit::Always,
            2 => Overcommit::Never,
            _ => Overcommit::Guess,
        }
    }

    /// Changes the overcommit mode.
    pub fn set_overcommit(&self, mode: Overcommit) {
        self.overcommit.store(mode as u8, Ordering::Relaxed);
    }
}

/// How much a shrinker may disturb to give frames back. Ascending.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Effort {
    /// Only what nobody maps and what needs no writing.
    Unused,
    /// Also what is mapped, and will be faulted in again.
    Mapped,
    /// Also what must be written first.
    Dirty,
}

/// What holds frames that it can do without: `struct shrinker`.
pub trait Shrink: Send + Sync {
    /// Gives up about `most` frames, as far as `effort` allows, and returns how many. May sleep; takes no mmap lock.
    fn shrink(&self, effort: Effort, most: u64) -> u64;
}

/// The shrinkers of a machine. Dead ones are dropped whenever the list would have to grow, so it stays within twice what lives.
type Shrinkers<P> = lock_api::RwLock<<P as Platform>::RawRwLock, Vec<Weak<dyn Shrink>>>;

/// Frames that are asked back at a time: enough that the looking around pays.
const RECLAIM_BATCH: u64 = 128;

/// How often in a row work is tried again after less than a batch came back. `MAX_RECLAIM_RETRIES`.
const RECLAIM_RETRIES: u32 = 16;

struct Inner<P: Platform> {
    settings: Settings,
    epoch: Domain,
    committed: Counter,
    next_asid: AtomicU64,
    next_anon: AtomicU64,
    shrinkers: Shrinkers<P>,
    // Last: what the fields above free goes back to it.
    phys: PhysOwner<P>,
}

/// A handle on one machine.
pub struct Machine<P: Platform>(Arc<Inner<P>>);

impl<P: Platform> Clone for Machine<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: Platform> core::fmt::Debug for Machine<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Machine")
            .field("format", &P::Format::NAME)
            .field("free_frames", &self.phys().free_frames())
            .finish()
    }
}

impl<P: Platform> Machine<P> {
    /// A machine with all of the platform's memory free.
    ///
    /// # Errors
    /// `ENOMEM`: the heap has no room for the frame metadata, or the platform has no memory. `EINVAL`: the platform's memory ranges are
    /// not ascending, disjoint and aligned.
    pub fn new(platform: P, settings: Settings) -> Result<Self, Errno> {
        let cpus = platform.cpus();
        let phys = PhysOwner::new(platform)?;
        let share = (phys.free_frames() << (P::Format::GRANULE.shift() - 10)) / 32;
        for reserve in [
            &settings.admin_reserve_kbytes,
            &settings.user_reserve_kbytes,
        ] {
            reserve.fetch_min(share, Ordering::Relaxed);
        }
        let fail = FailPoint::new();
        let epoch = Domain::new(cpus)?;
        let committed = Counter::new(cpus, &fail)?;
        let inner = Inner {
            settings,
            epoch,
            committed,
            next_asid: AtomicU64::new(1),
            next_anon: AtomicU64::new(1),
            shrinkers: lock_api::RwLock::new(Vec::new()),
            phys,
        };
        Ok(Self(heap::try_arc(&fail, inner)?))
    }

    /// The size of a page.
    pub const GRANULE: Granule = P::Format::GRANULE;

    /// Its frames.
    pub fn phys(&self) -> &Phys<P> {
        &self.0.phys
    }

    /// What the embedder supplied.
    pub fn platform(&self) -> &P {
        self.phys().platform()
    }

    /// Its grace periods.
    pub fn epoch(&self) -> &Domain {
        &self.0.epoch
    }

    /// What can be tuned.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The allocation fail point, for tests.
    pub fn fail_point(&self) -> &FailPoint {
        self.phys().inject()
    }

    /// Enters a read-side section: until the guard is dropped nothing retired later is freed. `rcu_read_lock`. Nothing may sleep in it.
    pub fn pin(&self) -> Guard<'_> {
        self.0.epoch.pin(self.platform().cpu())
    }

    /// Waits until everything retired so far is freed. Not from within a read-side section. `rcu_barrier`.
    pub fn quiesce(&self) {
        self.0.epoch.synchronize(|turn| self.platform().relax(turn));
    }

    /// A name for a new space.
    pub(crate) fn new_asid(&self) -> Asid {
        Asid(self.0.next_asid.fetch_add(1, Ordering::Relaxed))
    }

    /// A name for a new anonymous reverse map root; never zero.
    pub(crate) fn new_anon_root(&self) -> u64 {
        self.0.next_anon.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts on `shrinker` when frames run out, until it is dropped. `register_shrinker`.
    ///
    /// # Errors
    /// The heap is exhausted.
    pub fn register_shrinker(&self, shrinker: Weak<dyn Shrink>) -> Result<(), OutOfMemory> {
        let mut all = self.0.shrinkers.write();
        if all.len() == all.capacity() {
            all.retain(|shrinker| shrinker.strong_count() != 0);
            let more = (2 * all.len()).max(16) - all.len();
            self.fail_point().check()?;
            all.try_reserve_exact(more).map_err(|_| OutOfMemory)?;
        }
        all.push(shrinker);
        Ok(())
    }

    /// Asks for a batch of frames back, with no more effort than that takes; returns how many it got, 0 when there is nothing to be had. May sleep; no spin
    /// lock may be held, no read-side section entered, and no lock of a cache but that of its contents. `try_to_free_pages`.
    ///
    /// It does not stop at the first frame: who needs two at once, a page and a table to map it by, would lose the one to the other for ever.
    pub fn reclaim(&self) -> u64 {
        let mut freed = 0;
        for effort in [Effort::Unused, Effort::Mapped, Effort::Dirty] {
            let all = self.0.shrinkers.read();
            for shrinker in all.iter().filter_map(Weak::upgrade) {
                freed += shrinker.shrink(effort, RECLAIM_BATCH - freed);
                if freed >= RECLAIM_BATCH {
                    return freed;
                }
            }
        }
        freed
    }

    /// Does `work`, again and again while it runs out of memory and some can be reclaimed. On the conditions of [`Machine::reclaim`]. What cannot be done with the
    /// little that reclaim brings is given up after some tries. `__alloc_pages_slowpath`, `should_reclaim_retry`.
    ///
    /// # Errors
    /// What `work` answers in the end.
    pub(crate) fn with_reclaim<T, E: PartialEq + From<OutOfMemory>>(
        &self,
        mut work: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut tries = RECLAIM_RETRIES;
        loop {
            let done = work();
            if tries == 0 || !matches!(&done, Err(error) if *error == E::from(OutOfMemory)) {
                return done;
            }
            match self.reclaim() {
                0 => return done,
                freed if freed < RECLAIM_BATCH => tries -= 1,
                _ => tries = RECLAIM_RETRIES,
            }
        }
    }

    /// How many pages are promised. `Committed_AS`.
    pub fn committed_pages(&self) -> u64 {
        self.0.committed.sum().max(0) as u64
    }

    /// The most pages that mode 2 promises. `CommitLimit`.
    pub fn commit_limit_pages(&self) -> u64 {
        let kbytes = self.settings().overcommit_kbytes.load(Ordering::Relaxed);
        if kbytes != 0 {
            return pages_of_kbytes(kbytes, Self::GRANULE);
        }
        let ratio = self.settings().overcommit_ratio.load(Ordering::Relaxed);
        (self.phys().total_frames() as u128 * ratio as u128 / 100).min(u64::MAX as u128) as u64
    }

    /// Promises `pages` more to shared memory, which no space answers for: mode 2 keeps the administrator's reserve back.
    ///
    /// # Errors
    /// As [`Machine::charge_commit_keeping`].
    pub(crate) fn charge_commit(&self, pages: u64) -> Result<(), Errno> {
        self.charge_commit_keeping(pages, || self.admin_reserve_pages())
    }

    /// Promises `pages` more; in mode 2, which alone asks for `kept`, that many pages below the commit limit must be left after that.
    /// `__vm_enough_memory`.
    ///
    /// # Errors
    /// `ENOMEM`: mode 0 and more than the machine has at all, or mode 2 and beyond the commit limit.
    pub(crate) fn charge_commit_keeping(
        &self,
        pages: u64,
        kept: impl FnOnce() -> u64,
    ) -> Result<(), Errno> {
        let fits = match self.settings().overcommit() {
            Overcommit::Always => true,
            Overcommit::Guess => pages <= self.phys().total_frames(),
            Overcommit::Never => {
                let allowed = self.commit_limit_pages().saturating_sub(kept());
                self.committed_pages().saturating_add(pages) < allowed
            }
        };
        if !fits {
            return Err(Errno::ENOMEM);
        }
        self.0.committed.add(self.platform().cpu(), pages as i64);
        Ok(())
    }

    /// `admin_reserve_kbytes` in pages.
    pub(crate) fn admin_reserve_pages(&self) -> u64 {
        let kbytes = &self.settings().admin_reserve_kbytes;
        pages_of_kbytes(kbytes.load(Ordering::Relaxed), Self::GRANULE)
    }

    /// `user_reserve_kbytes` in pages.
    pub(crate) fn user_reserve_pages(&self) -> u64 {
        let kbytes = &self.settings().user_reserve_kbytes;
        pages_of_kbytes(kbytes.load(Ordering::Relaxed), Self::GRANULE)
    }

    /// Promises `pages` again that the caller is about to take back under another name. `vm_acct_memory`.
    pub(crate) fn recharge_commit(&self, pages: u64) {
        if pages != 0 {
            self.0.committed.add(self.platform().cpu(), pages as i64);
        }
    }

    /// Takes a promise back. `vm_unacct_memory`.
    pub(crate) fn uncharge_commit(&self, pages: u64) {
        if pages != 0 {
            self.0.committed.add(self.platform().cpu(), -(pages as i64));
        }
    }
}

/// KiB as whole pages.
fn pages_of_kbytes(kbytes: u64, granule: Granule) -> u64 {
    kbytes >> (granule.shift() - 10)
}

impl<P: Platform> Drop for Inner<P> {
    fn drop(&mut self) {
        let platform = self.phys.platform();
        self.epoch.synchronize(|turn| platform.relax(turn));
    }
}

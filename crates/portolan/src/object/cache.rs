//! `Cache`: the pages of one object, its size, and who maps it. Lookups and bookkeeping are here; reading pages in, byte ranges,
//! truncation, write-back and reclaim have files of their own.

use alloc::sync::{Arc, Weak};
use core::fmt;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use lock_api::{Mutex, RwLock, RwLockWriteGuard};

use super::backing::Backing;
use super::mapping::{Mapping, MappingId, MappingKind, MappingSet};
use super::seal::Seals;
use super::tree::{Tag, Tree};
use crate::addr::Granule;
use crate::errno::Errno;
use crate::machine::{Machine, Shrink};
use crate::paging::Format;
use crate::phys::{OutOfMemory, PageFlags, PageRef, heap};
use crate::platform::Platform;

/// The most bytes an object can have. `MAX_LFS_FILESIZE`.
pub const MAX_BYTES: u64 = i64::MAX as u64;

/// Bytes read at once when a page is missing. `VM_READAHEAD_PAGES`.
const READ_AHEAD: u64 = 128 * 1024;

/// A count of those who do a thing, or of those who forbid it: never both. `i_writecount`, `i_mmap_writable`.
pub(super) struct Exclusion(AtomicI64);

impl Exclusion {
    /// One more does it; false if it is forbidden.
    fn enter(&self) -> bool {
        let more = |count: i64| (count >= 0).then(|| count + 1);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .is_ok()
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// One more forbids it; false if someone does it.
    fn forbid(&self) -> bool {
        let less = |count: i64| (count <= 0).then(|| count - 1);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
            .is_ok()
    }

    fn allow(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// What an object that grows shows where stores through a mapping went past its old end, in the same page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PastEnd {
    /// Zeros, as a file system on a disk.
    Zeroed,
    /// What was stored, as tmpfs.
    Kept,
}

/// `struct address_space`: the cached pages of a file, or the pages of shared anonymous memory.
///
/// See the module for its locks. Every call that may sleep says so by what it does: it reads or writes the backing, or changes what is mapped.
pub struct Cache<P: Platform> {
    /// `None`: shared anonymous memory, whose pages are zeros at first use and live nowhere else.
    pub(super) backing: Option<Arc<dyn Backing>>,
    pub(super) size: AtomicU64,
    /// How long the backing is: shorter while the object has grown by writes that are not written back. Under the write-back lock.
    pub(super) backing_size: AtomicU64,
    pub(super) truncations: AtomicU64,
    pub(super) read_ahead: AtomicU64,
    /// Where reclaim goes on.
    pub(super) reclaim_hand: AtomicU64,
    /// Whether the size is charged to the commit limit.
    pub(super) charged: bool,
    /// What a growing object has where stores went past its end.
    pub(super) past_end: PastEnd,
    /// [`super::Seals`], changed with the contents locked.
    pub(super) seals: AtomicU32,
    pub(super) contents: RwLock<P::RawRwLock, ()>,
    pub(super) writeback_lock: RwLock<P::RawRwLock, ()>,
    pub(super) fill_lock: RwLock<P::RawRwLock, ()>,
    pub(super) mappings: RwLock<P::RawRwLock, MappingSet>,
    pub(super) pages: Mutex<P::RawMutex, Tree<P>>,
    writable_mappings: Exclusion,
    writers: Exclusion,
    // Last: the pages above go back to it.
    pub(super) machine: Machine<P>,
}

/// Keeps mappings, and so truncation's zaps, as they are. `i_mmap_lock_write`.
pub struct MappingsLocked<'a, P: Platform> {
    _guard: RwLockWriteGuard<'a, P::RawRwLock, MappingSet>,
}

impl<P: Platform> Cache<P> {
    pub(super) const GRANULE: Granule = P::Format::GRANULE;
    pub(super) const PAGE: usize = P::Format::GRANULE.bytes() as usize;

    /// The cache of a file that is `size` bytes long and has no page cached yet.
    ///
    /// # Errors
    /// `EFBIG`: the size is beyond [`MAX_BYTES`]. `ENOMEM`: no heap.
    pub fn new(
        machine: &Machine<P>,
        backing: Arc<dyn Backing>,
        size: u64,
    ) -> Result<Arc<Self>, Errno> {
        let cache = Self::build(machine, Some(backing), size, false, PastEnd::Zeroed)?;
        let shrinker: Weak<dyn Shrink> = Arc::downgrade(&cache) as _;
        machine.register_shrinker(shrinker)?;
        Ok(cache)
    }

    pub(super) fn build(
        machine: &Machine<P>,
        backing: Option<Arc<dyn Backing>>,
        size: u64,
        charged: bool,
        past_end: PastEnd,
    ) -> Result<Arc<Self>, Errno> {
        if size > MAX_BYTES {
            return Err(Errno::EFBIG);
        }
        if charged {
            machine.charge_commit(Self::GRANULE.pages(size))?;
        }
        let seals = match backing {
            Some(_) => Seals::empty(),
            None => Seals::SEAL,
        };
        let cache = Self {
            backing,
            size: AtomicU64::new(size),
            backing_size: AtomicU64::new(size),
            truncations: AtomicU64::new(0),
            read_ahead: AtomicU64::new(READ_AHEAD),
            reclaim_hand: AtomicU64::new(0),
            charged,
            past_end,
            seals: AtomicU32::new(seals.bits()),
            contents: RwLock::new(()),
            writeback_lock: RwLock::new(()),
            fill_lock: RwLock::new(()),
            mappings: RwLock::new(MappingSet::new(machine.platform().random())),
            pages: Mutex::new(Tree::new()),
            writable_mappings: Exclusion(AtomicI64::new(0)),
            writers: Exclusion(AtomicI64::new(0)),
            machine: machine.clone(),
        };
        Ok(heap::try_arc(machine.fail_point(), cache)?)
    }

    /// The machine whose frames it holds.
    pub fn machine(&self) -> &Machine<P> {
        &self.machine
    }

    /// Whether it is shared anonymous memory, without a file. `shmem_mapping`.
    pub fn is_shmem(&self) -> bool {
        self.backing.is_none()
    }

    /// Whether it is a memory file as tmpfs has them, rather than one that stands for a file on a disk.
    pub fn is_tmpfs(&self) -> bool {
        self.is_shmem() && self.past_end == PastEnd::Kept
    }

    /// Bytes. `i_size_read`.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::SeqCst)
    }

    /// How many pages the size touches; an access to a mapping at or past this index is SIGBUS.
    pub fn size_in_pages(&self) -> u64 {
        Self::GRANULE.pages(self.size())
    }

    /// Changes whenever pages are taken out that may be mapped. A fault reads it before it looks a page up, and again under the lock of the
    /// page-table page before it installs: if it differs, the page may be the object's no more.
    pub fn truncations(&self) -> u64 {
        self.truncations.load(Ordering::SeqCst)
    }

    /// The page at `index` if it is cached. Takes a spin lock for some ten instructions. `filemap_get_folio`.
    pub fn lookup(&self, index: u64) -> Option<PageRef<P>> {
        let pages = self.pages.lock();
        let page = pages.get(index).filter(|page| !self.is_unused(page));
        page.cloned()
    }

    /// Whether a page of this object was allocated ahead and is not used yet.
    pub(super) fn is_unused(&self, page: &PageRef<P>) -> bool {
        self.backing.is_none() && page.page().flags().contains(PageFlags::UNUSED)
    }

    /// The cached ones of `to.len()` pages from `first` on, each in its slot, under one hold of a spin lock: for mapping around a
    /// fault. What lies past the end of the object is the caller's to leave out. `filemap_map_pages`.
    pub fn lookup_run(&self, first: u64, to: &mut [Option<PageRef<P>>]) {
        self.pages.lock().get_run(first, to);
        if self.backing.is_none() {
            let unused = |page: &mut PageRef<P>| self.is_unused(page);
            to.iter_mut().for_each(|slot| drop(slot.take_if(unused)));
        }
    }

    /// Whether the page at `index` is cached. `mincore_page`.
    pub fn is_cached(&self, index: u64) -> bool {
        self.lookup(index).is_some()
    }

    /// Sets the byte of each of the pages from `first` on that is cached to 1, under one hold of a spin lock; costs no more than there are.
    pub fn mark_cached(&self, first: u64, resident: &mut [u8]) {
        let end = first.saturating_add(resident.len() as u64);
        let pages = self.pages.lock();
        let mut at = first;
        while let Some(index) = pages.next(Tag::Present, at).filter(|&index| index < end) {
            let unused = pages.get(index).is_some_and(|page| self.is_unused(page));
            resident[(index - first) as usize] = u8::from(!unused);
            at = index + 1;
        }
    }

    /// How many pages are cached. `nrpages`.
    pub fn cached_pages(&self) -> u64 {
        self.pages.lock().len()
    }

    /// How many pages are newer than what the backing has.
    pub fn dirty_pages(&self) -> u64 {
        self.pages.lock().dirty_len()
    }

    /// Marks the page at `index` dirty, before an entry that maps it becomes writable; false if it is not cached any more, and then the
    /// entry must stay as it is. Takes a spin lock only. `folio_mark_dirty`.
    pub fn mark_dirty(&self, index: u64) -> bool {
        let mut pages = self.pages.lock();
        match self.backing {
            Some(_) => pages.set_dirty(index),
            None => match pages.get(index) {
                Some(page) => {
                    page.page().set_flags(PageFlags::DIRTY);
                    true
                }
                None => false,
            },
        }
    }

    /// Whether the page at `index` is cached and newer than what the backing has; of shared anonymous memory, whether it was ever written.
    /// `folio_test_dirty`.
    pub fn is_dirty(&self, index: u64) -> bool {
        let pages = self.pages.lock();
        match self.backing {
            Some(_) => pages.is_dirty(index),
            None => pages
                .get(index)
                .is_some_and(|page| page.page().flags().contains(PageFlags::DIRTY)),
        }
    }

    /// How many bytes are read at once when a page is missing, rounded up to a page: 0 for no page more than the one. `ra_pages`.
    pub fn set_read_ahead(&self, bytes: u64) {
        self.read_ahead.store(bytes, Ordering::Relaxed);
    }

    /// Room for a mapping, to be filled when it is published or given back by [`Cache::remove_mapping`].
    ///
    /// # Errors
    /// The heap is exhausted.
    pub fn reserve_mapping(&self) -> Result<MappingId, OutOfMemory> {
        self.mappings.write().reserve(self.machine.fail_point())
    }

    /// Registers a mapping in the room reserved for it: from now on truncation finds it. `vma_interval_tree_insert`.
    pub fn fill_mapping(&self, id: MappingId, mapping: Mapping) {
        if mapping.kind == MappingKind::SharedWritable {
            // One is under way, or exists: so it is not forbidden. See `map_writable`.
            self.writable_mappings.0.fetch_add(1, Ordering::AcqRel);
        }
        self.mappings.write().fill(id, mapping);
    }

    /// Takes a mapping, or room for one, back. `vma_interval_tree_remove`.
    pub fn remove_mapping(&self, id: MappingId) {
        let removed = self.mappings.write().remove(id);
        if let Some(mapping) = removed
            && mapping.kind == MappingKind::SharedWritable
        {
            self.writable_mappings.leave();
        }
    }

    /// Keeps truncation and write-back from looking for entries while they move. `take_rmap_locks`.
    pub fn lock_mappings(&self) -> MappingsLocked<'_, P> {
        MappingsLocked {
            _guard: self.mappings.write(),
        }
    }

    /// Whether anything maps it. `mapping_mapped`.
    pub fn is_mapped(&self) -> bool {
        !self.mappings.read().is_empty()
    }

    /// Whether stores through a mapping can change it. `mapping_writably_mapped`.
    pub fn is_writably_mapped(&self) -> bool {
        self.writable_mappings.0.load(Ordering::Acquire) > 0
    }

    /// Announces a shared writable mapping while it is being made; [`Cache::unmap_writable`] when it is registered, or given up.
    /// `mapping_map_writable`.
    ///
    /// # Errors
    /// `EPERM`: such mappings are forbidden (a write seal).
    pub fn map_writable(&self) -> Result<(), Errno> {
        if self.writable_mappings.enter() {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    /// Ends what [`Cache::map_writable`] announced. `mapping_unmap_writable`.
    pub fn unmap_writable(&self) {
        self.writable_mappings.leave();
    }

    /// Forbids shared writable mappings, until as many [`Cache::allow_writable`]. `mapping_deny_writable`.
    ///
    /// # Errors
    /// `EBUSY`: there is one.
    pub fn deny_writable(&self) -> Result<(), Errno> {
        if self.writable_mappings.forbid() {
            Ok(())
        } else {
            Err(Errno::EBUSY)
        }
    }

    /// Takes one [`Cache::deny_writable`] back. `mapping_allow_writable`.
    pub fn allow_writable(&self) {
        self.writable_mappings.allow();
    }

    /// One more has it open for writing. A [`super::File`] that is writable does this for itself. `get_write_access`.
    ///
    /// # Errors
    /// `ETXTBSY`: writing is denied, as for a program that runs.
    pub fn get_write_access(&self) -> Result<(), Errno> {
        if self.writers.enter() {
            Ok(())
        } else {
            Err(Errno::ETXTBSY)
        }
    }

    /// Ends one [`Cache::get_write_access`]. `put_write_access`.
    pub fn put_write_access(&self) {
        self.writers.leave();
    }

    /// Denies opening for writing, until as many [`Cache::allow_write_access`]. `deny_write_access`.
    ///
    /// # Errors
    /// `ETXTBSY`: someone has it open for writing.
    pub fn deny_write_access(&self) -> Result<(), Errno> {
        if self.writers.forbid() {
            Ok(())
        } else {
            Err(Errno::ETXTBSY)
        }
    }

    /// Takes one [`Cache::deny_write_access`] back. `allow_write_access`.
    pub fn allow_write_access(&self) {
        self.writers.allow();
    }
}

impl<P: Platform> Drop for Cache<P> {
    /// What is still dirty is written; nobody is left to hear of an error. `iput_final`.
    fn drop(&mut self) {
        let _ = self.writeback(0..u64::MAX);
        if self.charged {
            self.machine.uncharge_commit(self.size_in_pages());
        }
    }
}

impl<P: Platform> fmt::Debug for Cache<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("size", &self.size())
            .field("shmem", &self.is_shmem())
            .finish_non_exhaustive()
    }
}

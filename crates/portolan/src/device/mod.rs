//! The driver's side of a file: what it does when the file is mapped, and what happens to the mapping afterwards. An ordinary file needs
//! none of it, its pages are in its cache. Not here yet: `remap_pfn_range` and its family.

use alloc::borrow::Cow;
use alloc::sync::Arc;
use core::any::Any;

use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::{File, VmFlags};
use crate::paging::{Access, CacheMode};
use crate::phys::{OutOfMemory, PageRef};
use crate::platform::Platform;

/// `struct file_operations`, as far as mapping needs it.
///
/// The calls come with the mmap lock of the space held for writing: they must not use that space.
pub trait FileOperations<P: Platform>: Send + Sync {
    /// Whether the file can be mapped at all; if not, `mmap` fails with `ENODEV`. By default a file with cached pages can. `can_mmap_file`.
    fn can_mmap(&self, file: &Arc<File<P>>) -> bool {
        file.cache().is_some()
    }

    /// Completes a mapping that has its place: may set flags, cache mode and operations, or refuse. By default the pages come from the
    /// cache. `mmap`, `generic_file_mmap`.
    ///
    /// # Errors
    /// Whatever the driver answers; `mmap` returns it, and all that was done for the mapping is undone. By default `ENOEXEC`: no cache.
    fn mmap(&self, file: &Arc<File<P>>, draft: &mut VmaDraft<P>) -> Result<(), Errno> {
        let _ = draft;
        if file.cache().is_some() {
            Ok(())
        } else {
            Err(Errno::ENOEXEC)
        }
    }

    /// Chooses where a mapping goes; `None` leaves it to the space. `addr` is the hint or the fixed address, `len` is in bytes and whole pages,
    /// `offset` is in bytes, `flags` are MAP_*. What is chosen is checked like a fixed address. `get_unmapped_area`.
    ///
    /// # Errors
    /// Whatever the driver answers; `mmap` returns it.
    fn get_unmapped_area(
        &self,
        file: &Arc<File<P>>,
        addr: u64,
        len: u64,
        offset: u64,
        flags: u32,
    ) -> Option<Result<VirtAddr, Errno>> {
        let _ = (file, addr, len, offset, flags);
        None
    }

    /// Whether the file's last name is gone by now, so that `/proc/PID/maps` shows its path with " (deleted)". `d_unlinked`.
    fn has_no_name(&self) -> bool {
        false
    }

    /// MAP_* flags that MAP_SHARED_VALIDATE accepts beyond the usual ones (MAP_SYNC). `mmap_supported_flags`.
    fn extra_map_flags(&self) -> u32 {
        0
    }
}

/// The operations of an ordinary file: every one is the default. `generic_file_mmap`.
#[derive(Clone, Copy, Debug)]
pub struct PageCacheFile;

impl<P: Platform> FileOperations<P> for PageCacheFile {}

/// A fault on a page of a driver's mapping. `struct vm_fault`.
#[derive(Clone, Copy, Debug)]
pub struct VmFault {
    /// Where the mapping lies.
    pub range: VirtRange,
    /// What is true of it.
    pub flags: VmFlags,
    /// The address of the access.
    pub addr: VirtAddr,
    /// The page's offset in the file, in pages. `vmf->pgoff`.
    pub index: u64,
    /// What the access does.
    pub access: Access,
}

/// How a driver failed to serve a fault. `vm_fault_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmFaultError {
    /// `VM_FAULT_SIGBUS`.
    Bus,
    /// `VM_FAULT_SIGSEGV`.
    Segv,
    /// `VM_FAULT_HWPOISON`: the page's memory is faulty.
    Poisoned,
    /// `VM_FAULT_OOM`.
    OutOfMemory,
    /// `VM_FAULT_NOPAGE`: the driver has installed the entry itself, or wants the access repeated.
    Retry,
}

impl From<OutOfMemory> for VmFaultError {
    fn from(_: OutOfMemory) -> Self {
        VmFaultError::OutOfMemory
    }
}

/// `struct vm_operations_struct`: what a driver does in the life of a mapping. Every default does nothing and allows everything.
///
/// All but [`VmOperations::fault`] and [`VmOperations::page_mkwrite`] come with the mmap lock held for writing, and must not use that space.
pub trait VmOperations<P: Platform>: Send + Sync {
    /// One more mapping: a copy by fork, a part by a split. Not called for the one that `mmap` makes.
    fn open(&self, range: VirtRange) {
        let _ = range;
    }

    /// A mapping, or what is left of it, goes.
    fn close(&self, range: VirtRange) {
        let _ = range;
    }

    /// A mapping is to be split at `at`, which lies inside.
    ///
    /// # Errors
    /// Whatever the driver answers; the call that would split returns it.
    fn may_split(&self, range: VirtRange, at: VirtAddr) -> Result<(), Errno> {
        let _ = (range, at);
        Ok(())
    }

    /// A mapping has moved.
    ///
    /// # Errors
    /// Whatever the driver answers; the move is undone and `mremap` returns it.
    fn mremap(&self, from: VirtRange, to: VirtRange) -> Result<(), Errno> {
        let _ = (from, to);
        Ok(())
    }

    /// The part `range` of a mapping is to have other access flags: `access` holds VM_READ, VM_WRITE and VM_EXEC as they will be.
    ///
    /// # Errors
    /// Whatever the driver answers; `mprotect` returns it.
    fn mprotect(&self, range: VirtRange, access: VmFlags) -> Result<(), Errno> {
        let _ = (range, access);
        Ok(())
    }

    /// The page that an access needs; the entry takes over the reference. May sleep.
    ///
    /// # Errors
    /// What becomes of the access. By default SIGBUS.
    fn fault(&self, fault: &VmFault) -> Result<PageRef<P>, VmFaultError> {
        let _ = fault;
        Err(VmFaultError::Bus)
    }

    /// A page that is mapped read-only is about to become writable; `index` is its offset in the file, in pages. May sleep.
    ///
    /// # Errors
    /// Whatever the driver answers; the store gets SIGBUS.
    fn page_mkwrite(&self, range: VirtRange, index: u64) -> Result<(), Errno> {
        let _ = (range, index);
        Ok(())
    }

    /// What `/proc/PID/maps` shows in place of the file's path.
    fn name(&self, range: VirtRange) -> Option<Cow<'_, str>> {
        let _ = range;
        None
    }

    /// Whether two adjoining mappings with these operations may become one. Linux: those without `close` may. By default not.
    fn may_merge(&self) -> bool {
        false
    }
}

/// A mapping that has its place and is not yet published: what a file's `mmap` operation completes. `struct vm_area_desc`.
pub struct VmaDraft<P: Platform> {
    range: VirtRange,
    flags: VmFlags,
    pgoff: u64,
    cache_mode: CacheMode,
    operations: Option<Arc<dyn VmOperations<P>>>,
    private_data: Option<Arc<dyn Any + Send + Sync>>,
    file: Option<Arc<File<P>>>,
    anonymous: bool,
}

impl<P: Platform> VmaDraft<P> {
    /// A mapping of `range` that begins `pgoff` pages into its file.
    pub fn new(range: VirtRange, flags: VmFlags, pgoff: u64) -> Self {
        Self {
            range,
            flags,
            pgoff,
            cache_mode: CacheMode::WriteBack,
            operations: None,
            private_data: None,
            file: None,
            anonymous: false,
        }
    }

    /// Where it will lie.
    pub fn range(&self) -> VirtRange {
        self.range
    }

    /// Its first byte. `vm_start`.
    pub fn start(&self) -> VirtAddr {
        self.range.start()
    }

    /// The first byte after it. `vm_end`.
    pub fn end(&self) -> VirtAddr {
        self.range.end()
    }

    /// What is true of it.
    pub fn flags(&self) -> VmFlags {
        self.flags
    }

    /// Sets and clears flags. `vm_flags_mod`.
    pub fn modify_flags(&mut self, set: VmFlags, clear: VmFlags) {
        self.flags = self.flags & !clear | set;
    }

    /// Page offset of its first page.
    pub fn pgoff(&self) -> u64 {
        self.pgoff
    }

    /// Changes the page offset, which a driver may use for what it likes.
    pub fn set_pgoff(&mut self, pgoff: u64) {
        self.pgoff = pgoff;
    }

    /// How the CPU will cache its pages.
    pub fn cache_mode(&self) -> CacheMode {
        self.cache_mode
    }

    /// Changes how the CPU caches its pages. `pgprot_noncached`, `pgprot_writecombine` on `vm_page_prot`.
    pub fn set_cache_mode(&mut self, mode: CacheMode) {
        self.cache_mode = mode;
    }

    /// Sets the operations. `vm_ops`.
    pub fn set_operations(&mut self, operations: Arc<dyn VmOperations<P>>) {
        self.operations = Some(operations);
    }

    /// Gives the operations to who makes the mapping.
    pub fn take_operations(&mut self) -> Option<Arc<dyn VmOperations<P>>> {
        self.operations.take()
    }

    /// Sets the driver's own data. `vm_private_data`.
    pub fn set_private_data(&mut self, data: Arc<dyn Any + Send + Sync>) {
        self.private_data = Some(data);
    }

    /// Gives the driver's own data to who makes the mapping.
    pub fn take_private_data(&mut self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.private_data.take()
    }

    /// Puts another file behind the mapping, as a shared mapping of `/dev/zero` does. `vma_set_file`.
    pub fn set_file(&mut self, file: Arc<File<P>>) {
        self.file = Some(file);
    }

    /// Gives the other file, if one was set, to who makes the mapping.
    pub fn take_file(&mut self) -> Option<Arc<File<P>>> {
        self.file.take()
    }

    /// Makes it private anonymous memory, as a private mapping of `/dev/zero` is. `vma_set_anonymous`.
    pub fn make_anonymous(&mut self) {
        self.anonymous = true;
    }

    /// Whether it became anonymous memory.
    pub fn is_anonymous(&self) -> bool {
        self.anonymous
    }
}

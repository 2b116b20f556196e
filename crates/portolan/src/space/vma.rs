//! A virtual memory area: one run of pages that are mapped alike. Immutable once published; a change makes a new one ([`super::edit`]).
//! What cannot be known at publication (detachment, the anonymous reverse map, the sticky flags) is all that changes later, by atomics.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::flags::page_protection;
use super::index::Span;
use super::policy::Mempolicy;
use crate::addr::{VirtAddr, VirtRange};
use crate::device::VmOperations;
use crate::object::{File, MappingId, Residency, VmFlags};
use crate::paging::{CacheMode, Format, LeafFlags};
use crate::platform::Platform;

/// What a VMA says; what a new one is made from.
pub(crate) struct VmaFields<P: Platform> {
    pub range: VirtRange,
    pub flags: VmFlags,
    /// Page offset of the first page: in the file, or for private anonymous memory the page number where it was first mapped.
    pub pgoff: u64,
    pub file: Option<Arc<File<P>>>,
    /// Whether pages that are missing are zeros of its own: without a file, or a private mapping of `/dev/zero`.
    pub content: Content,
    pub ops: Option<Arc<dyn VmOperations<P>>>,
    /// The name given by PR_SET_VMA_ANON_NAME, or a special mapping's ("[vdso]").
    pub name: Option<Name>,
    pub cache_mode: CacheMode,
    /// Where its memory is to come from; `None` for the default. `vma->vm_policy`.
    pub policy: Option<Arc<Mempolicy>>,
    /// The anonymous reverse map root, 0 for none yet. `vma->anon_vma`.
    pub anon: u64,
    /// Whether the root came through fork, which stops merging with other roots.
    pub anon_forked: bool,
    /// Bytes kept free below a stack.
    pub guard: u64,
}

/// Where missing pages come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// They are zeros. `vma_is_anonymous`.
    Anonymous,
    /// From the file or its driver.
    Mapped,
}

/// Why an area has a name of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Name {
    /// PR_SET_VMA_ANON_NAME: shown as `[anon:...]`.
    Anonymous(Arc<str>),
    /// A special mapping: shown as it is.
    Special(&'static str),
}

impl<P: Platform> Clone for VmaFields<P> {
    fn clone(&self) -> Self {
        Self {
            file: self.file.clone(),
            ops: self.ops.clone(),
            name: self.name.clone(),
            policy: self.policy.clone(),
            ..*self
        }
    }
}

impl<P: Platform> VmaFields<P> {
    /// The same area cut to `range`, which lies inside it: the page offset moves with the start.
    pub fn cut(&self, range: VirtRange) -> Self {
        let skipped = range.start().get().wrapping_sub(self.range.start().get())
            >> P::Format::GRANULE.shift();
        Self {
            range,
            pgoff: self.pgoff.wrapping_add(skipped),
            ..self.clone()
        }
    }

    /// The page offset one past the area.
    pub fn pgoff_end(&self) -> u64 {
        self.pgoff.wrapping_add(self.pages())
    }

    /// How many pages.
    pub fn pages(&self) -> u64 {
        self.range.pages(P::Format::GRANULE)
    }

    /// Whether it is charged to the commit limit.
    pub fn is_accounted(&self) -> bool {
        self.flags.contains(VmFlags::ACCOUNT)
    }
}

/// `struct vm_area_struct`: one run of pages that are mapped alike.
pub struct Vma<P: Platform> {
    fields: VmaFields<P>,
    /// VM_*: `fields.flags` but for the sticky ones, which come and go on a published area.
    flags: AtomicU64,
    anon: AtomicU64,
    detached: AtomicBool,
    /// Its place among the mappings of its file.
    pub(crate) mapping: Option<MappingId>,
}

impl<P: Platform> Span for Vma<P> {
    fn start(&self) -> u64 {
        self.fields.range.start().get()
    }

    fn end(&self) -> u64 {
        self.fields.range.end().get()
    }

    fn gap_before(&self) -> u64 {
        self.fields.guard
    }
}

impl<P: Platform> Vma<P> {
    pub(crate) fn new(fields: VmaFields<P>, mapping: Option<MappingId>) -> Self {
        let anon = AtomicU64::new(fields.anon);
        let flags = AtomicU64::new(fields.flags.bits());
        Self {
            fields,
            flags,
            anon,
            detached: AtomicBool::new(false),
            mapping,
        }
    }

    /// What it says, with the sticky flags and the reverse map root as they are now.
    pub(crate) fn fields(&self) -> VmaFields<P> {
        VmaFields {
            flags: self.flags(),
            anon: self.anon.load(Ordering::Acquire),
            ..self.fields.clone()
        }
    }

    /// Where it lies.
    pub fn range(&self) -> VirtRange {
        self.fields.range
    }

    /// VM_* flags.
    pub fn flags(&self) -> VmFlags {
        VmFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// It holds guard pages from now on, or may. `vma_set_atomic_flag`.
    pub(crate) fn mark_guarded(&self) {
        self.flags
            .fetch_or(VmFlags::MAYBE_GUARD.bits(), Ordering::Relaxed);
    }

    /// Whatever was written to it, or that it is new, is forgotten.
    pub(crate) fn clear_soft_dirty(&self) {
        self.flags
            .fetch_and(!VmFlags::SOFTDIRTY.bits(), Ordering::Relaxed);
    }

    /// Page offset of its first page. `vm_pgoff`.
    pub fn pgoff(&self) -> u64 {
        self.fields.pgoff
    }

    /// The file behind it. `vm_file`.
    pub fn file(&self) -> Option<&Arc<File<P>>> {
        self.fields.file.as_ref()
    }

    /// The driver's operations. `vm_ops`.
    pub fn operations(&self) -> Option<&Arc<dyn VmOperations<P>>> {
        self.fields.ops.as_ref()
    }

    pub(crate) fn name(&self) -> Option<&Name> {
        self.fields.name.as_ref()
    }

    /// Its NUMA policy. `vma_policy`.
    pub fn policy(&self) -> Option<&Arc<Mempolicy>> {
        self.fields.policy.as_ref()
    }

    /// How the CPU caches its pages.
    pub fn cache_mode(&self) -> CacheMode {
        self.fields.cache_mode
    }

    /// The index of the page at `at`, which lies inside, in the file. `linear_page_index`.
    pub fn page_index(&self, at: VirtAddr) -> u64 {
        let skipped =
            at.get().wrapping_sub(self.range().start().get()) >> P::Format::GRANULE.shift();
        self.pgoff().wrapping_add(skipped)
    }

    /// Whether its pages may leave memory. VM_LOCKED.
    pub(crate) fn residency(&self) -> Residency {
        match self.flags().contains(VmFlags::LOCKED) {
            true => Residency::Locked,
            false => Residency::Evictable,
        }
    }

    /// Whether it is anonymous memory: missing pages are zeros of its own. `vma_is_anonymous`.
    pub fn is_anonymous(&self) -> bool {
        self.fields.content == Content::Anonymous
    }

    /// Whether stores reach other mappings. VM_SHARED.
    pub fn is_shared(&self) -> bool {
        self.flags().contains(VmFlags::SHARED)
    }

    /// Whether its stores are private copies. `is_cow_mapping`.
    pub fn is_cow(&self) -> bool {
        self.flags() & (VmFlags::SHARED | VmFlags::MAYWRITE) == VmFlags::MAYWRITE
    }

    /// The first byte that is its own or guards it. `vm_start_gap`.
    pub(crate) fn guarded_start(&self) -> u64 {
        self.start().saturating_sub(self.fields.guard)
    }

    /// What its entries allow at most. `vm_page_prot`.
    pub(crate) fn protection(&self) -> LeafFlags {
        page_protection(self.flags())
    }

    /// Whether it has an anonymous reverse map root, and so may hold anonymous pages.
    pub(crate) fn has_anon(&self) -> bool {
        self.anon.load(Ordering::Acquire) != 0
    }

    /// Gives it a reverse map root, once. `anon_vma_prepare`.
    pub(crate) fn set_anon(&self, root: u64) {
        let _ = self
            .anon
            .compare_exchange(0, root, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Whether it has left the index. A fault asks this under the lock of the page-table page it changes.
    pub(crate) fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    /// Marks it as having left the index. `vma_mark_detached`.
    pub(crate) fn detach(&self) {
        self.detached.store(true, Ordering::Release);
    }
}

impl<P: Platform> fmt::Debug for Vma<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {:?} pgoff {:#x}",
            self.range(),
            self.flags(),
            self.pgoff()
        )
    }
}

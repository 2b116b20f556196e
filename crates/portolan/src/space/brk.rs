//! `brk`: the end of the heap.

use core::sync::atomic::Ordering;

use super::edit::{joined, mergeable_before};
use super::flags::Prot;
use super::map::is_accountable;
use super::mm::{MmState, MmUser};
use super::populate::Populate;
use super::vma::{Content, VmaFields};
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::{CacheMode, Format};
use crate::platform::Platform;

impl<P: Platform> MmUser<P> {
    /// `brk`. `mm/mmap.c: SYSCALL_DEFINE1(brk)`. Returns the end of the heap afterwards: `addr` on success, the old one when it could not be
    /// moved there (below its start, down over nothing that is mapped, over RLIMIT_DATA or RLIMIT_AS, into another mapping, no memory). Never an error.
    pub fn brk(&self, addr: VirtAddr) -> VirtAddr {
        let mut state = self.state.write();
        let old = VirtAddr::new(state.layout.brk);
        match self.move_brk(&mut state, addr) {
            Ok(grown) => {
                state.layout.brk = addr.get();
                drop(state);
                if let Some(range) = grown {
                    self.populate(range, Populate::Silently);
                }
                addr
            }
            Err(_) => old,
        }
    }

    /// Maps or unmaps what lies between the old end and `addr`. Returns what must be populated because later mappings are locked.
    fn move_brk(&self, state: &mut MmState<P>, addr: VirtAddr) -> Result<Option<VirtRange>, Errno> {
        let granule = P::Format::GRANULE;
        let layout = state.layout;
        if addr.get() < layout.start_brk {
            return Err(Errno::EINVAL);
        }
        let heap = addr.get() - layout.start_brk;
        let data = layout.end_data.saturating_sub(layout.start_data);
        if heap.saturating_add(data) > self.limits.data.load(Ordering::Relaxed) {
            return Err(Errno::ENOMEM);
        }
        let new_end = addr.page_up(granule).ok_or(Errno::ENOMEM)?;
        let old_end = VirtAddr::new(layout.brk)
            .page_up(granule)
            .ok_or(Errno::ENOMEM)?;
        if let Some(grown) = VirtRange::new(old_end, new_end) {
            if grown.is_empty() {
                return Ok(None);
            }
            self.grow_brk(state, grown)?;
            return Ok(state.def_flags.contains(VmFlags::LOCKED).then_some(grown));
        }
        let shrunk = VirtRange::new(new_end, old_end).ok_or(Errno::EINVAL)?;
        let first = state.vmas.find(new_end.get());
        if !shrunk.is_empty() && first.is_none_or(|vma| vma.range().start() >= old_end) {
            return Err(Errno::EINVAL);
        }
        self.unmap_range(state, shrunk)?;
        Ok(None)
    }

    /// `do_brk_flags`.
    fn grow_brk(&self, state: &mut MmState<P>, range: VirtRange) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        if range.end().get() > state.layout.task_size {
            return Err(Errno::ENOMEM);
        }
        let guarded = range.end().get().saturating_add(granule.bytes());
        let next = state.vmas.find(range.start().get());
        if next.is_some_and(|next| next.guarded_start() < guarded) {
            return Err(Errno::ENOMEM);
        }
        self.map_heap(state, range, Prot::READ | Prot::WRITE)
    }

    /// Private anonymous memory at a free place, with the default flags of this space. `vm_brk_flags`.
    fn map_heap(&self, state: &mut MmState<P>, range: VirtRange, prot: Prot) -> Result<(), Errno> {
        let granule = P::Format::GRANULE;
        let pages = range.pages(granule);
        let mut flags = super::flags::vm_flags_of_prot(prot) | state.def_flags;
        if self.read_implies_exec.load(Ordering::Relaxed) {
            flags |= VmFlags::EXEC;
        }
        flags |= VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC | VmFlags::SOFTDIRTY;
        self.check_lock_limit(state, flags, range.bytes())?;
        state
            .counts
            .may_expand(&self.limits, flags, pages, granule.bytes())?;
        if state.vmas.len() as u64
            > self
                .machine
                .settings()
                .max_map_count
                .load(Ordering::Relaxed)
        {
            return Err(Errno::ENOMEM);
        }
        let charged = if is_accountable(flags) { pages } else { 0 };
        self.charge_commit(state, charged)?;
        let pgoff = range.start().get() >> granule.shift();
        let fields = VmaFields {
            range,
            flags: flags | VmFlags::ACCOUNT,
            pgoff,
            file: None,
            content: Content::Anonymous,
            ops: None,
            name: None,
            cache_mode: CacheMode::WriteBack,
            policy: None,
            anon: 0,
            anon_forked: false,
            guard: 0,
        };
        let flags = fields.flags;
        // The heap grows the area that ends at its end, and no other: not one below its start, not one that follows.
        let prev = mergeable_before(state, &fields)
            .filter(|prev| prev.range.end().get() > state.layout.start_brk);
        let merged = match prev {
            Some(prev) => joined(&prev, &fields),
            None => fields,
        };
        self.link_area(state, merged, flags, pages)
            .inspect_err(|_| self.machine.uncharge_commit(charged))
    }
}

//! `mmap`, from the system call to the region: each step of Linux's pipeline is a function here, in its order. Placement is in
//! `layout`, what a new mapping replaces goes through `unmap`.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::edit::{Edit, merged_with_neighbours};
use super::flags::{
    LEGACY_MAP_MASK, MAP_DROPPABLE, MAP_SHARED_VALIDATE, MAP_TYPE, Map, Prot, vm_flags_of_map,
    vm_flags_of_prot,
};
use super::layout::PlaceRequest;
use super::mm::{MmState, MmUser};
use super::populate::Populate;
use super::vma::{Content, Name, VmaFields};
use crate::addr::{VirtAddr, VirtRange};
use crate::device::VmaDraft;
use crate::errno::Errno;
use crate::object::{Cache, Commit, File, MAX_BYTES, VmFlags};
use crate::paging::{CacheMode, Format};
use crate::platform::{MapEvent, Platform};
use linux_raw_sys::general::{MAP_PRIVATE, MAP_SHARED};

/// The arguments of `mmap`, as hostile as a program can make them.
pub struct MapRequest<P: Platform> {
    /// Hint or fixed address.
    pub addr: VirtAddr,
    /// Bytes.
    pub len: u64,
    /// PROT_*; unknown bits are ignored, as in Linux.
    pub prot: u32,
    /// MAP_*.
    pub flags: u32,
    /// What the descriptor names; `None` for MAP_ANONYMOUS.
    pub file: Option<Arc<File<P>>>,
    /// Offset in the file, in bytes.
    pub offset: u64,
}

impl<P: Platform> MapRequest<P> {
    /// Private anonymous memory anywhere.
    pub fn anonymous(len: u64, prot: Prot) -> Self {
        let flags = (Map::PRIVATE | Map::ANONYMOUS).bits();
        Self {
            addr: VirtAddr::new(0),
            len,
            prot: prot.bits(),
            flags,
            file: None,
            offset: 0,
        }
    }

    /// A file from its start, shared or private as `map` says.
    pub fn file(file: Arc<File<P>>, len: u64, prot: Prot, map: Map) -> Self {
        Self {
            addr: VirtAddr::new(0),
            len,
            prot: prot.bits(),
            flags: map.bits(),
            file: Some(file),
            offset: 0,
        }
    }

    /// The same at an address, in place of what is there.
    pub fn fixed(self, addr: VirtAddr) -> Self {
        Self {
            addr,
            flags: self.flags | Map::FIXED.bits(),
            ..self
        }
    }

    /// The same from `offset` bytes on in the file.
    pub fn offset(self, offset: u64) -> Self {
        Self { offset, ..self }
    }
}

/// A mapping that passed every check and has its place, but does not exist yet.
struct Region<P: Platform> {
    range: VirtRange,
    flags: VmFlags,
    pgoff: u64,
    file: Option<Arc<File<P>>>,
    shared_anonymous: bool,
}

impl<P: Platform> MmUser<P> {
    /// `mmap`. `mm/mmap.c: ksys_mmap_pgoff, vm_mmap_pgoff, do_mmap`. Returns where the mapping starts.
    ///
    /// # Errors
    /// - `EINVAL`: length 0, no or two types, fixed and unaligned, offset unaligned, a growing mapping of a file.
    /// - `ENOMEM`: no room, too many mappings, a limit, no memory for the bookkeeping.
    /// - `EOVERFLOW`: the offset overflows. `EEXIST`: MAP_FIXED_NOREPLACE over a mapping.
    /// - `EACCES`, `ENODEV`, `EPERM`: the file does not allow it. `EPERM`: below the minimum address, or locking without right.
    /// - `EAGAIN`: over RLIMIT_MEMLOCK. `EOPNOTSUPP`: MAP_SHARED_VALIDATE with an unknown flag.
    /// - What a hook or the file's own mmap operation answers.
    ///
    /// When a fixed mapping's file refuses after its place was cleared, the place stays empty, as in Linux.
    pub fn mmap(&self, request: &MapRequest<P>) -> Result<VirtAddr, Errno> {
        let event = self.map_event(request);
        let hooks = self.machine.platform().hooks();
        hooks.audit_mmap(&event);
        let granule = P::Format::GRANULE;
        if !granule.is_aligned(request.offset) {
            return Err(Errno::EINVAL);
        }
        hooks.security_mmap_file(&event)?;
        let mut state = self.state.write();
        let (range, flags) = self.map_locked(&mut state, request)?;
        drop(state);
        hooks.perf_event_mmap(&MapEvent { range, ..event });
        if request.file.is_some() {
            hooks.uprobe_mmap(&MapEvent { range, ..event });
        }
        let map = Map::from_bits_truncate(request.flags);
        if flags.contains(VmFlags::LOCKED) || map & (Map::POPULATE | Map::NONBLOCK) == Map::POPULATE
        {
            self.populate(range, Populate::Silently);
        }
        Ok(range.start())
    }

    /// Maps under the mmap lock; returns where, and the flags that were asked for: with VM_LOCKED the pages are to be brought in, whether or not the
    /// area can be locked. `do_mmap`.
    ///
    /// # Errors
    /// As [`MmUser::mmap`].
    pub(super) fn map_locked(
        &self,
        state: &mut MmState<P>,
        request: &MapRequest<P>,
    ) -> Result<(VirtRange, VmFlags), Errno> {
        let region = self.check_map(state, request)?;
        let (range, flags) = (region.range, region.flags);
        self.map_region(state, region)?;
        Ok((range, flags))
    }

    fn map_event(&self, request: &MapRequest<P>) -> MapEvent {
        let range = VirtRange::with_len(VirtAddr::new(0), 0)
            .unwrap_or_else(|| unreachable!("0..0 is a range"));
        let has_file = request.file.is_some();
        MapEvent {
            asid: self.asid,
            prot: request.prot,
            flags: request.flags,
            has_file,
            range,
        }
    }

    /// The checks of `do_mmap`, in its order, and placement.
    fn check_map(
        &self,
        state: &mut MmState<P>,
        request: &MapRequest<P>,
    ) -> Result<Region<P>, Errno> {
        let granule = P::Format::GRANULE;
        let mut prot = Prot::from_bits_truncate(request.prot);
        let mut map = Map::from_bits_truncate(request.flags);
        if request.len == 0 {
            return Err(Errno::EINVAL);
        }
        let noexec = request.file.as_ref().is_some_and(|file| file.is_noexec());
        if prot.contains(Prot::READ) && self.read_implies_exec.load(Ordering::Relaxed) && !noexec {
            prot |= Prot::EXEC;
        }
        if map.contains(Map::FIXED_NOREPLACE) {
            map |= Map::FIXED;
        }
        let addr = match map.contains(Map::FIXED) {
            true => request.addr.get(),
            false => self.round_hint(request.addr.get()),
        };
        let len = granule.round_up(request.len).ok_or(Errno::ENOMEM)?;
        let pgoff = request.offset >> granule.shift();
        if pgoff.checked_add(len >> granule.shift()).is_none() {
            return Err(Errno::EOVERFLOW);
        }
        if state.vmas.len() as u64
            > self
                .machine
                .settings()
                .max_map_count
                .load(Ordering::Relaxed)
        {
            return Err(Errno::ENOMEM);
        }
        if map.contains(Map::HUGETLB) && request.file.is_none() {
            return Err(Errno::EINVAL);
        }
        let start = self.place_map(state, request, PlaceRequest { addr, len, map })?;
        let range = VirtRange::with_len(start, len).ok_or(Errno::ENOMEM)?;
        if map.contains(Map::FIXED_NOREPLACE)
            && state
                .vmas
                .overlapping(range.start().get()..range.end().get())
                .next()
                .is_some()
        {
            return Err(Errno::EEXIST);
        }
        let mut flags = vm_flags_of_prot(prot) | vm_flags_of_map(map) | state.def_flags;
        flags |= VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::MAYEXEC;
        if map.contains(Map::LOCKED) && !self.may_lock() {
            return Err(Errno::EPERM);
        }
        self.check_lock_limit(state, flags, len)?;
        let mut region = Region {
            range,
            flags,
            pgoff,
            file: request.file.clone(),
            shared_anonymous: false,
        };
        match &request.file {
            Some(file) => check_file(&mut region, file, request.flags, prot)?,
            None => check_anonymous(&mut region, request.flags, granule)?,
        }
        if map.contains(Map::NORESERVE)
            && self.machine.settings().overcommit() != crate::machine::Overcommit::Never
        {
            region.flags |= VmFlags::NORESERVE;
        }
        if let Some(cache) = request.file.as_ref().and_then(|file| file.cache()) {
            region.flags = cache.check_map_seals(region.flags)?;
        }
        Ok(region)
    }

    /// `round_hint_to_min`: a hint below the minimum is moved up to it; 0 stays "anywhere".
    fn round_hint(&self, hint: u64) -> u64 {
        let granule = P::Format::GRANULE;
        let hint = granule.round_down(hint);
        if hint != 0 && hint < self.min_addr() {
            granule.round_up(self.min_addr()).unwrap_or(hint)
        } else {
            hint
        }
    }

    /// Where the mapping goes: the file's own choice first.
    fn place_map(
        &self,
        state: &MmState<P>,
        request: &MapRequest<P>,
        place: PlaceRequest,
    ) -> Result<VirtAddr, Errno> {
        let Some(file) = &request.file else {
            return self.place(state, place);
        };
        match file.operations().get_unmapped_area(
            file,
            place.addr,
            place.len,
            request.offset,
            request.flags,
        ) {
            Some(at) => self.place(
                state,
                PlaceRequest {
                    addr: at?.get(),
                    map: place.map | Map::FIXED,
                    ..place
                },
            ),
            None => self.place(state, place),
        }
    }

    /// `mmap_region`: limits, what is in the way, the charge, the merge or the new VMA.
    fn map_region(&self, state: &mut MmState<P>, mut region: Region<P>) -> Result<(), Errno> {
        let (range, flags) = (region.range, region.flags);
        let pages = range.pages(P::Format::GRANULE);
        let in_the_way = state.pages_with(range, VmFlags::empty());
        if in_the_way != 0 {
            self.check_sealed(state, range)?;
        }
        let charged = if is_accountable(flags) { pages } else { 0 };
        // What is replaced gives its charge back only afterwards, and is not asked for again.
        let kept = match charged.min(in_the_way) {
            0 => 0,
            most => most.min(state.pages_with(range, VmFlags::ACCOUNT)),
        };
        self.check_expand(state, flags, pages, in_the_way)
            .and_then(|()| match charged - kept {
                0 => Ok(()),
                more => self.charge_commit(state, more),
            })
            .inspect_err(|_| self.split_ends(state, range))?;
        self.machine.recharge_commit(kept);
        if charged != 0 {
            region.flags |= VmFlags::ACCOUNT;
        }
        let result = self.insert_region(state, region, in_the_way);
        if result.is_err() {
            self.machine.uncharge_commit(charged);
        }
        result
    }

    /// Makes the area, in the place of `in_the_way` pages that may all be removed.
    fn insert_region(
        &self,
        state: &mut MmState<P>,
        region: Region<P>,
        in_the_way: u64,
    ) -> Result<(), Errno> {
        let Region {
            range,
            flags,
            pgoff,
            file,
            shared_anonymous,
        } = region;
        let guard = if flags.contains(VmFlags::GROWSDOWN) {
            self.guard_gap()
        } else {
            0
        };
        let fields = VmaFields {
            range,
            flags: flags | VmFlags::SOFTDIRTY,
            pgoff,
            file: None,
            content: Content::Anonymous,
            ops: None,
            name: None,
            cache_mode: CacheMode::WriteBack,
            policy: None,
            anon: 0,
            anon_forked: false,
            guard,
        };
        state.vmas.reserve(3, self.machine.fail_point())?;
        if in_the_way != 0 {
            self.unmap_unsealed(state, range)?;
        }
        let file = match shared_anonymous {
            true if flags.contains(VmFlags::NORESERVE) => Some(Cache::shared_zero_file_with(
                &self.machine,
                range.bytes(),
                Commit::Unreserved,
            )?),
            true => Some(Cache::shared_zero_file(&self.machine, range.bytes())?),
            false => file,
        };
        let fields = match file {
            Some(file) => call_mmap(&file, fields)?,
            None => fields,
        };
        let writable = VmFlags::SHARED | VmFlags::MAYWRITE;
        let file = fields
            .file
            .clone()
            .filter(|_| fields.flags.contains(writable));
        let cache = file.as_ref().and_then(|file| file.cache());
        // Until it is registered: a write seal may come in between.
        cache.map_or(Ok(()), |cache| cache.map_writable())?;
        let result = self.insert_area(state, fields);
        if let Some(cache) = cache {
            cache.unmap_writable();
        }
        result
    }

    /// Links an area into a free place, merged with its neighbours where they agree, and counts it.
    ///
    /// # Errors
    /// `ENOMEM`: no heap; nothing has changed.
    pub(crate) fn insert_area(
        &self,
        state: &mut MmState<P>,
        mut fields: VmaFields<P>,
    ) -> Result<(), Errno> {
        if fields.flags.intersects(super::lock::NEVER_LOCKED) {
            fields.flags &= !VmFlags::LOCKED_MASK;
        }
        let (flags, pages) = (fields.flags, fields.pages());
        let merged = merged_with_neighbours(state, fields);
        self.link_area(state, merged, flags, pages)
    }

    /// Puts an area in the place of those that it was merged with, and counts the `pages` that it has more, of these `flags`.
    ///
    /// # Errors
    /// `ENOMEM`: no heap; nothing has changed.
    pub(crate) fn link_area(
        &self,
        state: &mut MmState<P>,
        merged: VmaFields<P>,
        flags: VmFlags,
        pages: u64,
    ) -> Result<(), Errno> {
        let hull = merged.range;
        let mut edit = Edit::new(self);
        edit.add(merged)?;
        state.vmas.reserve(edit.len(), self.machine.fail_point())?;
        let old = edit.commit(state, hull);
        self.retire(old);
        state.counts.add(flags, pages);
        Ok(())
    }

    /// `may_expand_vm` for a mapping that takes the place of `replaced` pages.
    fn check_expand(
        &self,
        state: &MmState<P>,
        flags: VmFlags,
        pages: u64,
        replaced: u64,
    ) -> Result<(), Errno> {
        let page = P::Format::GRANULE.bytes();
        match state.counts.may_expand(&self.limits, flags, pages, page) {
            Ok(()) => Ok(()),
            Err(error) if replaced == 0 => Err(error),
            Err(_) => {
                state
                    .counts
                    .may_expand(&self.limits, flags, pages.saturating_sub(replaced), page)
            }
        }
    }

    /// Maps pages that the embedder made under a name of their own (`[vdso]`). `_install_special_mapping`.
    ///
    /// The pages are those of `file`, shown under `name`; writes are private copies. Not merged, not grown.
    ///
    /// # Errors
    /// `ENOMEM`: no room or a limit. `EINVAL`: length 0 or unaligned address.
    pub fn install_special_mapping(
        &self,
        at: VirtAddr,
        len: u64,
        prot: Prot,
        file: Arc<File<P>>,
        name: &'static str,
    ) -> Result<VirtAddr, Errno> {
        let granule = P::Format::GRANULE;
        let len = granule
            .round_up(len)
            .filter(|&len| len != 0)
            .ok_or(Errno::EINVAL)?;
        let mut state = self.state.write();
        let start = self.place(
            &state,
            PlaceRequest {
                addr: at.get(),
                len,
                map: Map::PRIVATE,
            },
        )?;
        let range = VirtRange::with_len(start, len).ok_or(Errno::ENOMEM)?;
        let flags = vm_flags_of_prot(prot)
            | VmFlags::MAYREAD
            | VmFlags::MAYWRITE
            | VmFlags::MAYEXEC
            | VmFlags::DONTEXPAND
            | VmFlags::SOFTDIRTY;
        state
            .counts
            .may_expand(&self.limits, flags, range.pages(granule), granule.bytes())?;
        let fields = VmaFields {
            range,
            flags,
            pgoff: 0,
            file: Some(file),
            content: Content::Mapped,
            ops: None,
            name: Some(Name::Special(name)),
            cache_mode: CacheMode::WriteBack,
            policy: None,
            anon: 0,
            anon_forked: false,
            guard: 0,
        };
        self.insert_area(&mut state, fields)?;
        Ok(start)
    }
}

/// Whether an area is charged to the commit limit. `accountable_mapping`.
pub(crate) fn is_accountable(flags: VmFlags) -> bool {
    flags & (VmFlags::NORESERVE | VmFlags::SHARED | VmFlags::WRITE) == VmFlags::WRITE
}

/// The file's side of `do_mmap`.
fn check_file<P: Platform>(
    region: &mut Region<P>,
    file: &Arc<File<P>>,
    flags: u32,
    prot: Prot,
) -> Result<(), Errno> {
    let most = MAX_BYTES
        .checked_sub(region.range.bytes())
        .ok_or(Errno::EOVERFLOW)?;
    if file.cache().is_some() && region.pgoff > most >> P::Format::GRANULE.shift() {
        return Err(Errno::EOVERFLOW);
    }
    if !file.operations().can_mmap(file)
        && !matches!(
            flags & MAP_TYPE,
            MAP_SHARED | MAP_PRIVATE | MAP_SHARED_VALIDATE
        )
    {
        return Err(Errno::EINVAL);
    }
    match flags & MAP_TYPE {
        MAP_SHARED | MAP_SHARED_VALIDATE => {
            let known = LEGACY_MAP_MASK | file.operations().extra_map_flags();
            if flags & MAP_TYPE == MAP_SHARED_VALIDATE && flags & !MAP_TYPE & !known != 0 {
                return Err(Errno::EOPNOTSUPP);
            }
            if prot.contains(Prot::WRITE) && !file.is_writable() {
                return Err(Errno::EACCES);
            }
            if file.is_append_only() && file.is_writable() {
                return Err(Errno::EACCES);
            }
            region.flags |= VmFlags::SHARED | VmFlags::MAYSHARE;
            if !file.is_writable() {
                region.flags &= !(VmFlags::MAYWRITE | VmFlags::SHARED);
            }
        }
        MAP_PRIVATE => {}
        _ => return Err(Errno::EINVAL),
    }
    if !file.is_readable() {
        return Err(Errno::EACCES);
    }
    if file.is_noexec() {
        if region.flags.contains(VmFlags::EXEC) {
            return Err(Errno::EPERM);
        }
        region.flags &= !VmFlags::MAYEXEC;
    }
    if !file.operations().can_mmap(file) {
        return Err(Errno::ENODEV);
    }
    if region.flags.contains(VmFlags::GROWSDOWN) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// The anonymous side of `do_mmap`.
fn check_anonymous<P: Platform>(
    region: &mut Region<P>,
    flags: u32,
    granule: crate::addr::Granule,
) -> Result<(), Errno> {
    match flags & MAP_TYPE {
        MAP_SHARED => {
            if region.flags.contains(VmFlags::GROWSDOWN) {
                return Err(Errno::EINVAL);
            }
            region.pgoff = 0;
            region.flags |= VmFlags::SHARED | VmFlags::MAYSHARE;
            region.shared_anonymous = true;
        }
        MAP_DROPPABLE => {
            let asked_to_lock = Map::from_bits_truncate(flags).contains(Map::LOCKED);
            if asked_to_lock || region.flags.contains(VmFlags::GROWSDOWN) {
                return Err(Errno::EINVAL);
            }
            region.flags |=
                VmFlags::DROPPABLE | VmFlags::NORESERVE | VmFlags::WIPEONFORK | VmFlags::DONTDUMP;
            region.pgoff = region.range.start().get() >> granule.shift();
        }
        MAP_PRIVATE => region.pgoff = region.range.start().get() >> granule.shift(),
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// Lets the file's own mmap operation complete the area. `call_mmap`.
fn call_mmap<P: Platform>(
    file: &Arc<File<P>>,
    fields: VmaFields<P>,
) -> Result<VmaFields<P>, Errno> {
    let mut draft = VmaDraft::new(fields.range, fields.flags, fields.pgoff);
    file.operations().mmap(file, &mut draft)?;
    let file = draft.take_file().unwrap_or_else(|| file.clone());
    Ok(VmaFields {
        flags: draft.flags(),
        pgoff: draft.pgoff(),
        cache_mode: draft.cache_mode(),
        file: Some(file),
        content: if draft.is_anonymous() {
            Content::Anonymous
        } else {
            Content::Mapped
        },
        ops: draft.take_operations(),
        ..fields
    })
}

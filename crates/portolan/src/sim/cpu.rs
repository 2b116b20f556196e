//! A software CPU: loads, stores and fetches of user mode, through its TLB or by a walk of the page-table bytes that sets accessed and dirty
//! state as the format's hardware does. What the memory means, and what to do about a fault, is the caller's.

use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::Sim;
use super::tlb::{Cached, Tlb};
use crate::addr::{Pfn, VirtAddr};
use crate::paging::{Access, Format, LeafFlags};
use crate::phys::{FrameKind, Phys};
use crate::platform::{Asid, CpuId};

/// The space that a CPU runs on. CR3, or TTBR0 with its ASID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// The frame of the root page-table page.
    pub root: Pfn,
    /// The space's name to the TLB.
    pub asid: Asid,
}

/// An access that the tables do not allow. The CPU has dropped its own translation of the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// The first byte that could not be accessed.
    pub addr: VirtAddr,
    /// What was tried.
    pub access: Access,
    /// Whether a valid entry was there that does not allow it.
    pub present: bool,
}

/// How much one load or store moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Width {
    /// 1 byte.
    Byte = 1,
    /// 2 bytes.
    Half = 2,
    /// 4 bytes.
    Word = 4,
    /// 8 bytes.
    Double = 8,
}

impl Width {
    const fn bytes(self) -> usize {
        self as usize
    }
}

/// One CPU of a [`Sim`]. It holds no state but its number; two handles with one number share a TLB, and take turns.
///
/// The space it is given must know that it runs there (`Mm::activate`), or no flush reaches it.
///
/// # Panics
/// Every access panics if the tables lead to a frame that is not memory: a bus error.
#[derive(Debug)]
pub struct Cpu<'m, F: Format> {
    phys: &'m Phys<Sim<F>>,
    id: CpuId,
}

impl<F: Format> Clone for Cpu<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format> Copy for Cpu<'_, F> {}

impl<'m, F: Format> Cpu<'m, F> {
    /// The CPU with this number, which wraps at the number of CPUs.
    pub fn new(phys: &'m Phys<Sim<F>>, id: CpuId) -> Self {
        Self { phys, id }
    }

    /// Its number.
    pub fn id(&self) -> CpuId {
        self.id
    }

    /// Loads bytes, page by page.
    ///
    /// # Errors
    /// The first page that faults; what came before it has been loaded.
    pub fn load(&self, space: Space, addr: VirtAddr, to: &mut [u8]) -> Result<(), PageFault> {
        let mut tlb = self.tlb().lock();
        for (at, part) in parts::<F>(addr, to.len()) {
            let frame = self.translate(&mut tlb, space, at, Access::Read)?;
            for (n, byte) in to[part].iter_mut().enumerate() {
                *byte = self.byte(frame, at, n).load(Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Stores bytes, page by page.
    ///
    /// # Errors
    /// The first page that faults; what came before it has been stored.
    pub fn store(&self, space: Space, addr: VirtAddr, from: &[u8]) -> Result<(), PageFault> {
        let mut tlb = self.tlb().lock();
        for (at, part) in parts::<F>(addr, from.len()) {
            let frame = self.translate(&mut tlb, space, at, Access::Write)?;
            for (n, byte) in from[part].iter().enumerate() {
                self.byte(frame, at, n).store(*byte, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Loads a little-endian number with one access if it is naturally aligned, byte by byte if not.
    ///
    /// # Errors
    /// A page that it lies in faults.
    pub fn load_number(
        &self,
        space: Space,
        addr: VirtAddr,
        width: Width,
    ) -> Result<u64, PageFault> {
        if !addr.get().is_multiple_of(width.bytes() as u64) {
            let mut bytes = [0; 8];
            self.load(space, addr, &mut bytes[..width.bytes()])?;
            return Ok(u64::from_le_bytes(bytes));
        }
        let mut tlb = self.tlb().lock();
        let frame = self.translate(&mut tlb, space, addr, Access::Read)?;
        let cell = self.pointer(frame, addr);
        // SAFETY: the number is aligned, so it lies in this frame (`memory`), which stays while `phys` does and is only accessed
        // atomically.
        Ok(unsafe {
            match width {
                Width::Byte => AtomicU8::from_ptr(cell).load(Ordering::Relaxed) as u64,
                Width::Half => {
                    u16::from_le(AtomicU16::from_ptr(cell.cast()).load(Ordering::Relaxed)) as u64
                }
                Width::Word => {
                    u32::from_le(AtomicU32::from_ptr(cell.cast()).load(Ordering::Relaxed)) as u64
                }
                Width::Double => {
                    u64::from_le(AtomicU64::from_ptr(cell.cast()).load(Ordering::Relaxed))
                }
            }
        })
    }

    /// Stores the low bytes of a number, little-endian, with one access if it is naturally aligned; if not, byte by byte, and nothing is stored
    /// when one of its two pages faults.
    ///
    /// # Errors
    /// A page that it lies in faults.
    pub fn store_number(
        &self,
        space: Space,
        addr: VirtAddr,
        width: Width,
        value: u64,
    ) -> Result<(), PageFault> {
        if !addr.get().is_multiple_of(width.bytes() as u64) {
            return self.store_unaligned(space, addr, &value.to_le_bytes()[..width.bytes()]);
        }
        let mut tlb = self.tlb().lock();
        let frame = self.translate(&mut tlb, space, addr, Access::Write)?;
        let cell = self.pointer(frame, addr);
        // SAFETY: as in `load_number`.
        unsafe {
            match width {
                Width::Byte => AtomicU8::from_ptr(cell).store(value as u8, Ordering::Relaxed),
                Width::Half => AtomicU16::from_ptr(cell.cast())
                    .store((value as u16).to_le(), Ordering::Relaxed),
                Width::Word => AtomicU32::from_ptr(cell.cast())
                    .store((value as u32).to_le(), Ordering::Relaxed),
                Width::Double => {
                    AtomicU64::from_ptr(cell.cast()).store(value.to_le(), Ordering::Relaxed)
                }
            }
        }
        Ok(())
    }

    fn store_unaligned(&self, space: Space, addr: VirtAddr, bytes: &[u8]) -> Result<(), PageFault> {
        let mut tlb = self.tlb().lock();
        for (at, _) in parts::<F>(addr, bytes.len()) {
            self.translate(&mut tlb, space, at, Access::Write)?;
        }
        for (at, part) in parts::<F>(addr, bytes.len()) {
            let frame = self.translate(&mut tlb, space, at, Access::Write)?;
            for (n, byte) in bytes[part].iter().enumerate() {
                self.byte(frame, at, n).store(*byte, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Fetches one byte of an instruction.
    ///
    /// # Errors
    /// Its page faults.
    pub fn fetch(&self, space: Space, addr: VirtAddr) -> Result<u8, PageFault> {
        let mut tlb = self.tlb().lock();
        let frame = self.translate(&mut tlb, space, addr, Access::Execute)?;
        Ok(self.byte(frame, addr, 0).load(Ordering::Relaxed))
    }

    /// Repeats `access` until it goes through or `serve`, the handler of its faults, gives up.
    ///
    /// # Errors
    /// What `serve` answers.
    pub fn retry<T, E>(
        &self,
        mut access: impl FnMut(&Self) -> Result<T, PageFault>,
        mut serve: impl FnMut(PageFault) -> Result<(), E>,
    ) -> Result<T, E> {
        loop {
            match access(self) {
                Ok(value) => return Ok(value),
                Err(fault) => serve(fault)?,
            }
        }
    }

    fn tlb(&self) -> &'m parking_lot::Mutex<Tlb> {
        self.phys.platform().tlb(self.id)
    }

    /// The frame that an access to `addr` reaches. The TLB stays locked until the access is done, so a flush waits for it.
    fn translate(
        &self,
        tlb: &mut Tlb,
        space: Space,
        addr: VirtAddr,
        access: Access,
    ) -> Result<Pfn, PageFault> {
        if let Some(cached) = tlb.page::<F>(space.asid, addr.get()) {
            if cached.allows(access) {
                tlb.counts.hits += 1;
                tlb.counts.stale += self.is_gone(cached.frame, false) as u64;
                return Ok(cached.frame);
            }
            tlb.remove_page::<F>(space.asid, addr.get());
        }
        let cached = self.walk(tlb, space, addr, access)?;
        tlb.insert_page::<F>(space.asid, addr.get(), cached);
        Ok(cached.frame)
    }

    /// Whether a frame that a TLB remembers has become something that it must not remember it as.
    fn is_gone(&self, frame: Pfn, as_table: bool) -> bool {
        let Some(page) = self.phys.page(frame) else {
            return true;
        };
        match page.kind() {
            FrameKind::Free => true,
            kind => (kind == FrameKind::Table) != as_table,
        }
    }

    fn walk(
        &self,
        tlb: &mut Tlb,
        space: Space,
        addr: VirtAddr,
        access: Access,
    ) -> Result<Cached, PageFault> {
        tlb.counts.walks += 1;
        let fault = |present| PageFault {
            addr,
            access,
            present,
        };
        if addr.get() >> F::USER_BITS != 0 {
            return Err(fault(false));
        }
        let (mut level, mut table) = match tlb.table::<F>(space.asid, addr.get()) {
            Some(table) => {
                tlb.counts.stale += self.is_gone(table, true) as u64;
                (0, table)
            }
            None => (F::LEVELS - 1, space.root),
        };
        loop {
            let cell = self.entry(table, F::index(level, addr.get()));
            let raw = cell.load(Ordering::Acquire);
            if let Some(next) = F::table_at(level, raw) {
                (level, table) = (level - 1, next);
                if level == 0 {
                    tlb.insert_table::<F>(space.asid, addr.get(), table);
                }
                continue;
            }
            let present =
                F::leaf_at(level, raw).is_some_and(|leaf| leaf.flags.contains(LeafFlags::READ));
            let used = F::hardware_access(level, raw, access).ok_or(fault(present))?;
            if used != raw
                && cell
                    .compare_exchange(raw, used, Ordering::AcqRel, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            return cached::<F>(level, used, addr).ok_or(fault(present));
        }
    }

    fn entry(&self, table: Pfn, index: usize) -> &'m AtomicU64 {
        let cell = self.memory(table).cast::<AtomicU64>();
        // SAFETY: `memory` leads to a frame, which stays while `phys` does, is aligned and large enough for the index, and is only
        // accessed atomically. A stale `table` leads to a frame with other contents, as on a real machine.
        unsafe { &*cell.add(index) }
    }

    /// The first byte of a frame. The memory of a [`Sim`] is one range, so every frame with metadata is memory.
    fn memory(&self, frame: Pfn) -> *mut u8 {
        assert!(
            self.phys.page(frame).is_some(),
            "bus error: {frame:?} is not memory"
        );
        self.phys.ptr(frame)
    }

    fn pointer(&self, frame: Pfn, addr: VirtAddr) -> *mut u8 {
        self.memory(frame)
            .wrapping_add(addr.page_offset(F::GRANULE) as usize)
    }

    /// The byte `n` after `addr`, in the same page.
    fn byte(&self, frame: Pfn, addr: VirtAddr, n: usize) -> &'m AtomicU8 {
        let at = self.pointer(frame, addr).wrapping_add(n);
        // SAFETY: a byte of a frame (`memory`), which stays while `phys` does and is only accessed atomically.
        unsafe { AtomicU8::from_ptr(at) }
    }
}

/// What a TLB keeps of a leaf: accesses that need no further change of the entry.
fn cached<F: Format>(level: u8, raw: u64, addr: VirtAddr) -> Option<Cached> {
    let leaf = F::leaf_at(level, raw)?;
    let ready = |access| F::hardware_access(level, raw, access) == Some(raw);
    let within = (addr.get() & ((1 << F::level_shift(level)) - 1)) >> F::GRANULE.shift();
    Some(Cached {
        frame: leaf.frame.checked_add(within)?,
        read: ready(Access::Read),
        write: ready(Access::Write),
        execute: ready(Access::Execute),
    })
}

/// The parts of `len` bytes at `addr` that lie in one page each: where, and which of the bytes. Addresses wrap at the end.
fn parts<F: Format>(
    addr: VirtAddr,
    len: usize,
) -> impl Iterator<Item = (VirtAddr, core::ops::Range<usize>)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = VirtAddr::new(addr.get().wrapping_add(done as u64));
        let in_page = (F::GRANULE.bytes() - at.page_offset(F::GRANULE)) as usize;
        let start = done;
        done += in_page.min(len - done);
        Some((at, start..done))
    })
}

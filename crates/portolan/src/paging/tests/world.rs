//! What the tests of trees stand on: a machine with one space, whose frames must all be back when it goes.

use core::ops::Deref;
use std::thread;

use crate::addr::{Pfn, VirtAddr, VirtRange};
use crate::epoch::Domain;
use crate::paging::*;
use crate::phys::{FrameKind, PhysOwner};
use crate::platform::{Asid, CpuId};
use crate::sim::{Cpu, Sim, Space};

pub(super) const ASID: Asid = Asid(7);
pub(super) const RW: LeafFlags = LeafFlags::READ
    .union(LeafFlags::WRITE)
    .union(LeafFlags::USER);
pub(super) const USED: LeafFlags = LeafFlags::ACCESSED.union(LeafFlags::DIRTY);

/// A machine of two CPUs with one space. When it goes, every frame must be back.
pub(super) struct World<F: Format> {
    pub(super) table: Option<PageTable<Sim<F>>>,
    pub(super) cpus: ActiveCpus,
    pub(super) domain: Domain,
    pub(super) free: u64,
    pub(super) phys: PhysOwner<Sim<F>>,
}

impl<F: Format> World<F> {
    pub(super) fn new() -> Self {
        let phys = PhysOwner::new(Sim::<F>::new(128 << 20, 2)).unwrap();
        let free = phys.free_frames();
        let table = PageTable::new(&phys).unwrap();
        let cpus = ActiveCpus::new();
        cpus.insert(CpuId(0));
        cpus.insert(CpuId(1));
        Self {
            table: Some(table),
            cpus,
            domain: Domain::new(2).unwrap(),
            free,
            phys,
        }
    }

    pub(super) fn space(&self) -> Space {
        Space {
            root: self.root(),
            asid: ASID,
        }
    }

    pub(super) fn cpu(&self, id: u16) -> Cpu<'_, F> {
        Cpu::new(&self.phys, CpuId(id))
    }

    pub(super) fn batch(&self) -> FlushBatch<'_, Sim<F>> {
        FlushBatch::new(&self.phys, &self.domain, ASID, &self.cpus)
    }

    /// Maps a new page of this byte.
    pub(super) fn map(&self, addr: u64, flags: LeafFlags, byte: u8) -> Pfn {
        let page = self.phys.alloc(FrameKind::Anon).unwrap();
        page.fill(0, page_bytes::<F>() as usize, byte);
        let frame = page.into_raw();
        let leaf = Leaf {
            frame,
            flags,
            cache: CacheMode::WriteBack,
        };
        let table = self
            .leaf_or_create(&self.phys, VirtAddr::new(addr), || true)
            .unwrap()
            .unwrap();
        table.lock().set(F::index(0, addr), Entry::Present(leaf));
        frame
    }

    pub(super) fn byte(&self, addr: u64) -> Option<u8> {
        let mut byte = [0];
        self.cpu(0)
            .load(self.space(), VirtAddr::new(addr), &mut byte)
            .ok()?;
        Some(byte[0])
    }

    pub(super) fn entry(&self, addr: u64) -> Entry {
        self.lookup(VirtAddr::new(addr)).1
    }

    pub(super) fn leaf_flags(&self, addr: u64) -> LeafFlags {
        match self.entry(addr) {
            Entry::Present(leaf) => leaf.flags,
            other => panic!("no page at {addr:#x}: {other:?}"),
        }
    }

    /// Unmaps a range in which no mapping stays, and its tables.
    pub(super) fn unmap(&self, at: VirtRange) {
        let mut batch = self.batch();
        batch.clear_range(self, at, |_, _| {});
        batch.free_tables(self, all::<F>(), at);
        batch.finish();
    }

    pub(super) fn tables(&self) -> u64 {
        self.table_bytes() / page_bytes::<F>()
    }
}

impl<F: Format> Deref for World<F> {
    type Target = PageTable<Sim<F>>;
    fn deref(&self) -> &PageTable<Sim<F>> {
        self.table.as_ref().unwrap()
    }
}

impl<F: Format> Drop for World<F> {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        self.unmap(all::<F>());
        assert_eq!(self.table_bytes(), 0);
        self.table = None;
        self.domain.synchronize(|_| thread::yield_now());
        assert_eq!(self.phys.free_frames(), self.free, "every frame is back");
        assert_eq!(
            self.phys.platform().tlb_counts().stale,
            0,
            "no CPU used what was freed"
        );
    }
}

pub(super) fn page_bytes<F: Format>() -> u64 {
    F::GRANULE.bytes()
}

/// What a level-0 table covers, in bytes.
pub(super) fn table_span<F: Format>() -> u64 {
    1 << F::level_shift(1)
}

pub(super) fn range(start: u64, bytes: u64) -> VirtRange {
    VirtRange::with_len(VirtAddr::new(start), bytes).unwrap()
}

pub(super) fn all<F: Format>() -> VirtRange {
    range(0, 1 << F::USER_BITS)
}

/// Addresses that share tables at every level with some and none with others.
pub(super) fn spread<F: Format>() -> Vec<u64> {
    let mut addrs = vec![
        0,
        page_bytes::<F>(),
        (1 << F::USER_BITS) - page_bytes::<F>(),
    ];
    addrs.extend((1..F::LEVELS).map(|level| 1 << F::level_shift(level)));
    addrs.extend((1..F::LEVELS).map(|level| (1 << F::level_shift(level)) - page_bytes::<F>()));
    addrs.sort_unstable();
    addrs.dedup();
    addrs
}

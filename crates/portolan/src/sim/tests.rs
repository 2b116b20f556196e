//! The machine itself: its memory, its CPUs, and TLBs that keep what nobody told them to forget.

use super::*;
use crate::addr::{Pfn, VirtAddr, VirtRange};
use crate::paging::{Access, CacheMode, Entry, Leaf, LeafFlags, X86_64};
use crate::phys::{FrameKind, PageRef, PhysOwner};

type Machine = Sim<X86_64>;

const PAGE: u64 = 4096;
const RW: LeafFlags = LeafFlags::READ
    .union(LeafFlags::WRITE)
    .union(LeafFlags::USER)
    .union(LeafFlags::EXEC);

/// A space made by hand: one table a level, and pages from address 0 on.
struct Tables4 {
    phys: PhysOwner<Machine>,
    tables: Vec<PageRef<Machine>>,
    pages: Vec<Option<PageRef<Machine>>>,
}

fn write_entry(table: &PageRef<Machine>, level: u8, index: usize, entry: Entry) {
    table.write(index * 8, &X86_64::encode(level, entry).to_ne_bytes());
}

impl Tables4 {
    fn new(machine: Machine, pages: usize) -> Self {
        let phys = PhysOwner::new(machine).unwrap();
        let tables: Vec<_> = (0..4)
            .map(|_| phys.alloc_zeroed(FrameKind::Table).unwrap())
            .collect();
        for level in 1..4u8 {
            let below = tables[level as usize - 1].pfn();
            write_entry(&tables[level as usize], level, 0, Entry::Table(below));
        }
        let pages = (0..pages)
            .map(|_| Some(phys.alloc_zeroed(FrameKind::Anon).unwrap()))
            .collect();
        let made = Self {
            phys,
            tables,
            pages,
        };
        (0..made.pages.len()).for_each(|n| made.set(n, RW));
        made
    }

    fn set(&self, page: usize, flags: LeafFlags) {
        let frame = self.frame(page);
        let leaf = Leaf {
            frame,
            flags,
            cache: CacheMode::WriteBack,
        };
        write_entry(&self.tables[0], 0, page, Entry::Present(leaf));
    }

    fn frame(&self, page: usize) -> Pfn {
        self.pages[page].as_ref().unwrap().pfn()
    }

    fn flags(&self, page: usize) -> LeafFlags {
        let mut raw = [0; 8];
        self.tables[0].read(page * 8, &mut raw);
        X86_64::leaf_at(0, u64::from_ne_bytes(raw)).unwrap().flags
    }

    fn space(&self) -> Space {
        Space {
            root: self.tables[3].pfn(),
            asid: Asid(1),
        }
    }

    fn cpu(&self, id: u16) -> Cpu<'_, X86_64> {
        Cpu::new(&self.phys, CpuId(id))
    }

    fn flush(&self, scope: FlushScope, tables: Tables, cpus: &[u16]) {
        let mut set = CpuSet::EMPTY;
        cpus.iter().for_each(|&cpu| set.insert(CpuId(cpu)));
        let platform = self.phys.platform();
        let request = FlushRequest {
            asid: Asid(1),
            scope,
            tables,
            cpus: &set,
        };
        platform.flush_wait(platform.flush_begin(request));
    }
}

fn at(addr: u64) -> VirtAddr {
    VirtAddr::new(addr)
}

fn page(number: u64) -> FlushScope {
    FlushScope::Pages(VirtRange::with_len(at(number * PAGE), PAGE).unwrap())
}

#[test]
fn numbers_of_every_width_at_every_offset() {
    let space = Tables4::new(Sim::new(1 << 20, 1), 2);
    let cpu = space.cpu(0);
    for width in [Width::Byte, Width::Half, Width::Word, Width::Double] {
        for addr in (0..16).chain(PAGE - 9..PAGE + 2) {
            let value = 0x8877_6655_4433_2211u64.rotate_left(addr as u32);
            cpu.store_number(space.space(), at(addr), width, value)
                .unwrap();
            let mask = u64::MAX >> (64 - 8 * width as u32);
            assert_eq!(
                cpu.load_number(space.space(), at(addr), width),
                Ok(value & mask)
            );
            let mut bytes = [0; 8];
            cpu.load(space.space(), at(addr), &mut bytes[..width as usize])
                .unwrap();
            assert_eq!(u64::from_le_bytes(bytes), value & mask);
        }
    }
}

#[test]
fn what_crosses_into_a_fault_stores_all_or_what_came_before() {
    let space = Tables4::new(Sim::new(1 << 20, 1), 2);
    let cpu = space.cpu(0);
    space.set(1, RW - LeafFlags::WRITE);
    let end = at(PAGE - 3);
    let fault = PageFault {
        addr: at(PAGE),
        access: Access::Write,
        present: true,
    };
    assert_eq!(
        cpu.store_number(space.space(), end, Width::Double, u64::MAX),
        Err(fault)
    );
    assert_eq!(cpu.load_number(space.space(), end, Width::Word), Ok(0));
    assert_eq!(cpu.store(space.space(), end, &[1; 8]), Err(fault));
    assert_eq!(
        cpu.load_number(space.space(), end, Width::Double),
        Ok(0x01_0101)
    );
    let beyond = PageFault {
        addr: at(2 * PAGE),
        access: Access::Read,
        present: false,
    };
    assert_eq!(
        cpu.load(space.space(), at(2 * PAGE - 1), &mut [0; 2]),
        Err(beyond)
    );
    let wrapped = cpu
        .load(space.space(), at(u64::MAX), &mut [0; 2])
        .unwrap_err();
    assert_eq!(wrapped.addr, at(u64::MAX));
}

#[test]
fn walks_set_what_hardware_sets() {
    let space = Tables4::new(Sim::new(1 << 20, 1), 3);
    let cpu = space.cpu(0);
    space.set(2, RW - LeafFlags::EXEC);
    cpu.fetch(space.space(), at(0)).unwrap();
    assert_eq!(space.flags(0), RW | LeafFlags::ACCESSED);
    cpu.store(space.space(), at(0), &[1]).unwrap();
    assert_eq!(space.flags(0), RW | LeafFlags::ACCESSED | LeafFlags::DIRTY);
    assert_eq!(space.flags(1), RW);
    assert!(cpu.fetch(space.space(), at(2 * PAGE)).unwrap_err().present);
}

#[test]
fn a_tlb_believes_what_it_knows_until_it_is_flushed() {
    let space = Tables4::new(Sim::new(1 << 20, 2), 3);
    let load = |cpu: u16, page: u64| {
        space
            .cpu(cpu)
            .load(space.space(), at(page * PAGE), &mut [0])
    };
    for (cpu, page) in [(0, 0), (0, 1), (1, 0)] {
        load(cpu, page).unwrap();
    }
    (0..3).for_each(|n| space.set(n, LeafFlags::USER));
    assert!(load(0, 0).is_ok() && load(0, 1).is_ok() && load(1, 0).is_ok());
    assert!(load(1, 1).is_err() && load(0, 2).is_err());
    space.flush(page(0), Tables::Kept, &[0]);
    assert!(load(0, 0).is_err() && load(0, 1).is_ok() && load(1, 0).is_ok());
    space.flush(FlushScope::Space, Tables::Kept, &[0, 1]);
    assert!(load(0, 1).is_err() && load(1, 0).is_err());
    assert_eq!(space.phys.platform().tlb_counts().flushes, 3);
}

#[test]
fn upper_levels_are_forgotten_only_when_tables_are_freed() {
    let space = Tables4::new(Sim::new(1 << 20, 1), 2);
    let load = |page: u64| space.cpu(0).load(space.space(), at(page * PAGE), &mut [0]);
    load(0).unwrap();
    write_entry(&space.tables[1], 1, 0, Entry::Absent);
    space.flush(FlushScope::Space, Tables::Kept, &[0]);
    assert!(load(1).is_ok(), "through the unlinked table");
    space.flush(page(0), Tables::Freed, &[0]);
    assert!(
        load(0).is_err() && load(1).is_ok(),
        "the page itself is still known"
    );
}

#[test]
fn use_of_what_was_freed_is_noticed() {
    let mut space = Tables4::new(Sim::new(1 << 20, 1), 2);
    let stale = |space: &Tables4| space.phys.platform().tlb_counts().stale;
    let load =
        |space: &Tables4, page: u64| space.cpu(0).load(space.space(), at(page * PAGE), &mut [0]);
    load(&space, 0).unwrap();
    space.pages[0] = None;
    assert_eq!(stale(&space), 0);
    load(&space, 0).unwrap();
    assert_eq!(stale(&space), 1);
    space.flush(page(0), Tables::Kept, &[0]);
    space.set(1, RW);
    load(&space, 1).unwrap();
    assert_eq!(stale(&space), 1);
    let here = space.space();
    let table = space.tables.remove(0);
    space.flush(FlushScope::Space, Tables::Kept, &[0]);
    drop(table);
    let _ = space.cpu(0).load(here, at(PAGE), &mut [0]);
    assert_eq!(stale(&space), 2, "a walk from a freed page-table page");
}

#[test]
fn a_bounded_tlb_forgets_by_itself() {
    let space = Tables4::new(Sim::new(1 << 20, 1).with_tlb_capacity(4), 16);
    for n in 0..16 {
        space
            .cpu(0)
            .load(space.space(), at(n * PAGE), &mut [0])
            .unwrap();
    }
    assert_eq!(space.phys.platform().cached_pages(Asid(1)), 4);
    space.phys.platform().space_released(Asid(1));
    assert_eq!(space.phys.platform().cached_pages(Asid(1)), 0);
}

#[test]
fn faults_are_retried_until_the_handler_gives_up() {
    let space = Tables4::new(Sim::new(1 << 20, 1), 1);
    space.set(0, LeafFlags::USER);
    let serve = |fault: PageFault| {
        let more = if space.flags(0).contains(LeafFlags::READ) {
            LeafFlags::WRITE
        } else {
            LeafFlags::READ
        };
        space.set(0, space.flags(0) | more);
        if fault.access == Access::Execute {
            Err(fault)
        } else {
            Ok(())
        }
    };
    let cpu = space.cpu(0);
    assert_eq!(
        cpu.retry(|cpu| cpu.store(space.space(), at(0), &[7]), serve),
        Ok(())
    );
    assert_eq!(
        cpu.retry(
            |cpu| cpu.load_number(space.space(), at(0), Width::Byte),
            serve
        ),
        Ok(7)
    );
    assert!(
        cpu.retry(|cpu| cpu.fetch(space.space(), at(0)), serve)
            .is_err()
    );
}

#[test]
fn cpus_and_random_numbers() {
    let machine = Machine::new(1 << 20, 3);
    Machine::set_cpu(CpuId(4));
    assert_eq!(machine.cpu(), CpuId(1), "numbers wrap");
    let again = Machine::new(1 << 20, 3);
    assert_eq!(machine.random(), again.random());
    assert_ne!(machine.random(), again.with_seed(9).random());
    assert_eq!(machine.ram()[0].bytes(), 1 << 20);
    let start = machine.ram()[0].start();
    assert_eq!(machine.direct_map(start).align_offset(4096), 0);
}

//! What was once wrong, each case as short as it could be made. Where Linux decides, the expectations are what Linux 6.18 answered to the same
//! calls (the crate `conformance` compares at random). One format is enough here: none of it has to do with how entries are written.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use common::*;
use portolan::addr::{VirtAddr, VirtRange};
use portolan::device::{FileOperations, VmOperations, VmaDraft};
use portolan::errno::Errno;
use portolan::object::{File, FileIdentity, FileMode, FileSpec, VmFlags};
use portolan::paging::{Access, X86_64};
use portolan::sim::Sim;
use portolan::space::{Map, MapRequest, MmUser, Prot};

type Space = MmUser<Sim<X86_64>>;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const PAGE: u64 = 4096;
const MAYMOVE: u32 = 1;
const FIXED: u32 = 2;
const DONTUNMAP: u32 = 4;
const MADV_FREE: u32 = 8;
const MADV_POPULATE_READ: u32 = 22;

/// Far from everything else.
fn at(page: u64) -> VirtAddr {
    VirtAddr::new(0x10_0000_0000 + page * PAGE)
}

fn map(mm: &Space, page: u64, pages: u64, prot: Prot) {
    let request = MapRequest::anonymous(pages * PAGE, prot).fixed(at(page));
    mm.mmap(&request).expect("room");
}

fn map_with(mm: &Space, page: u64, pages: u64, prot: Prot, flags: Map) -> Result<VirtAddr, Errno> {
    let request = MapRequest::anonymous(pages * PAGE, prot).fixed(at(page));
    mm.mmap(&MapRequest {
        flags: request.flags | flags.bits(),
        ..request
    })
}

/// First and last page of each area, permissions, offset in pages.
fn areas(mm: &Space) -> Vec<(u64, u64, String, u64)> {
    let mut areas = Vec::new();
    mm.for_each_area(|area| {
        let page = |at: VirtAddr| at.get().wrapping_sub(at_zero()) / PAGE;
        let letters = [
            (VmFlags::READ, 'r'),
            (VmFlags::WRITE, 'w'),
            (VmFlags::EXEC, 'x'),
        ];
        let perms = letters.iter().map(|&(flag, letter)| {
            if area.flags.contains(flag) {
                letter
            } else {
                '-'
            }
        });
        areas.push((
            page(area.range.start()),
            page(area.range.end()),
            perms.collect(),
            area.offset / PAGE,
        ));
    });
    areas
}

fn at_zero() -> u64 {
    at(0).get()
}

fn expect(mm: &Space, expected: &[(u64, u64, &str, u64)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|&(a, b, perms, offset)| (a, b, perms.to_owned(), offset))
        .collect();
    assert_eq!(areas(mm), expected);
    mm.check().expect("a sound space");
}

/// Runs a case on a machine of its own, and sees that everything comes back.
fn on_a_space(case: impl FnOnce(&World<X86_64>, &Space)) {
    let world = World::<X86_64>::new();
    let mm = world.space();
    case(&world, &mm);
    mm.check().expect("a sound space");
    drop(mm);
    world.machine.quiesce();
    assert_eq!(world.machine.committed_pages(), 0);
    world.finish();
}

#[test]
fn a_move_onto_another_part_of_the_same_area_does_not_bring_that_part_back() {
    on_a_space(|_, mm| {
        map(mm, 0, 8, RW);
        poke(mm, at(0), 1);
        poke(mm, at(5), 2);
        assert_eq!(
            mm.mremap(at(0), PAGE, 2 * PAGE, MAYMOVE | FIXED, at(5)),
            Ok(at(5))
        );
        expect(mm, &[(1, 5, "rw-", 0), (5, 7, "rw-", 0), (7, 8, "rw-", 0)]);
        assert_eq!((peek(mm, at(5)), peek(mm, at(6))), (1, 0));
    });
}

#[test]
fn a_shrinking_move_counts_what_it_cuts_off() {
    on_a_space(|world, mm| {
        let file = world.file(&vec![1; 8 * PAGE as usize]);
        let request = MapRequest::file(file, 8 * PAGE, RW, Map::PRIVATE).fixed(at(11));
        mm.mmap(&request).unwrap();
        assert_eq!(
            mm.mremap(at(13), 4 * PAGE, 2 * PAGE, MAYMOVE | FIXED, at(23)),
            Ok(at(23))
        );
        expect(
            mm,
            &[(11, 13, "rw-", 0), (17, 19, "rw-", 6), (23, 25, "rw-", 2)],
        );
        assert_eq!(mm.counts().total, 6);
    });
}

#[test]
fn a_length_that_does_not_change_may_reach_past_the_area() {
    on_a_space(|_, mm| {
        map(mm, 7, 4, Prot::READ);
        assert_eq!(mm.mremap(at(9), 3 * PAGE, 3 * PAGE, 0, at(0)), Ok(at(9)));
    });
}

#[test]
fn a_fixed_move_takes_several_areas_and_their_gaps_along() {
    on_a_space(|_, mm| {
        map(mm, 0, 2, RW);
        map(mm, 4, 1, Prot::READ);
        map(mm, 21, 3, Prot::empty());
        poke(mm, at(1), 5);
        assert_eq!(
            mm.mremap(at(1), 5 * PAGE, 5 * PAGE, MAYMOVE | FIXED, at(20)),
            Ok(at(20))
        );
        expect(
            mm,
            &[
                (0, 1, "rw-", 0),
                (20, 21, "rw-", 0),
                (21, 23, "---", 0),
                (23, 24, "r--", 0),
            ],
        );
        assert_eq!(peek(mm, at(20)), 5);
    });
}

#[test]
fn only_a_fixed_move_takes_several_areas() {
    on_a_space(|_, mm| {
        map(mm, 0, 2, RW);
        let moved = mm.mremap(at(1), 3 * PAGE, 3 * PAGE, MAYMOVE | DONTUNMAP, at(20));
        assert_eq!(moved, Err(Errno::EFAULT), "the range reaches past the area");
        expect(mm, &[(0, 2, "rw-", 0)]);
    });
}

#[test]
fn dontunmap_unlocks_all_of_the_area_and_does_not_split_it() {
    on_a_space(|_, mm| {
        map_with(mm, 25, 13, Prot::READ, Map::LOCKED).unwrap();
        assert_eq!(
            mm.mremap(
                at(32),
                3 * PAGE,
                3 * PAGE,
                MAYMOVE | FIXED | DONTUNMAP,
                at(45)
            ),
            Ok(at(45))
        );
        expect(mm, &[(25, 38, "r--", 0), (45, 48, "r--", 0)]);
        assert_eq!(mm.counts().locked, 3);
    });
}

#[test]
fn an_old_length_that_wraps_does_not_overlap() {
    on_a_space(|_, mm| {
        let wraps = 0u64.wrapping_sub(PAGE);
        assert_eq!(
            mm.mremap(at(10), wraps, 3 * PAGE, MAYMOVE | FIXED, at(20)),
            Err(Errno::EFAULT)
        );
    });
}

#[test]
fn growth_that_a_limit_forbids_leaves_the_target() {
    on_a_space(|_, mm| {
        map(mm, 0, 2, RW);
        map(mm, 20, 4, Prot::READ);
        let limit = &mm.limits().address_space;
        limit.store(7 * PAGE, Ordering::Relaxed);
        assert_eq!(
            mm.mremap(at(0), 2 * PAGE, 4 * PAGE, MAYMOVE | FIXED, at(20)),
            Err(Errno::ENOMEM)
        );
        expect(mm, &[(0, 2, "rw-", 0), (20, 24, "r--", 0)]);
    });
}

#[test]
fn populating_what_does_not_allow_it_is_invalid() {
    on_a_space(|_, mm| {
        map(mm, 0, 1, Prot::WRITE);
        map(mm, 1, 1, Prot::empty());
        assert_eq!(
            mm.madvise(at(0), PAGE, MADV_POPULATE_READ),
            Err(Errno::EINVAL)
        );
        assert_eq!(
            mm.madvise(at(1), PAGE, MADV_POPULATE_READ),
            Err(Errno::EINVAL)
        );
        assert_eq!(
            mm.madvise(at(2), PAGE, MADV_POPULATE_READ),
            Err(Errno::ENOMEM)
        );
    });
}

#[test]
fn locked_memory_cannot_be_freed_by_advice() {
    on_a_space(|_, mm| {
        map_with(mm, 10, 4, RW, Map::LOCKED).unwrap();
        assert_eq!(mm.madvise(at(10), PAGE, MADV_FREE), Err(Errno::EINVAL));
    });
}

#[test]
fn untouched_memory_that_stops_being_writable_is_not_charged_any_more() {
    on_a_space(|world, mm| {
        map(mm, 25, 4, RW);
        map(mm, 24, 4, Prot::EXEC);
        assert_eq!(mm.mprotect(at(28), PAGE, Prot::EXEC.bits()), Ok(()));
        expect(mm, &[(24, 29, "--x", 0)]);
        assert_eq!(world.machine.committed_pages(), 0);
    });
}

#[test]
fn touched_memory_keeps_its_charge() {
    on_a_space(|world, mm| {
        map(mm, 0, 2, RW);
        poke(mm, at(0), 1);
        mm.mprotect(at(0), 2 * PAGE, Prot::READ.bits()).unwrap();
        assert_eq!(world.machine.committed_pages(), 2);
    });
}

#[test]
fn a_mapping_that_meets_a_limit_leaves_what_sticks_out_split() {
    on_a_space(|world, mm| {
        let file = world.file(&vec![1; 8 * PAGE as usize]);
        let request = MapRequest::file(file, 5 * PAGE, RW, Map::PRIVATE).fixed(at(7));
        mm.mmap(&request).unwrap();
        assert_eq!(
            map_with(mm, 10, 1 << 34, RW, Map::empty()),
            Err(Errno::ENOMEM)
        );
        expect(mm, &[(7, 10, "rw-", 0), (10, 12, "rw-", 3)]);
    });
}

#[test]
fn shared_memory_that_cannot_be_had_leaves_its_place_empty() {
    on_a_space(|_, mm| {
        map(mm, 26, 5, Prot::READ);
        let request = MapRequest::anonymous(1 << 46, RW).fixed(at(25));
        let flags = (Map::SHARED | Map::ANONYMOUS | Map::FIXED).bits();
        assert_eq!(
            mm.mmap(&MapRequest { flags, ..request }),
            Err(Errno::ENOMEM)
        );
        expect(mm, &[]);
    });
}

#[test]
fn a_stack_that_grew_is_no_untouched_memory() {
    on_a_space(|_, mm| {
        map_with(mm, 31, 1, RW, Map::GROWSDOWN).unwrap();
        assert_eq!(peek(mm, at(0)), 0);
        expect(mm, &[(0, 32, "rw-", 0)]);
        assert_eq!(
            mm.mremap(at(5), 2 * PAGE, 5 * PAGE, MAYMOVE | FIXED, at(11)),
            Ok(at(11))
        );
        let pieces = [
            (0, 5, "rw-", 0),
            (7, 11, "rw-", 0),
            (11, 16, "rw-", 0),
            (16, 32, "rw-", 0),
        ];
        expect(mm, &pieces);
    });
}

#[test]
fn a_stack_that_lost_its_right_to_write_grows_with_its_charge() {
    on_a_space(|world, mm| {
        map_with(mm, 31, 1, RW, Map::GROWSDOWN).unwrap();
        poke(mm, at(31), 1);
        mm.mprotect(at(31), PAGE, Prot::READ.bits()).unwrap();
        assert_eq!(peek(mm, at(21)), 0);
        assert_eq!(world.machine.committed_pages(), 11);
        let other = anonymous(mm, 1);
        mm.munmap(at(21), 11 * PAGE).unwrap();
        assert_eq!(
            world.machine.committed_pages(),
            1,
            "no more goes back than was taken"
        );
        mm.munmap(other, PAGE).unwrap();
    });
}

#[test]
fn a_private_store_past_the_end_parts_parent_and_child_areas() {
    on_a_space(|world, mm| {
        let file = world.file(&vec![1; PAGE as usize]);
        let request = MapRequest::file(file, 4 * PAGE, RW, Map::PRIVATE).offset(7 * PAGE);
        mm.mmap(&request.fixed(at(21))).unwrap();
        assert_eq!(signal_code(mm, at(21), Access::Write), Some(2));
        mm.mprotect(at(24), PAGE, Prot::READ.bits()).unwrap();
        let child = mm.fork().unwrap();
        child.mprotect(at(23), PAGE, Prot::READ.bits()).unwrap();
        expect(
            &child,
            &[(21, 23, "rw-", 7), (23, 24, "r--", 9), (24, 25, "r--", 10)],
        );
        mm.mprotect(at(23), PAGE, Prot::READ.bits()).unwrap();
        expect(mm, &[(21, 23, "rw-", 7), (23, 25, "r--", 9)]);
    });
}

/// A driver that counts its mappings: `open` and `close` must come once for each that appears and goes.
#[derive(Default)]
struct Driver {
    live: AtomicI64,
    refuse: AtomicBool,
}

impl VmOperations<Sim<X86_64>> for Driver {
    fn open(&self, _: VirtRange) {
        self.live.fetch_add(1, Ordering::Relaxed);
    }

    fn close(&self, _: VirtRange) {
        assert!(
            self.live.fetch_sub(1, Ordering::Relaxed) > 0,
            "closed more often than opened"
        );
    }

    fn may_split(&self, _: VirtRange, _: VirtAddr) -> Result<(), Errno> {
        self.answer()
    }

    fn mremap(&self, _: VirtRange, _: VirtRange) -> Result<(), Errno> {
        self.answer()
    }
}

impl Driver {
    fn answer(&self) -> Result<(), Errno> {
        if self.refuse.load(Ordering::Relaxed) {
            Err(Errno::EBUSY)
        } else {
            Ok(())
        }
    }
}

struct Device(Arc<Driver>);

impl FileOperations<Sim<X86_64>> for Device {
    fn can_mmap(&self, _: &Arc<File<Sim<X86_64>>>) -> bool {
        true
    }

    fn mmap(
        &self,
        _: &Arc<File<Sim<X86_64>>>,
        draft: &mut VmaDraft<Sim<X86_64>>,
    ) -> Result<(), Errno> {
        self.0.live.fetch_add(1, Ordering::Relaxed);
        draft.set_operations(self.0.clone());
        Ok(())
    }
}

/// Ten private writable pages of a device.
fn map_device(world: &World<X86_64>, mm: &Space) -> Arc<Driver> {
    let driver = Arc::new(Driver::default());
    let spec = FileSpec {
        cache: None,
        mode: FileMode::READ | FileMode::WRITE,
        identity: FileIdentity::default(),
        path: b"/dev/test".to_vec(),
        operations: Some(Arc::new(Device(driver.clone()))),
    };
    let file = File::new(&world.machine, spec).expect("a file");
    mm.mmap(&MapRequest::file(file, 10 * PAGE, RW, Map::PRIVATE).fixed(at(0)))
        .expect("a mapping");
    driver
}

#[test]
fn a_driver_hears_of_every_mapping_that_appears_and_goes() {
    let mut driver = None;
    on_a_space(|world, mm| {
        let driver = driver.insert(map_device(world, mm));
        let agrees = |spaces: &[&Space], why: &str| {
            let areas: usize = spaces.iter().map(|mm| mm.map_count()).sum();
            assert_eq!(driver.live.load(Ordering::Relaxed), areas as i64, "{why}");
        };
        mm.mprotect(at(4), 2 * PAGE, 1).unwrap();
        agrees(&[mm], "split in three by mprotect");
        mm.munmap(at(1), PAGE).unwrap();
        agrees(&[mm], "a hole");
        mm.munmap(at(9), PAGE).unwrap();
        agrees(&[mm], "cut short");
        mm.mremap(at(7), PAGE, PAGE, MAYMOVE | FIXED, at(20))
            .unwrap();
        agrees(&[mm], "the middle moved");
        mm.mremap(at(2), 2 * PAGE, 2 * PAGE, MAYMOVE | FIXED, at(30))
            .unwrap();
        agrees(&[mm], "a whole one moved");
        mm.mremap(at(30), 2 * PAGE, 5 * PAGE, 0, at(0)).unwrap();
        agrees(&[mm], "grown in place");
        mm.mremap(at(31), PAGE, PAGE, MAYMOVE | FIXED | DONTUNMAP, at(40))
            .unwrap();
        agrees(&[mm], "moved and left behind");
        let child = mm.fork().unwrap();
        agrees(&[mm, &child], "forked");
        drop(child);
        agrees(&[mm], "the child ended");
    });
    assert_eq!(
        driver.expect("it was mapped").live.load(Ordering::Relaxed),
        0
    );
}

#[test]
fn a_driver_that_refuses_leaves_everything_as_it_was() {
    on_a_space(|world, mm| {
        let driver = map_device(world, mm);
        let other = anonymous(mm, 100);
        driver.refuse.store(true, Ordering::Relaxed);
        let whole = mm.mremap(at(0), 10 * PAGE, 10 * PAGE, MAYMOVE | FIXED, at(20));
        assert_eq!(whole, Err(Errno::EBUSY));
        assert_eq!(mm.mprotect(at(4), PAGE, 1), Err(Errno::EBUSY));
        assert_eq!(mm.munmap(at(4), PAGE), Err(Errno::EBUSY));
        assert_eq!(areas(mm)[0], (0, 10, "rw-".to_owned(), 0));
        assert_eq!(
            (mm.map_count(), driver.live.load(Ordering::Relaxed)),
            (2, 1)
        );
        assert_eq!(
            world.machine.committed_pages(),
            110,
            "what was charged for the move went back once"
        );
        driver.refuse.store(false, Ordering::Relaxed);
        mm.munmap(other, 100 * PAGE).unwrap();
    });
}

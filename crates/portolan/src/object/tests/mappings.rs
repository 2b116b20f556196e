//! What happens to entries when the object under them changes, and the registry that finds them.

use crate::object::Residency;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::platform::{Mapped, Ram, Random, Space};
use super::small;
use crate::addr::{VirtAddr, VirtRange};
use crate::object::Cache;
use crate::object::mapping::{Mapper, Mapping, MappingKind, MappingSet, ZapReason};
use crate::phys::{FailPoint, PageRef};

#[test]
fn truncation_takes_entries_and_private_copies_and_zeroes_the_tail() {
    let (machine, _, cache) = small(vec![1; 4 * 4096]);
    let (space, id) = Space::map(&cache, 4, MappingKind::SharedWritable);
    for index in 0..4 {
        assert!(space.store(&cache, index * 4096 + 4000, b"x"));
    }
    let copy = Mapped {
        page: cache.page(3).unwrap(),
        writable: true,
        private_copy: true,
    };
    space.entries.lock().unwrap().insert(3, copy);
    let before = cache.truncations();
    cache.truncate(4096 + 100).unwrap();
    assert!(cache.truncations() > before);
    assert_eq!(
        space
            .entries
            .lock()
            .unwrap()
            .keys()
            .copied()
            .collect::<Vec<_>>(),
        [0, 1]
    );
    assert_eq!(space.load(&cache, 4096 + 99), Some(1));
    assert_eq!(space.load(&cache, 4096 + 4000), Some(0));
    assert_eq!(space.load(&cache, 2 * 4096), None);
    assert!(space.store(&cache, 4096 + 4000, b"y"));
    cache.truncate(3 * 4096).unwrap();
    assert_eq!(space.load(&cache, 4096 + 4000), Some(0));
    assert_eq!(space.load(&cache, 2 * 4096), Some(0));
    cache.remove_mapping(id);
    drop((cache, space));
    machine.assert_all_back();
}

#[test]
fn a_hole_leaves_private_copies() {
    let (_machine, disk, cache) = small(vec![1; 4 * 4096]);
    let (space, id) = Space::map(&cache, 4, MappingKind::Private);
    assert_eq!(space.load(&cache, 4096), Some(1));
    let copy = Mapped {
        page: cache.page(2).unwrap(),
        writable: true,
        private_copy: true,
    };
    space.entries.lock().unwrap().insert(2, copy);
    cache.punch_hole(1..100).unwrap();
    assert_eq!(
        space
            .entries
            .lock()
            .unwrap()
            .keys()
            .copied()
            .collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(space.load(&cache, 4096), Some(0));
    assert_eq!((cache.size(), disk.contents().len()), (4 * 4096, 4 * 4096));
    cache.remove_mapping(id);
}

#[test]
fn stores_after_write_back_make_pages_dirty_again() {
    let (_machine, disk, cache) = small(vec![0; 3 * 4096]);
    let (space, id) = Space::map(&cache, 3, MappingKind::SharedWritable);
    for index in 0..3 {
        assert!(space.store(&cache, index * 4096, b"a"));
    }
    assert_eq!(cache.dirty_pages(), 3);
    cache.writeback(1..2).unwrap();
    assert_eq!(
        (cache.dirty_pages(), disk.written.lock().unwrap().clone()),
        (2, vec![1])
    );
    let writable: Vec<_> = space
        .entries
        .lock()
        .unwrap()
        .values()
        .map(|entry| entry.writable)
        .collect();
    assert_eq!(writable, [true, false, true]);
    assert!(space.store(&cache, 4096, b"b"));
    cache.sync().unwrap();
    assert_eq!(disk.contents()[4096], b'b');
    assert_eq!(*disk.written.lock().unwrap(), [1, 0, 1, 2]);
    cache.sync().unwrap();
    assert_eq!(disk.written.lock().unwrap().len(), 4);
    cache.remove_mapping(id);
}

#[test]
fn locked_mappings_keep_zaps_out() {
    let (_machine, _, cache) = small(vec![0; 4096]);
    let (space, id) = Space::map(&cache, 1, MappingKind::Shared);
    assert_eq!(space.load(&cache, 0), Some(0));
    std::thread::scope(|threads| {
        let locked = cache.lock_mappings();
        let truncation = threads.spawn(|| cache.truncate(0));
        while cache.size() != 0 {
            std::thread::yield_now();
        }
        assert_eq!(space.zaps.load(Ordering::Relaxed), 0);
        drop(locked);
        truncation.join().unwrap().unwrap();
    });
    assert_eq!(space.zaps.load(Ordering::Relaxed), 2);
    cache.remove_mapping(id);
}

/// Remembers which addresses it was told of.
#[derive(Default)]
struct Told(Mutex<Vec<VirtRange>>);

impl Mapper for Told {
    fn zap(&self, at: VirtRange, _: ZapReason) {
        self.0.lock().unwrap().push(at);
    }

    fn write_protect(&self, _: VirtRange) {}
}

#[test]
fn overlaps_become_addresses() {
    let told = Arc::new(Told::default());
    let mapping = |first_page, pages| Mapping {
        space: told.clone(),
        start: VirtAddr::new(0x10_0000),
        first_page,
        pages,
        kind: MappingKind::Private,
        residency: Residency::Evictable,
    };
    let range = |start, end| VirtRange::new(VirtAddr::new(start), VirtAddr::new(end));
    assert_eq!(
        mapping(4, 4).addresses(&(5..7), 12),
        range(0x10_1000, 0x10_3000)
    );
    assert_eq!(
        mapping(4, 4).addresses(&(0..u64::MAX), 12),
        range(0x10_0000, 0x10_4000)
    );
    assert_eq!(mapping(4, 4).addresses(&(0..4), 12), None);
    assert_eq!(mapping(4, 4).addresses(&(8..9), 12), None);
    assert_eq!(
        mapping(u64::MAX - 1, 9).addresses(&(0..u64::MAX), 12),
        range(0x10_0000, 0x10_1000)
    );
    // Nonsense is left alone.
    assert_eq!(mapping(0, u64::MAX).addresses(&(0..u64::MAX), 12), None);
}

#[test]
fn the_registry_finds_what_a_list_finds() {
    let told: Arc<Told> = Arc::default();
    let fail = FailPoint::new();
    for seed in [3, 4] {
        let mut random = Random(seed);
        let mut set = MappingSet::new(seed);
        let mut list = BTreeMap::new();
        let mut serial = 0;
        for _ in 0..3000 {
            if random.below(5) < 3 {
                let id = set.reserve(&fail).unwrap();
                let (first_page, pages) = (random.below(500), random.below(40) + 1);
                serial += 1;
                let start = VirtAddr::new(serial << 20);
                set.fill(
                    id,
                    Mapping {
                        space: told.clone(),
                        start,
                        first_page,
                        pages,
                        kind: MappingKind::Shared,
                        residency: Residency::Evictable,
                    },
                );
                list.insert(start, (id, first_page, pages));
            } else if let Some(key) = list
                .keys()
                .nth(random.below(list.len().max(1) as u64) as usize)
                .copied()
            {
                let (id, ..) = list.remove(&key).unwrap();
                assert_eq!(set.remove(id).unwrap().start, key);
            }
            let start = random.below(600);
            let range = start..start + random.below(30);
            let mut found = Vec::new();
            set.overlapping(&range, &mut |mapping| {
                found.push((mapping.first_page, mapping.start))
            });
            assert!(found.is_sorted_by_key(|&(first, _)| first));
            found.sort();
            let overlaps = list.iter().filter(|&(_, &(_, first, pages))| {
                first < range.end && range.start < first + pages
            });
            let mut expected: Vec<_> = overlaps
                .map(|(&start, &(_, first, _))| (first, start))
                .collect();
            expected.sort();
            assert_eq!(found, expected, "seed {seed}");
        }
        for (id, ..) in list.into_values() {
            set.remove(id).unwrap();
        }
        assert!(set.is_empty());
    }
}

#[test]
fn a_registry_of_many_equal_mappings_is_shallow() {
    let told: Arc<Told> = Arc::default();
    let fail = FailPoint::new();
    let mut set = MappingSet::new(77);
    let ids: Vec<_> = (0..200_000u64)
        .map(|first_page| {
            let id = set.reserve(&fail).unwrap();
            let start = VirtAddr::new(first_page << 12);
            set.fill(
                id,
                Mapping {
                    space: told.clone(),
                    start,
                    first_page,
                    pages: 1,
                    kind: MappingKind::Shared,
                    residency: Residency::Evictable,
                },
            );
            id
        })
        .collect();
    let mut count = 0;
    set.overlapping(&(1000..1010), &mut |_| count += 1);
    assert_eq!(count, 10);
    for id in ids {
        set.remove(id);
    }
    assert!(set.is_empty());
}

/// Faults the page in again as soon as it is zapped for the first time.
struct Stubborn {
    cache: Weak<Cache<Ram<12>>>,
    entry: Mutex<Option<(u64, PageRef<Ram<12>>)>>,
    zaps: AtomicU64,
}

impl Mapper for Stubborn {
    fn zap(&self, _: VirtRange, _: ZapReason) {
        let cache = self.cache.upgrade().unwrap();
        let mut entry = self.entry.lock().unwrap();
        *entry = None;
        if self.zaps.fetch_add(1, Ordering::Relaxed) == 0 {
            *entry = cache.lookup(0).map(|page| (cache.truncations(), page));
        }
    }

    fn write_protect(&self, _: VirtRange) {}
}

#[test]
fn a_fault_between_the_zap_and_the_end_of_the_page_is_swept_too() {
    let (machine, _, cache) = small(vec![1; 4096]);
    let (weak, entry, zaps) = (Arc::downgrade(&cache), Mutex::default(), AtomicU64::new(0));
    let space = Arc::new(Stubborn {
        cache: weak,
        entry,
        zaps,
    });
    let id = cache.reserve_mapping().unwrap();
    let (start, kind) = (VirtAddr::new(0x1000), MappingKind::SharedWritable);
    cache.fill_mapping(
        id,
        Mapping {
            space: space.clone(),
            start,
            first_page: 0,
            pages: 1,
            kind,
            residency: Residency::Evictable,
        },
    );
    let truncations = [cache.truncations(), {
        cache.page(0).unwrap();
        cache.punch_hole(0..1).unwrap();
        cache.truncations()
    }];
    assert!(space.entry.lock().unwrap().is_none());
    assert_eq!(truncations[1] - truncations[0], 2);
    cache.remove_mapping(id);
    drop((cache, space));
    machine.assert_all_back();
}

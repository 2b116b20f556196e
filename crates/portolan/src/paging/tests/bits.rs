//! Every kind of entry at every level: there and back, and what the architecture says of the bits.

use crate::addr::Pfn;
use crate::paging::{Access, CacheMode, Entry, Format, Leaf, LeafFlags, Marker, SwapEntry};

every_format!(
    round_trips,
    lock_bit_is_nobodys,
    garbage_decodes,
    walkers_obey,
    walker_updates_read_back,
    plain_stores_are_safe_when_said,
    less_is_less,
    geometry,
);

const CACHES: [CacheMode; 4] = [
    CacheMode::WriteBack,
    CacheMode::WriteCombine,
    CacheMode::Uncached,
    CacheMode::Device,
];

/// All combinations of flags that an entry can keep.
fn all_flags() -> impl Iterator<Item = LeafFlags> {
    let flags: Vec<LeafFlags> = LeafFlags::all().iter().collect();
    (0..1u32 << flags.len())
        .map(move |set| {
            let chosen = flags.iter().enumerate().filter(|(n, _)| set >> n & 1 == 1);
            chosen.fold(LeafFlags::empty(), |all, (_, &flag)| all | flag)
        })
        .filter(|flags| flags.contains(LeafFlags::READ) || !flags.contains(LeafFlags::GLOBAL))
}

fn is_leaf_level<F: Format>(level: u8) -> bool {
    level == 0 || F::has_large(level)
}

/// Frames of `level` at the ends and in the middle of what 48 bits of physical address reach.
fn frames<F: Format>(level: u8) -> [Pfn; 4] {
    let low = F::level_shift(level) - F::GRANULE.shift();
    let top = (1u64 << (48 - F::GRANULE.shift())) - 1;
    [0, 1 << low, 0x1234_5678 >> low << low, top >> low << low].map(Pfn::new)
}

fn leaves<F: Format>(level: u8) -> impl Iterator<Item = Leaf> {
    all_flags().flat_map(move |flags| {
        CACHES.into_iter().flat_map(move |cache| {
            frames::<F>(level).map(|frame| Leaf {
                frame,
                flags,
                cache,
            })
        })
    })
}

fn entries<F: Format>(level: u8) -> Vec<Entry> {
    let mut entries = vec![Entry::Absent];
    if level != 0 {
        entries.extend(frames::<F>(0).map(Entry::Table));
    }
    if is_leaf_level::<F>(level) {
        entries.extend(leaves::<F>(level).map(Entry::Present));
    }
    for area in 0..32 {
        for slot in [0, 1, 0xaa_5555_aaaa, (1 << 40) - 1] {
            entries.extend([false, true].map(|soft_dirty| {
                Entry::Swap(SwapEntry {
                    area,
                    slot,
                    soft_dirty,
                })
            }));
        }
    }
    entries.extend([Marker::Guard, Marker::Poison, Marker::UffdWp].map(Entry::Marker));
    entries
}

fn round_trips<F: Format>() {
    for level in 0..F::LEVELS {
        assert_eq!(F::encode(level, Entry::Absent), 0);
        assert_eq!(F::decode(level, 0), Entry::Absent);
        for entry in entries::<F>(level) {
            let raw = F::encode(level, entry);
            assert_eq!(F::decode(level, raw), entry, "level {level}, {raw:#x}");
            assert_eq!(
                raw == 0,
                entry == Entry::Absent,
                "only nothing is zero: {entry:?}"
            );
        }
        let leaf = leaves::<F>(0).last().unwrap();
        if !is_leaf_level::<F>(level) {
            assert_eq!(
                F::encode(level, Entry::Present(leaf)),
                0,
                "no large page at level {level}"
            );
        }
    }
    assert_eq!(
        F::encode(0, Entry::Table(Pfn::new(7))),
        0,
        "level 0 has no tables"
    );
}

fn lock_bit_is_nobodys<F: Format>() {
    assert_eq!(F::LOCK_BIT.count_ones(), 1);
    for level in 0..F::LEVELS {
        for entry in entries::<F>(level) {
            let raw = F::encode(level, entry);
            assert_eq!(raw & F::LOCK_BIT, 0, "{entry:?}");
            assert_eq!(F::decode(level, raw | F::LOCK_BIT), entry);
            assert_eq!(
                F::walker_may_change(raw | F::LOCK_BIT),
                F::walker_may_change(raw)
            );
            for access in [Access::Read, Access::Write, Access::Execute] {
                let plain = F::hardware_access(level, raw, access);
                let locked = F::hardware_access(level, raw | F::LOCK_BIT, access);
                assert_eq!(locked, plain.map(|raw| raw | F::LOCK_BIT));
            }
        }
    }
}

/// Splitmix64.
fn noise(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (*seed ^ *seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

fn garbage_decodes<F: Format>() {
    let mut seed = 1;
    for _ in 0..200_000 {
        let raw = noise(&mut seed) & noise(&mut seed);
        for level in 0..F::LEVELS {
            let entry = F::decode(level, raw);
            assert_eq!(
                F::decode(level, F::encode(level, entry)),
                entry,
                "{raw:#x} at level {level}"
            );
            let table = matches!(entry, Entry::Table(_));
            assert_eq!(
                F::table_at(level, raw).is_some(),
                table,
                "{raw:#x} at level {level}"
            );
            let leaf = matches!(entry, Entry::Present(_));
            assert_eq!(
                F::leaf_at(level, raw).is_some(),
                leaf,
                "{raw:#x} at level {level}"
            );
            if let Entry::Present(leaf) = entry {
                assert!(is_leaf_level::<F>(level));
                let low = F::level_shift(level) - F::GRANULE.shift();
                assert_eq!(
                    leaf.frame.get() & ((1 << low) - 1),
                    0,
                    "a large page is aligned"
                );
            }
        }
    }
}

/// What the flags promise, said once more and without bits.
fn allowed<F: Format>(flags: LeafFlags, access: Access) -> bool {
    let need = match access {
        Access::Read => LeafFlags::empty(),
        Access::Write => LeafFlags::WRITE,
        Access::Execute => LeafFlags::EXEC,
    };
    let state = match access {
        Access::Write if !F::HARDWARE_DIRTY => LeafFlags::ACCESSED | LeafFlags::DIRTY,
        _ if !F::HARDWARE_ACCESSED => LeafFlags::ACCESSED,
        _ => LeafFlags::empty(),
    };
    flags.contains(LeafFlags::READ | LeafFlags::USER | need | state)
}

fn walkers_obey<F: Format>() {
    for level in (0..F::LEVELS).filter(|&level| is_leaf_level::<F>(level)) {
        for leaf in leaves::<F>(level) {
            let raw = F::encode(level, Entry::Present(leaf));
            for access in [Access::Read, Access::Write, Access::Execute] {
                let through = F::hardware_access(level, raw, access).is_some();
                assert_eq!(
                    through,
                    allowed::<F>(leaf.flags, access),
                    "{access:?} {leaf:?}"
                );
            }
        }
    }
    for level in 1..F::LEVELS {
        let table = F::encode(level, Entry::Table(Pfn::new(5)));
        assert_eq!(
            F::hardware_access(level, table, Access::Read),
            None,
            "a table is no leaf"
        );
    }
    for entry in entries::<F>(0)
        .into_iter()
        .filter(|entry| !matches!(entry, Entry::Present(_)))
    {
        assert_eq!(
            F::hardware_access(0, F::encode(0, entry), Access::Read),
            None,
            "{entry:?}"
        );
    }
}

fn walker_updates_read_back<F: Format>() {
    for leaf in leaves::<F>(0) {
        let raw = F::encode(0, Entry::Present(leaf));
        for access in [Access::Read, Access::Write, Access::Execute] {
            let Some(used) = F::hardware_access(0, raw, access) else {
                continue;
            };
            let mut flags = leaf.flags | LeafFlags::ACCESSED;
            flags.set(
                LeafFlags::DIRTY,
                access == Access::Write || leaf.flags.contains(LeafFlags::DIRTY),
            );
            assert_eq!(
                F::decode(0, used),
                Entry::Present(Leaf { flags, ..leaf }),
                "{access:?} {leaf:?}"
            );
            assert_eq!(
                F::hardware_access(0, used, access),
                Some(used),
                "the second access changes nothing"
            );
        }
    }
}

fn plain_stores_are_safe_when_said<F: Format>() {
    for level in 0..F::LEVELS {
        for entry in entries::<F>(level) {
            let raw = F::encode(level, entry);
            let changes =
                |access| F::hardware_access(level, raw, access).is_some_and(|used| used != raw);
            if changes(Access::Read) || changes(Access::Write) || changes(Access::Execute) {
                assert!(F::walker_may_change(raw), "{entry:?}");
            }
            if !matches!(entry, Entry::Present(_)) {
                assert!(!F::walker_may_change(raw), "{entry:?}");
            }
        }
    }
    let settled = LeafFlags::READ
        | LeafFlags::WRITE
        | LeafFlags::USER
        | LeafFlags::ACCESSED
        | LeafFlags::DIRTY;
    let leaf = Leaf {
        frame: Pfn::new(9),
        flags: settled,
        cache: CacheMode::WriteBack,
    };
    assert!(!F::walker_may_change(F::encode(0, Entry::Present(leaf))));
    let clean = Leaf {
        flags: settled - LeafFlags::DIRTY,
        ..leaf
    };
    assert_eq!(
        F::walker_may_change(F::encode(0, Entry::Present(clean))),
        F::HARDWARE_DIRTY
    );
}

fn less_is_less<F: Format>() {
    let choices = [
        LeafFlags::WRITE,
        LeafFlags::ACCESSED,
        LeafFlags::DIRTY,
        LeafFlags::WRITE | LeafFlags::ACCESSED,
        LeafFlags::ACCESSED | LeafFlags::DIRTY,
    ];
    for entry in entries::<F>(0) {
        let raw = F::encode(0, entry);
        for lost in choices {
            let expected = match entry {
                Entry::Present(leaf) => Entry::Present(Leaf {
                    flags: leaf.flags - lost,
                    ..leaf
                }),
                other => other,
            };
            for lock in [0, F::LOCK_BIT] {
                let less = F::without(raw | lock, lost);
                assert_eq!(less & F::LOCK_BIT, lock);
                assert_eq!(F::decode(0, less), expected, "{entry:?} without {lost:?}");
            }
        }
    }
}

fn geometry<F: Format>() {
    let top = F::LEVELS - 1;
    assert_eq!(F::level_shift(0), F::GRANULE.shift());
    assert!(F::level_shift(top) < F::VA_BITS && F::VA_BITS <= F::level_shift(top + 1));
    let last = (1u64 << F::VA_BITS) - 1;
    for level in 0..F::LEVELS {
        assert_eq!(F::index(level, 0), 0);
        assert!(F::index(level, last) < 1 << F::INDEX_BITS);
        assert_eq!(F::index(level, 1 << F::level_shift(level)), 1);
        let mut seed = 2;
        for _ in 0..1000 {
            let addr = noise(&mut seed) & last;
            let rebuilt = (0..F::LEVELS)
                .map(|level| (F::index(level, addr) as u64) << F::level_shift(level))
                .sum::<u64>();
            assert_eq!(rebuilt, F::GRANULE.round_down(addr));
        }
    }
}

/// A private anonymous page after its first store, as Linux writes it.
fn written_page(frame: u64) -> Entry {
    let state = LeafFlags::ACCESSED | LeafFlags::DIRTY;
    let flags = LeafFlags::READ | LeafFlags::WRITE | LeafFlags::USER | state;
    Entry::Present(Leaf {
        frame: Pfn::new(frame),
        flags,
        cache: CacheMode::WriteBack,
    })
}

#[test]
fn linux_writes_the_same_on_x86_64() {
    use crate::paging::X86_64;
    assert_eq!(
        X86_64::encode(0, written_page(0x1_2345)),
        0x8000_0000_1234_5067
    );
    assert_eq!(
        X86_64::encode(3, Entry::Table(Pfn::new(0x1_2345))),
        0x1234_5067
    );
    let Entry::Present(leaf) = written_page(0x1_2345) else {
        unreachable!()
    };
    let none = leaf.flags - LeafFlags::READ - LeafFlags::WRITE - LeafFlags::USER - LeafFlags::DIRTY;
    let none = X86_64::encode(
        0,
        Entry::Present(Leaf {
            flags: none,
            ..leaf
        }),
    );
    assert_eq!(
        none, 0x800f_ffff_edcb_a120,
        "PROT_NONE: not valid, the frame flipped"
    );
    let text = LeafFlags::READ | LeafFlags::EXEC | LeafFlags::USER | LeafFlags::ACCESSED;
    assert_eq!(
        X86_64::encode(
            0,
            Entry::Present(Leaf {
                flags: text,
                ..leaf
            })
        ),
        0x1234_5025
    );
    assert_eq!(
        X86_64::encode(
            1,
            Entry::Present(Leaf {
                frame: Pfn::new(0x200),
                ..leaf
            })
        ),
        0x8000_0000_0020_00e7
    );
}

#[test]
fn linux_writes_the_same_on_aarch64() {
    use crate::paging::{Aarch64, Granule4K, Granule64K};
    type Small = Aarch64<Granule4K>;
    assert_eq!(
        Small::encode(0, written_page(0x1_2345)),
        0x00e8_0000_1234_5f43
    );
    assert_eq!(
        Small::encode(1, Entry::Table(Pfn::new(0x1_2345))),
        0x1234_5403
    );
    let Entry::Present(leaf) = written_page(0x1_2345) else {
        unreachable!()
    };
    let clean = Entry::Present(Leaf {
        flags: leaf.flags - LeafFlags::DIRTY,
        ..leaf
    });
    assert_eq!(
        Small::encode(0, clean),
        0x0068_0000_1234_5fc3,
        "read-only until the first store"
    );
    let text = LeafFlags::READ | LeafFlags::EXEC | LeafFlags::USER | LeafFlags::ACCESSED;
    assert_eq!(
        Small::encode(
            0,
            Entry::Present(Leaf {
                flags: text,
                ..leaf
            })
        ),
        0x0020_0000_1234_5fc3
    );
    let device = Entry::Present(Leaf {
        cache: CacheMode::Device,
        ..leaf
    });
    assert_eq!(Small::encode(0, device) >> 2 & 7, 4, "MT_DEVICE_nGnRE");
    assert_eq!(
        Aarch64::<Granule64K>::encode(0, written_page(0x1234)),
        0x00e8_0000_1234_0f43
    );
}

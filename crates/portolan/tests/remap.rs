//! `mremap` where whole page-table pages change their place: contents, neighbours, counts and frames, over every format, and readers that race with
//! the move. What small moves do is in `space.rs`, comparisons with Linux in the conformance tester.

mod common;

over_formats!(
    whole_tables_move_with_ragged_ends,
    a_table_moves_within_its_parent,
    a_moved_table_takes_the_place_of_an_empty_one,
    a_sparse_range_moves_at_once,
    copies_that_race_with_moves_see_their_own_bytes,
);

mod generic {
    use super::common::*;
    use portolan::addr::VirtAddr;
    use portolan::paging::{Access, Format};
    use portolan::sim::Sim;
    use portolan::space::{Map, MapRequest, MmUser, Prot};
    use std::sync::atomic::{AtomicBool, Ordering};

    const RW: Prot = Prot::READ.union(Prot::WRITE);
    const MOVE: u32 = 3;

    /// Bytes that one entry at a level translates.
    fn span<F: Format>(level: u8) -> u64 {
        1 << F::level_shift(level)
    }

    fn map_at<F: Format>(mm: &MmUser<Sim<F>>, at: u64, bytes: u64) -> VirtAddr {
        let mut request = MapRequest::anonymous(bytes, RW).fixed(VirtAddr::new(at));
        request.flags |= Map::NORESERVE.bits();
        mm.mmap(&request).expect("a mapping")
    }

    /// Places in a range of `bytes`: its ends, both sides of each boundary of `span`, up to so many.
    fn places<F: Format>(start: u64, bytes: u64, span: u64) -> Vec<u64> {
        let end = start + bytes;
        let mut places = vec![start, end - page::<F>()];
        let mut at = (start / span + 1) * span;
        while at < end && places.len() < 12 {
            places.extend([at - page::<F>(), at]);
            at += span;
        }
        places.retain(|&at| (start..end).contains(&at));
        places.sort();
        places.dedup();
        places
    }

    pub fn whole_tables_move_with_ragged_ends<F: Format>() {
        let (table, page) = (span::<F>(1), page::<F>());
        let far = 1 << (F::USER_BITS - 2);
        for (head, tables, tail) in [(0, 1, 0), (3, 2, 0), (0, 2, 5), (2, 3, 2), (0, 1, 1)] {
            for distance in [far, far + table, far + page] {
                let world = World::<F>::new();
                let mm = world.space();
                let from = 64 * table - head * page;
                let bytes = tables * table + (head + tail) * page;
                map_at(&mm, from, bytes);
                let touched = places::<F>(from, bytes, table);
                for (n, &at) in touched.iter().enumerate() {
                    poke(&mm, VirtAddr::new(at), n as u8 + 1);
                }
                let to = VirtAddr::new(from + distance);
                assert_eq!(
                    mm.mremap(VirtAddr::new(from), bytes, bytes, MOVE, to),
                    Ok(to)
                );
                for (n, &at) in touched.iter().enumerate() {
                    assert_eq!(peek(&mm, VirtAddr::new(at + distance)), n as u8 + 1);
                    assert_eq!(signal_code(&mm, VirtAddr::new(at), Access::Read), Some(1));
                }
                assert_eq!(mm.rss().anon, touched.len() as u64);
                mm.check().unwrap();
                drop(mm);
                world.finish();
            }
        }
    }

    pub fn a_table_moves_within_its_parent<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let table = span::<F>(1);
        map_at(&mm, 8 * table, table);
        poke(&mm, VirtAddr::new(8 * table), 5);
        let to = VirtAddr::new(11 * table);
        let at = VirtAddr::new(8 * table);
        assert_eq!(mm.mremap(at, table, table, MOVE, to), Ok(to));
        assert_eq!(peek(&mm, to), 5);
        assert_eq!(mm.mremap(to, table, table, MOVE, at), Ok(at));
        assert_eq!(peek(&mm, at), 5);
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }

    pub fn a_moved_table_takes_the_place_of_an_empty_one<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let table = span::<F>(1);
        // With MREMAP_DONTUNMAP the source keeps a mapping, and gets the empty table of the target, or none.
        map_at(&mm, 8 * table, 2 * table);
        let (at, to) = (VirtAddr::new(8 * table), VirtAddr::new(32 * table));
        (0..2).for_each(|n| poke(&mm, VirtAddr::new(at.get() + n * table), n as u8 + 1));
        let bytes = 2 * table;
        assert_eq!(mm.mremap(at, bytes, bytes, MOVE | 4, to), Ok(to));
        poke(&mm, at, 9);
        assert_eq!(
            (
                peek(&mm, at),
                peek(&mm, to),
                peek(&mm, VirtAddr::new(to.get() + table))
            ),
            (9, 1, 2)
        );
        // Back over what was written meanwhile: it is unmapped first.
        assert_eq!(mm.mremap(to, bytes, bytes, MOVE, at), Ok(at));
        assert_eq!(
            (peek(&mm, at), peek(&mm, VirtAddr::new(at.get() + table))),
            (1, 2)
        );
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }

    pub fn a_sparse_range_moves_at_once<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        // As large as half a quarter of the space: far too much to be walked page by page.
        let bytes = 1u64 << (F::USER_BITS - 3);
        let from = bytes;
        map_at(&mm, from, bytes);
        let touched = [
            from,
            from + bytes / 2 + 3 * page::<F>(),
            from + bytes - page::<F>(),
        ];
        for (n, &at) in touched.iter().enumerate() {
            poke(&mm, VirtAddr::new(at), n as u8 + 1);
        }
        for distance in [2 * bytes, 2 * bytes + span::<F>(1), 2 * bytes + page::<F>()] {
            let to = VirtAddr::new(from + distance);
            let at = VirtAddr::new(from);
            assert_eq!(mm.mremap(at, bytes, bytes, MOVE, to), Ok(to));
            for (n, &at) in touched.iter().enumerate() {
                assert_eq!(peek(&mm, VirtAddr::new(at + distance)), n as u8 + 1);
            }
            assert_eq!(mm.mremap(to, bytes, bytes, MOVE, at), Ok(at));
        }
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }

    /// Two ranges of a whole table swap places again and again; a reader of a fixed address may find either's bytes or nothing, but
    /// never those of a third range that lies where a moved table now is.
    pub fn copies_that_race_with_moves_see_their_own_bytes<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let table = span::<F>(1);
        let place = |n: u64| VirtAddr::new((16 + n) * table);
        map_at(&mm, place(0).get(), table);
        map_at(&mm, place(1).get(), table);
        let pages = 8u64.min(table / page::<F>());
        let slot = |at: VirtAddr, n: u64| VirtAddr::new(at.get() + n * page::<F>());
        for n in 0..pages {
            poke(&mm, slot(place(0), n), 100 + n as u8);
            poke(&mm, slot(place(1), n), 200 + n as u8);
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                Sim::<F>::set_cpu(portolan::platform::CpuId(1));
                let (mut seen, mut n) = (0u64, 0);
                while !stop.load(Ordering::Relaxed) || seen == 0 {
                    n = (n + 1) % pages;
                    let mut byte = [0];
                    if mm.copy_from_user(slot(place(0), n), &mut byte).is_ok() {
                        assert!(byte[0] == 100 + n as u8 || byte[0] == 200 + n as u8);
                        seen += 1;
                    }
                }
            });
            for _ in 0..300 {
                for (from, to) in [(0, 2), (1, 0), (2, 1)] {
                    let (from, to) = (place(from), place(to));
                    assert_eq!(mm.mremap(from, table, table, MOVE, to), Ok(to));
                }
            }
            stop.store(true, Ordering::Relaxed);
            reader.join().expect("the reader");
        });
        mm.check().unwrap();
        drop(mm);
        world.finish();
    }
}

//! The requests about pages and mappings, PAGEMAP_SCAN and PROCMAP_QUERY, and the views that count (statm, status, numa_maps), over every page-table
//! format. Comparisons with the running kernel live with the command; here the answers are written out.

mod common;

over_formats!(
    a_scan_tells_runs_of_pages_alike,
    a_scan_stops_when_it_is_full,
    a_scan_of_many_regions_comes_to_the_end,
    write_protecting_is_refused_or_passed_over,
    a_scan_is_checked_before_it_starts,
    a_query_finds_one_mapping,
    a_query_has_room_for_what_it_asks,
    the_counting_views_agree,
    nodes_are_told_with_counts,
);

mod generic {
    use super::common::*;
    use portolan::addr::{VirtAddr, VirtRange};
    use portolan::errno::Errno;
    use portolan::paging::Format;
    use portolan::sim::Sim;
    use portolan::space::{ClearRefs, Map, MapRequest, MmUser, NodeMask, PolicyMode, Prot};
    use portolan::view::{
        PageCategories, PageRegion, PageScan, ProcmapFlags, ProcmapQuery, ScanFlags, query_procmap,
        scan_pages, write_numa_maps, write_statm, write_status_memory,
    };

    const RW: Prot = Prot::READ.union(Prot::WRITE);
    const GUARD_INSTALL: u32 = 102;

    /// A scan for all pages of a range that tells every category.
    fn all(range: VirtRange) -> PageScan {
        PageScan {
            flags: ScanFlags::empty(),
            range,
            vec: 0x1000,
            vec_len: 1 << 20,
            max_pages: u64::MAX,
            inverted: PageCategories::empty(),
            required: PageCategories::empty(),
            any_of: PageCategories::empty(),
            told: PageCategories::all(),
        }
    }

    /// First page, first page after it, categories.
    type Run = (u64, u64, u64);

    /// What a scan tells, in pages from `base`: the regions, how many, and where it ended.
    fn scan<F: Format>(
        mm: &MmUser<Sim<F>>,
        base: VirtAddr,
        asked: &PageScan,
    ) -> (Vec<Run>, Result<u64, Errno>, u64) {
        let place = |at: u64| (at - base.get()) / page::<F>();
        let mut told = Vec::new();
        let (result, end) = scan_pages(mm, asked, |regions: &[PageRegion]| {
            let lines = regions.iter().map(|region| {
                let bytes = region.to_bytes();
                assert_eq!(bytes[..8], region.start.to_ne_bytes());
                let categories = region.categories.bits();
                (place(region.start), place(region.end), categories)
            });
            told.extend(lines);
            Ok(())
        });
        (told, result, place(end.get()))
    }

    /// Pages 1 and 2 and 4 written, 6 the zero page, 7 a guard, of 10.
    fn arena<F: Format>(mm: &MmUser<Sim<F>>) -> VirtAddr {
        let at = anonymous(mm, 10);
        [1, 2, 4]
            .into_iter()
            .for_each(|n| poke(mm, plus::<F>(at, n), 1));
        peek(mm, plus::<F>(at, 6));
        mm.madvise(plus::<F>(at, 7), page::<F>(), GUARD_INSTALL)
            .unwrap();
        mm.clear_refs(ClearRefs::SoftDirty);
        at
    }

    fn range<F: Format>(at: VirtAddr, pages: u64) -> VirtRange {
        VirtRange::with_len(at, pages * page::<F>()).unwrap()
    }

    pub fn a_scan_tells_runs_of_pages_alike<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = arena(&mm);
        let asked = all(range::<F>(at, 10));
        let whole = vec![
            (0, 1, 0x2),
            (1, 3, 0xa),
            (3, 4, 0x2),
            (4, 5, 0xa),
            (5, 6, 0x2),
            (6, 7, 0x2a),
            (7, 8, 0x112),
            (8, 10, 0x2),
        ];
        assert_eq!(scan(&mm, at, &asked), (whole, Ok(8), 10));
        let present = PageScan {
            required: PageCategories::PRESENT,
            told: PageCategories::PRESENT,
            ..asked
        };
        let runs = vec![(1, 3, 8), (4, 5, 8), (6, 7, 8)];
        assert_eq!(scan(&mm, at, &present), (runs, Ok(3), 10));
        let absent = PageScan {
            inverted: PageCategories::PRESENT,
            ..present
        };
        let holes = vec![(0, 1, 0), (3, 4, 0), (5, 6, 0), (7, 10, 0)];
        assert_eq!(scan(&mm, at, &absent), (holes, Ok(4), 10));
        let either = PageScan {
            any_of: PageCategories::PFN_ZERO | PageCategories::SWAPPED,
            told: PageCategories::GUARD,
            ..asked
        };
        assert_eq!(
            scan(&mm, at, &either),
            (vec![(6, 7, 0), (7, 8, 0x100)], Ok(2), 10)
        );
        poke(&mm, plus::<F>(at, 4), 2);
        let soft = PageScan {
            required: PageCategories::SOFT_DIRTY,
            ..asked
        };
        assert_eq!(scan(&mm, at, &soft), (vec![(4, 5, 0x8a)], Ok(1), 10));
        drop(mm);
        world.finish();
    }

    pub fn a_scan_stops_when_it_is_full<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = arena(&mm);
        let present = PageScan {
            required: PageCategories::PRESENT,
            told: PageCategories::PRESENT,
            ..all(range::<F>(at, 10))
        };
        let with_room = |vec_len| PageScan { vec_len, ..present };
        let end = |asked: &PageScan| {
            let (regions, result, end) = scan(&mm, at, asked);
            (regions.len() as u64, result, end)
        };
        assert_eq!(end(&with_room(1)), (1, Ok(1), 4));
        assert_eq!(end(&with_room(2)), (2, Ok(2), 6));
        assert_eq!(end(&with_room(3)), (3, Ok(3), 10));
        assert_eq!(end(&with_room(0)), (0, Ok(0), 10));
        let with_pages = |max_pages| PageScan {
            max_pages,
            ..present
        };
        assert_eq!(end(&with_pages(1)), (1, Ok(1), 2));
        assert_eq!(
            end(&with_pages(2)),
            (1, Ok(1), 4),
            "it stops at the next find"
        );
        assert_eq!(end(&with_pages(4)), (3, Ok(3), 10));
        let of_hole = PageScan {
            inverted: PageCategories::PRESENT,
            max_pages: 4,
            ..present
        };
        assert_eq!(end(&of_hole), (4, Ok(4), 8));
        let refuse = |_: &[PageRegion]| Err(Errno::EFAULT);
        let (result, _) = scan_pages(&*mm, &present, refuse);
        assert_eq!(result, Err(Errno::EFAULT));
        drop(mm);
        world.finish();
    }

    pub fn a_scan_of_many_regions_comes_to_the_end<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 400);
        (0..200).for_each(|n| poke(&mm, plus::<F>(at, 2 * n), 1));
        let asked = PageScan {
            required: PageCategories::PRESENT,
            ..all(range::<F>(at, 400))
        };
        let (regions, result, end) = scan(&mm, at, &asked);
        assert_eq!((regions.len(), result, end), (200, Ok(200), 400));
        assert!((0..200).all(|n| regions[n as usize].0 == 2 * n));
        let whole = VirtRange::new(VirtAddr::new(0), VirtAddr::new(mm.layout().task_size_max));
        let everywhere = PageScan {
            range: whole.unwrap(),
            told: PageCategories::empty(),
            ..all(range::<F>(at, 400))
        };
        let mut told = Vec::new();
        let (result, _) = scan_pages(&*mm, &everywhere, |regions| {
            told.extend_from_slice(regions);
            Ok(())
        });
        assert_eq!(result, Ok(1), "mappings are told, gaps are not");
        assert_eq!(
            (told[0].start, told[0].end),
            (at.get(), plus::<F>(at, 400).get())
        );
        drop(mm);
        world.finish();
    }

    pub fn write_protecting_is_refused_or_passed_over<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = arena(&mm);
        let with = |flags, at| PageScan {
            flags,
            ..all(range::<F>(at, 10))
        };
        let gap = VirtAddr::new(at.get() - 64 * page::<F>());
        let checked = with(ScanFlags::CHECK_WPASYNC, at);
        assert_eq!(scan(&mm, at, &checked), (vec![], Err(Errno::EPERM), 10));
        let (result, _) = scan_pages(&*mm, &with(ScanFlags::all(), gap), |_| Ok(()));
        assert_eq!(result, Ok(0));
        let quiet = with(ScanFlags::WP_MATCHING, at);
        assert_eq!(scan(&mm, at, &quiet), (vec![], Ok(0), 10));
        drop(mm);
        world.finish();
    }

    pub fn a_scan_is_checked_before_it_starts<F: Format>() {
        let world = World::<F>::new();
        let end = VirtAddr::new(1 << 40);
        let page = page::<F>();
        let parse = |changes: &[(usize, u64)]| {
            let mut words = [96, 0, page, 3 * page, 0, 0x1000, 4, 0, 0, 8, 0, 8];
            changes.iter().for_each(|&(at, word)| words[at] = word);
            let mut bytes = [0; PageScan::BYTES];
            for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
                part.copy_from_slice(&u64::to_ne_bytes(word));
            }
            PageScan::parse::<Sim<F>>(&bytes, end)
        };
        let good = parse(&[]).unwrap();
        assert_eq!((good.range.bytes(), good.max_pages), (2 * page, u64::MAX));
        assert_eq!(parse(&[(3, 2 * page + 1)]).unwrap().range.bytes(), 2 * page);
        let invalid = [
            (0, 95),
            (1, 4),
            (2, page + 1),
            (5, 0),
            (8, 512),
            (9, 512),
            (10, 512),
            (11, 512),
        ];
        for change in invalid {
            assert_eq!(parse(&[change]), Err(Errno::EINVAL), "{change:?}");
        }
        let bad = [
            (2, 4 * page),
            (3, (1 << 40) + 1),
            (3, u64::MAX),
            (5, 1 << 40),
            (6, u64::MAX),
            (6, 1 << 60),
        ];
        for change in bad {
            assert_eq!(parse(&[change]), Err(Errno::EFAULT), "{change:?}");
        }
        world.finish();
    }

    fn query(flags: ProcmapFlags, addr: VirtAddr, name: u32) -> ProcmapQuery {
        ProcmapQuery {
            size: ProcmapQuery::BYTES as u64,
            flags,
            addr,
            name: (u64::from(name != 0), name),
            build_id: (0, 0),
        }
    }

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    pub fn a_query_finds_one_mapping<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![7; 4 * page::<F>() as usize]);
        let request = MapRequest::file(file.clone(), page::<F>(), Prot::READ, Map::SHARED);
        let of_file = mm.mmap(&request.offset(2 * page::<F>())).unwrap();
        let below = VirtAddr::new(of_file.get() - 9 * page::<F>());
        let request = MapRequest::anonymous(2 * page::<F>(), RW);
        mm.mmap(&request.fixed(below)).unwrap();
        let gap = plus::<F>(below, 4);
        let start = |flags: ProcmapFlags, at| {
            let answer = query_procmap(&*mm, &query(flags, at, 0), &mut []);
            answer.map(|answer| VirtAddr::new(word(&answer.bytes, 24)))
        };
        let next = ProcmapFlags::COVERING_OR_NEXT;
        assert_eq!(start(ProcmapFlags::empty(), plus::<F>(below, 1)), Ok(below));
        assert_eq!(start(ProcmapFlags::empty(), gap), Err(Errno::ENOENT));
        assert_eq!(start(next, gap), Ok(of_file));
        assert_eq!(start(next | ProcmapFlags::FILE_BACKED, below), Ok(of_file));
        assert_eq!(start(ProcmapFlags::FILE_BACKED, below), Err(Errno::ENOENT));
        assert_eq!(start(next | ProcmapFlags::SHARED, below), Ok(of_file));
        assert_eq!(
            start(next | ProcmapFlags::WRITABLE, gap),
            Err(Errno::ENOENT)
        );
        assert_eq!(start(next, VirtAddr::new(u64::MAX)), Err(Errno::ENOENT));
        let answer = query_procmap(&*mm, &query(next, of_file, 0), &mut []).unwrap();
        let bytes = &answer.bytes;
        assert_eq!(word(bytes, 40), 0b1001, "readable and shared");
        let (offset, inode) = (word(bytes, 56), word(bytes, 64));
        assert_eq!(
            (word(bytes, 48), offset, inode),
            (page::<F>(), 2 * page::<F>(), 42)
        );
        assert_eq!(word(bytes, 72), 8 | 1 << 32, "the device");
        drop((mm, file));
        world.finish();
    }

    pub fn a_query_has_room_for_what_it_asks<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![7; page::<F>() as usize]);
        let request = MapRequest::file(file.clone(), page::<F>(), Prot::READ, Map::PRIVATE);
        let at = mm.mmap(&request).unwrap();
        drop(request);
        let mut name = [0; 64];
        let mut named = |room| {
            let answer = query_procmap(&*mm, &query(ProcmapFlags::empty(), at, room), &mut name);
            answer.map(|answer| (answer.name_len, name))
        };
        for room in [1, 10] {
            assert_eq!(named(room).map(|_| ()), Err(Errno::ENAMETOOLONG));
        }
        for room in [11, 64, u32::MAX] {
            let (len, name) = named(room).unwrap();
            assert_eq!(&name[..len], b"/test/file\0");
        }
        let mut bytes = [0; ProcmapQuery::BYTES];
        assert!(ProcmapQuery::parse(&bytes).is_ok());
        for (at, value) in [(8, 64), (80, 1), (84, 1), (88, 1), (96, 1)] {
            bytes[at] = value;
            assert_eq!(ProcmapQuery::parse(&bytes), Err(Errno::EINVAL), "byte {at}");
            bytes[at] = 0;
        }
        drop((mm, file));
        world.finish();
    }

    pub fn the_counting_views_agree<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 6);
        (0..4).for_each(|n| poke(&mm, plus::<F>(at, n), 1));
        mm.mlock(at, page::<F>(), 0).unwrap();
        mm.set_layout(|layout| {
            (layout.start_code, layout.end_code) = (page::<F>(), 3 * page::<F>() + 1);
        });
        let mut text = String::new();
        write_statm(&*mm, &mut text).unwrap();
        assert_eq!(text, "6 4 0 3 0 6 0\n");
        text.clear();
        write_status_memory(&*mm, &mut text).unwrap();
        let kilo = page::<F>() / 1024;
        let row = |name: &str, pages: u64| format!("{name}:\t{:8} kB\n", pages * kilo);
        let tables = mm.table_bytes() / 1024;
        let wanted = [
            row("VmPeak", 6),
            row("VmSize", 6),
            row("VmLck", 1),
            row("VmPin", 0),
            row("VmHWM", 4),
            row("VmRSS", 4),
            row("RssAnon", 4),
            row("RssFile", 0),
            row("RssShmem", 0),
            row("VmData", 6),
            row("VmStk", 0),
            row("VmExe", 0),
            row("VmLib", 0),
            format!("VmPTE:\t{tables:8} kB\n"),
            row("VmSwap", 0),
            row("HugetlbPages", 0),
        ];
        assert_eq!(text, wanted.concat());
        drop(mm);
        world.finish();
    }

    pub fn nodes_are_told_with_counts<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![7; 4 * page::<F>() as usize]);
        let request = MapRequest::file(file.clone(), 4 * page::<F>(), RW, Map::PRIVATE);
        let of_file = mm.mmap(&request).unwrap();
        drop(request);
        let at = anonymous(&mm, 4);
        let lines = |mm: &MmUser<Sim<F>>| {
            let mut text = String::new();
            write_numa_maps(&**mm, &mut text).unwrap();
            let rest = |line: &str| line.split_once(' ').unwrap().1.to_owned();
            let lines: Vec<String> = text.lines().map(rest).collect();
            assert!(text.starts_with(&format!("{:08x} default", at.get())));
            lines
        };
        assert_eq!(lines(&mm), ["default", "default file=/test/file"]);
        poke(&mm, at, 1);
        poke(&mm, plus::<F>(at, 1), 1);
        (0..4).for_each(|n| assert_eq!(peek(&mm, plus::<F>(of_file, n)), 7));
        poke(&mm, of_file, 1);
        let kilo = page::<F>() / 1024;
        let end = |pages| format!("active=0 N0={pages} kernelpagesize_kB={kilo}");
        assert_eq!(
            lines(&mm),
            [
                format!("default anon=2 dirty=2 {}", end(2)),
                format!("default file=/test/file anon=1 dirty=1 mapped=4 {}", end(4)),
            ]
        );
        let child = mm.fork().unwrap();
        assert!(lines(&mm)[0].starts_with("default anon=2 dirty=2 mapmax=2 "));
        drop(child);
        mm.mlock(at, 4 * page::<F>(), 0).unwrap();
        assert_eq!(
            lines(&mm)[0],
            format!("default anon=4 dirty=4 N0=4 kernelpagesize_kB={kilo}"),
            "locked pages count as active, and all of them are not told"
        );
        let bind = PolicyMode::parse(2).unwrap();
        mm.mbind(of_file, 4 * page::<F>(), bind, &NodeMask::ALL, 0)
            .unwrap();
        assert!(lines(&mm)[1].starts_with("bind:0 file=/test/file anon=1 "));
        drop((mm, file));
        world.finish();
    }
}

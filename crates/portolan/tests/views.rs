//! What the views say of known situations, over every page-table format: smaps, pagemap, soft-dirty and the rest of what people read. The figures are
//! those that Linux 6.18 prints for the same situation.

mod common;

over_formats!(
    anonymous_pages_are_private_dirty_and_referenced,
    pages_shared_by_fork_count_by_share,
    a_share_is_divided_page_by_page,
    pages_of_a_file_are_clean_until_written,
    shared_memory_stays_dirty_after_it_is_unmapped,
    locked_and_lazily_freed_memory_is_told,
    the_zero_page_and_guards_are_no_memory,
    guards_mark_their_area_for_good,
    rollup_adds_up_and_tells_kinds,
    pagemap_words_say_what_a_page_is,
    pagemap_offsets_are_whole_words_within_the_space,
    references_are_forgotten_by_kind,
    soft_dirty_tracks_stores,
    soft_dirty_survives_protection_moves_and_fork,
    the_peak_is_reset,
    a_vast_sparse_mapping_is_cheap_to_look_at,
);

mod generic {
    use super::common::*;
    use portolan::addr::{VirtAddr, VirtRange};
    use portolan::errno::Errno;
    use portolan::object::VmFlags;
    use portolan::paging::{Access, Format};
    use portolan::sim::Sim;
    use portolan::space::{AreaUsage, ClearRefs, Map, MapRequest, MmUser, Prot};
    use portolan::view::{ShowFrames, read_pagemap, write_smaps, write_smaps_rollup};

    const RW: Prot = Prot::READ.union(Prot::WRITE);
    const MADV_DONTNEED: u32 = 4;
    const MADV_FREE: u32 = 8;
    const MADV_GUARD_INSTALL: u32 = 102;
    const MADV_GUARD_REMOVE: u32 = 103;
    const MREMAP_MAYMOVE: u32 = 1;

    /// The figures of the area that holds `at`, in pages.
    fn usage<F: Format>(mm: &MmUser<Sim<F>>, at: VirtAddr) -> AreaUsage {
        let mut found = None;
        mm.for_each_area_usage(|area, usage| {
            if area.range.contains(at) {
                found = Some(*usage);
            }
        });
        found.expect("an area")
    }

    /// Figures in pages: resident, share in 4096ths of a page, private clean and dirty, shared clean and dirty, referenced, anonymous.
    fn pages<F: Format>(mm: &MmUser<Sim<F>>, at: VirtAddr) -> [u64; 8] {
        let usage = usage(mm, at);
        [
            usage.resident,
            usage.share,
            usage.private_clean,
            usage.private_dirty,
            usage.shared_clean,
            usage.shared_dirty,
            usage.referenced,
            usage.anonymous,
        ]
        .map(|bytes| bytes / page::<F>())
    }

    fn shared<F: Format>(mm: &MmUser<Sim<F>>, pages: u64) -> VirtAddr {
        let request = MapRequest {
            flags: (Map::SHARED | Map::ANONYMOUS).bits(),
            ..MapRequest::anonymous(pages * page::<F>(), RW)
        };
        mm.mmap(&request).expect("shared memory")
    }

    fn flags<F: Format>(mm: &MmUser<Sim<F>>, at: VirtAddr) -> VmFlags {
        let mut found = VmFlags::empty();
        mm.for_each_area(|area| {
            if area.range.contains(at) {
                found = area.flags;
            }
        });
        found
    }

    /// The words of pagemap for `count` pages.
    fn words<F: Format>(mm: &MmUser<Sim<F>>, at: VirtAddr, count: u64) -> Vec<u64> {
        let mut bytes = vec![0xff; count as usize * 8];
        let offset = at.get() / page::<F>() * 8;
        let read = read_pagemap(mm, offset, &mut bytes, ShowFrames::No).expect("words");
        assert_eq!(read, bytes.len());
        bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
            .collect()
    }

    /// The bits of words without the frame, from bit 55 up, as Linux numbers them.
    fn bits<F: Format>(mm: &MmUser<Sim<F>>, at: VirtAddr, count: u64) -> Vec<u64> {
        words(mm, at, count)
            .into_iter()
            .map(|word| word >> 55)
            .collect()
    }

    const SOFT: u64 = 1;
    const EXCLUSIVE: u64 = 2;
    const GUARD: u64 = 8;
    const FILE: u64 = 1 << 6;
    const SWAPPED: u64 = 1 << 7;
    const PRESENT: u64 = 1 << 8;

    pub fn anonymous_pages_are_private_dirty_and_referenced<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        poke(&mm, at, 1);
        poke(&mm, plus::<F>(at, 2), 1);
        assert_eq!(pages(&mm, at), [2, 2 << 12, 0, 2, 0, 0, 2, 2]);
        let mut text = String::new();
        write_smaps(&*mm, &mut text).unwrap();
        let kilo = |pages: u64| pages * page::<F>() / 1024;
        let (size, one, two) = (kilo(4), kilo(1), kilo(2));
        let lines = [
            format!("Size:           {size:8} kB"),
            format!("KernelPageSize: {one:8} kB"),
            format!("MMUPageSize:    {one:8} kB"),
            format!("Rss:            {two:8} kB"),
            format!("Pss:            {two:8} kB"),
            format!("Pss_Dirty:      {two:8} kB"),
            "Shared_Clean:          0 kB".into(),
            "Shared_Dirty:          0 kB".into(),
            "Private_Clean:         0 kB".into(),
            format!("Private_Dirty:  {two:8} kB"),
            format!("Referenced:     {two:8} kB"),
            format!("Anonymous:      {two:8} kB"),
            "KSM:                   0 kB".into(),
            "LazyFree:              0 kB".into(),
            "AnonHugePages:         0 kB".into(),
            "ShmemPmdMapped:        0 kB".into(),
            "FilePmdMapped:         0 kB".into(),
            "Shared_Hugetlb:        0 kB".into(),
            "Private_Hugetlb:       0 kB".into(),
            "Swap:                  0 kB".into(),
            "SwapPss:               0 kB".into(),
            "Locked:                0 kB".into(),
            "THPeligible:           0".into(),
            "VmFlags: rd wr mr mw me ac sd ".into(),
        ];
        let (header, rest) = text.split_once('\n').unwrap();
        assert!(header.ends_with(" rw-p 00000000 00:00 0 "), "{header}");
        assert_eq!(rest, lines.map(|line| line + "\n").concat());
        drop(mm);
        world.finish();
    }

    pub fn pages_shared_by_fork_count_by_share<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        (0..4).for_each(|n| poke(&mm, plus::<F>(at, n), 1));
        let child = mm.fork().unwrap();
        assert_eq!(pages(&mm, at), [4, 2 << 12, 0, 0, 0, 4, 4, 4]);
        assert_eq!(
            pages(&child, at),
            [4, 2 << 12, 0, 0, 0, 4, 0, 4],
            "a child has used nothing yet"
        );
        poke(&child, at, 2);
        assert_eq!(pages(&mm, at), [4, (1 << 12) + (3 << 11), 0, 1, 0, 3, 4, 4]);
        drop(child);
        assert_eq!(pages(&mm, at), [4, 4 << 12, 0, 4, 0, 0, 4, 4]);
        drop(mm);
        world.finish();
    }

    pub fn a_share_is_divided_page_by_page<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        (0..4).for_each(|n| poke(&mm, plus::<F>(at, n), 1));
        let children = [mm.fork().unwrap(), mm.fork().unwrap()];
        let third = (page::<F>() << 12) / 3;
        assert_eq!(usage(&mm, at).share, 4 * third);
        let mut text = String::new();
        write_smaps(&*mm, &mut text).unwrap();
        let kilo = ((4 * third) >> 12) / 1024;
        assert!(text.contains(&format!("\nPss:            {kilo:8} kB\n")));
        drop((mm, children));
        world.finish();
    }

    pub fn pages_of_a_file_are_clean_until_written<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![7; 4 * page::<F>() as usize]);
        let len = 4 * page::<F>();
        let at = mm
            .mmap(&MapRequest::file(file.clone(), len, RW, Map::SHARED))
            .unwrap();
        let private = mm
            .mmap(&MapRequest::file(file.clone(), len, RW, Map::PRIVATE))
            .unwrap();
        (0..4).for_each(|n| assert!(peek(&mm, plus::<F>(at, n)) < 8));
        assert_eq!(pages(&mm, at), [4, 4 << 12, 4, 0, 0, 0, 4, 0]);
        poke(&mm, at, 1);
        assert_eq!(pages(&mm, at), [4, 4 << 12, 3, 1, 0, 0, 4, 0]);
        peek(&mm, private);
        let mapped = pages(&mm, private);
        assert_eq!(
            (mapped[5], mapped[3]),
            (1, 0),
            "dirty because the cached page is"
        );
        assert_eq!(usage(&mm, private).share_file, usage(&mm, private).share);
        mm.msync(at, len, 4).unwrap();
        assert_eq!((pages(&mm, at)[3], pages(&mm, private)[5]), (0, 0));
        poke(&mm, private, 1);
        let mapped = pages(&mm, private);
        assert_eq!((mapped[3], mapped[7]), (1, 1), "a copy is anonymous");
        drop((mm, file));
        world.finish();
    }

    pub fn shared_memory_stays_dirty_after_it_is_unmapped<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = shared(&mm, 4);
        peek(&mm, at);
        assert_eq!(pages(&mm, at), [1, 1 << 12, 1, 0, 0, 0, 1, 0]);
        // The first store is a fault, the second goes through an entry that a load made writable.
        poke(&mm, plus::<F>(at, 1), 1);
        peek(&mm, plus::<F>(at, 2));
        poke(&mm, plus::<F>(at, 2), 1);
        assert_eq!(pages(&mm, at), [3, 3 << 12, 1, 2, 0, 0, 3, 0]);
        assert_eq!(usage(&mm, at).share_shmem, usage(&mm, at).share);
        mm.madvise(at, 4 * page::<F>(), MADV_DONTNEED).unwrap();
        assert_eq!(pages(&mm, at)[0], 0);
        (0..4).for_each(|n| assert!(peek(&mm, plus::<F>(at, n)) < 8));
        assert_eq!(pages(&mm, at), [4, 4 << 12, 2, 2, 0, 0, 4, 0]);
        drop(mm);
        world.finish();
    }

    pub fn locked_and_lazily_freed_memory_is_told<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        (0..4).for_each(|n| poke(&mm, plus::<F>(at, n), 1));
        mm.madvise(at, page::<F>(), MADV_FREE).unwrap();
        assert_eq!(usage(&mm, at).lazy_free, page::<F>());
        assert_eq!(pages(&mm, at), [4, 4 << 12, 1, 3, 0, 0, 3, 4]);
        poke(&mm, at, 2);
        assert_eq!(
            usage(&mm, at).lazy_free,
            0,
            "what is written again is wanted again"
        );
        mm.mlock(at, 2 * page::<F>(), 0).unwrap();
        assert_eq!(usage(&mm, at).share_locked, (2 * page::<F>()) << 12);
        assert_eq!(usage(&mm, plus::<F>(at, 2)).share_locked, 0);
        drop(mm);
        world.finish();
    }

    pub fn the_zero_page_and_guards_are_no_memory<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        peek(&mm, at);
        mm.madvise(plus::<F>(at, 1), page::<F>(), MADV_GUARD_INSTALL)
            .unwrap();
        assert_eq!(usage(&mm, at), AreaUsage::default());
        mm.clear_refs(ClearRefs::SoftDirty);
        assert_eq!(
            bits(&mm, at, 3),
            [PRESENT, SWAPPED | GUARD, 0],
            "a guard is a kind of swap entry to Linux"
        );
        drop(mm);
        world.finish();
    }

    pub fn guards_mark_their_area_for_good<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        mm.madvise(at, page::<F>(), MADV_GUARD_REMOVE).unwrap();
        assert!(!flags(&mm, at).contains(VmFlags::MAYBE_GUARD));
        mm.madvise(at, page::<F>(), MADV_GUARD_INSTALL).unwrap();
        mm.madvise(at, page::<F>(), MADV_GUARD_REMOVE).unwrap();
        assert!(flags(&mm, plus::<F>(at, 3)).contains(VmFlags::MAYBE_GUARD));
        let below = anonymous(&mm, 2);
        assert_eq!(mm.map_count(), 1, "it is no reason not to merge");
        assert!(flags(&mm, below).contains(VmFlags::MAYBE_GUARD));
        mm.munmap(plus::<F>(at, 1), page::<F>()).unwrap();
        assert!(flags(&mm, plus::<F>(at, 2)).contains(VmFlags::MAYBE_GUARD));
        let child = mm.fork().unwrap();
        assert!(flags(&child, at).contains(VmFlags::MAYBE_GUARD));
        drop((mm, child));
        world.finish();
    }

    pub fn rollup_adds_up_and_tells_kinds<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let mut text = String::new();
        write_smaps_rollup(&*mm, &mut text).unwrap();
        let empty =
            "00000000-00000000 ---p 00000000 00:00 0                                  [rollup]\n";
        assert!(text.starts_with(empty), "{text}");
        let at = anonymous(&mm, 3);
        (0..3).for_each(|n| poke(&mm, plus::<F>(at, n), 1));
        let other = shared(&mm, 2);
        poke(&mm, other, 1);
        text.clear();
        write_smaps_rollup(&*mm, &mut text).unwrap();
        let names: Vec<&str> = text
            .lines()
            .skip(1)
            .map(|line| line.split(':').next().unwrap())
            .collect();
        assert_eq!(
            names[..7],
            [
                "Rss",
                "Pss",
                "Pss_Dirty",
                "Pss_Anon",
                "Pss_File",
                "Pss_Shmem",
                "Shared_Clean"
            ]
        );
        assert_eq!(
            (names.len(), names[20], names[21 - 2]),
            (22, "SwapPss", "Swap")
        );
        let value = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.split(':').next() == Some(name))
                .unwrap();
            let number = line.trim_end_matches(" kB").rsplit(' ').next().unwrap();
            number.parse::<u64>().unwrap() * 1024 / page::<F>()
        };
        assert_eq!(
            ["Rss", "Pss", "Pss_Anon", "Pss_File", "Pss_Shmem"].map(value),
            [4, 4, 3, 0, 1]
        );
        drop(mm);
        world.finish();
    }

    pub fn pagemap_words_say_what_a_page_is<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        let other = shared(&mm, 2);
        mm.clear_refs(ClearRefs::SoftDirty);
        peek(&mm, at);
        poke(&mm, plus::<F>(at, 1), 1);
        peek(&mm, other);
        assert_eq!(
            bits(&mm, at, 4),
            [PRESENT, PRESENT | EXCLUSIVE | SOFT, 0, 0]
        );
        assert_eq!(bits(&mm, other, 2), [PRESENT | EXCLUSIVE | FILE, 0]);
        mm.mprotect(at, 4 * page::<F>(), 0).unwrap();
        assert_eq!(
            bits(&mm, at, 2),
            [PRESENT, PRESENT | EXCLUSIVE | SOFT],
            "PROT_NONE pages are there"
        );
        let child = mm.fork().unwrap();
        assert_eq!(bits(&mm, plus::<F>(at, 1), 1), [PRESENT | SOFT]);
        let mut word = [0; 8];
        let offset = (at.get() / page::<F>() + 1) * 8;
        read_pagemap(&*mm, offset, &mut word, ShowFrames::Yes).unwrap();
        let (shown, hidden) = (u64::from_ne_bytes(word), words(&mm, plus::<F>(at, 1), 1)[0]);
        assert_eq!(hidden & ((1 << 55) - 1), 0);
        assert_eq!(shown >> 55, hidden >> 55);
        mm.mprotect(at, 4 * page::<F>(), RW.bits()).unwrap();
        let frame = mm
            .translate(plus::<F>(at, 1), Access::Read)
            .expect("present")
            .frame;
        assert_eq!(shown & ((1 << 55) - 1), frame.get());
        drop((mm, child));
        world.finish();
    }

    pub fn pagemap_offsets_are_whole_words_within_the_space<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let mut bytes = [0xff; 64];
        let mut read = |offset: u64, count: usize| {
            read_pagemap(&*mm, offset, &mut bytes[..count], ShowFrames::No)
        };
        assert_eq!(read(1, 8), Err(Errno::EINVAL));
        assert_eq!(read(0, 4), Err(Errno::EINVAL));
        assert_eq!(read(1, 0), Err(Errno::EINVAL));
        assert_eq!((read(0, 0), read(0, 64)), (Ok(0), Ok(64)));
        let end = mm.layout().task_size_max / page::<F>() * 8;
        assert_eq!((read(end - 8, 32), read(end, 32)), (Ok(8), Ok(0)));
        assert_eq!(
            (read(end + 8, 8), read(u64::MAX - 7, 8)),
            (Ok(0), Ok(0)),
            "far beyond"
        );
        drop(mm);
        world.finish();
    }

    pub fn references_are_forgotten_by_kind<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![7; page::<F>() as usize]);
        let mapped = mm
            .mmap(&MapRequest::file(file, page::<F>(), RW, Map::PRIVATE))
            .unwrap();
        let at = anonymous(&mm, 1);
        let touch = || {
            poke(&mm, at, 1);
            peek(&mm, mapped);
        };
        let referenced = || [at, mapped].map(|at| usage(&mm, at).referenced / page::<F>());
        touch();
        assert_eq!(referenced(), [1, 1]);
        mm.clear_refs(ClearRefs::Anonymous);
        assert_eq!(referenced(), [0, 1]);
        mm.clear_refs(ClearRefs::Mapped);
        assert_eq!(referenced(), [0, 0]);
        touch();
        assert_eq!(referenced(), [1, 1]);
        mm.clear_refs(ClearRefs::All);
        assert_eq!(referenced(), [0, 0]);
        assert_eq!(pages(&mm, at)[3], 1, "what was written stays dirty");
        assert!(bits(&mm, at, 1)[0] & SOFT != 0);
        for wrong in [0, 6, -1, i64::MAX] {
            assert_eq!(ClearRefs::from_number(wrong), Err(Errno::EINVAL));
        }
        drop(mm);
        world.finish();
    }

    pub fn soft_dirty_tracks_stores<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![7; 4 * page::<F>() as usize]);
        let len = 4 * page::<F>();
        let areas = [
            anonymous(&mm, 4),
            shared(&mm, 4),
            mm.mmap(&MapRequest::file(file.clone(), len, RW, Map::PRIVATE))
                .unwrap(),
            mm.mmap(&MapRequest::file(file, len, RW, Map::SHARED))
                .unwrap(),
        ];
        for at in areas {
            assert!(flags(&mm, at).contains(VmFlags::SOFTDIRTY));
            assert!(
                bits(&mm, at, 4).iter().all(|word| word & SOFT != 0),
                "a new area is soft-dirty, pages or not"
            );
            poke(&mm, at, 1);
            peek(&mm, plus::<F>(at, 1));
        }
        mm.clear_refs(ClearRefs::SoftDirty);
        let soft = |at| {
            bits(&mm, at, 4)
                .iter()
                .map(|word| word & SOFT)
                .collect::<Vec<_>>()
        };
        for at in areas {
            assert!(!flags(&mm, at).contains(VmFlags::SOFTDIRTY));
            assert_eq!(soft(at), [0; 4]);
            (0..3).for_each(|n| assert!(peek(&mm, plus::<F>(at, n)) < 8));
            assert_eq!(soft(at), [0; 4], "loads do not count");
            poke(&mm, at, 2);
            poke(&mm, plus::<F>(at, 1), 2);
            poke(&mm, plus::<F>(at, 3), 2);
            assert_eq!(soft(at), [1, 1, 0, 1]);
            assert_eq!(peek(&mm, at), 2);
        }
        drop(mm);
        world.finish();
    }

    pub fn soft_dirty_survives_protection_moves_and_fork<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        (0..4).for_each(|n| poke(&mm, plus::<F>(at, n), 1));
        mm.clear_refs(ClearRefs::SoftDirty);
        mm.mprotect(at, 4 * page::<F>(), Prot::READ.bits()).unwrap();
        mm.mprotect(at, 4 * page::<F>(), RW.bits()).unwrap();
        assert!(
            bits(&mm, at, 4).iter().all(|word| word & SOFT == 0),
            "new permissions are no store"
        );
        poke(&mm, at, 2);
        assert_eq!(
            bits(&mm, at, 2),
            [PRESENT | EXCLUSIVE | SOFT, PRESENT | EXCLUSIVE],
            "and do not hide one"
        );
        let child = mm.fork().unwrap();
        assert_eq!(bits(&child, at, 2), [PRESENT | SOFT, PRESENT]);
        drop(child);
        let to = mm
            .mremap(
                at,
                4 * page::<F>(),
                8 * page::<F>(),
                MREMAP_MAYMOVE,
                VirtAddr::new(0),
            )
            .unwrap();
        assert!(
            bits(&mm, to, 8).iter().all(|word| word & SOFT != 0),
            "what moves or grows is new"
        );
        mm.clear_refs(ClearRefs::SoftDirty);
        mm.munmap(to, page::<F>()).unwrap();
        mm.mmap(&MapRequest::anonymous(page::<F>(), RW).fixed(to))
            .unwrap();
        assert!(
            bits(&mm, to, 1)[0] & SOFT != 0,
            "renewed memory is not taken for the old"
        );
        drop(mm);
        world.finish();
    }

    pub fn the_peak_is_reset<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 4);
        (0..4).for_each(|n| poke(&mm, plus::<F>(at, n), 1));
        mm.munmap(at, 3 * page::<F>()).unwrap();
        assert_eq!((mm.peak_rss(), mm.rss().total()), (4, 1));
        mm.clear_refs(ClearRefs::PeakRss);
        assert_eq!(mm.peak_rss(), 1);
        drop(mm);
        world.finish();
    }

    pub fn a_vast_sparse_mapping_is_cheap_to_look_at<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let len = 1 << 44;
        let request = MapRequest {
            flags: (Map::PRIVATE | Map::ANONYMOUS | Map::NORESERVE).bits(),
            ..MapRequest::anonymous(len, RW)
        };
        let at = mm.mmap(&request).expect("address space");
        let last = VirtAddr::new(at.get() + len - page::<F>());
        poke(&mm, at, 1);
        poke(&mm, last, 1);
        assert_eq!(usage(&mm, at).resident, 2 * page::<F>());
        let mut runs = Vec::new();
        let whole = VirtRange::with_len(at, len).unwrap();
        let _: std::ops::ControlFlow<()> = mm.for_each_page_run(whole, |run| {
            runs.push(run.range.pages(F::GRANULE));
            std::ops::ControlFlow::Continue(())
        });
        assert!(
            runs.len() <= 5,
            "a run for each page and each table: {runs:?}"
        );
        assert_eq!(runs.iter().sum::<u64>(), len / page::<F>());
        mm.clear_refs(ClearRefs::SoftDirty);
        mm.clear_refs(ClearRefs::All);
        assert_eq!(usage(&mm, at).referenced, 0);
        drop(mm);
        world.finish();
    }
}

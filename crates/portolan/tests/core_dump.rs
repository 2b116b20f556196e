//! The core dump of a space, over every page-table format: which bytes of which mapping are in the file, that pages that are not there stay holes, and
//! that running out of memory on the way is an error and nothing else.

mod common;

over_formats!(
    memory_that_was_written_is_dumped,
    the_filter_chooses,
    headers_of_programs_are_dumped,
    nothing_is_faulted_in,
    notes_surround_the_one_of_files,
    every_failure_on_the_way_is_an_error,
);

mod generic {
    use std::collections::BTreeMap;

    use super::common::*;
    use portolan::addr::VirtAddr;
    use portolan::errno::Errno;
    use portolan::paging::Format;
    use portolan::sim::Sim;
    use portolan::space::{CoreFilter, Map, MapRequest, MmUser, Prot};
    use portolan::view::{CoreDump, CoreNote, CoreSink, Gate, write_core};

    const RW: Prot = Prot::READ.union(Prot::WRITE);
    const MADV_DONTDUMP: u32 = 16;

    /// A file in memory that knows which of its bytes were written.
    #[derive(Default)]
    struct Core {
        pieces: BTreeMap<u64, Vec<u8>>,
        len: Option<u64>,
        /// Bytes after which it is full.
        room: Option<usize>,
    }

    impl CoreSink for Core {
        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
            if let Some(room) = &mut self.room {
                *room = room.checked_sub(bytes.len()).ok_or(Errno::EFBIG)?;
            }
            let end = self.pieces.iter().next_back();
            let end = end.map_or(0, |(at, piece)| at + piece.len() as u64);
            assert!(offset >= end, "offsets go up");
            self.pieces.insert(offset, bytes.to_vec());
            Ok(())
        }

        fn finish(&mut self, len: u64) -> Result<(), Errno> {
            self.len = Some(len);
            Ok(())
        }
    }

    impl Core {
        fn byte(&self, at: u64) -> Option<u8> {
            let (start, piece) = self.pieces.range(..=at).next_back()?;
            piece.get((at - start) as usize).copied()
        }

        fn word(&self, at: u64) -> u64 {
            (0..8).fold(0, |word, n| {
                word | u64::from(self.byte(at + n).unwrap_or(0)) << (8 * n)
            })
        }

        /// Address, offset, pages in the file, pages in memory of each segment but the notes'.
        fn segments(&self, page: u64) -> Vec<[u64; 4]> {
            let count = self.word(56) & 0xffff;
            (1..count)
                .map(|n| 64 + n * 56)
                .map(|at| {
                    assert_eq!(self.word(at) & 0xffff_ffff, 1, "PT_LOAD");
                    let [address, offset] = [self.word(at + 16), self.word(at + 8)];
                    [
                        address,
                        offset,
                        self.word(at + 32) / page,
                        self.word(at + 40) / page,
                    ]
                })
                .collect()
        }

        /// The notes: kind and content.
        fn notes(&self) -> Vec<(u64, Vec<u8>)> {
            let (mut at, mut notes) = (self.word(64 + 8), Vec::new());
            let end = at + self.word(64 + 32);
            while at < end {
                let (sizes, kind) = (self.word(at), self.word(at + 8) & 0xffff_ffff);
                let (owner, len) = (sizes & 0xffff_ffff, sizes >> 32);
                let content = at + 12 + owner.next_multiple_of(4);
                let bytes = (0..len).map(|n| self.byte(content + n).unwrap());
                notes.push((kind, bytes.collect()));
                at = content + len.next_multiple_of(4);
            }
            notes
        }
    }

    fn dump<F: Format>(mm: &MmUser<Sim<F>>, filter: CoreFilter) -> Core {
        let mut core = Core::default();
        write_core(mm, &plain(filter), &mut core).expect("a dump");
        assert_eq!(core.word(0) & 0xff_ffff_ffff, 0x2_464c_457f, "a 64-bit ELF");
        core
    }

    fn plain(filter: CoreFilter) -> CoreDump<'static> {
        CoreDump {
            filter,
            machine: 183,
            gate: Gate::None,
            notes: [&[], &[]],
        }
    }

    fn shared<F: Format>(mm: &MmUser<Sim<F>>, pages: u64) -> VirtAddr {
        let request = MapRequest {
            flags: (Map::SHARED | Map::ANONYMOUS).bits(),
            ..MapRequest::anonymous(pages * page::<F>(), RW)
        };
        mm.mmap(&request).expect("shared memory")
    }

    /// The pages in the file of the segment at an address.
    fn pages_at<F: Format>(core: &Core, at: VirtAddr) -> u64 {
        let segments = core.segments(page::<F>());
        let found = segments.iter().find(|segment| segment[0] == at.get());
        found.expect("every mapping is a segment")[2]
    }

    pub fn memory_that_was_written_is_dumped<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 6);
        poke(&mm, at, 7);
        poke(&mm, VirtAddr::new(at.get() + 5 * page::<F>() + 9), 8);
        mm.mprotect(plus::<F>(at, 5), page::<F>(), 0).unwrap();
        let hidden = anonymous(&mm, 2);
        poke(&mm, hidden, 9);
        mm.madvise(hidden, 2 * page::<F>(), MADV_DONTDUMP).unwrap();
        let core = dump(&mm, CoreFilter::default());
        let segments = core.segments(page::<F>());
        let sizes: Vec<_> = segments.iter().map(|s| (s[2], s[3])).collect();
        assert_eq!(sizes, [(0, 2), (5, 5), (1, 1)]);
        assert_eq!(core.byte(segments[1][1]), Some(7));
        assert_eq!(
            core.byte(segments[2][1] + 9),
            Some(8),
            "what cannot be read is dumped all the same"
        );
        assert_eq!(core.len, Some(segments[2][1] + page::<F>()));
        assert!(
            core.pieces
                .values()
                .skip(1)
                .flatten()
                .all(|&byte| byte != 9),
            "not for dumps"
        );
        drop(mm);
        world.finish();
    }

    pub fn the_filter_chooses<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![7; 2 * page::<F>() as usize]);
        let of_file = |flags| {
            let request = MapRequest::file(file.clone(), 2 * page::<F>(), RW, flags);
            mm.mmap(&request).unwrap()
        };
        let places = [
            anonymous(&mm, 2),
            shared(&mm, 2),
            of_file(Map::PRIVATE),
            of_file(Map::SHARED),
        ];
        poke(&mm, places[0], 1);
        let never_touched = mm
            .mmap(&MapRequest::anonymous(2 * page::<F>(), Prot::READ))
            .unwrap();
        for bits in 0..16 {
            let core = dump(&mm, CoreFilter::from_bits_truncate(bits));
            let kept = places.map(|at| pages_at::<F>(&core, at));
            let wanted = [0, 1, 2, 3].map(|bit| if bits >> bit & 1 == 1 { 2 } else { 0 });
            assert_eq!(kept, wanted, "filter {bits:#x}");
            assert_eq!(pages_at::<F>(&core, never_touched), 0);
        }
        poke(&mm, places[2], 2);
        let core = dump(&mm, CoreFilter::ANON_PRIVATE);
        assert_eq!(
            pages_at::<F>(&core, places[2]),
            2,
            "a private mapping that was written counts as anonymous"
        );
        drop((mm, file));
        world.finish();
    }

    pub fn headers_of_programs_are_dumped<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let mut bytes = vec![7; 3 * page::<F>() as usize];
        let text = world.file(&bytes);
        bytes[..4].copy_from_slice(b"\x7fELF");
        let program = world.file(&bytes);
        let map = |file, offset: u64| {
            let request = MapRequest::file(file, 2 * page::<F>(), Prot::READ, Map::PRIVATE);
            mm.mmap(&request.offset(offset)).unwrap()
        };
        let places = [
            map(text.clone(), 0),
            map(program.clone(), 0),
            map(program.clone(), page::<F>()),
        ];
        let core = dump(&mm, CoreFilter::default());
        let kept = places.map(|at| pages_at::<F>(&core, at));
        assert_eq!(kept, [0, 1, 0]);
        let core = dump(&mm, CoreFilter::ANON_PRIVATE);
        assert_eq!(pages_at::<F>(&core, places[1]), 0);
        drop((mm, text, program));
        world.finish();
    }

    pub fn nothing_is_faulted_in<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let at = anonymous(&mm, 64);
        poke(&mm, plus::<F>(at, 10), 1);
        peek(&mm, plus::<F>(at, 20));
        let other = shared(&mm, 64);
        poke(&mm, plus::<F>(other, 30), 2);
        let (resident, free) = (mm.rss(), world.machine.phys().free_frames());
        let core = dump(&mm, CoreFilter::default());
        assert_eq!(core.pieces.len(), 3, "headers and two pages");
        assert_eq!(
            core.segments(page::<F>()).iter().map(|s| s[2]).sum::<u64>(),
            128
        );
        assert_eq!(mm.rss(), resident);
        assert_eq!(world.machine.phys().free_frames(), free);
        drop(mm);
        world.finish();
    }

    pub fn notes_surround_the_one_of_files<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![7; 4 * page::<F>() as usize]);
        let request = MapRequest::file(file.clone(), page::<F>(), Prot::READ, Map::PRIVATE);
        let at = mm.mmap(&request.offset(3 * page::<F>())).unwrap();
        let note = |kind, content| CoreNote {
            owner: "CORE",
            kind,
            content,
        };
        let mut core = Core::default();
        let described = CoreDump {
            notes: [&[note(1, b"status")], &[note(2, b"registers")]],
            gate: Gate::Vsyscall,
            ..plain(CoreFilter::empty())
        };
        write_core(&mm, &described, &mut core).unwrap();
        let notes = core.notes();
        assert_eq!((notes[0].0, &notes[0].1[..]), (1, &b"status"[..]));
        assert_eq!((notes[2].0, &notes[2].1[..]), (2, &b"registers"[..]));
        let words = [1, page::<F>(), at.get(), at.get() + page::<F>(), 3];
        let mut wanted: Vec<u8> = words
            .iter()
            .flat_map(|word: &u64| word.to_ne_bytes())
            .collect();
        wanted.extend_from_slice(b"/test/file\0");
        assert_eq!(notes[1], (0x4649_4c45, wanted));
        let gate = core.segments(4096).pop().unwrap();
        assert_eq!((gate[0], gate[2]), (0xffff_ffff_ff60_0000, 1));
        drop((mm, file));
        world.finish();
    }

    pub fn every_failure_on_the_way_is_an_error<F: Format>() {
        let world = World::<F>::new();
        let mm = world.space();
        let file = world.file(&vec![7; 4 * page::<F>() as usize]);
        let request = MapRequest::file(file.clone(), page::<F>(), Prot::READ, Map::PRIVATE);
        mm.mmap(&request).unwrap();
        drop(request);
        let at = anonymous(&mm, 3);
        poke(&mm, at, 1);
        let fail = world.machine.fail_point();
        let mut failures = 0;
        for nth in 1.. {
            let mut core = Core::default();
            fail.arm(nth);
            let result = write_core(&mm, &plain(CoreFilter::default()), &mut core);
            if !fail.disarm() {
                assert_eq!(result, Ok(()));
                break;
            }
            // A page of a file that cannot be read is a hole; all else ends the dump.
            if result.is_err() {
                assert_eq!((result, core.len), (Err(Errno::ENOMEM), None));
                failures += 1;
            }
        }
        assert!(failures >= 5, "{failures}");
        let mut full = Core {
            room: Some(600),
            ..Core::default()
        };
        let result = write_core(&mm, &plain(CoreFilter::default()), &mut full);
        assert_eq!((result, full.len), (Err(Errno::EFBIG), None));
        drop((mm, file));
        world.finish();
    }
}

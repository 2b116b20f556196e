//! A core dump: an ELF file with a segment for each mapping and notes that say what the process was doing. The segments and the note of mapped files
//! are made here; registers and the rest are notes that the kernel brings. `fs/binfmt_elf.c: elf_core_dump`.

use alloc::vec::Vec;

use super::maps::vsyscall_area;
use crate::addr::{VirtAddr, VirtRange};
use crate::errno::Errno;
use crate::object::VmFlags;
use crate::paging::Format;
use crate::phys::{FailPoint, OutOfMemory, heap};
use crate::platform::Platform;
use crate::space::{Area, AreaName, CoreFilter, CorePart, Linked, MmUser};

/// Where a core dump goes.
pub trait CoreSink {
    /// Takes bytes for an offset in the file. Offsets only go up; what is left out reads as zeros.
    ///
    /// # Errors
    /// Whatever stops the dump: it ends there.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno>;

    /// Everything was written, and the file is `len` bytes long. Not called when the dump was stopped.
    ///
    /// # Errors
    /// Whatever makes the dump a failure all the same.
    fn finish(&mut self, len: u64) -> Result<(), Errno>;
}

/// A note. `struct memelfnote`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreNote<'a> {
    /// Whose kind of note it is: `CORE`, `LINUX`.
    pub owner: &'a str,
    /// `NT_*`.
    pub kind: u32,
    /// What it says.
    pub content: &'a [u8],
}

/// Whether x86-64's `[vsyscall]` page is among the segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// There is none.
    None,
    /// It is the last one.
    Vsyscall,
}

/// What a core dump is made of besides memory.
#[derive(Clone, Copy, Debug)]
pub struct CoreDump<'a> {
    /// Which mappings it holds.
    pub filter: CoreFilter,
    /// `EM_*`.
    pub machine: u16,
    /// Whether there is a gate page.
    pub gate: Gate,
    /// Notes before the one of mapped files, then those after it.
    pub notes: [&'a [CoreNote<'a>]; 2],
}

const HEADER: u64 = 64;
const SEGMENT: u64 = 56;
const SECTION: u64 = 64;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const NT_FILE: u32 = 0x4649_4c45;
/// `PN_XNUM`: the number of segments stands in section 0.
const MANY: u64 = 0xffff;

/// Writes a core dump. The mappings are those of one moment; their contents are as they are when each is written.
///
/// # Errors
/// `ENOMEM`: no heap for the list of mappings. `EFBIG`: longer than a file can be. What `sink` answers.
pub fn write_core<P: Platform>(
    mm: &MmUser<P>,
    dump: &CoreDump<'_>,
    sink: &mut impl CoreSink,
) -> Result<(), Errno> {
    let fail = mm.machine().fail_point();
    let segments = Segments::of(mm, dump)?;
    let notes = notes::<P>(fail, dump, &segments)?;
    let count = segments.list.len() as u64 + 1;
    let granule = P::Format::GRANULE;
    let notes_at = HEADER + count * SEGMENT;
    let data_at = granule.round_up(notes_at + notes.len() as u64);
    let data_at = data_at.ok_or(Errno::EFBIG)?;
    let data_end = segments.list.iter().try_fold(data_at, |at, segment| {
        at.checked_add(segment.dumped).ok_or(Errno::EFBIG)
    })?;
    let mut head = Vec::new();
    reserve(fail, &mut head, notes_at + notes.len() as u64)?;
    put_header(&mut head, dump.machine, count, data_end);
    put_segment(
        &mut head,
        PT_NOTE,
        0,
        [notes_at, 0, notes.len() as u64, 0, 4],
    );
    let mut offset = data_at;
    for segment in &segments.list {
        let (start, len) = (segment.range.start().get(), segment.range.bytes());
        let place = [offset, start, segment.dumped, len, granule.bytes()];
        put_segment(&mut head, PT_LOAD, segment.access(), place);
        offset += segment.dumped;
    }
    head.extend_from_slice(&notes);
    sink.write_at(0, &head)?;
    write_pages(mm, &segments, data_at, sink)?;
    if count < MANY {
        return sink.finish(data_end);
    }
    sink.write_at(data_end, &section_zero(count))?;
    sink.finish(data_end + SECTION)
}

/// Writes what the segments hold. Pages that are not there are left out.
fn write_pages<P: Platform>(
    mm: &MmUser<P>,
    segments: &Segments,
    data_at: u64,
    sink: &mut impl CoreSink,
) -> Result<(), Errno> {
    let granule = P::Format::GRANULE;
    let mut bytes = heap::try_vec(mm.machine().fail_point(), granule.bytes() as usize)?;
    bytes.resize(granule.bytes() as usize, 0);
    let mut offset = data_at;
    for segment in &segments.list {
        let pages = segment.dumped >> granule.shift();
        // A gate page belongs to no space.
        let pages = if segment.is_gate { 0 } else { pages };
        for n in 0..pages {
            let at = VirtAddr::new(segment.range.start().get() + (n << granule.shift()));
            if let Some(page) = mm.core_page(at) {
                page.read(0, &mut bytes);
                drop(page);
                sink.write_at(offset + (n << granule.shift()), &bytes)?;
            }
        }
        offset += segment.dumped;
    }
    Ok(())
}

/// A mapping as the dump shows it.
struct Segment {
    range: VirtRange,
    flags: VmFlags,
    /// Bytes of it that the dump holds.
    dumped: u64,
    is_gate: bool,
    /// For a file, where in [`Segments::names`] its name starts, and the page offset.
    file: Option<(usize, u64)>,
}

impl Segment {
    /// `PF_*`.
    fn access(&self) -> u32 {
        let bit = |flag, bit| if self.flags.contains(flag) { bit } else { 0 };
        bit(VmFlags::READ, 4) | bit(VmFlags::WRITE, 2) | bit(VmFlags::EXEC, 1)
    }
}

/// The mappings at one moment. `dump_vma_snapshot`.
struct Segments {
    list: Vec<Segment>,
    /// The paths of mapped files, a NUL after each.
    names: Vec<u8>,
}

impl Segments {
    fn of<P: Platform>(mm: &MmUser<P>, dump: &CoreDump<'_>) -> Result<Self, Errno> {
        let fail = mm.machine().fail_point();
        let mut segments = Segments {
            list: Vec::new(),
            names: Vec::new(),
        };
        let mut headers = Vec::new();
        let mut result = Ok(());
        mm.for_each_core_area(dump.filter, |area, part| {
            if result.is_ok() {
                result = segments.add::<P>(fail, area, part, &mut headers);
            }
        });
        result?;
        // Only now, with no lock held: this may read files.
        for n in headers {
            let segment = &mut segments.list[n];
            if starts_as_elf(mm, segment.range.start()) {
                segment.dumped = P::Format::GRANULE.bytes();
            }
        }
        if let (Gate::Vsyscall, Some(area)) = (dump.gate, vsyscall_area()) {
            reserve(fail, &mut segments.list, 1)?;
            segments.list.push(Segment {
                range: area.range,
                flags: area.flags,
                dumped: area.range.bytes(),
                is_gate: true,
                file: None,
            });
        }
        Ok(segments)
    }

    /// Adds an area; those of which only a header is wanted go into `headers` as well.
    fn add<P: Platform>(
        &mut self,
        fail: &FailPoint,
        area: &Area<'_>,
        part: CorePart,
        headers: &mut Vec<usize>,
    ) -> Result<(), OutOfMemory> {
        reserve(fail, &mut self.list, 1)?;
        let file = match area.name {
            AreaName::Path(path, linked) => {
                let mark: &[u8] = match linked {
                    Linked::Yes => b"\0",
                    Linked::No => b" (deleted)\0",
                };
                let at = self.names.len();
                reserve(fail, &mut self.names, (path.len() + mark.len()) as u64)?;
                self.names.extend_from_slice(path);
                self.names.extend_from_slice(mark);
                Some((at, area.offset >> P::Format::GRANULE.shift()))
            }
            _ => None,
        };
        if part == CorePart::ElfHeader {
            reserve(fail, headers, 1)?;
            headers.push(self.list.len());
        }
        let dumped = match part {
            CorePart::Whole => area.range.bytes(),
            CorePart::Nothing | CorePart::ElfHeader => 0,
        };
        self.list.push(Segment {
            range: area.range,
            flags: area.flags,
            dumped,
            is_gate: false,
            file,
        });
        Ok(())
    }

    /// The note of mapped files: how many, the size of a page, start, end and page offset of each, then their names. `fill_files_note`.
    fn file_note<P: Platform>(&self, fail: &FailPoint) -> Result<Vec<u8>, OutOfMemory> {
        let files = || {
            self.list
                .iter()
                .filter_map(|segment| Some((segment.range, segment.file?)))
        };
        let count = files().count() as u64;
        let mut note = Vec::new();
        reserve(fail, &mut note, 16 + count * 24 + self.names.len() as u64)?;
        let mut word = |word: u64| note.extend_from_slice(&word.to_ne_bytes());
        word(count);
        word(P::Format::GRANULE.bytes());
        for (range, (_, offset)) in files() {
            word(range.start().get());
            word(range.end().get());
            word(offset);
        }
        note.extend_from_slice(&self.names);
        Ok(note)
    }
}

/// Whether the first page of a mapping starts as an ELF file does.
fn starts_as_elf<P: Platform>(mm: &MmUser<P>, at: VirtAddr) -> bool {
    let mut magic = [0; 4];
    if let Some(page) = mm.core_page(at) {
        page.read(0, &mut magic);
    }
    magic == *b"\x7fELF"
}

/// All notes, as they lie in the file.
fn notes<P: Platform>(
    fail: &FailPoint,
    dump: &CoreDump<'_>,
    segments: &Segments,
) -> Result<Vec<u8>, OutOfMemory> {
    let mut bytes = Vec::new();
    let [before, after] = dump.notes;
    for note in before {
        put_note(fail, &mut bytes, note)?;
    }
    if !segments.names.is_empty() {
        let content = segments.file_note::<P>(fail)?;
        let note = CoreNote {
            owner: "CORE",
            kind: NT_FILE,
            content: &content,
        };
        put_note(fail, &mut bytes, &note)?;
    }
    for note in after {
        put_note(fail, &mut bytes, note)?;
    }
    Ok(bytes)
}

/// `writenote`.
fn put_note(fail: &FailPoint, bytes: &mut Vec<u8>, note: &CoreNote<'_>) -> Result<(), OutOfMemory> {
    let padded = |len: usize| len.next_multiple_of(4);
    let (owner, content) = (note.owner.len() + 1, note.content.len());
    reserve(fail, bytes, (12 + padded(owner) + padded(content)) as u64)?;
    for half in [owner as u32, content as u32, note.kind] {
        bytes.extend_from_slice(&half.to_ne_bytes());
    }
    for (part, len) in [(note.owner.as_bytes(), owner), (note.content, content)] {
        bytes.extend_from_slice(part);
        bytes.resize(bytes.len() + padded(len) - part.len(), 0);
    }
    Ok(())
}

fn reserve<T>(fail: &FailPoint, list: &mut Vec<T>, more: u64) -> Result<(), OutOfMemory> {
    fail.check()?;
    let more = usize::try_from(more).map_err(|_| OutOfMemory)?;
    list.try_reserve(more).map_err(|_| OutOfMemory)
}

/// The ELF header. `fill_elf_header`, `fill_extnum_info`.
fn put_header(bytes: &mut Vec<u8>, machine: u16, count: u64, data_end: u64) {
    let many = count >= MANY;
    bytes.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let mut halves = |halves: &[u16]| {
        halves
            .iter()
            .for_each(|half| bytes.extend_from_slice(&half.to_ne_bytes()))
    };
    // ET_CORE, and version 1 in two halves.
    halves(&[4, machine, 1, 0]);
    let sections_at = if many { data_end } else { 0 };
    for word in [0, HEADER, sections_at] {
        bytes.extend_from_slice(&u64::to_ne_bytes(word));
    }
    let sections = u16::from(many);
    let mut halves = |halves: &[u16]| {
        halves
            .iter()
            .for_each(|half| bytes.extend_from_slice(&half.to_ne_bytes()))
    };
    let section_size = if many { SECTION as u16 } else { 0 };
    halves(&[0, 0, HEADER as u16, SEGMENT as u16, count.min(MANY) as u16]);
    halves(&[section_size, sections, 0]);
}

/// A program header: offset, address, bytes in the file, bytes in memory, alignment.
fn put_segment(bytes: &mut Vec<u8>, kind: u32, access: u32, place: [u64; 5]) {
    let [offset, address, in_file, in_memory, align] = place;
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&access.to_ne_bytes());
    for word in [offset, address, 0, in_file, in_memory, align] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
}

/// Section 0, which says how many segments there are when the header has no room for that.
fn section_zero(count: u64) -> [u8; SECTION as usize] {
    let mut bytes = [0; SECTION as usize];
    bytes[32..40].copy_from_slice(&1u64.to_ne_bytes());
    bytes[44..48].copy_from_slice(&(count as u32).to_ne_bytes());
    bytes
}

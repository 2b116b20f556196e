//! Mapping an ELF file's segments, the program's and its interpreter's. Not for: reading headers (`elf`) or the stack.

use alloc::sync::Arc;

use portolan::addr::{Granule, VirtAddr};
use portolan::errno::Errno;
use portolan::object::File;
use portolan::paging::Format;
use portolan::platform::Platform;
use portolan::space::{Layout, Map, MapRequest, MmUser, Prot};

use crate::elf::{Image, Kind, Segment};

/// Where a program lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// Where it starts. `AT_ENTRY`.
    pub entry: u64,
    /// Its program headers. `AT_PHDR`.
    pub segments_addr: u64,
    /// How many of them.
    pub segments: u16,
    /// Its text.
    pub start_code: u64,
    /// End of its text.
    pub end_code: u64,
    /// Its data.
    pub start_data: u64,
    /// End of its initialised data.
    pub end_data: u64,
    /// End of all of it.
    pub brk: u64,
}

fn granule<P: Platform>() -> Granule {
    P::Format::GRANULE
}

/// Where a movable program with an interpreter goes without randomisation, whatever part of the space an engine keeps for itself.
/// `ELF_ET_DYN_BASE`.
pub fn movable_base<P: Platform>() -> u64 {
    Layout::new::<P::Format>().task_size / 3 * 2
}

/// Maps the program. `random` bytes, a multiple of a page, move a movable one that has an interpreter; one without goes where mappings go.
///
/// # Errors
/// `EINVAL`: segments that make no sense, or none. `ENOMEM`, `EEXIST`: no room where they must go. Those of mmap.
pub fn load_main<P: Platform>(
    mm: &MmUser<P>,
    image: &Image,
    file: &Arc<File<P>>,
    has_interpreter: bool,
    random: u64,
) -> Result<Loaded, Errno> {
    let first = image.load.first().ok_or(Errno::EINVAL)?;
    let start = match (image.header.kind, has_interpreter) {
        (Kind::Fixed, _) => Start::Fixed,
        (Kind::Movable, true) => {
            Start::At((movable_base::<P>() + random) & alignment_mask::<P>(image))
        }
        (Kind::Movable, false) => find_aligned(mm, image, first, file)?,
    };
    let bias = map_all(mm, image, file, start)?;
    Ok(describe(image, bias))
}

/// Maps the interpreter. Returns its entry point and its load bias (`AT_BASE`).
///
/// # Errors
/// As [`load_main`], with `ENOMEM` for senseless segments.
pub fn load_interpreter<P: Platform>(
    mm: &MmUser<P>,
    image: &Image,
    file: &Arc<File<P>>,
) -> Result<(u64, u64), Errno> {
    let start = if image.header.kind == Kind::Fixed {
        Start::Replacing
    } else {
        Start::Anywhere
    };
    let bias = map_all(mm, image, file, start)?;
    let entry = bias.wrapping_add(image.header.entry);
    if entry >= mm.layout().task_size {
        Err(Errno::EINVAL)
    } else {
        Ok((entry, bias))
    }
}

/// Where the first segment goes.
#[derive(Clone, Copy)]
enum Start {
    /// Where it is linked, where nothing may be.
    Fixed,
    /// Where it is linked, whatever is there.
    Replacing,
    /// There, where nothing may be.
    At(u64),
    /// Where mappings go.
    Anywhere,
}

/// A page's, or the image's own larger, alignment as a mask.
fn alignment_mask<P: Platform>(image: &Image) -> u64 {
    !(image.alignment(granule::<P>()).max(1) - 1)
}

/// A place for a movable program without an interpreter: anywhere, unless it asks for more than a page's alignment; then a place is
/// probed first and rounded down.
fn find_aligned<P: Platform>(
    mm: &MmUser<P>,
    image: &Image,
    first: &Segment,
    file: &Arc<File<P>>,
) -> Result<Start, Errno> {
    let granule = granule::<P>();
    if image.alignment(granule) <= granule.bytes() {
        return Ok(Start::Anywhere);
    }
    let span = granule
        .round_up(image.span(granule))
        .filter(|&span| span != 0)
        .ok_or(Errno::EINVAL)?;
    let request = MapRequest {
        addr: VirtAddr::new(0),
        len: span,
        prot: first.prot,
        flags: Map::PRIVATE.bits(),
        file: Some(file.clone()),
        offset: granule.round_down(first.offset),
    };
    let at = mm.mmap(&request)?;
    mm.munmap(at, span)?;
    Ok(Start::At(at.get() & alignment_mask::<P>(image)))
}

/// Maps every segment; returns what to add to addresses as linked.
fn map_all<P: Platform>(
    mm: &MmUser<P>,
    image: &Image,
    file: &Arc<File<P>>,
    start: Start,
) -> Result<u64, Errno> {
    let granule = granule::<P>();
    let limit = mm.layout().task_size;
    let mut bias = 0;
    for (n, segment) in image.load.iter().enumerate() {
        let linked = granule.round_down(segment.addr);
        if n > 0 {
            map_segment(mm, segment, file, bias, Map::FIXED, 0)?;
        } else {
            let (wanted, flags) = match start {
                Start::Fixed => (0, Map::FIXED_NOREPLACE),
                Start::Replacing => (0, Map::FIXED),
                Start::At(at) => (at.wrapping_sub(linked), Map::FIXED_NOREPLACE),
                Start::Anywhere => (0_u64.wrapping_sub(linked), Map::empty()),
            };
            let span = if image.header.kind == Kind::Movable {
                image.span(granule)
            } else {
                0
            };
            if image.header.kind == Kind::Movable && span == 0 {
                return Err(Errno::EINVAL);
            }
            let at = map_segment(mm, segment, file, granule.round_down(wanted), flags, span)?;
            bias = at.wrapping_sub(linked);
        }
        if !segment.is_sane(limit) {
            return Err(Errno::EINVAL);
        }
    }
    Ok(bias)
}

/// Maps one segment: its part of the file, the zeros after it. `elf_load`. Returns the page it starts in.
///
/// With `span` bytes, so much room is taken at first and given back, so that the segments after it fit behind.
fn map_segment<P: Platform>(
    mm: &MmUser<P>,
    segment: &Segment,
    file: &Arc<File<P>>,
    bias: u64,
    flags: Map,
    span: u64,
) -> Result<u64, Errno> {
    let granule = granule::<P>();
    let in_page = segment.addr & granule.offset_mask();
    let addr = granule.round_down(bias.wrapping_add(segment.addr));
    let mut start = addr;
    let mut zero_from = addr;
    if segment.file_size != 0 {
        start = map_file(mm, segment, file, addr, flags, span)?;
        zero_from = start
            .checked_add(in_page)
            .and_then(|at| at.checked_add(segment.file_size))
            .ok_or(Errno::EINVAL)?;
        if segment.mem_size > segment.file_size {
            zero_tail(mm, zero_from, segment.prot)?;
        }
    }
    if segment.mem_size > segment.file_size {
        let end = start
            .checked_add(in_page)
            .and_then(|at| at.checked_add(segment.mem_size))
            .ok_or(Errno::EINVAL)?;
        let from = granule.round_up(zero_from).ok_or(Errno::EINVAL)?;
        let to = granule.round_up(end).ok_or(Errno::EINVAL)?;
        map_zeros(mm, from, to, segment.prot)?;
    }
    Ok(start)
}

/// `elf_map`.
fn map_file<P: Platform>(
    mm: &MmUser<P>,
    segment: &Segment,
    file: &Arc<File<P>>,
    addr: u64,
    flags: Map,
    span: u64,
) -> Result<u64, Errno> {
    let granule = granule::<P>();
    let in_page = segment.addr & granule.offset_mask();
    let size = segment
        .file_size
        .checked_add(in_page)
        .and_then(|size| granule.round_up(size))
        .ok_or(Errno::EINVAL)?;
    let offset = segment.offset.checked_sub(in_page).ok_or(Errno::EINVAL)?;
    let room = granule.round_up(span).ok_or(Errno::EINVAL)?.max(size);
    let request = MapRequest {
        addr: VirtAddr::new(addr),
        len: room,
        prot: segment.prot,
        flags: (Map::PRIVATE | flags).bits(),
        file: Some(file.clone()),
        offset,
    };
    let at = mm.mmap(&request)?;
    if room > size {
        mm.munmap(VirtAddr::new(at.get() + size), room - size)?;
    }
    Ok(at.get())
}

/// Zeros what follows the file's part in its last page. A page that cannot be written is left as it is, unless the segment is writable.
fn zero_tail<P: Platform>(mm: &MmUser<P>, from: u64, prot: u32) -> Result<(), Errno> {
    let granule = granule::<P>();
    let tail = granule.round_up(from).ok_or(Errno::EINVAL)? - from;
    match mm.clear_user(VirtAddr::new(from), tail as usize) {
        Err(error) if prot & Prot::WRITE.bits() != 0 => Err(error),
        _ => Ok(()),
    }
}

/// `vm_brk_flags`: zeros, readable and writable whatever the segment says.
fn map_zeros<P: Platform>(mm: &MmUser<P>, from: u64, to: u64, prot: u32) -> Result<(), Errno> {
    let Some(len) = to.checked_sub(from).filter(|&len| len != 0) else {
        return Ok(());
    };
    let exec = Prot::from_bits_truncate(prot) & Prot::EXEC;
    mm.mmap(&MapRequest {
        addr: VirtAddr::new(from),
        len,
        prot: (Prot::READ | Prot::WRITE | exec).bits(),
        flags: (Map::PRIVATE | Map::ANONYMOUS | Map::FIXED).bits(),
        file: None,
        offset: 0,
    })?;
    Ok(())
}

fn describe(image: &Image, bias: u64) -> Loaded {
    let is_code = |segment: &&Segment| segment.prot & Prot::EXEC.bits() != 0;
    let file_end = |segment: &Segment| segment.addr.saturating_add(segment.file_size);
    let mem_end = |segment: &Segment| segment.addr.saturating_add(segment.mem_size);
    let at = |addr: Option<u64>| bias.wrapping_add(addr.unwrap_or(0));
    let segments = image.load.iter();
    let headers = image.segments_addr();
    Loaded {
        entry: at(Some(image.header.entry)),
        segments_addr: if headers == 0 { 0 } else { at(Some(headers)) },
        segments: image.header.segments,
        start_code: at(segments
            .clone()
            .filter(is_code)
            .map(|segment| segment.addr)
            .min()),
        end_code: at(segments.clone().filter(is_code).map(file_end).max()),
        start_data: at(segments.clone().map(|segment| segment.addr).max()),
        end_data: at(segments.clone().map(file_end).max()),
        brk: at(segments.map(mem_end).max()),
    }
}

//! What an ELF file says about how it wants to be loaded, read from its headers alone. Not for: loading it (`exec`).

use alloc::vec::Vec;

use object::elf;
use object::endian::LittleEndian as LE;
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use portolan::addr::Granule;
use portolan::errno::Errno;

type Header = elf::FileHeader64<LE>;
type RawSegment = elf::ProgramHeader64<LE>;

/// Bytes of the file header.
pub const HEADER_SIZE: usize = size_of::<Header>();
/// The most bytes that program headers may take. Linux takes no more than 64 KiB.
const MAX_SEGMENTS_SIZE: usize = 65536;

/// Whether an image is bound to its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `ET_EXEC`: it is.
    Fixed,
    /// `ET_DYN`: it goes anywhere.
    Movable,
}

/// What `PT_GNU_STACK` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StackExec {
    /// There is none: as the architecture has it, which is not executable.
    Default,
    /// Not executable.
    Disable,
    /// Executable.
    Enable,
}

/// A `PT_LOAD` segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where it is linked to lie.
    pub addr: u64,
    /// Bytes in memory.
    pub mem_size: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Alignment asked for.
    pub align: u64,
    /// `PROT_*`.
    pub prot: u32,
}

/// The parts of the file header that loading needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileHeader {
    /// Fixed or movable.
    pub kind: Kind,
    /// Entry point as linked.
    pub entry: u64,
    /// Offset of the program headers in the file.
    pub segments_at: u64,
    /// Bytes of the program headers.
    pub segments_size: usize,
    /// How many.
    pub segments: u16,
}

/// All that loading needs to know of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// The file header.
    pub header: FileHeader,
    /// `PT_LOAD`, in the order of the file.
    pub load: Vec<Segment>,
    /// Offset and size in the file of the interpreter's path.
    pub interpreter: Option<(u64, u64)>,
    /// `PT_GNU_STACK`.
    pub stack: StackExec,
}

impl FileHeader {
    /// Reads a file's first bytes.
    ///
    /// # Errors
    /// `ENOEXEC`: not a 64-bit little-endian x86-64 program or shared object.
    pub fn parse(bytes: &[u8]) -> Result<Self, Errno> {
        let (header, _) = object::pod::from_bytes::<Header>(bytes).map_err(|()| Errno::ENOEXEC)?;
        let kind = match header.e_type(LE) {
            elf::ET_EXEC => Kind::Fixed,
            elf::ET_DYN => Kind::Movable,
            _ => return Err(Errno::ENOEXEC),
        };
        if header.e_ident.magic != elf::ELFMAG || header.e_machine(LE) != elf::EM_X86_64 {
            return Err(Errno::ENOEXEC);
        }
        let segments = header.e_phnum(LE);
        let segments_size = usize::from(segments) * size_of::<RawSegment>();
        let sized = usize::from(header.e_phentsize(LE)) == size_of::<RawSegment>();
        if !sized || segments_size == 0 || segments_size > MAX_SEGMENTS_SIZE {
            return Err(Errno::ENOEXEC);
        }
        Ok(Self {
            kind,
            entry: header.e_entry(LE),
            segments_at: header.e_phoff(LE),
            segments_size,
            segments,
        })
    }
}

impl Image {
    /// Reads the program headers, `header.segments_size` bytes from `header.segments_at` on.
    ///
    /// # Errors
    /// `ENOEXEC`: fewer bytes than that. `ENOMEM`: no heap.
    pub fn parse(header: FileHeader, bytes: &[u8]) -> Result<Self, Errno> {
        let count = usize::from(header.segments);
        let (raw, _) = object::pod::slice_from_bytes::<RawSegment>(bytes, count)
            .map_err(|()| Errno::ENOEXEC)?;
        let mut image = Self {
            header,
            load: Vec::new(),
            interpreter: None,
            stack: StackExec::Default,
        };
        image.load.try_reserve(count).map_err(|_| Errno::ENOMEM)?;
        for segment in raw {
            match segment.p_type(LE) {
                elf::PT_LOAD => image.load.push(Segment::of(segment)),
                elf::PT_INTERP if image.interpreter.is_none() => {
                    image.interpreter = Some((segment.p_offset(LE), segment.p_filesz(LE)));
                }
                elf::PT_GNU_STACK if segment.p_flags(LE).0 & elf::PF_X.0 != 0 => {
                    image.stack = StackExec::Enable
                }
                elf::PT_GNU_STACK => image.stack = StackExec::Disable,
                _ => {}
            }
        }
        Ok(image)
    }

    /// From the first page to the end of the last segment, in bytes; 0 when nothing is loaded or it wraps. `total_mapping_size`.
    pub fn span(&self, granule: Granule) -> u64 {
        let start = self
            .load
            .iter()
            .map(|segment| granule.round_down(segment.addr))
            .min();
        let end = self
            .load
            .iter()
            .map(|segment| segment.addr.saturating_add(segment.mem_size))
            .max();
        match (start, end) {
            (Some(start), Some(end)) => end.saturating_sub(start),
            _ => 0,
        }
    }

    /// The greatest alignment that is a power of two, rounded up to a page; 0 when none is given. `maximum_alignment`.
    pub fn alignment(&self, granule: Granule) -> u64 {
        let wanted = self
            .load
            .iter()
            .map(|segment| segment.align)
            .filter(|align| align.is_power_of_two());
        wanted
            .max()
            .and_then(|align| granule.round_up(align))
            .unwrap_or(0)
    }

    /// Where the program headers lie once loaded, as linked; 0 when no segment holds them.
    pub fn segments_addr(&self) -> u64 {
        let at = self.header.segments_at;
        let holds =
            |segment: &&Segment| segment.offset <= at && at - segment.offset < segment.file_size;
        self.load.iter().rfind(holds).map_or(0, |segment| {
            (at - segment.offset).wrapping_add(segment.addr)
        })
    }
}

impl Segment {
    fn of(raw: &RawSegment) -> Self {
        let flags = raw.p_flags(LE).0;
        let bit = |flag: u32, prot: u32| if flags & flag != 0 { prot } else { 0 };
        Self {
            addr: raw.p_vaddr(LE),
            mem_size: raw.p_memsz(LE),
            file_size: raw.p_filesz(LE),
            offset: raw.p_offset(LE),
            align: raw.p_align(LE),
            prot: bit(elf::PF_R.0, 1) | bit(elf::PF_W.0, 2) | bit(elf::PF_X.0, 4),
        }
    }

    /// Whether its numbers make sense below `limit`.
    pub fn is_sane(&self, limit: u64) -> bool {
        self.addr < limit
            && self.file_size <= self.mem_size
            && self.mem_size <= limit
            && limit - self.mem_size >= self.addr
    }
}

//! The vDSO: a small shared object that the kernel maps into every program, with the clock functions that C libraries look for. Ours make
//! the system calls; they exist so that a program finds the same mappings and the same functions as on Linux. Its data pages, which
//! Linux's functions read instead of calling, are there and empty.

use alloc::sync::Arc;
use alloc::vec::Vec;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::machine::Machine;
use portolan::object::{Cache, Commit, File, FileIdentity, FileMode, FileSpec};
use portolan::paging::Format;
use portolan::platform::Platform;
use portolan::space::{MapRequest, MmUser, Prot};

use crate::syscall::number_of;

/// Pages of `[vvar]`, `[vvar_vclock]` and `[vdso]`.
const PAGES: [u64; 3] = [4, 2, 2];
const NAMES: [&str; 3] = ["[vvar]", "[vvar_vclock]", "[vdso]"];

/// The functions, each with its system call.
const FUNCTIONS: [(&str, u32); 5] = [
    ("__vdso_clock_gettime", number_of("clock_gettime")),
    ("__vdso_gettimeofday", number_of("gettimeofday")),
    ("__vdso_time", number_of("time")),
    ("__vdso_clock_getres", number_of("clock_getres")),
    ("__vdso_getcpu", number_of("getcpu")),
];
const SONAME: &str = "linux-vdso.so.1";

/// The pages that every program shares.
pub struct Vdso<P: Platform> {
    files: [Arc<File<P>>; 3],
}

impl<P: Platform> Vdso<P> {
    /// Makes the pages.
    ///
    /// # Errors
    /// `ENOMEM`: no frame or no heap.
    pub fn new(machine: &Machine<P>) -> Result<Self, Errno> {
        let page = P::Format::GRANULE.bytes();
        let file = |n: usize| {
            let cache = Cache::anonymous_shared(machine, PAGES[n] * page, Commit::Unreserved)?;
            let spec = FileSpec {
                cache: Some(cache),
                mode: FileMode::READ,
                identity: FileIdentity::default(),
                path: NAMES[n].as_bytes().to_vec(),
                operations: None,
            };
            File::new(machine, spec)
        };
        let files = [file(0)?, file(1)?, file(2)?];
        let image = image();
        let cache = files[2].cache().ok_or(Errno::ENOMEM)?;
        if cache.write(0, &image)? != image.len() {
            return Err(Errno::ENOMEM);
        }
        Ok(Self { files })
    }

    /// Maps the pages where mappings go; returns where the object's header lies (`AT_SYSINFO_EHDR`). `map_vdso`.
    ///
    /// # Errors
    /// `ENOMEM`: no room or a limit.
    pub fn map(&self, mm: &MmUser<P>) -> Result<u64, Errno> {
        let page = P::Format::GRANULE.bytes();
        let len = PAGES.iter().sum::<u64>() * page;
        let found = mm.mmap(&MapRequest::anonymous(len, Prot::empty()))?;
        mm.munmap(found, len)?;
        let mut at = found.get();
        for (n, file) in self.files.iter().enumerate() {
            let exec = if n == 2 { Prot::EXEC } else { Prot::empty() };
            let (wanted, bytes) = (VirtAddr::new(at), PAGES[n] * page);
            mm.install_special_mapping(wanted, bytes, Prot::READ | exec, file.clone(), NAMES[n])?;
            at += bytes;
        }
        Ok(at - PAGES[2] * page)
    }
}

/// Bytes of the file header, a program header, a symbol, and an entry of the dynamic section.
const EHDR: u64 = 64;
const PHDR: u64 = 56;
const SYM: u64 = 24;
const DYN: u64 = 16;
/// Symbols, the null one included.
const SYMBOLS: u64 = FUNCTIONS.len() as u64 + 1;
/// Offsets of the parts, in the order in which they lie.
const DYNSYM_AT: u64 = EHDR + 2 * PHDR;
const HASH_AT: u64 = DYNSYM_AT + SYMBOLS * SYM;
/// One bucket, so a chain through all symbols; 4 bytes a word, padded to 8.
const HASH_SIZE: u64 = (4 * (2 + 1 + SYMBOLS)).next_multiple_of(8);
const DYNAMIC_AT: u64 = HASH_AT + HASH_SIZE;
const DYNAMIC_ENTRIES: u64 = 7;
const TEXT_AT: u64 = DYNAMIC_AT + DYNAMIC_ENTRIES * DYN;
/// Bytes of one function.
const FUNCTION: u64 = 16;
const STRINGS_AT: u64 = TEXT_AT + FUNCTIONS.len() as u64 * FUNCTION;

/// A growing image, in the byte order of the machine it is for.
struct Bytes(Vec<u8>);

impl Bytes {
    fn half(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn word(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn long(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn pad_to(&mut self, at: u64) {
        self.0.resize(at as usize, 0);
    }
}

/// The string table: an empty string, the object's name, the functions' names. Also where each starts, the object's first.
fn strings() -> (Vec<u8>, Vec<u32>) {
    let (mut table, mut starts) = (alloc::vec![0], Vec::new());
    for name in core::iter::once(SONAME).chain(FUNCTIONS.iter().map(|(name, _)| *name)) {
        starts.push(table.len() as u32);
        table.extend_from_slice(name.as_bytes());
        table.push(0);
    }
    (table, starts)
}

/// The shared object.
fn image() -> Vec<u8> {
    let (table, starts) = strings();
    let size = STRINGS_AT + table.len() as u64;
    let mut out = Bytes(Vec::new());
    file_header(&mut out);
    program_header(&mut out, object::elf::PT_LOAD.0, 5, 0, size, 4096);
    program_header(
        &mut out,
        object::elf::PT_DYNAMIC.0,
        4,
        DYNAMIC_AT,
        DYNAMIC_ENTRIES * DYN,
        8,
    );

    out.pad_to(DYNSYM_AT + SYM);
    for (n, &name) in starts.iter().skip(1).enumerate() {
        // A global function in some section; its number is never looked at, only that it is defined.
        out.word(name)
            .half(0x12)
            .half(1)
            .long(TEXT_AT + n as u64 * FUNCTION)
            .long(FUNCTION);
    }
    out.word(1).word(SYMBOLS as u32).word(1).word(0);
    for n in 1..SYMBOLS as u32 {
        out.word((n + 1) % SYMBOLS as u32);
    }

    out.pad_to(DYNAMIC_AT);
    let entries = [
        (object::elf::DT_SONAME.0, u64::from(starts[0])),
        (object::elf::DT_HASH.0, HASH_AT),
        (object::elf::DT_STRTAB.0, STRINGS_AT),
        (object::elf::DT_SYMTAB.0, DYNSYM_AT),
        (object::elf::DT_STRSZ.0, table.len() as u64),
        (object::elf::DT_SYMENT.0, SYM),
        (object::elf::DT_NULL.0, 0),
    ];
    for (tag, value) in entries {
        out.long(tag as u64).long(value);
    }

    for (n, (_, number)) in FUNCTIONS.iter().enumerate() {
        out.pad_to(TEXT_AT + n as u64 * FUNCTION);
        // mov eax, number; syscall; ret
        out.0.push(0xb8);
        out.word(*number);
        out.0.extend_from_slice(&[0x0f, 0x05, 0xc3]);
    }
    out.pad_to(STRINGS_AT);
    out.0.extend_from_slice(&table);
    out.0
}

fn file_header(out: &mut Bytes) {
    // 64-bit, little-endian, version 1, System V.
    out.0
        .extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.half(object::elf::ET_DYN.0)
        .half(object::elf::EM_X86_64.0)
        .word(1);
    out.long(0).long(EHDR).long(0).word(0);
    out.half(EHDR as u16)
        .half(PHDR as u16)
        .half(2)
        .half(0)
        .half(0)
        .half(0);
}

fn program_header(out: &mut Bytes, kind: u32, flags: u32, at: u64, size: u64, align: u64) {
    out.word(kind)
        .word(flags)
        .long(at)
        .long(at)
        .long(at)
        .long(size)
        .long(size)
        .long(align);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::{FileHeader, Image};

    #[test]
    fn the_image_is_a_shared_object_with_the_functions() {
        let bytes = image();
        let header = FileHeader::parse(&bytes).unwrap();
        let at = header.segments_at as usize;
        let parsed = Image::parse(header, &bytes[at..at + header.segments_size]).unwrap();
        assert_eq!(parsed.load.len(), 1);
        assert_eq!(
            (parsed.load[0].file_size, parsed.load[0].prot),
            (bytes.len() as u64, 5)
        );
        assert!(bytes.len() as u64 <= PAGES[2] * 4096);
        for (n, (name, number)) in FUNCTIONS.iter().enumerate() {
            let symbol = (DYNSYM_AT + SYM * (n as u64 + 1)) as usize;
            let value =
                u64::from_le_bytes(bytes[symbol + 8..symbol + 16].try_into().unwrap()) as usize;
            assert_eq!(bytes[value + 1..value + 5], number.to_le_bytes());
            let start = u32::from_le_bytes(bytes[symbol..symbol + 4].try_into().unwrap()) as usize
                + STRINGS_AT as usize;
            assert_eq!(&bytes[start..start + name.len()], name.as_bytes());
        }
    }
}

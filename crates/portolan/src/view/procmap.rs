//! PROCMAP_QUERY, the request of `/proc/PID/maps` that tells of one mapping. `fs/proc/task_mmu.c: do_procmap_query`.

use alloc::sync::Arc;

use super::build_id::BuildId;
use crate::addr::VirtAddr;
use crate::errno::Errno;
use crate::object::{File, VmFlags};
use crate::paging::Format;
use crate::platform::Platform;
use crate::space::{Area, AreaName, Find, Linked, Mm};

bitflags::bitflags! {
    /// `PROCMAP_QUERY_*`: which mapping is looked for, and what is said of one.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct ProcmapFlags: u64 {
        /// Readable.
        const READABLE = 1 << 0;
        /// Writable.
        const WRITABLE = 1 << 1;
        /// Executable.
        const EXECUTABLE = 1 << 2;
        /// Asked for as shared.
        const SHARED = 1 << 3;
        /// The next one will do where none covers the address.
        const COVERING_OR_NEXT = 1 << 4;
        /// Of a file.
        const FILE_BACKED = 1 << 5;
    }
}

/// What is true of an area and what a query calls it.
const PERMISSIONS: [(VmFlags, ProcmapFlags); 4] = [
    (VmFlags::READ, ProcmapFlags::READABLE),
    (VmFlags::WRITE, ProcmapFlags::WRITABLE),
    (VmFlags::EXEC, ProcmapFlags::EXECUTABLE),
    (VmFlags::MAYSHARE, ProcmapFlags::SHARED),
];

/// `struct procmap_query`, as a program fills it in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcmapQuery {
    /// Bytes of the structure as the program has it.
    pub size: u64,
    /// What is looked for.
    pub flags: ProcmapFlags,
    /// Where.
    pub addr: VirtAddr,
    /// Where its name is wanted and how much room there is; 0 and 0 if it is not.
    pub name: (u64, u32),
    /// The same for the build id of its file.
    pub build_id: (u64, u32),
}

/// What a query is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcmapAnswer {
    /// The structure, filled in.
    pub bytes: [u8; ProcmapQuery::BYTES],
    /// Bytes of the name with its NUL, 0 if there is none.
    pub name_len: usize,
    /// The build id.
    pub build_id: Option<BuildId>,
}

impl ProcmapQuery {
    /// Bytes of the structure in this version.
    pub const BYTES: usize = 104;
    /// The fewest bytes of it that make a query: up to and with the address.
    pub const LEAST: usize = 24;
    /// The most room that a name can use, bytes. `PATH_MAX`.
    pub const NAME_MOST: usize = 4096;

    /// Reads the structure, of which what the program did not give is 0.
    ///
    /// # Errors
    /// `EINVAL`: an unknown flag; room without an address or an address without room.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Result<Self, Errno> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        let sizes = word(80);
        let (name_size, id_size) = (sizes as u32, (sizes >> 32) as u32);
        let flags = ProcmapFlags::from_bits(word(8)).ok_or(Errno::EINVAL)?;
        let (name, build_id) = ((word(88), name_size), (word(96), id_size));
        if [name, build_id]
            .iter()
            .any(|&(at, size)| (at != 0) != (size != 0))
        {
            return Err(Errno::EINVAL);
        }
        Ok(Self {
            size: word(0),
            flags,
            addr: VirtAddr::new(word(16)),
            name,
            build_id,
        })
    }

    /// Whether an area is one that is looked for.
    fn wants(&self, flags: VmFlags, has_file: bool) -> bool {
        let wanted = |(flag, asked): (VmFlags, ProcmapFlags)| {
            !self.flags.contains(asked) || flags.contains(flag)
        };
        PERMISSIONS.into_iter().all(wanted)
            && (has_file || !self.flags.contains(ProcmapFlags::FILE_BACKED))
    }
}

/// Answers a query about a space. The name goes into `name`, of which no more is used than the query and [`ProcmapQuery::NAME_MOST`] allow.
///
/// # Errors
/// `ENOENT`: no such mapping. `ENAMETOOLONG`: not enough room for the name or the build id.
///
/// Reads the file for its build id, which may sleep, with nothing held.
pub fn query_procmap<P: Platform>(
    mm: &Mm<P>,
    query: &ProcmapQuery,
    name: &mut [u8],
) -> Result<ProcmapAnswer, Errno> {
    let find = match query.flags.contains(ProcmapFlags::COVERING_OR_NEXT) {
        true => Find::CoveringOrNext,
        false => Find::Covering,
    };
    let room = name
        .len()
        .min(query.name.1 as usize)
        .min(ProcmapQuery::NAME_MOST);
    let found = mm.with_area(
        query.addr,
        find,
        |vma| query.wants(vma.flags(), vma.file().is_some()),
        |area, vma| {
            let len = match query.name.1 {
                0 => Ok(0),
                _ => put_name(area, &mut name[..room]),
            };
            (fill::<P>(area, query), vma.file().cloned(), len)
        },
    );
    let (mut bytes, file, name_len) = found.ok_or(Errno::ENOENT)?;
    let build_id = match query.build_id.1 {
        0 => None,
        _ => file.as_ref().and_then(build_id_of),
    };
    let id_len = build_id.map_or(0, |id| id.as_bytes().len());
    if id_len > query.build_id.1 as usize {
        return Err(Errno::ENAMETOOLONG);
    }
    let name_len = name_len?;
    bytes[80..84].copy_from_slice(&(name_len as u32).to_ne_bytes());
    bytes[84..88].copy_from_slice(&(id_len as u32).to_ne_bytes());
    Ok(ProcmapAnswer {
        bytes,
        name_len,
        build_id,
    })
}

/// The structure but for the sizes of name and build id.
fn fill<P: Platform>(area: &Area<'_>, query: &ProcmapQuery) -> [u8; ProcmapQuery::BYTES] {
    let mut flags = ProcmapFlags::empty();
    PERMISSIONS
        .into_iter()
        .for_each(|(flag, told)| flags.set(told, area.flags.contains(flag)));
    let device = u64::from(area.major) | u64::from(area.minor) << 32;
    let words = [
        query.size,
        query.flags.bits(),
        query.addr.get(),
        area.range.start().get(),
        area.range.end().get(),
        flags.bits(),
        P::Format::GRANULE.bytes(),
        area.offset,
        area.inode,
        device,
        0,
        query.name.0,
        query.build_id.0,
    ];
    let mut bytes = [0; ProcmapQuery::BYTES];
    for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
        part.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// Writes the name of an area and a NUL; returns how many bytes that were, 0 for none.
fn put_name(area: &Area<'_>, into: &mut [u8]) -> Result<usize, Errno> {
    let parts: [&[u8]; 3] = match area.name {
        AreaName::None => return Ok(0),
        AreaName::Special(name) => [name.as_bytes(), b"", b""],
        AreaName::Anonymous(name) => [b"[anon:", name.as_bytes(), b"]"],
        AreaName::AnonymousShared(name) => [b"[anon_shmem:", name.as_bytes(), b"]"],
        AreaName::Path(path, Linked::Yes) => [path, b"", b""],
        AreaName::Path(path, Linked::No) => [path, b" (deleted)", b""],
    };
    let mut len = 0;
    for part in parts.into_iter().chain([&b"\0"[..]]) {
        let room = into.get_mut(len..len + part.len());
        room.ok_or(Errno::ENAMETOOLONG)?.copy_from_slice(part);
        len += part.len();
    }
    Ok(len)
}

fn build_id_of<P: Platform>(file: &Arc<File<P>>) -> Option<BuildId> {
    let cache = file.cache()?;
    BuildId::of(|at, into| {
        let read = cache.read(at, into).ok()?;
        (read == into.len()).then_some(())
    })
}

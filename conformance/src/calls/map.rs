//! mmap and munmap.

use portolan::paging::Format;
use portolan::space::MapRequest;

use super::{Call, number, unit};
use crate::arena::PAGE;
use crate::arg::{Arg, Args, Kind, Names, arg};
use crate::files::NO_FILE;
use crate::generate::Gen;
use crate::linux::{Child, sys};
use crate::ours::{Space, World};

/// PROT_*.
pub const PROT: Names = &[
    ("PROT_READ", 1),
    ("PROT_WRITE", 2),
    ("PROT_EXEC", 4),
    ("PROT_SEM", 8),
    ("PROT_GROWSDOWN", 0x0100_0000),
    ("PROT_GROWSUP", 0x0200_0000),
    ("PROT_NONE", 0),
];

/// MAP_*. The types are values of four bits.
pub const MAP: Names = &[
    ("MAP_SHARED_VALIDATE", 3),
    ("MAP_SHARED", 1),
    ("MAP_PRIVATE", 2),
    ("MAP_DROPPABLE", 8),
    ("MAP_FIXED", 0x10),
    ("MAP_ANONYMOUS", 0x20),
    ("MAP_32BIT", 0x40),
    ("MAP_ABOVE4G", 0x80),
    ("MAP_GROWSDOWN", 0x100),
    ("MAP_DENYWRITE", 0x800),
    ("MAP_EXECUTABLE", 0x1000),
    ("MAP_LOCKED", 0x2000),
    ("MAP_NORESERVE", 0x4000),
    ("MAP_POPULATE", 0x8000),
    ("MAP_NONBLOCK", 0x1_0000),
    ("MAP_STACK", 0x2_0000),
    ("MAP_SYNC", 0x8_0000),
    ("MAP_FIXED_NOREPLACE", 0x10_0000),
];

/// `mmap`.
pub struct Mmap;

/// `munmap`.
pub struct Munmap;

fn flags(g: &mut Gen, file: u64) -> u64 {
    let place = g.random.pick(&[
        0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10_0000, 0x10_0000, 0, 0,
    ]);
    let kind = if g.random.one_in(30) {
        g.random.pick(&[0, 3, 3, 8, 4])
    } else if g.random.one_in(3) {
        1
    } else {
        2
    };
    let mut flags = place | kind;
    if (file == NO_FILE) != g.random.one_in(50) {
        flags |= 0x20;
    }
    let extra = [
        (0x4000, 14),
        (0x8000, 12),
        (0x1_8000, 30),
        (0x100, 12),
        (0x2000, 16),
        (0x2_0000, 30),
        (0x1800, 60),
        (0x40, 60),
        (0x80, 60),
        (0x8_0000, 150),
        (0x0200_0000, 150),
    ];
    for (bit, odds) in extra {
        if g.random.one_in(odds) && (bit != 0x2000 || g.locks) {
            flags |= bit;
        }
    }
    flags
}

impl Call for Mmap {
    const NAME: &'static str = "mmap";
    const ARGS: &'static [Arg] = &[
        arg("addr", Kind::Addr),
        arg("len", Kind::Len),
        arg("prot", Kind::Flags(PROT)),
        arg("flags", Kind::Flags(MAP)),
        arg("file", Kind::File),
        arg("offset", Kind::Len),
    ];
    const WEIGHT: u64 = 200;
    const ERRNOS: &'static [i32] = &[
        libc::EPERM,
        libc::EAGAIN,
        libc::ENOMEM,
        libc::EACCES,
        libc::EEXIST,
        libc::EINVAL,
        libc::EOVERFLOW,
        libc::EOPNOTSUPP,
    ];

    fn generate(g: &mut Gen) -> Args {
        let file = g.random.pick(&[0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 3, 3]);
        let file = if g.random.one_in(60) { 4 } else { file };
        let flags = flags(g, file);
        let addr = match g.random.below(40) {
            // Exactly at an address between the two minima of Linux, who may is not what the library asks.
            0 if flags & 0x10_0010 == 0 => g.random.pick(&[1, PAGE, 2 * PAGE - 1, 1 << 47]),
            0 => g.random.pick(&[0, 0, 1 << 20, 1 << 47, u64::MAX]),
            1 | 2 if flags & 0x10_0010 == 0 => 0,
            _ => g.addr(),
        };
        let len = if g.random.one_in(60) {
            g.random
                .pick(&[0, u64::MAX, u64::MAX - 4095, 1 << 47, 1 << 46, 1 << 40])
        } else {
            g.length()
        };
        let offset = match g.random.below(60) {
            0 => g
                .random
                .pick(&[100, 1 << 40, 1 << 62, !0 << 12, 0x7fff_ffff_ffff_f000]),
            n if n < 20 => 0,
            _ => g.random.below(8) * PAGE,
        };
        let odd = match g.random.below(60) {
            0 => g.random.pick(&[8, 0x0100_0000, 0x0200_0000, 0x10]),
            _ => 0,
        };
        [addr, len, g.prot() | odd, flags, file, offset]
    }

    fn linux(child: &mut Child, a: &Args) -> i64 {
        let fd = if a[3] & 0x20 != 0 { -1 } else { child.fd(a[4]) };
        sys(libc::SYS_mmap, [a[0], a[1], a[2], a[3], fd as u64, a[5]])
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        let file = match a[3] & 0x20 {
            // The embedder's: the library is given the file, not the descriptor.
            0 => match world.file(a[4]) {
                None if a[5] & (PAGE - 1) != 0 => return -i64::from(libc::EINVAL),
                None => return -i64::from(libc::EBADF),
                file => file,
            },
            _ => None,
        };
        let request = MapRequest {
            addr: world.at(a[0]),
            len: world.bytes(a[1]),
            prot: a[2] as u32,
            flags: a[3] as u32,
            file,
            offset: world.bytes(a[5]),
        };
        number(space.mmap(&request).map(|at| at.get()))
    }
}

impl Call for Munmap {
    const NAME: &'static str = "munmap";
    const ARGS: &'static [Arg] = &[arg("addr", Kind::Addr), arg("len", Kind::Len)];
    const WEIGHT: u64 = 80;
    const ERRNOS: &'static [i32] = &[libc::EINVAL];

    fn generate(g: &mut Gen) -> Args {
        let len = if g.random.one_in(50) {
            g.random.pick(&[0, u64::MAX, u64::MAX - 4095, 1 << 47])
        } else {
            g.length()
        };
        [g.addr(), len, 0, 0, 0, 0]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        sys(libc::SYS_munmap, *a)
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        unit(space.munmap(world.at(a[0]), world.bytes(a[1])))
    }
}

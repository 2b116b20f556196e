//! mseal, seals of files, and remap_file_pages.

use portolan::paging::Format;

use super::{Call, unit};
use crate::arg::{Arg, Args, Kind, Names, arg};
use crate::cprogram;
use crate::files::WRITABLE;
use crate::generate::Gen;
use crate::linux::{Child, sys};
use crate::ours::{Space, World};

/// Not in every libc.
const SYS_MSEAL: i64 = 462;

/// `mseal`.
pub struct Mseal;

impl Call for Mseal {
    const NAME: &'static str = "mseal";
    const ARGS: &'static [Arg] = &[
        arg("addr", Kind::Addr),
        arg("len", Kind::Len),
        arg("flags", Kind::Number),
    ];
    const WEIGHT: u64 = 6;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::ENOMEM];

    fn generate(g: &mut Gen) -> Args {
        let flags = u64::from(g.random.one_in(20));
        [g.addr(), g.length_or_hostile(), flags, 0, 0, 0]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        sys(SYS_MSEAL, *a)
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        unit(space.mseal(world.at(a[0]), world.bytes(a[1]), a[2]))
    }
}

const SEALS: Names = &[
    ("F_SEAL_SEAL", 1),
    ("F_SEAL_SHRINK", 2),
    ("F_SEAL_GROW", 4),
    ("F_SEAL_WRITE", 8),
    ("F_SEAL_FUTURE_WRITE", 16),
];

/// `fcntl(F_ADD_SEALS)`.
pub struct AddSeals;

impl Call for AddSeals {
    const NAME: &'static str = "add_seals";
    const ARGS: &'static [Arg] = &[arg("file", Kind::File), arg("seals", Kind::Flags(SEALS))];
    const WEIGHT: u64 = 4;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::EPERM, libc::EBUSY];

    fn generate(g: &mut Gen) -> Args {
        let seals = g.random.pick(&[0, 1, 2, 4, 8, 8, 16, 6, 15, 1 << 8]);
        [g.random.pick(&WRITABLE), seals, 0, 0, 0, 0]
    }

    fn linux(child: &mut Child, a: &Args) -> i64 {
        let fd = child.fd(a[0]) as u64;
        sys(
            libc::SYS_fcntl,
            [fd, libc::F_ADD_SEALS as u64, a[1], 0, 0, 0],
        )
    }

    fn ours<F: Format>(world: &mut World<F>, _: &Space<F>, a: &Args) -> i64 {
        unit(world.cache(a[0]).add_seals(a[1] as u32))
    }

    fn c(a: &Args) -> String {
        let file = cprogram::file(a[0]);
        format!(
            "say(\"add_seals\", fcntl({file}, F_ADD_SEALS, {:#x}));",
            a[1]
        )
    }
}

const REMAP: Names = &[("MAP_NONBLOCK", 0x1_0000), ("MAP_SHARED", 1), ("0", 0)];

/// `remap_file_pages`.
pub struct RemapFilePages;

impl Call for RemapFilePages {
    const NAME: &'static str = "remap_file_pages";
    const ARGS: &'static [Arg] = &[
        arg("addr", Kind::Addr),
        arg("len", Kind::Len),
        arg("prot", Kind::Number),
        arg("pgoff", Kind::Number),
        arg("flags", Kind::Flags(REMAP)),
    ];
    const WEIGHT: u64 = 10;
    const ERRNOS: &'static [i32] = &[libc::EINVAL];

    fn generate(g: &mut Gen) -> Args {
        let prot = if g.random.one_in(12) { 1 } else { 0 };
        let pgoff = match g.random.below(30) {
            0 => g.random.pick(&[u64::MAX, 1 << 52, 1 << 51]),
            _ => g.random.below(8),
        };
        let flags = g.random.pick(&[0, 0, 0, 0x1_0000, 1]);
        [g.addr(), g.length_or_hostile(), prot, pgoff, flags, 0]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        sys(libc::SYS_remap_file_pages, *a)
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        let (at, len) = (world.at(a[0]), world.bytes(a[1]));
        unit(space.remap_file_pages(at, len, a[2], a[3], a[4] as u32))
    }
}

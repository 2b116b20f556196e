//! madvise, msync and mincore.

use portolan::paging::Format;

use super::{Call, unit};
use crate::arena::PAGE;
use crate::arg::{Arg, Args, Kind, Names, arg};
use crate::generate::Gen;
use crate::linux::{Child, sys};
use crate::ours::{Space, World};
use crate::trace::Sink;

pub(super) const ADVICE: Names = &[
    ("MADV_NORMAL", 0),
    ("MADV_RANDOM", 1),
    ("MADV_SEQUENTIAL", 2),
    ("MADV_WILLNEED", 3),
    ("MADV_DONTNEED", 4),
    ("MADV_FREE", 8),
    ("MADV_REMOVE", 9),
    ("MADV_DONTFORK", 10),
    ("MADV_DOFORK", 11),
    ("MADV_DONTDUMP", 16),
    ("MADV_DODUMP", 17),
    ("MADV_WIPEONFORK", 18),
    ("MADV_KEEPONFORK", 19),
    ("MADV_COLD", 20),
    ("MADV_POPULATE_READ", 22),
    ("MADV_POPULATE_WRITE", 23),
    ("MADV_DONTNEED_LOCKED", 24),
    ("MADV_GUARD_INSTALL", 102),
    ("MADV_GUARD_REMOVE", 103),
];

/// `madvise`.
pub struct Madvise;

impl Call for Madvise {
    const NAME: &'static str = "madvise";
    const ARGS: &'static [Arg] = &[
        arg("addr", Kind::Addr),
        arg("len", Kind::Len),
        arg("advice", Kind::Choice(ADVICE)),
    ];
    const WEIGHT: u64 = 110;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::ENOMEM, libc::EACCES, libc::EFAULT];

    fn generate(g: &mut Gen) -> Args {
        let advice = g.random.pick(&[
            0, 1, 2, 3, 4, 4, 4, 8, 8, 9, 9, 10, 11, 16, 17, 18, 19, 20, 22, 23, 22, 23, 24, 5,
            102, 102, 103,
        ]);
        [g.addr(), g.length_or_hostile(), advice, 0, 0, 0]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        sys(libc::SYS_madvise, *a)
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        unit(space.madvise(world.at(a[0]), world.bytes(a[1]), a[2] as u32))
    }
}

const SYNC: Names = &[
    ("MS_ASYNC", 1),
    ("MS_INVALIDATE", 2),
    ("MS_SYNC", 4),
    ("0", 0),
];

/// `msync`.
pub struct Msync;

impl Call for Msync {
    const NAME: &'static str = "msync";
    const ARGS: &'static [Arg] = &[
        arg("addr", Kind::Addr),
        arg("len", Kind::Len),
        arg("flags", Kind::Flags(SYNC)),
    ];
    const WEIGHT: u64 = 18;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::ENOMEM, libc::EBUSY];

    fn generate(g: &mut Gen) -> Args {
        let flags = g.random.pick(&[0, 1, 2, 4, 5, 6, 4, 8]);
        [g.addr(), g.length_or_hostile(), flags, 0, 0, 0]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        sys(libc::SYS_msync, *a)
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        unit(space.msync(world.at(a[0]), world.bytes(a[1]), a[2] as u32))
    }
}

/// `mincore`.
pub struct Mincore;

/// The most pages that are asked about.
const MOST: usize = 64;

impl Call for Mincore {
    const NAME: &'static str = "mincore";
    const ARGS: &'static [Arg] = &[arg("addr", Kind::Addr), arg("len", Kind::Len)];
    const WEIGHT: u64 = 30;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::ENOMEM];

    fn generate(g: &mut Gen) -> Args {
        let len = if g.random.one_in(40) {
            g.random.pick(&[0, u64::MAX, 1 << 47])
        } else {
            g.length()
        };
        [
            g.addr(),
            len.min(MOST as u64 * PAGE).max(len >> 46 << 46),
            0,
            0,
            0,
            0,
        ]
    }

    fn linux(child: &mut Child, a: &Args) -> i64 {
        let mut told = [0u8; MOST];
        let result = sys(
            libc::SYS_mincore,
            [a[0], a[1], told.as_mut_ptr() as u64, 0, 0, 0],
        );
        child.sink.push(bits(&told));
        result
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        let (mut told, mut done) = ([0u8; MOST], 0);
        let result = unit(space.mincore(world.at(a[0]), world.bytes(a[1]), |bytes| {
            told[done..done + bytes.len()].copy_from_slice(bytes);
            done += bytes.len();
            Ok(())
        }));
        world.sink.push(bits(&told));
        result
    }
}

fn bits(told: &[u8; MOST]) -> u64 {
    told.iter()
        .enumerate()
        .fold(0, |word, (n, byte)| word | u64::from(byte & 1) << n)
}

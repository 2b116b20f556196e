//! mremap.

use portolan::paging::Format;

use super::{Call, number};
use crate::arg::{Arg, Args, Kind, Names, arg};
use crate::generate::Gen;
use crate::linux::{Child, sys};
use crate::ours::{Space, World};

const FLAGS: Names = &[
    ("MREMAP_MAYMOVE", 1),
    ("MREMAP_FIXED", 2),
    ("MREMAP_DONTUNMAP", 4),
    ("0", 0),
];

/// `mremap`.
pub struct Mremap;

impl Call for Mremap {
    const NAME: &'static str = "mremap";
    const ARGS: &'static [Arg] = &[
        arg("addr", Kind::Addr),
        arg("old_len", Kind::Len),
        arg("new_len", Kind::Len),
        arg("flags", Kind::Flags(FLAGS)),
        arg("new_addr", Kind::Addr),
    ];
    const WEIGHT: u64 = 130;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::EFAULT, libc::ENOMEM, libc::EAGAIN];

    fn generate(g: &mut Gen) -> Args {
        let len = g.length();
        let old = if g.random.one_in(12) { 0 } else { len };
        let new = match g.random.below(60) {
            0 => g.random.pick(&[0, u64::MAX, u64::MAX - 4095, 1 << 47]),
            n if n < 30 => len,
            _ => g.length(),
        };
        let mut flags = g.random.pick(&[0, 1, 1, 3, 3, 3, 5, 7, 7, 2, 4]);
        if g.locks && flags & 4 != 0 {
            // What Linux counts after moving locked memory that way is wrong for good: see docs/deviations.md.
            flags &= !4;
        }
        if g.random.one_in(60) {
            flags |= 8;
        }
        let old = if flags & 4 != 0 && !g.random.one_in(8) {
            new
        } else {
            old
        };
        [g.addr(), old, new, flags, g.addr(), 0]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        sys(libc::SYS_mremap, *a)
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        let moved = space.mremap(
            world.at(a[0]),
            world.bytes(a[1]),
            world.bytes(a[2]),
            a[3] as u32,
            world.at(a[4]),
        );
        number(moved.map(|at| at.get()))
    }
}

//! mprotect.

use portolan::paging::Format;

use super::map::PROT;
use super::{Call, unit};
use crate::arg::{Arg, Args, Kind, arg};
use crate::generate::Gen;
use crate::linux::{Child, sys};
use crate::ours::{Space, World};

/// `mprotect`.
pub struct Mprotect;

impl Call for Mprotect {
    const NAME: &'static str = "mprotect";
    const ARGS: &'static [Arg] = &[
        arg("addr", Kind::Addr),
        arg("len", Kind::Len),
        arg("prot", Kind::Flags(PROT)),
    ];
    const WEIGHT: u64 = 110;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::ENOMEM, libc::EACCES];

    fn generate(g: &mut Gen) -> Args {
        let mut prot = g.prot();
        if g.random.one_in(12) {
            prot |= g
                .random
                .pick(&[0x0100_0000, 0x0100_0000, 0x0200_0000, 0x0300_0000, 8, 0x10]);
        }
        [g.addr(), g.length_or_hostile(), prot, 0, 0, 0]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        sys(libc::SYS_mprotect, *a)
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        unit(space.mprotect(world.at(a[0]), world.bytes(a[1]), a[2] as u32))
    }
}

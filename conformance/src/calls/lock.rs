//! mlock and its kin.

use portolan::paging::Format;

use super::{Call, unit};
use crate::arg::{Arg, Args, Kind, Names, arg};
use crate::generate::Gen;
use crate::linux::{Child, sys};
use crate::ours::{Space, World};

/// `mlock2`, which with no flags is mlock.
pub struct Mlock2;

/// `munlock`.
pub struct Munlock;

/// `mlockall`.
pub struct Mlockall;

/// `munlockall`.
pub struct Munlockall;

const RANGE: &[Arg] = &[arg("addr", Kind::Addr), arg("len", Kind::Len)];
const ONFAULT: Names = &[("MLOCK_ONFAULT", 1), ("0", 0)];
const ALL: Names = &[("MCL_CURRENT", 1), ("MCL_FUTURE", 2), ("MCL_ONFAULT", 4)];

impl Call for Mlock2 {
    const NAME: &'static str = "mlock2";
    const ARGS: &'static [Arg] = &[RANGE[0], RANGE[1], arg("flags", Kind::Flags(ONFAULT))];
    const WEIGHT: u64 = 40;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::ENOMEM, libc::EPERM, libc::EAGAIN];

    fn generate(g: &mut Gen) -> Args {
        let flags = g.random.pick(&[0, 0, 0, 1, 1, 2]);
        [g.addr(), g.length_or_hostile(), flags, 0, 0, 0]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        sys(libc::SYS_mlock2, *a)
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        unit(space.mlock(world.at(a[0]), world.bytes(a[1]), a[2] as u32))
    }
}

impl Call for Munlock {
    const NAME: &'static str = "munlock";
    const ARGS: &'static [Arg] = RANGE;
    const WEIGHT: u64 = 15;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::ENOMEM];

    fn generate(g: &mut Gen) -> Args {
        [g.addr(), g.length_or_hostile(), 0, 0, 0, 0]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        sys(libc::SYS_munlock, *a)
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        unit(space.munlock(world.at(a[0]), world.bytes(a[1])))
    }
}

impl Call for Mlockall {
    const NAME: &'static str = "mlockall";
    const ARGS: &'static [Arg] = &[arg("flags", Kind::Flags(ALL))];
    const WEIGHT: u64 = 4;
    const ERRNOS: &'static [i32] = &[libc::EINVAL, libc::ENOMEM, libc::EPERM];

    fn generate(g: &mut Gen) -> Args {
        let flags = match g.locks {
            true => g.random.pick(&[0, 1, 2, 2, 3, 4, 5, 6, 6, 7, 8]),
            false => g.random.pick(&[0, 4, 8]),
        };
        [flags, 0, 0, 0, 0, 0]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        sys(libc::SYS_mlockall, *a)
    }

    fn ours<F: Format>(_: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        unit(space.mlockall(a[0] as u32))
    }
}

impl Call for Munlockall {
    const NAME: &'static str = "munlockall";
    const ARGS: &'static [Arg] = &[];
    const WEIGHT: u64 = 4;

    fn generate(_: &mut Gen) -> Args {
        Args::default()
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        sys(libc::SYS_munlockall, *a)
    }

    fn ours<F: Format>(_: &mut World<F>, space: &Space<F>, _: &Args) -> i64 {
        space.munlockall();
        0
    }
}

//! setrlimit: limits that are near what a process has.

use core::sync::atomic::Ordering;
use portolan::paging::Format;

use super::Call;
use crate::arena::PAGE;
use crate::arg::{Arg, Args, Kind, Names, arg};
use crate::cprogram;
use crate::generate::Gen;
use crate::linux::Child;
use crate::ours::{Space, World};

const RESOURCE: Names = &[
    ("RLIMIT_DATA", 2),
    ("RLIMIT_STACK", 3),
    ("RLIMIT_MEMLOCK", 8),
    ("RLIMIT_AS", 9),
];
const BASE: Names = &[("ALONE", 0), ("ON_TOP", 1), ("NONE", 2)];

/// `setrlimit`: so many bytes, alone or on top of what the process had at first.
pub struct Setrlimit;

impl Call for Setrlimit {
    const NAME: &'static str = "setrlimit";
    const ARGS: &'static [Arg] = &[
        arg("resource", Kind::Choice(RESOURCE)),
        arg("bytes", Kind::Len),
        arg("base", Kind::Choice(BASE)),
    ];
    const WEIGHT: u64 = 10;

    fn generate(g: &mut Gen) -> Args {
        let pages = g.random.below(60) * PAGE + g.random.pick(&[0, 0, 0, 1]);
        if g.random.one_in(3) {
            return [g.random.pick(&[2, 9]), 0, 2, 0, 0, 0];
        }
        match g.random.below(10) {
            0..3 => [2, pages, 1, 0, 0, 0],
            3..6 => [9, pages, 1, 0, 0, 0],
            6 => [3, pages, 0, 0, 0, 0],
            7 => [8, 0, 0, 0, 0, 0],
            _ => [8, pages, 0, 0, 0, 0],
        }
    }

    fn linux(child: &mut Child, a: &Args) -> i64 {
        let base = child.base();
        let limit = value(a, base.total, base.data);
        crate::linux::limit(a[0], limit)
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        let limit = world.bytes(value(a, world.base.total, world.base.data));
        let limits = space.limits();
        let which = match a[0] {
            2 => &limits.data,
            3 => &limits.stack,
            8 => &limits.memlock,
            _ => &limits.address_space,
        };
        which.store(limit, Ordering::Relaxed);
        0
    }

    fn c(a: &Args) -> String {
        let on_top = match (a[2], a[0]) {
            (1, 2) => "base_data + ",
            (1, _) => "base_total + ",
            _ => "",
        };
        let value = match a[2] {
            2 => "RLIM_INFINITY".to_owned(),
            _ => format!("{on_top}{:#x}", a[1]),
        };
        let resource = cprogram::named(Self::ARGS, a, 0);
        format!("limit({resource}, {value});")
    }
}

/// The limit in bytes.
fn value(a: &Args, total: u64, data: u64) -> u64 {
    match (a[2], a[0]) {
        (2, _) => u64::MAX,
        (1, 2) => data * PAGE + a[1],
        (1, _) => total * PAGE + a[1],
        _ => a[1],
    }
}

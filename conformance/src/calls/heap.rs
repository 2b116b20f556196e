//! brk.

use portolan::paging::Format;

use super::Call;
use crate::arena::{HEAP, PAGE};
use crate::arg::{Arg, Args, Kind, arg};
use crate::generate::Gen;
use crate::linux::{Child, sys};
use crate::ours::{Space, World};

/// `brk`.
pub struct Brk;

impl Call for Brk {
    const NAME: &'static str = "brk";
    const ARGS: &'static [Arg] = &[arg("addr", Kind::Addr)];
    const WEIGHT: u64 = 25;

    fn generate(g: &mut Gen) -> Args {
        let addr = match g.random.below(12) {
            0 => g.random.pick(&[0, HEAP - PAGE, HEAP]),
            1 => g.addr(),
            _ => HEAP + g.random.below(12) * PAGE + g.random.pick(&[0, 0, 0, 1, 100]),
        };
        [addr, 0, 0, 0, 0, 0]
    }

    fn linux(_: &mut Child, a: &Args) -> i64 {
        sys(libc::SYS_brk, *a)
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        space.brk(world.at(a[0])).get() as i64
    }
}

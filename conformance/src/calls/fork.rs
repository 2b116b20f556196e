//! Forks: what the child does is up to the kind.

use portolan::paging::Format;

use super::Call;
use crate::arg::{Arg, Args};
use crate::generate::Gen;
use crate::linux::Child;
use crate::ours::{Space, World};

/// A child shows what it has, and ends.
pub struct ForkShow;

/// The child goes on with the sequence; the parent waits, and shows what it has at the end.
pub struct ForkInto;

/// The child waits, and shows what it has at the end.
pub struct ForkHold;

impl Call for ForkShow {
    const NAME: &'static str = "fork_show";
    const ARGS: &'static [Arg] = &[];
    const WEIGHT: u64 = 8;

    fn generate(_: &mut Gen) -> Args {
        Args::default()
    }

    fn linux(child: &mut Child, _: &Args) -> i64 {
        child.fork_show()
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, _: &Args) -> i64 {
        world.fork_show(space)
    }

    fn c(_: &Args) -> String {
        "fork_show();".to_owned()
    }
}

impl Call for ForkInto {
    const NAME: &'static str = "fork_into";
    const ARGS: &'static [Arg] = &[];
    const WEIGHT: u64 = 8;

    fn generate(_: &mut Gen) -> Args {
        Args::default()
    }

    fn linux(child: &mut Child, _: &Args) -> i64 {
        child.fork_into()
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, _: &Args) -> i64 {
        world.fork_into(space)
    }

    fn c(_: &Args) -> String {
        "if (fork()) { wait(0); printf(\"the parent:\\n\"); show(); return 0; }".to_owned()
    }
}

impl Call for ForkHold {
    const NAME: &'static str = "fork_hold";
    const ARGS: &'static [Arg] = &[];
    const WEIGHT: u64 = 12;

    fn generate(_: &mut Gen) -> Args {
        Args::default()
    }

    fn linux(child: &mut Child, _: &Args) -> i64 {
        child.fork_hold()
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, _: &Args) -> i64 {
        world.fork_hold(space)
    }

    fn c(_: &Args) -> String {
        "fork_hold();".to_owned()
    }
}

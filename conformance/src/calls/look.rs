//! Looking at what there is: memory and files by hash, page counts. The maps are compared after every step and need no call.

use portolan::paging::Format;

use super::Call;
use crate::arg::{Arg, Args};
use crate::generate::Gen;
use crate::linux::Child;
use crate::ours::{Space, World};

/// Every byte of the memory below the filled part, and of the files. The loads count as uses.
pub struct Memory;

/// Page counts, and the figures of smaps.
pub struct Counts;

/// The words of pagemap.
pub struct Pagemap;

impl Call for Memory {
    const NAME: &'static str = "memory";
    const ARGS: &'static [Arg] = &[];
    const WEIGHT: u64 = 20;

    fn generate(_: &mut Gen) -> Args {
        Args::default()
    }

    fn linux(child: &mut Child, _: &Args) -> i64 {
        child.later.memory = true;
        0
    }

    fn ours<F: Format>(world: &mut World<F>, _: &Space<F>, _: &Args) -> i64 {
        world.later.memory = true;
        0
    }

    fn c(_: &Args) -> String {
        "memory();".to_owned()
    }
}

impl Call for Counts {
    const NAME: &'static str = "counts";
    const ARGS: &'static [Arg] = &[];
    const WEIGHT: u64 = 40;

    fn generate(_: &mut Gen) -> Args {
        Args::default()
    }

    fn linux(child: &mut Child, _: &Args) -> i64 {
        child.later.counts = true;
        0
    }

    fn ours<F: Format>(world: &mut World<F>, _: &Space<F>, _: &Args) -> i64 {
        world.later.counts = true;
        0
    }

    fn c(_: &Args) -> String {
        "show();".to_owned()
    }
}

impl Call for Pagemap {
    const NAME: &'static str = "pagemap";
    const ARGS: &'static [Arg] = &[];
    const WEIGHT: u64 = 20;

    fn generate(_: &mut Gen) -> Args {
        Args::default()
    }

    fn linux(child: &mut Child, _: &Args) -> i64 {
        child.later.pagemap = true;
        0
    }

    fn ours<F: Format>(world: &mut World<F>, _: &Space<F>, _: &Args) -> i64 {
        world.later.pagemap = true;
        0
    }

    fn c(_: &Args) -> String {
        "pagemap();".to_owned()
    }
}

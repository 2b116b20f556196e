//! Loads, stores and fetches.

use portolan::paging::{Access, Format};

use super::Call;
use crate::arena::PAGE;
use crate::arg::{Arg, Args, Kind, arg};
use crate::generate::Gen;
use crate::linux::{Child, fault};
use crate::ours::{Space, World};
use crate::trace::Sink;

/// The byte that is an instruction to return.
const RETURN: u64 = 0xc3;

/// One byte is loaded; its value is the result.
pub struct Load;

impl Call for Load {
    const NAME: &'static str = "load";
    const ARGS: &'static [Arg] = &[arg("addr", Kind::Addr)];
    const WEIGHT: u64 = 50;

    fn generate(g: &mut Gen) -> Args {
        [g.byte_addr(), 0, 0, 0, 0, 0]
    }

    fn linux(child: &mut Child, a: &Args) -> i64 {
        let result = fault::load(a[0]);
        child.sink.push(fault::address());
        result
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        let at = world.at(a[0]);
        let (result, address) = world.load(space, at);
        world.sink.push(address);
        result
    }

    fn c(a: &Args) -> String {
        format!("load({});", address(a))
    }
}

/// One byte is stored.
pub struct Store;

impl Call for Store {
    const NAME: &'static str = "store";
    const ARGS: &'static [Arg] = &[arg("addr", Kind::Addr), arg("byte", Kind::Number)];
    const WEIGHT: u64 = 80;

    fn generate(g: &mut Gen) -> Args {
        [g.byte_addr(), g.byte(), 0, 0, 0, 0]
    }

    fn linux(child: &mut Child, a: &Args) -> i64 {
        let result = fault::store(a[0], a[1] as u8);
        child.sink.push(fault::address());
        result
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        let at = world.at(a[0]);
        let (result, address) = world.store(space, at, a[1] as u8);
        world.sink.push(address);
        result
    }

    fn c(a: &Args) -> String {
        format!("store({}, {});", address(a), a[1])
    }
}

/// The first byte of each of so many pages is stored; the result is how many went through.
pub struct Fill;

impl Call for Fill {
    const NAME: &'static str = "fill";
    const ARGS: &'static [Arg] = &[
        arg("addr", Kind::Addr),
        arg("pages", Kind::Number),
        arg("byte", Kind::Number),
    ];
    const WEIGHT: u64 = 80;

    fn generate(g: &mut Gen) -> Args {
        let addr = g.addr() & !(PAGE - 1);
        [addr, 1 + g.random.below(8), g.byte(), 0, 0, 0]
    }

    fn linux(child: &mut Child, a: &Args) -> i64 {
        let mut stored = 0;
        for page in 0..a[1] {
            match fault::store(a[0] + page * PAGE, a[2] as u8) {
                0 => stored += 1,
                signal => child.sink.push(signal as u64),
            }
        }
        stored
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        let mut stored = 0;
        for page in 0..a[1] {
            let at = world.at(a[0] + page * PAGE);
            match world.store(space, at, a[2] as u8).0 {
                0 => stored += 1,
                signal => world.sink.push(signal as u64),
            }
        }
        stored
    }

    fn c(a: &Args) -> String {
        let at = address(a);
        format!(
            "for (int n = 0; n < {}; n++) store({at} + n * 4096, {});",
            a[1], a[2]
        )
    }
}

/// A fetch, if the byte there is one that returns; the result is the byte, as loaded.
pub struct Execute;

impl Call for Execute {
    const NAME: &'static str = "execute";
    const ARGS: &'static [Arg] = &[arg("addr", Kind::Addr)];
    const WEIGHT: u64 = 20;

    fn generate(g: &mut Gen) -> Args {
        [g.addr() & !(PAGE - 1), 0, 0, 0, 0, 0]
    }

    fn linux(child: &mut Child, a: &Args) -> i64 {
        let mut result = fault::load(a[0]);
        if result == RETURN as i64 {
            result = fault::execute(a[0]);
        }
        child.sink.push(fault::address());
        result
    }

    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, a: &Args) -> i64 {
        let at = world.at(a[0]);
        let (mut result, mut address) = world.load(space, at);
        if result == RETURN as i64 {
            (result, address) = world.access(space, at, Access::Execute, |cpu, on| {
                cpu.fetch(on, at).map(i64::from)
            });
        }
        world.sink.push(address);
        result
    }

    fn c(a: &Args) -> String {
        format!("execute({});", address(a))
    }
}

fn address(a: &Args) -> String {
    crate::cprogram::address(a[0])
}

//! Running sequences on the library: machines that are used again and again, with all that must hold at the end of each.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use portolan::machine::Machine;
use portolan::paging::Format;
use portolan::platform::CpuId;
use portolan::sim::Sim;

use super::{Space, World, machine};
use crate::later::{Fork, Later};
use crate::linux::{Base, HostSettings};
use crate::op::{Op, Sequence};
use crate::trace::{Sink, Tag};

/// How often the invariants of a space are checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checks {
    /// After every step.
    Always,
    /// Where something is looked at.
    Sometimes,
}

/// The library in one page-table format.
pub trait Library: Send {
    /// Does a sequence: what was seen.
    ///
    /// # Errors
    /// What panicked, or did not hold at the end.
    fn run(&mut self, sequence: &Sequence, base: Base, checks: Checks) -> Result<Vec<u64>, String>;
}

/// The library in format `F`.
pub struct Ours<F: Format> {
    host: HostSettings,
    machine: Option<Machine<Sim<F>>>,
    /// Pages of data of its own that a process may have on that machine.
    data: u64,
}

impl<F: Format> Ours<F> {
    /// On a machine with the settings of the outer kernel.
    pub fn new(host: HostSettings) -> Self {
        Self {
            host,
            machine: None,
            data: 0,
        }
    }
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static QUIET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Keeps what a panic says for the report instead of printing it, in threads that ask for it.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                PANIC.set(Some(info.to_string()));
            } else {
                usual(info);
            }
        }));
    });
}

impl<F: Format> Library for Ours<F> {
    fn run(&mut self, sequence: &Sequence, base: Base, checks: Checks) -> Result<Vec<u64>, String> {
        keep_panics();
        // What the process on Linux has of its own depends on the tester's, which may grow.
        let kept = self.machine.take().filter(|_| base.data <= self.data);
        let machine = kept.unwrap_or_else(|| {
            self.data = base.data;
            machine::<F>(&self.host, base.data)
        });
        QUIET.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| {
            run_on(&machine, sequence, base, checks)
        }));
        QUIET.set(false);
        match result {
            Ok(Ok(words)) => {
                self.machine = Some(machine);
                Ok(words)
            }
            Ok(Err(text)) => Err(text),
            Err(_) => {
                // Its locks may be held for ever.
                std::mem::forget(machine);
                Err(PANIC.take().unwrap_or_default())
            }
        }
    }
}

/// One sequence, and what must hold when it is over.
fn run_on<F: Format>(
    machine: &Machine<Sim<F>>,
    sequence: &Sequence,
    base: Base,
    checks: Checks,
) -> Result<Vec<u64>, String> {
    let free = machine.phys().free_frames();
    let stale = machine.platform().tlb_counts().stale;
    let words = {
        let mut world = World::new(machine, base).map_err(|error| error.to_string())?;
        let space = world
            .space(sequence.user)
            .map_err(|error| error.to_string())?;
        let mut runner = Runner {
            ops: &sequence.ops,
            checks,
        };
        runner.run(&mut world, space, 0)?;
        std::mem::take(&mut world.sink)
    };
    machine.quiesce();
    let now = machine.phys().free_frames();
    if now != free {
        return Err(format!("{} frames did not come back", free.abs_diff(now)));
    }
    if machine.committed_pages() != 0 {
        return Err(format!("{} pages stay promised", machine.committed_pages()));
    }
    match machine.platform().tlb_counts().stale - stale {
        0 => Ok(words),
        n => Err(format!(
            "{n} accesses through a translation of a frame that was freed"
        )),
    }
}

struct Runner<'a> {
    ops: &'a [Op],
    checks: Checks,
}

impl Runner<'_> {
    fn run<F: Format>(
        &mut self,
        world: &mut World<F>,
        space: Space<F>,
        first: usize,
    ) -> Result<(), String> {
        let ops = self.ops;
        for (n, op) in ops.iter().enumerate().skip(first) {
            let at = world.sink.open(Tag::Result);
            world.sink.push(n as u64);
            let depth = world.depth;
            world.sink.push(depth);
            world.sink.push(0);
            let result = op.call.ours(world, &space, &op.args);
            world.sink.set(at + 3, result as u64);
            world.sink.close(at);
            world.look_at_maps(&space);
            let later = std::mem::take(&mut world.later);
            self.look(world, &space, later)?;
            match later.fork {
                None => {}
                Some(Fork::Into) => {
                    let child = fork(&space)?;
                    let held = std::mem::take(&mut world.held);
                    world.depth += 1;
                    self.run(world, child, n + 1)?;
                    world.depth -= 1;
                    world.held = held;
                    break;
                }
                Some(Fork::Hold) => world.held.push(fork(&space)?),
                Some(Fork::Show) => {
                    let child = fork(&space)?;
                    self.show(world, &child)?;
                }
            }
        }
        self.show(world, &space)?;
        for child in std::mem::take(&mut world.held) {
            self.show(world, &child)?;
        }
        Ok(())
    }

    fn look<F: Format>(
        &self,
        world: &mut World<F>,
        space: &Space<F>,
        later: Later,
    ) -> Result<(), String> {
        if later.memory {
            world.look_at_memory(space);
        }
        if later.counts {
            world.look_at_counts(space);
        }
        if later.pagemap {
            world.look_at_pagemap(space);
        }
        if self.checks == Checks::Always || later.memory || later.counts {
            space.check()?;
        }
        Ok(())
    }

    /// Looks at everything.
    fn show<F: Format>(&self, world: &mut World<F>, space: &Space<F>) -> Result<(), String> {
        world.look_at_counts(space);
        world.look_at_maps(space);
        world.look_at_pagemap(space);
        world.look_at_memory(space);
        world.look_at_counts(space);
        space.check().map_err(str::to_owned)
    }
}

fn fork<F: Format>(space: &Space<F>) -> Result<Space<F>, String> {
    let child = space.fork().map_err(|error| format!("fork: {error}"))?;
    child.activate(CpuId(0));
    Ok(child)
}

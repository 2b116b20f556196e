//! The same calls to the outer kernel and to the library: results, mappings, signals and bytes must be equal after every step. A sequence that
//! differs is made as short as it can be and printed. Needs Linux 6.18 on x86-64 with its default of overcommit, and passes unseen elsewhere, where
//! some answers are others; `PORTOLAN_SEEDS=first..end` says which sequences, wherever it runs, `PORTOLAN_DIFFERENCES` how many to look for.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "outer/linux.rs"]
mod linux;
#[path = "outer/ops.rs"]
mod ops;
#[path = "outer/ours.rs"]
mod ours;

use ops::{ARENA, BASE, Op, PAGE, sequence};
use ours::Kind;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a file holds at first.
fn content(byte: u8) -> Vec<u8> {
    (0..5 * PAGE + 1000)
        .map(|at| byte.wrapping_add((at / PAGE) as u8 * 16))
        .collect()
}

fn is_outside(at: u64) -> bool {
    at > 4096 && !(BASE - ARENA * PAGE..BASE + 2 * ARENA * PAGE).contains(&at)
}

/// A result: an address in the arena, or a number.
fn place(at: u64) -> String {
    match at {
        0..=4096 => format!("ok {at}"),
        at if is_outside(at) => "outside".to_owned(),
        at => format!("at {}", (at as i64 - BASE as i64) / PAGE as i64),
    }
}

fn line(start: u64, end: u64, perms: &str, offset: u64, name: &str) -> String {
    let page = |at: u64| (at as i64 - BASE as i64) / PAGE as i64;
    format!(
        " | {}-{} {perms} {} {name}",
        page(start),
        page(end),
        offset / PAGE
    )
}

/// The first byte and one more of every page of the arena.
fn dump_with(load: impl Fn(u64) -> Result<u8, i32>) -> String {
    let mut shown = String::new();
    for page in 0..ARENA {
        let at = BASE + page * PAGE;
        match (load(at), load(at + 2001)) {
            (Err(1101), Err(1101)) => {}
            (Ok(a), Ok(b)) => shown += &format!("{page}={a},{b} "),
            other => shown += &format!("{page}={other:?} "),
        }
    }
    shown
}

/// Where the two sides differ, if they do.
fn difference(ops: &[Op], kind: Kind) -> Option<String> {
    let theirs = linux::run(ops);
    let ours = match catch_unwind(AssertUnwindSafe(|| ours::run(ops, kind))) {
        Ok(ours) => ours,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            return Some(
                text.or(panic.downcast_ref::<&str>().map(|text| text.to_string()))
                    .unwrap_or_default(),
            );
        }
    };
    let pairs = theirs.iter().zip(&ours).enumerate();
    for (n, (theirs, ours)) in pairs {
        if theirs != ours {
            return Some(format!("line {n}\n  linux {theirs}\n  ours  {ours}"));
        }
    }
    (theirs.len() != ours.len()).then(|| format!("{} lines and {}", theirs.len(), ours.len()))
}

fn shrink(mut ops: Vec<Op>, kind: Kind) -> Vec<Op> {
    let mut chunk = ops.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        while at < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + chunk).min(ops.len()));
            if difference(&fewer, kind).is_some() {
                ops = fewer;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    ops
}

/// Whether the outer kernel is the one that the library follows.
fn is_the_judge() -> bool {
    let line = |path| std::fs::read_to_string(path).unwrap_or_default();
    line("/proc/sys/kernel/osrelease").starts_with("6.18")
        && line("/proc/sys/vm/overcommit_memory").trim() == "0"
}

#[test]
fn the_library_does_as_the_outer_kernel() {
    let asked = std::env::var("PORTOLAN_SEEDS").ok();
    if asked.is_none() && !is_the_judge() {
        return;
    }
    let seeds = asked.unwrap_or("0..150".to_owned());
    let (first, end) = seeds.split_once("..").expect("first..end");
    let (first, end): (u64, u64) = (first.parse().unwrap(), end.parse().unwrap());
    let most = std::env::var("PORTOLAN_DIFFERENCES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut found = Vec::new();
    for seed in first..end {
        let kind = if seed % 2 == 0 {
            Kind::Backed
        } else {
            Kind::Shared
        };
        let ops = sequence(seed);
        if difference(&ops, kind).is_some() {
            let ops = shrink(ops, kind);
            let text = difference(&ops, kind).unwrap_or_default();
            let ops: String = ops.iter().map(|op| format!("  {op:?}\n")).collect();
            found.push(format!("seed {seed}:\n{ops}{text}"));
            if found.len() >= most {
                break;
            }
        }
    }
    std::panic::set_hook(hook);
    assert!(found.is_empty(), "{}", found.join("\n\n"));
}

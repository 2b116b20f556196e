//! `portolan conform`: compares the library with the kernel of this machine and tells what differs.

use std::fs;
use std::path::Path;

use portolan_conformance::calls::CallId;
use portolan_conformance::cprogram;
use portolan_conformance::linux;
use portolan_conformance::op::Sequence;
use portolan_conformance::run::{self, FormatName, Found, Options, Report, Sides};

use crate::args::Conform;
use crate::{Failure, say};

/// Runs the comparison; the exit status is 0 when nothing differs.
///
/// # Errors
/// Why there was no comparison.
pub fn conform(options: &Conform) -> Result<u8, Failure> {
    let formats = formats(&options.format)?;
    if formats.iter().any(|format| format.has_oracle())
        && let Err(reason) = linux::is_the_judge()
    {
        return Err(Failure::own(format!("nothing to compare with: {reason}")));
    }
    if let Some(path) = &options.case {
        return one_case(path, &formats, options.save.as_deref());
    }
    let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
    let calls = calls(&options.only)?;
    let report = run::run(&Options {
        ops: options.ops,
        seed: options.seed,
        seeds: options.seeds,
        calls: calls.clone(),
        keep_going: options.keep_going,
        formats,
        jobs: options.jobs.unwrap_or(jobs),
    })
    .map_err(Failure::own)?;
    tell(&report, &calls, options.save.as_deref());
    Ok(u8::from(!report.found.is_empty()))
}

fn formats(names: &[String]) -> Result<Vec<FormatName>, Failure> {
    let mut formats = Vec::new();
    for name in names {
        if name == "all" {
            let all = FormatName::ALL.iter().map(|(_, format)| *format);
            formats.extend(all.filter(|format| format.has_oracle()));
            continue;
        }
        let found = FormatName::ALL.iter().find(|(known, _)| known == name);
        let (_, format) = found.ok_or_else(|| {
            let known: Vec<&str> = FormatName::ALL.iter().map(|(name, _)| *name).collect();
            Failure::own(format!(
                "no format {name}; there are {}, and all",
                known.join(", ")
            ))
        })?;
        formats.push(*format);
    }
    Ok(formats)
}

/// The calls named, and those that only look.
fn calls(names: &[String]) -> Result<Vec<CallId>, Failure> {
    if names.is_empty() {
        return Ok(CallId::enabled());
    }
    let mut calls = vec![CallId::Memory, CallId::Counts];
    for name in names {
        let call = CallId::by_name(name).ok_or_else(|| {
            let known: Vec<&str> = CallId::ALL.iter().map(|call| call.name()).collect();
            Failure::own(format!("no call {name}; there are {}", known.join(", ")))
        })?;
        if !calls.contains(&call) {
            calls.push(call);
        }
    }
    Ok(calls)
}

fn one_case(path: &Path, formats: &[FormatName], save: Option<&Path>) -> Result<u8, Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::own(format!("{}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    let sequence = Sequence::parse(&text).map_err(|error| failed(&error))?;
    let mut sides = Sides::new(formats).map_err(Failure::own)?;
    let result = sides.try_one(&sequence).map_err(Failure::own)?;
    let Some((format, difference)) = result else {
        println!("no mismatch");
        return Ok(0);
    };
    let found = Found {
        seed: 0,
        format,
        sequence,
        difference,
        times: 1,
    };
    show(&found, save);
    Ok(1)
}

fn tell(report: &Report, calls: &[CallId], save: Option<&Path>) {
    println!("{}", report.coverage.text(calls));
    for found in &report.found {
        show(found, save);
    }
    let seconds = report.elapsed.as_secs_f64();
    println!(
        "{} operations in {} sequences, {:.1} s, {:.0} operations a second: {}",
        report.ops,
        report.sequences,
        seconds,
        report.ops as f64 / seconds.max(0.001),
        match report.found.len() {
            0 => "no mismatch".to_owned(),
            1 => "1 mismatch".to_owned(),
            n => format!("{n} different mismatches"),
        }
    );
}

fn show(found: &Found, save: Option<&Path>) {
    let difference = &found.difference;
    println!("MISMATCH {} ({} times)", difference.key, found.times);
    println!(
        "  format {}, first seen in sequence {:#x}",
        found.format.name(),
        found.seed
    );
    for (n, line) in found.sequence.text().lines().enumerate() {
        println!("  {n:>3} {line}");
    }
    if let Some(step) = difference.step {
        println!("  at step {step}");
    }
    println!(
        "  linux: {}\n  ours:  {}\n",
        difference.linux, difference.ours
    );
    let program = cprogram::program(&found.sequence);
    let Some(save) = save else {
        println!("{program}");
        return;
    };
    let allowed = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '_'
        }
    };
    let name: String = difference.key.chars().map(allowed).take(60).collect();
    let written = fs::create_dir_all(save)
        .and_then(|()| fs::write(save.join(format!("{name}.ops")), found.sequence.text()))
        .and_then(|()| fs::write(save.join(format!("{name}.c")), program));
    if let Err(error) = written {
        say(format_args!("{}: {error}", save.display()));
    }
}

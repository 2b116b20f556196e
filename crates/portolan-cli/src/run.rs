//! `portolan run`: sets up a machine, a kernel and a program, runs it, and tells what became of it.

use std::fmt;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan::errno::Errno;
use portolan::machine::{Machine, Settings};
use portolan_host::{Host, HostConfig, Placement};
use portolan_kernel::exec::Program;
use portolan_kernel::fs::{self, Writes};
use portolan_kernel::kernel::{Kernel, KernelConfig, Launch, Randomize};
use portolan_kernel::signal::SignalSet;
use portolan_kernel::task::{ExitStatus, Limit, ResourceLimits};
use portolan_kernel::trace::Sink;

use crate::args::Run;
use crate::program::{self, NoProgram};
use crate::record::{Notes, Trace};
use crate::{Failure, inherit, report, say};

/// Runs the program that the options name, and returns the exit status for the command.
///
/// # Errors
/// Why it did not run at all.
pub fn run(options: &Run) -> Result<u8, Failure> {
    let launch = launch(options)?;
    let trace = options.trace.as_deref().map(open_trace).transpose()?;
    let notes = Notes::new(trace.clone());
    let signals = inherit::hold_signals();
    let machine = machine(options)?;
    let free = machine.phys().free_frames();
    let kernel = kernel(options, &machine, trace.clone(), notes.clone())?;
    let kernel = Arc::new(kernel);
    let weak = Arc::downgrade(&kernel);
    inherit::forward_signals(signals, move |signal| {
        if let Some(kernel) = weak.upgrade() {
            kernel.interrupt(signal);
        }
    });
    let status = kernel
        .run_program(&launch)
        .map_err(|error| cannot_load(&launch.program, error));
    let trace_written = trace.map_or(Ok(()), |trace| trace.finish());
    let status = status?;
    if let Err(error) = trace_written {
        say(format_args!("the trace is not complete: {error}"));
    }
    tell(options, &kernel, &notes, status);
    drop(kernel);
    machine.quiesce();
    let lost = free.abs_diff(machine.phys().free_frames());
    if lost != 0 {
        say(format_args!(
            "{lost} frames did not come back, which is a defect of portolan; please report it"
        ));
    }
    Ok(match status {
        ExitStatus::Exited(status) => status,
        ExitStatus::Killed { signal, .. } => 128_u8.wrapping_add(signal as u8),
    })
}

/// The program, found and with everything that it inherits.
fn launch(options: &Run) -> Result<Launch, Failure> {
    let cwd = directory(options.cwd.as_deref())?;
    let env = program::environment(std::env::vars_os(), &options.env);
    let Some(name) = options.program.first() else {
        return Err(Failure::own("no program given"));
    };
    let shown = name.to_string_lossy();
    let path =
        program::find(name, &program::path_of(&env), &cwd).map_err(|problem| match problem {
            NoProgram::Missing => Failure::not_found(format_args!("{shown}: not found")),
            NoProgram::Unusable(why) => Failure::cannot_execute(format_args!("{shown}: {why}")),
        })?;
    let argv = options
        .program
        .iter()
        .map(|arg| arg.as_bytes().to_vec())
        .collect();
    let program = Program {
        path: path.as_os_str().as_bytes().to_vec(),
        argv,
        env,
    };
    let mut limits = ResourceLimits::default();
    for (limit, inherited) in limits.0.iter_mut().zip(inherit::limits()) {
        if let Some((soft, hard)) = inherited {
            *limit = Limit { soft, hard };
        }
    }
    let fixed = if options.no_aslr {
        inherit::NO_RANDOMISATION
    } else {
        0
    };
    Ok(Launch {
        personality: inherit::personality() | fixed,
        limits,
        ignored: SignalSet(inherit::ignored_signals()),
        ..Launch::new(program, cwd.as_os_str().as_bytes().to_vec())
    })
}

/// The directory that the program starts in, absolute and without links.
fn directory(wanted: Option<&Path>) -> Result<PathBuf, Failure> {
    let shown = wanted.unwrap_or(Path::new("."));
    let failed = |why: &dyn fmt::Display| {
        Failure::own(format_args!("cannot start in {}: {why}", shown.display()))
    };
    let path = shown.canonicalize().map_err(|error| failed(&error))?;
    if path.is_dir() {
        Ok(path)
    } else {
        Err(failed(&"not a directory"))
    }
}

fn open_trace(path: &Path) -> Result<Trace, Failure> {
    Trace::create(path).map_err(|error| {
        Failure::own(format_args!(
            "cannot write the trace to {}: {error}",
            path.display()
        ))
    })
}

/// A machine with the memory asked for.
fn machine(options: &Run) -> Result<Machine<Host>, Failure> {
    let memory = options.memory & !(4096 - 1);
    let host = Host::new(HostConfig {
        memory,
        placement: Placement::default(),
    })
    .map_err(Failure::own)?;
    Machine::new(host, Settings::default()).map_err(|error| no_machine(options, error))
}

fn no_machine(options: &Run, error: Errno) -> Failure {
    Failure::own(format_args!(
        "cannot set up a machine with {} bytes of memory: {}",
        options.memory,
        error.message()
    ))
}

/// A kernel on the machine.
fn kernel(
    options: &Run,
    machine: &Machine<Host>,
    trace: Option<Trace>,
    notes: Notes,
) -> Result<Kernel<Host>, Failure> {
    let config = KernelConfig {
        trace: trace.map(|trace| Box::new(trace) as Box<dyn Sink>),
        log: Box::new(notes),
        files: fs::Settings {
            writes: if options.overlay {
                Writes::Kept
            } else {
                Writes::Outside
            },
        },
        randomize: if inherit::randomises() {
            Randomize::On
        } else {
            Randomize::Off
        },
    };
    Kernel::new(machine.clone(), config).map_err(|error| no_machine(options, error))
}

/// Why a program that is there could not be loaded, in a shell's terms.
fn cannot_load(program: &Program, error: Errno) -> Failure {
    let name = program.argv.first().unwrap_or(&program.path);
    let message = format!("{}: {}", String::from_utf8_lossy(name), error.message());
    match error {
        Errno::ENOENT | Errno::ENOTDIR => Failure::not_found(message),
        _ => Failure::cannot_execute(message),
    }
}

/// Says on standard error what the user should know now that the program is done.
fn tell(options: &Run, kernel: &Kernel<Host>, notes: &Notes, status: ExitStatus) {
    let report = kernel.report();
    if report.faults.out_of_memory != 0 && matches!(status, ExitStatus::Killed { .. }) {
        say("the program ran out of memory and was killed; --memory gives it more");
    }
    if !options.stats {
        return;
    }
    let how = match status {
        ExitStatus::Exited(status) => format!("exit status {status}"),
        ExitStatus::Killed { signal, .. } => format!("killed by signal {signal}"),
    };
    let name = options
        .program
        .first()
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    let mut text = format!("portolan: {name}: {how}\n\n{}", report::table(&report));
    let all: Vec<String> = notes
        .list()
        .into_iter()
        .chain(kernel.engine().take_notes())
        .collect();
    if !all.is_empty() {
        text.push_str("\nnotes\n");
        all.iter()
            .for_each(|note| text.push_str(&format!("  {note}\n")));
    }
    // A closed standard error is the user's choice.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

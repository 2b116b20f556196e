//! The command `portolan`: reads its arguments, runs a program in an address space that Portolan manages, and exits as the program did. What
//! goes wrong on our side is one line on standard error and exit status 125.

use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

mod args;
mod conform;
mod inherit;
mod program;
mod record;
mod report;
mod run;
mod table;

use args::{Cli, Command};

/// Our own failure, as `env`, `timeout` and `nohup` have it.
const FAILED: u8 = 125;

/// Why no program ran, and the exit status that says so.
#[derive(Debug)]
struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    /// Portolan cannot do what it was asked for.
    fn own(message: impl fmt::Display) -> Self {
        Self {
            status: FAILED,
            message: message.to_string(),
        }
    }

    /// The program exists, but cannot be executed.
    fn cannot_execute(message: impl fmt::Display) -> Self {
        Self {
            status: 126,
            message: message.to_string(),
        }
    }

    /// There is no such program.
    fn not_found(message: impl fmt::Display) -> Self {
        Self {
            status: 127,
            message: message.to_string(),
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version arrive here as well; nothing is left to do when they cannot be written.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(FAILED)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let result = catch_unwind(AssertUnwindSafe(|| match &cli.command {
        Command::Run(options) => run::run(options),
        Command::Conform(options) => conform::conform(options),
    }));
    match result {
        Ok(Ok(status)) => ExitCode::from(status),
        Ok(Err(failure)) => {
            say(failure.message);
            ExitCode::from(failure.status)
        }
        Err(_) => {
            say("the lines above are a defect of portolan, not of the program; please report them");
            ExitCode::from(FAILED)
        }
    }
}

/// One line on standard error. It may be closed, and then there is nobody to tell.
fn say(message: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "portolan: {message}");
}

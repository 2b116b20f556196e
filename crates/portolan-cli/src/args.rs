//! The command line: its grammar and its help. Not for: what the options do.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

/// The command.
#[derive(Parser, Debug)]
#[command(
    name = "portolan",
    version,
    about = "Runs Linux programs on Portolan, a Linux virtual-memory subsystem in Rust",
    long_about = "Runs unmodified Linux programs on Portolan, a Linux virtual-memory subsystem in Rust.\n\n\
        Every mmap, mprotect, munmap, brk and page fault of the program is served by Portolan instead of the kernel of this machine. The \
        program sees the files of this machine with your rights, its own standard input and output, and an address space, \
        /proc/self/maps and all, that is Portolan's.",
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the command can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a program in an address space that Portolan manages
    Run(Run),
    /// Compare Portolan with the kernel of this machine, call by call
    Conform(Conform),
}

/// `portolan conform`.
#[derive(Args, Debug)]
#[command(after_long_help = AFTER_CONFORM)]
pub struct Conform {
    /// How many operations to do
    ///
    /// They are done in sequences of some twenty to a thousand, each in a fresh process.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub ops: u64,

    /// Where chance starts: the same seed gives the same operations
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,

    /// How many seeds to try, one after the other, each with N operations
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub seeds: u64,

    /// Only these calls, separated by commas, and looking at what they did
    #[arg(long, value_name = "CALLS", value_delimiter = ',')]
    pub only: Vec<String>,

    /// Go on after a difference, and list every different one at the end
    #[arg(long)]
    pub keep_going: bool,

    /// Page-table formats, separated by commas
    ///
    /// x86_64, x86_64-5, aarch64, aarch64-sw, aarch64-16k, aarch64-64k; all is the first four. The last two have other pages than this machine:
    /// the same operations run on the library alone, and its own invariants are checked after each.
    #[arg(
        long,
        value_name = "F",
        value_delimiter = ',',
        default_value = "x86_64"
    )]
    pub format: Vec<String>,

    /// How many sequences at the same time [default: as many as there are processors]
    #[arg(long, value_name = "J")]
    pub jobs: Option<usize>,

    /// Do the operations of this file instead, as a mismatch is written down
    #[arg(long, value_name = "FILE")]
    pub case: Option<PathBuf>,

    /// Write each mismatch into DIR: NAME.ops, and NAME.c to see what Linux does
    #[arg(long, value_name = "DIR")]
    pub save: Option<PathBuf>,
}

/// `portolan run`.
#[derive(Args, Debug)]
#[command(
    override_usage = "portolan run [OPTIONS] [--] PROGRAM [ARGS]...",
    after_help = AFTER_SHORT,
    after_long_help = AFTER_LONG
)]
pub struct Run {
    /// Physical memory the program is given
    ///
    /// A number of bytes with an optional suffix K, M, G or T (powers of 1024): 512M, 4G. Programs that need more get ENOMEM, or
    /// are killed as by the out-of-memory killer. Memory that is never touched costs this machine nothing but 1 % for bookkeeping.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "2G")]
    pub memory: u64,

    /// Put the address space at the same addresses in every run
    ///
    /// What `setarch -R` does: no randomisation of the stack, the heap, mappings and position-independent programs.
    #[arg(long)]
    pub no_aslr: bool,

    /// Keep everything the program writes to files in memory
    ///
    /// Files, directories, links and attributes that the program changes are changed for the program only, and forgotten when it
    /// ends. Without this option the program changes the files of this machine, as any program does. What is written to
    /// pipes, sockets, terminals and devices goes out in both cases.
    #[arg(long)]
    pub overlay: bool,

    /// Print a table of what happened to standard error, after the program
    ///
    /// System calls by kind, page faults by kind, pages copied, the peak resident set, bytes of page tables and TLB flushes.
    #[arg(long)]
    pub stats: bool,

    /// Write one line for each memory call and each fault to FILE
    ///
    /// In the style of strace, with the resulting address. FILE is replaced.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// The directory the program starts in [default: this one]
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,

    /// Set an environment variable of the program; may be given more than once
    ///
    /// All other variables are passed on as they are.
    #[arg(long, value_name = "NAME=VALUE", value_parser = OsStringValueParser::new().try_map(parse_variable))]
    pub env: Vec<Variable>,

    /// The program, looked up in PATH unless it contains a slash, and its arguments
    ///
    /// Everything from here on belongs to the program. Put `--` before it if it starts with a dash.
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    pub program: Vec<OsString>,
}

/// One environment variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variable {
    /// Its name.
    pub name: OsString,
    /// Its value.
    pub value: OsString,
}

const AFTER_SHORT: &str = "Example: portolan run -- /bin/cat /proc/self/maps\n\nUse --help for more, exit statuses included.";

const AFTER_LONG: &str = "\
Exit status:
  N      what the program exited with
  128+N  signal N ended the program
  125    portolan itself failed, for example because ptrace is not allowed here
  126    PROGRAM was found but could not be executed
  127    PROGRAM was not found

The program's standard input, output and error are the ones of this command, and nothing else is written to standard output.

Examples:
  portolan run -- /bin/cat /proc/self/maps
      Show the address space of cat as Portolan manages it.
  portolan run --stats -- python3 -c 'print(sum(range(10**6)))'
      Count calls, faults and copies.
  portolan run --trace faults.txt --no-aslr -- ./prog
      Record every memory call and fault, at addresses that stay the same from run to run.
  portolan run --overlay -- rm -r build
      Let a program write without changing a file.

Not supported yet: fork and threads. A system call that is missing answers ENOSYS.";

const AFTER_CONFORM: &str = "\
The same calls go to the kernel of this machine and to the library; results, mappings, counts, memory and files must be equal after each. A \
mismatch is made as short as it can be and shown with a C program that prints what Linux does. Needs Linux 6.18 on x86-64, and root.

Exit status:
  0    no mismatch
  1    a mismatch
  125  the comparison could not be made

Examples:
  portolan conform --ops 1000000 --seed 7
      A long run.
  portolan conform --only mmap,mremap,fork_hold,store --keep-going
      All that can be found about these calls.
  portolan conform --case conformance/cases/NAME.ops
      One recorded case.";

/// Bytes from a number with an optional suffix.
fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let upper = text.trim().to_ascii_uppercase();
    let short = upper
        .strip_suffix("IB")
        .or_else(|| upper.strip_suffix('B'))
        .unwrap_or(&upper);
    let unit = UNITS
        .iter()
        .find_map(|&(letter, shift)| short.strip_suffix(letter).map(|number| (number, shift)));
    let (number, shift) = unit.unwrap_or((short, 0));
    let number: u64 = number
        .parse()
        .map_err(|_| "expected a number of bytes such as 512M or 4G".to_owned())?;
    let bytes = number
        .checked_mul(1 << shift)
        .filter(|&bytes| bytes <= 1 << 46);
    let bytes = bytes.ok_or_else(|| "more than 64T".to_owned())?;
    if bytes < 8 << 20 {
        Err("less than 8M, too little for any program".to_owned())
    } else {
        Ok(bytes)
    }
}

/// NAME=VALUE as bytes.
fn parse_variable(text: OsString) -> Result<Variable, String> {
    let bytes = text.as_bytes();
    let split = bytes
        .iter()
        .position(|&byte| byte == b'=')
        .filter(|&at| at != 0);
    let split = split.ok_or_else(|| "expected NAME=VALUE".to_owned())?;
    let value = OsString::from_vec(bytes[split + 1..].to_vec());
    Ok(Variable {
        name: OsStr::from_bytes(&bytes[..split]).to_owned(),
        value,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("8388608"), Ok(8 << 20));
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("4g"), Ok(4 << 30));
        assert_eq!(parse_size("4GiB"), Ok(4 << 30));
        assert_eq!(parse_size("1T"), Ok(1 << 40));
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        for bad in [
            "",
            "M",
            "-1",
            "4 K",
            "1K",
            "0",
            "65T",
            "99999999999999999999",
            "18446744073709551615K",
            "1.5G",
            "4X",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_follows_the_program_is_the_programs() {
        let parse = |words: &[&str]| match Cli::try_parse_from(words).map(|cli| cli.command) {
            Ok(Command::Run(run)) => run,
            other => panic!("{other:?}"),
        };
        let run = parse(&["portolan", "run", "--stats", "--", "ls", "--stats", "-l"]);
        assert!(run.stats);
        assert_eq!(run.program, ["ls", "--stats", "-l"]);
        let run = parse(&["portolan", "run", "ls", "--no-aslr", "--", "x"]);
        assert!(!run.no_aslr);
        assert_eq!(run.program, ["ls", "--no-aslr", "--", "x"]);
        let run = parse(&["portolan", "run", "--", "-odd", "--", "--stats"]);
        assert_eq!(run.program, ["-odd", "--", "--stats"]);
        assert!(Cli::try_parse_from(["portolan", "run"]).is_err());
        assert!(Cli::try_parse_from(["portolan", "run", "--nonsense", "ls"]).is_err());
    }

    #[test]
    fn variables() {
        let variable = |name: &str, value: &str| {
            Ok(Variable {
                name: name.into(),
                value: value.into(),
            })
        };
        assert_eq!(parse_variable("A=b".into()), variable("A", "b"));
        assert_eq!(parse_variable("A=".into()), variable("A", ""));
        assert_eq!(parse_variable("A=b=c".into()), variable("A", "b=c"));
        assert!(parse_variable("A".into()).is_err());
        assert!(parse_variable("=A".into()).is_err());
    }
}

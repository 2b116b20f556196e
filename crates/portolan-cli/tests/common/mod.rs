//! What the tests of the command share: compiling the guest programs, running a program natively and under `portolan run`, and
//! comparing the two. The native run is the expectation; nothing here says what Linux does.
#![allow(dead_code)]

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A program that has not ended after this time is killed and its test fails. Not a measure of speed: it is there for programs that hang.
const PATIENCE: Duration = Duration::from_secs(600);

/// How a guest program is linked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// Against the shared C library.
    Dynamic,
    /// Static, at a fixed address.
    Static,
    /// Static, at any address.
    StaticPie,
}

/// The directory of the guest programs' sources.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guest")
}

/// The compiled guest program `name`. Compiled anew on every call, since tests may run in processes of their own.
pub fn guest(name: &str, link: Link) -> PathBuf {
    let flags: &[&str] = match link {
        Link::Dynamic => &["-pie", "-fPIE"],
        Link::Static => &["-static", "-no-pie", "-fno-pie"],
        Link::StaticPie => &["-static-pie", "-fPIE"],
    };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
    fs::create_dir_all(&directory).expect("a directory for guest programs");
    let program = directory.join(format!("{name}-{link:?}"));
    let fresh = directory.join(format!(
        "{name}-{link:?}.{}.{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let source = sources().join(format!("{name}.c"));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command
        .args(["-O2", "-w", "-o"])
        .arg(&fresh)
        .arg(source)
        .args(flags);
    let output = command
        .output()
        .expect("a C compiler (cc, or what CC names)");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&fresh, &program).expect("the compiled program");
    program
}

/// A directory of a test's own, empty at first and removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// `name` must differ between tests.
    pub fn new(name: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("scratch-{name}"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a scratch directory");
        Self(directory.canonicalize().expect("a scratch directory"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).expect("a scratch file");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A program to run: natively, or under the command.
#[derive(Clone, Debug)]
pub struct Job {
    program: OsString,
    args: Vec<OsString>,
    options: Vec<OsString>,
    cwd: Option<PathBuf>,
    env: Vec<(OsString, OsString)>,
    input: Vec<u8>,
}

/// What became of it.
#[derive(PartialEq, Eq)]
pub struct Outcome {
    /// The exit status as a shell shows it: 128+N for a signal.
    pub status: i32,
    /// Standard output.
    pub output: Vec<u8>,
    /// Standard error.
    pub error: Vec<u8>,
}

impl Job {
    /// A program and its arguments.
    pub fn new<A: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let args = args
            .into_iter()
            .map(|arg| arg.as_ref().to_owned())
            .collect();
        let program = program.as_ref().to_owned();
        Self {
            program,
            args,
            options: Vec::new(),
            cwd: None,
            env: Vec::new(),
            input: Vec::new(),
        }
    }

    /// The same with options for `portolan run`.
    pub fn options<A: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = A>) -> Self {
        self.options
            .extend(options.into_iter().map(|option| option.as_ref().to_owned()));
        self
    }

    /// The same in another directory.
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cwd = Some(directory.into());
        self
    }

    /// The same with a variable set in the caller's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The same with something on standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Runs it on this machine's kernel.
    pub fn native(&self) -> Outcome {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        self.run(command)
    }

    /// Runs it under `portolan run`.
    pub fn guest(&self) -> Outcome {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command
            .arg("run")
            .args(&self.options)
            .arg("--")
            .arg(&self.program)
            .args(&self.args);
        self.run(command)
    }

    /// Runs it both ways and demands the same status, output and error output; returns it.
    pub fn same(&self) -> Outcome {
        let native = self.native();
        let guest = self.guest();
        self.assert_same(&native, &guest);
        guest
    }

    /// Demands that two outcomes are equal.
    pub fn assert_same(&self, native: &Outcome, guest: &Outcome) {
        assert_eq!(
            guest.status, native.status,
            "exit status of {self}\nnative {native:?}\nguest {guest:?}"
        );
        assert_text(
            &guest.output,
            &native.output,
            &format!(
                "standard output of {self} (error output: {})",
                show(&guest.error)
            ),
        );
        assert_text(
            &guest.error,
            &native.error,
            &format!("standard error of {self}"),
        );
    }

    fn run(&self, mut command: Command) -> Outcome {
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.env("LC_ALL", "C").env_remove("LD_PRELOAD");
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = self.input.clone();
        let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let (ended, waits) = mpsc::channel::<()>();
        let pid = child.id();
        let watchdog = std::thread::spawn(move || {
            if waits.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
            }
        });
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().expect("the program's output");
        drop(ended);
        let _ = (feeder.join(), watchdog.join());
        let status = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Outcome {
            status,
            output: stdout,
            error: stderr,
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.to_string_lossy())?;
        self.args
            .iter()
            .try_for_each(|arg| write!(f, " {}", show(arg.as_encoded_bytes())))
    }
}

impl Outcome {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    /// Standard error as text.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.error).into_owned()
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "status {} output [{}] error [{}]",
            self.status,
            show(&self.output),
            show(&self.error)
        )
    }
}

/// The beginning of what may be long.
fn show(bytes: &[u8]) -> String {
    let part = &bytes[..bytes.len().min(600)];
    format!(
        "{}{}",
        String::from_utf8_lossy(part),
        if part.len() < bytes.len() { "..." } else { "" }
    )
}

/// Demands equal texts; a failure shows the first line that differs and what stands before it.
pub fn assert_text(guest: &[u8], native: &[u8], what: &str) {
    if guest == native {
        return;
    }
    let (guest, native) = (
        String::from_utf8_lossy(guest),
        String::from_utf8_lossy(native),
    );
    let (mine, theirs): (Vec<_>, Vec<_>) = (guest.lines().collect(), native.lines().collect());
    let at = mine
        .iter()
        .zip(&theirs)
        .position(|(a, b)| a != b)
        .unwrap_or(mine.len().min(theirs.len()));
    let line = |lines: &[&str]| {
        lines
            .get(at)
            .map_or("(ends)".to_owned(), |line| line.to_string())
    };
    let before = mine[at.saturating_sub(12)..at].join("\n");
    panic!(
        "{what}: line {} differs\n{before}\n  guest  {}\n  native {}",
        at + 1,
        line(&mine),
        line(&theirs)
    );
}

/// The first of these programs that PATH holds.
pub fn find_program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = names
        .iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |directory| directory.join(name)));
    files.find(|file| file.is_file())
}

/// The real python3 behind whatever PATH finds, which may be a shell script that starts it.
pub fn python() -> Option<PathBuf> {
    let found = find_program(&["python3"])?;
    let output = Command::new(found)
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    (output.status.success() && path.is_file()).then_some(path)
}

/// Bytes that look random and are the same in every run.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut result = Vec::with_capacity(bytes + 8);
    while result.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        result.extend_from_slice(&state.to_le_bytes());
    }
    result.truncate(bytes);
    result
}

//! The command itself: exit statuses, options, what it prints and where.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{Job, Link, Scratch, guest};

/// The command with these arguments, nothing on standard input.
fn portolan(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_portolan"))
        .args(args)
        .stdin(std::process::Stdio::null())
        .output();
    let output = output.expect("the command");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

/// The first number on the line of a `--stats` table that starts with `name`.
fn figure(stats: &str, name: &str) -> u64 {
    let line = stats
        .lines()
        .find(|line| line.trim_start().starts_with(&format!("{name} ")));
    let rest = line.map(|line| line.trim_start()[name.len()..].trim_start());
    let digits: String = rest
        .unwrap_or_default()
        .chars()
        .take_while(|c| !c.is_whitespace())
        .filter(|&c| c != ',')
        .collect();
    digits
        .parse()
        .unwrap_or_else(|_| panic!("no line {name:?} with a number in:\n{stats}"))
}

#[test]
fn exit_statuses_are_the_programs() {
    let program = guest("hello", Link::Static);
    for status in ["0", "1", "42", "255"] {
        let outcome = Job::new(&program, [status]).same();
        assert_eq!(outcome.status.to_string(), status);
    }
}

#[test]
fn what_cannot_be_run() {
    let scratch = Scratch::new("cannot-run");
    let plain = scratch.file("plain", "not a program\n");
    let garbage = scratch.file("garbage", [0u8; 100]);
    fs::set_permissions(&garbage, fs::Permissions::from_mode(0o755)).expect("permissions");
    let cases = [
        ("no-such-program-anywhere", 127),
        ("/no/such/program", 127),
        ("", 127),
        (plain.to_str().expect("UTF-8"), 126),
        (garbage.to_str().expect("UTF-8"), 126),
        ("/", 126),
    ];
    for (program, expected) in cases {
        let (status, output, error) = portolan(&["run", "--", program]);
        assert_eq!(status, expected, "{program}: {error}");
        assert!(output.is_empty(), "{program}: {output}");
        assert!(
            error.starts_with("portolan: ") && error.lines().count() == 1,
            "{program}: {error}"
        );
    }
}

#[test]
fn our_own_failures_are_125() {
    let cases: [&[&str]; 7] = [
        &["run"],
        &["run", "--nonsense", "true"],
        &["run", "--memory", "lots", "true"],
        &["run", "--memory", "1K", "true"],
        &["run", "--env", "NOVALUE", "true"],
        &["run", "--cwd", "/no/such/directory", "true"],
        &["run", "--trace", "/no/such/directory/file", "true"],
    ];
    for args in cases {
        let (status, output, error) = portolan(args);
        assert_eq!(status, 125, "{args:?}: {error}");
        assert!(output.is_empty(), "{args:?}: {output}");
        assert!(!error.is_empty(), "{args:?}");
    }
}

#[test]
fn help_says_all_that_is_needed() {
    let (status, output, error) = portolan(&["run", "--help"]);
    assert_eq!((status, error.as_str()), (0, ""));
    for word in [
        "--memory",
        "--no-aslr",
        "--overlay",
        "--stats",
        "--trace",
        "--cwd",
        "--env",
        "125",
        "126",
        "127",
        "128+N",
    ] {
        assert!(output.contains(word), "{word}:\n{output}");
    }
    assert_eq!(portolan(&["--version"]).0, 0);
    let (status, output, _) = portolan(&["--help"]);
    assert!(status == 0 && output.contains("run"), "{output}");
}

/// Where ptrace is refused, one sentence says what to allow.
#[test]
fn without_ptrace() {
    let wrapper = guest("noptrace", Link::Dynamic);
    let hello = guest("hello", Link::Static);
    let output = Command::new(wrapper)
        .arg(env!("CARGO_BIN_EXE_portolan"))
        .args(["run", "--"])
        .arg(hello)
        .output()
        .expect("the wrapper");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{error}");
    assert!(output.stdout.is_empty());
    assert!(
        error.contains("ptrace") && error.contains("allow") && error.lines().count() == 1,
        "{error}"
    );
}

#[test]
fn environment_and_directory() {
    let scratch = Scratch::new("cwd");
    scratch.file("here", "found\n");
    let hello = guest("hello", Link::Static);
    let outcome = Job::new(&hello, [""; 0])
        .env("GUEST_VALUE", "outer")
        .options(["--env", "GUEST_VALUE=inner"])
        .guest();
    assert!(
        outcome.text().contains("GUEST_VALUE: inner\n"),
        "{outcome:?}"
    );
    let tools = guest("tools", Link::Static);
    let directory = scratch.path().to_str().expect("UTF-8");
    let outcome = Job::new(&tools, ["cat", "here"])
        .options(["--cwd", directory])
        .guest();
    assert_eq!(outcome.text(), "found\n", "{outcome:?}");
    let own = scratch.path().join("own-hello");
    fs::copy(&hello, &own).expect("a copy");
    let outcome = Job::new("own-hello", ["9"])
        .options(["--env", &format!("PATH=/none:{directory}")])
        .guest();
    assert_eq!(
        outcome.status, 9,
        "looked up in the program's own PATH: {outcome:?}"
    );
    let outcome = Job::new("./own-hello", ["8"])
        .options(["--cwd", directory])
        .guest();
    assert_eq!(
        outcome.status, 8,
        "relative to the program's directory: {outcome:?}"
    );
}

#[test]
fn stats_are_a_table_behind_the_program() {
    let scratch = Scratch::new("stats");
    let program = guest("churn", Link::Static);
    let outcome = Job::new(&program, ["1", "300"])
        .cwd(scratch.path())
        .options(["--stats"])
        .guest();
    let plain = Job::new(&program, ["1", "300"]).cwd(scratch.path()).guest();
    assert_eq!(outcome.status, 0);
    assert!(
        outcome.output == plain.output,
        "standard output is the program's alone"
    );
    assert!(plain.error.is_empty(), "{plain:?}");
    let stats = outcome.error_text();
    for call in [
        "mmap", "munmap", "mprotect", "mremap", "madvise", "brk", "write",
    ] {
        assert!(figure(&stats, call) > 0, "{call}");
    }
    for line in ["copies", "peak resident set", "page tables", "flushes"] {
        assert!(
            stats
                .lines()
                .any(|text| text.trim_start().starts_with(line)),
            "{line}:\n{stats}"
        );
    }
    assert!(figure(&stats, "flushes") > 0);
}

#[test]
fn a_trace_has_a_line_for_every_memory_call_and_fault() {
    let scratch = Scratch::new("trace");
    let trace = scratch.path().join("trace.txt");
    let options = ["--no-aslr", "--trace", trace.to_str().expect("UTF-8")];
    let outcome = Job::new(guest("signals", Link::Static), [""; 0])
        .cwd(scratch.path())
        .options(options)
        .guest();
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert!(outcome.error.is_empty(), "{outcome:?}");
    let text = fs::read_to_string(&trace).expect("the trace");
    assert!(
        text.lines().any(|line| line.contains("mmap(")
            && line.contains("MAP_PRIVATE")
            && line.contains("= 0x")),
        "{text}"
    );
    assert!(
        text.lines().any(|line| line.contains("mprotect(")
            && line.contains("PROT_READ")
            && line.contains("= 0")),
        "{text}"
    );
    assert!(text.lines().any(|line| line.contains("munmap(")), "{text}");
    assert!(
        text.lines().any(|line| line.contains("SEGV_MAPERR")),
        "{text}"
    );
    assert!(
        text.lines().any(|line| line.contains("BUS_ADRERR")),
        "{text}"
    );
}

#[test]
fn an_overlay_leaves_files_alone() {
    let scratch = Scratch::new("overlay");
    let kept = scratch.file("files.data", "what was here before\n");
    let program = guest("files", Link::Dynamic);
    let outcome = Job::new(&program, [""; 0])
        .cwd(scratch.path())
        .options(["--overlay"])
        .guest();
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert_eq!(
        fs::read_to_string(&kept).expect("the file"),
        "what was here before\n"
    );
    let names: Vec<_> = fs::read_dir(scratch.path())
        .expect("the directory")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(names, ["files.data"]);
    let outcome = Job::new(&program, [""; 0]).cwd(scratch.path()).guest();
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert!(
        !kept.exists(),
        "without an overlay the program removes its file"
    );
}

/// A file that changes between two opens is seen as it is, though its old pages are cached.
#[test]
fn written_files_reach_the_outside() {
    let scratch = Scratch::new("outside");
    let text: String = (0..50_000).rev().map(|n| format!("{n}\n")).collect();
    let file = scratch.file("numbers", &text);
    let sort = common::find_program(&["sort"]);
    let Some(sort) = sort else {
        Job::new(
            guest("tools", Link::Static),
            ["sort".as_ref(), file.as_os_str()],
        )
        .same();
        return;
    };
    let sorted = scratch.path().join("sorted");
    let args = [
        "-n".as_ref(),
        "--parallel=1".as_ref(),
        "-o".as_ref(),
        sorted.as_os_str(),
        file.as_os_str(),
    ];
    let outcome = Job::new(sort, args).guest();
    assert_eq!(outcome.status, 0, "{outcome:?}");
    let expected: String = (0..50_000).map(|n| format!("{n}\n")).collect();
    assert!(fs::read_to_string(&sorted).expect("the result") == expected);
}

#[test]
fn too_little_memory_is_an_error_of_the_program() {
    let python = common::python();
    let job = match &python {
        Some(python) => Job::new(
            python,
            [
                "-c",
                "try:\n  x = bytearray(1 << 33)\nexcept MemoryError:\n  print('refused')",
            ],
        ),
        None => Job::new(guest("hello", Link::Static), ["0"]),
    };
    let outcome = job.options(["--memory", "256M"]).guest();
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert!(
        python.is_none() || outcome.text() == "refused\n",
        "{outcome:?}"
    );
}

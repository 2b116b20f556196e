//! C programs of our own (`tests/guest`), each compiled here, run on this machine's kernel and under `portolan run`: what they print and how
//! they end must be the same.

mod common;

use common::{Job, Link, Scratch, guest};

/// Runs a guest program both ways in a directory of its own.
fn same(name: &str, link: Link, args: &[&str]) -> common::Outcome {
    let scratch = Scratch::new(&format!("{name}-{link:?}-{}", args.join("-")));
    Job::new(guest(name, link), args).cwd(scratch.path()).same()
}

#[test]
fn hello_linked_in_every_way() {
    for link in [Link::Static, Link::StaticPie, Link::Dynamic] {
        let job =
            Job::new(guest("hello", link), ["7", "a b", "", "\u{fc}"]).env("GUEST_VALUE", "x=y z");
        let outcome = job.same();
        assert_eq!(outcome.status, 7, "{link:?}");
        assert!(
            outcome.text().contains("GUEST_VALUE: x=y z\n"),
            "{link:?}: {}",
            outcome.text()
        );
        Job::new(guest("hello", link), [""; 0]).same();
    }
}

#[test]
fn hello_without_randomisation() {
    let program = guest("hello", Link::StaticPie);
    let job = Job::new(program, ["0"]).options(["--no-aslr"]);
    job.same();
}

#[test]
fn a_stack_grows_to_near_its_limit() {
    let outcome = same("stack", Link::Static, &["near"]);
    assert_eq!(outcome.status, 0);
    assert!(
        outcome
            .text()
            .contains("grown to within 64k of the limit: 1, not past it: 1")
    );
    same("stack", Link::Dynamic, &["near"]);
    same("stack", Link::Dynamic, &["jump"]);
}

#[test]
fn a_stack_past_its_limit_is_a_fault() {
    let outcome = same("stack", Link::Dynamic, &["caught"]);
    assert!(
        outcome
            .text()
            .contains("SIGSEGV/MAPERR at the first page past the limit: 1")
    );
    assert_eq!(same("stack", Link::Dynamic, &["past"]).status, 139);
    assert_eq!(same("stack", Link::Static, &["past"]).status, 139);
}

#[test]
fn faults_are_signals() {
    same("signals", Link::Dynamic, &[]);
    same("signals", Link::Static, &[]);
}

#[test]
fn signals_end_programs() {
    let endings = [
        ("segv", 11),
        ("blocked", 11),
        ("ignored", 11),
        ("abort", 6),
        ("term", 15),
        ("kill", 9),
        ("bus", 7),
        ("divide", 8),
        ("nostack", 11),
    ];
    for (how, signal) in endings {
        assert_eq!(
            same("signals", Link::Dynamic, &[how]).status,
            128 + signal,
            "{how}"
        );
    }
}

#[test]
fn mappings() {
    same("mappings", Link::Dynamic, &[]);
    same("mappings", Link::StaticPie, &[]);
}

#[test]
fn remappings() {
    same("remap", Link::Dynamic, &[]);
}

/// What Linux does since 6.17; stated here for older kernels of this machine.
#[test]
fn several_mappings_move_in_one_call() {
    let expected = "\
mremap(at(10), 7 * PAGE, 7 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(40)) = arena+40.000
-- several in one call
     40 +2    rw-p 0 
     43 +2    rw-p 0 
     45 +2    r--p 0 
read first: 11
read second: 14
mremap(at(40), 7 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(60)) = EFAULT
mremap(at(42), 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at(60)) = EFAULT
-- a start in a hole
     40 +2    rw-p 0 
     43 +2    rw-p 0 
     45 +2    r--p 0 
";
    let outcome = Job::new(guest("remap", Link::Dynamic), ["several"]).guest();
    common::assert_text(
        &outcome.output,
        expected.as_bytes(),
        "several mappings in one mremap",
    );
}

#[test]
fn locks_seals_and_guards() {
    same("lock", Link::Dynamic, &[]);
}

#[test]
fn sealed_memory_files() {
    same("seals", Link::Dynamic, &[]);
}

#[test]
fn memory_files_and_their_holes() {
    same("memfd", Link::Dynamic, &[]);
}

#[test]
fn memory_of_a_process_and_its_places() {
    same("remote", Link::Dynamic, &[]);
}

/// The library has one node; on a machine with more the answers differ rightly.
#[test]
fn policies_barriers_keys_and_cached_pages() {
    if std::path::Path::new("/sys/devices/system/node/node1").exists() {
        return;
    }
    same("policy", Link::Dynamic, &[]);
}

#[test]
fn mapped_files() {
    same("files", Link::Dynamic, &[]);
}

/// With all writes kept in memory the program must not be able to tell.
#[test]
fn mapped_files_on_an_overlay() {
    let scratch = Scratch::new("files-overlay");
    let job = Job::new(guest("files", Link::Dynamic), [""; 0])
        .cwd(scratch.path())
        .options(["--overlay"]);
    job.same();
    assert_eq!(
        std::fs::read_dir(scratch.path())
            .expect("the directory")
            .count(),
        0
    );
}

/// Random walks through the memory calls, their seeds fixed: the same walk on two kernels.
#[test]
fn random_walks_agree() {
    let program = guest("churn", Link::Dynamic);
    let scratch = Scratch::new("churn");
    for seed in 1..=12 {
        Job::new(&program, [seed.to_string(), "1500".to_owned()])
            .cwd(scratch.path())
            .same();
    }
}

/// Stand-ins for the tools that `programs.rs` runs, so that they are covered where those are missing.
#[test]
fn small_tools() {
    let scratch = Scratch::new("tools");
    let program = guest("tools", Link::Static);
    let lines: String = common::noise(3, 80_000)
        .chunks(8)
        .map(|chunk| format!("{chunk:02x?}\n"))
        .collect();
    let text = scratch.file("text", &lines);
    let binary = scratch.file("binary", common::noise(4, 3_000_001));
    for (tool, file) in [("cat", &text), ("sort", &text), ("sum", &binary)] {
        let outcome = Job::new(&program, [tool.as_ref(), file.as_os_str()]).same();
        assert!(!outcome.output.is_empty(), "{tool}");
    }
    Job::new(&program, ["list", "/usr/bin"]).same();
}

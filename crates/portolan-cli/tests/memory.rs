//! Machines that are too small for what a program asks: files larger than memory work, since their pages come again; a program that
//! touches more of its own is killed, as by Linux's out-of-memory killer, and nothing else is harmed.

mod common;

use common::{Job, Link, Scratch, guest};

#[test]
fn a_program_that_touches_more_than_there_is_is_killed() {
    let program = guest("memory", Link::Dynamic);
    for how in ["touch", "populate", "read"] {
        let job = Job::new(&program, [how, "256"]).options(["--memory", "64M"]);
        let outcome = job.guest();
        assert_eq!(outcome.status, 137, "{how}");
        assert_eq!(outcome.text(), "", "{how}");
        let said = outcome.error_text();
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(
            lines.len(),
            1,
            "{how}: one sentence, no lost frames:\n{said}"
        );
        assert!(
            lines[0].contains("ran out of memory and was killed"),
            "{said}"
        );
    }
}

#[test]
fn as_much_as_there_is_can_be_touched() {
    let program = guest("memory", Link::Dynamic);
    let outcome = Job::new(&program, ["touch", "48"])
        .options(["--memory", "64M"])
        .guest();
    assert_eq!(
        (outcome.status, outcome.text().as_str()),
        (0, "there was enough\n")
    );
    assert_eq!(outcome.error_text(), "");
}

#[test]
fn files_larger_than_memory_are_written_mapped_and_read() {
    let program = guest("memory", Link::Dynamic);
    let scratch = Scratch::new("larger-than-memory");
    let job = Job::new(&program, ["file", "96", "data"])
        .cwd(scratch.path())
        .options(["--memory", "32M"]);
    let (native, guest) = (job.native(), job.guest());
    assert_eq!(guest.text(), native.text());
    assert!(native.text().ends_with(" equal\n"));
    assert_eq!((guest.status, guest.error_text().as_str()), (0, ""));
}

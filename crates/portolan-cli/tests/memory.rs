//! Machines that are too small for what a program asks: a program that touches
//! more of its own is killed, as by Linux's out-of-memory killer, and nothing else is harmed.

mod common;

use common::{Job, Link, guest};

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

//! A run of the size that continuous integration can afford: fixed seeds, every format that has an oracle, then the page sizes that have none.
//! Where Linux is another than the one that is followed there is nothing to compare with, and the tests say so.

use portolan_conformance::calls::CallId;
use portolan_conformance::cprogram;
use portolan_conformance::linux::is_the_judge;
use portolan_conformance::run::{FormatName, Options, Report, run};

fn options(ops: u64, formats: &[FormatName]) -> Options {
    Options {
        ops,
        seed: 20_261,
        seeds: 1,
        calls: CallId::enabled(),
        keep_going: false,
        formats: formats.to_vec(),
        jobs: 2,
    }
}

fn assert_equal(report: &Report) {
    if let Some(found) = report.found.first() {
        panic!(
            "{} ({})\n{}\nlinux: {}\nours:  {}\n\n{}",
            found.difference.key,
            found.format.name(),
            found.sequence.text(),
            found.difference.linux,
            found.difference.ours,
            cprogram::program(&found.sequence)
        );
    }
}

#[test]
fn the_library_does_as_linux() {
    if let Err(reason) = is_the_judge() {
        eprintln!("skipped: {reason}");
        return;
    }
    let formats: Vec<FormatName> = FormatName::ALL.iter().map(|(_, format)| *format).collect();
    let with_oracle: Vec<FormatName> = formats.into_iter().filter(|f| f.has_oracle()).collect();
    let report = run(&options(12_000, &with_oracle)).expect("both sides");
    assert_equal(&report);
    for call in CallId::enabled() {
        let [linux, ours] = report.coverage.result(call, 0);
        // A home node needs a policy that was bound before: a short run may miss it.
        let is_rare = call.name() == "set_mempolicy_home_node";
        assert!(linux > 0 || is_rare, "{} succeeds", call.name());
        assert_eq!(linux, ours, "{} succeeds as often", call.name());
    }
}

#[test]
fn other_page_sizes_keep_their_invariants() {
    let formats = [FormatName::Aarch64Granule16, FormatName::Aarch64Granule64];
    let report = run(&options(700, &formats)).expect("the library");
    assert_equal(&report);
    assert!(report.ops >= 700);
}

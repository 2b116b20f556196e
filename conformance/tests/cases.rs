//! Every mismatch that was ever found and repaired, in `cases/`: each is done again on Linux and on the library, in every format. Where Linux is
//! another than the one that is followed, the library does it alone, and its invariants must hold.

use std::path::Path;

use portolan_conformance::linux::is_the_judge;
use portolan_conformance::op::Sequence;
use portolan_conformance::run::{FormatName, Sides};

#[test]
fn no_case_differs() {
    let mut formats: Vec<FormatName> = FormatName::ALL.iter().map(|(_, format)| *format).collect();
    if let Err(reason) = is_the_judge() {
        eprintln!("without Linux: {reason}");
        formats.retain(|format| !format.has_oracle());
    }
    let mut sides = Sides::new(&formats).expect("both sides");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut cases = 0;
    for entry in std::fs::read_dir(&directory).expect("the cases") {
        let path = entry.expect("a case").path();
        let text = std::fs::read_to_string(&path).expect("a case");
        let sequence = Sequence::parse(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let found = sides.try_one(&sequence).expect("both sides");
        assert!(found.is_none(), "{path:?}: {found:#?}");
        cases += 1;
    }
    assert!(cases > 0, "{directory:?} has cases");
}

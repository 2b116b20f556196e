//! What programs read of their own memory in /proc, and the core dump that a killed one leaves: the same under `portolan run` as on this machine's kernel.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Job, Link, Scratch, find_program, guest};

#[test]
fn proc_says_the_same_of_memory() {
    for link in [Link::Dynamic, Link::Static, Link::StaticPie] {
        let outcome = Job::new(guest("views", link), [""; 0]).same();
        assert!(outcome.output.len() > 10_000, "{link:?}");
    }
}

/// A segment of the mappings that `crash.c` makes at addresses of its own choice.
#[derive(PartialEq, Eq, Debug)]
struct Segment {
    address: u64,
    in_file: u64,
    in_memory: u64,
    access: u32,
    content: Vec<u8>,
}

/// The segments of a core file between two addresses.
fn segments(core: &[u8]) -> Vec<Segment> {
    const CHOSEN: std::ops::Range<u64> = 0x3000_0000_0000..0x3000_1000_0000;
    let word = |at: usize| u64::from_le_bytes(core[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_le_bytes(core[at..at + 4].try_into().unwrap());
    assert_eq!(&core[..5], b"\x7fELF\x02");
    assert_eq!((core[16], core[18]), (4, 62), "ET_CORE, EM_X86_64");
    let count = usize::from(core[56]) | usize::from(core[57]) << 8;
    let headers = (0..count).map(|n| word(32) as usize + n * 56);
    headers
        .filter(|&at| half(at) == 1 && CHOSEN.contains(&word(at + 16)))
        .map(|at| {
            let (offset, len) = (word(at + 8) as usize, word(at + 32) as usize);
            Segment {
                address: word(at + 16),
                in_file: word(at + 32),
                in_memory: word(at + 40),
                access: half(at + 4),
                content: core[offset..offset + len].to_vec(),
            }
        })
        .collect()
}

/// Runs `crash.c` both ways and demands the same output and, where this machine's kernel writes `core` too, the same memory in it. Returns the file.
fn crash(scratch: &Scratch, args: &[&str]) -> Option<Vec<u8>> {
    scratch.file("plain", common::noise(5, 9000));
    let core = scratch.path().join("core");
    let job = Job::new(guest("crash", Link::Dynamic), args).cwd(scratch.path());
    let read_and_remove = || {
        let bytes = fs::read(&core).ok();
        let _ = fs::remove_file(&core);
        bytes
    };
    let native = job.native();
    let expected = read_and_remove();
    let ours = job.guest();
    job.assert_same(&native, &ours);
    assert_eq!(ours.status, 139, "SIGSEGV");
    let dumped = read_and_remove();
    if writes_core_files() {
        assert_eq!(dumped.is_some(), expected.is_some(), "{args:?}");
        let whole = |core: &&Vec<u8>| core.len() > 64 << 10;
        if let (Some(ours), Some(native)) = (&dumped, expected.as_ref().filter(whole)) {
            assert!(segments(ours) == segments(native), "{args:?}");
        }
    }
    dumped
}

/// Whether this machine's kernel writes core dumps where they can be compared.
fn writes_core_files() -> bool {
    let setting = |name| fs::read_to_string(Path::new("/proc/sys/kernel").join(name));
    let pattern = setting("core_pattern").unwrap_or_default();
    pattern == "core\n" && setting("core_uses_pid").is_ok_and(|uses| uses == "0\n")
}

#[test]
fn a_core_dump_holds_what_the_filter_says() {
    let scratch = Scratch::new("core-filter");
    let kept = |filter: &str| -> Vec<(u64, u64)> {
        let core = crash(&scratch, &["-1", filter]).expect("a core dump");
        let kept = segments(&core).into_iter();
        kept.map(|segment| ((segment.address >> 20) & 0xff, segment.in_file / 4096))
            .collect()
    };
    // The first mapping is in three parts; the second is not for dumps, the third was never touched.
    let usual = [
        (0, 4),
        (0, 1),
        (0, 3),
        (1, 0),
        (2, 0),
        (3, 4),
        (4, 0),
        (5, 1),
        (6, 0),
    ];
    assert_eq!(kept("0x33"), usual);
    assert_eq!(
        kept("0"),
        usual.map(|(area, _)| (area, 0)),
        "nothing but what is there"
    );
    let all = [
        (0, 4),
        (0, 1),
        (0, 3),
        (1, 0),
        (2, 0),
        (3, 4),
        (4, 1),
        (5, 2),
        (6, 2),
    ];
    assert_eq!(kept("0x1ff"), all);
    for filter in ["1", "2", "4", "8", "16", "0777"] {
        kept(filter);
    }
}

#[test]
fn a_core_dump_obeys_its_limit() {
    let scratch = Scratch::new("core-limit");
    assert_eq!(crash(&scratch, &["0"]), None);
    assert_eq!(crash(&scratch, &["4095"]), None);
    let whole = crash(&scratch, &["1000000000"]).expect("a core dump").len();
    assert!(whole > 64 << 10);
    let part = crash(&scratch, &["16384"]).expect("what fits");
    assert!(part.len() < whole, "{}", part.len());
}

#[test]
fn gdb_reads_a_core_dump() {
    let gdb = find_program(&["gdb"]).expect("gdb, which this test needs: apt-get install gdb");
    let scratch = Scratch::new("core-gdb");
    scratch.file("plain", common::noise(5, 9000));
    let program = guest("crash", Link::Dynamic);
    let outcome = Job::new(&program, [""; 0]).cwd(scratch.path()).guest();
    assert_eq!(outcome.status, 139);
    let output = Command::new(gdb)
        .args(["-nx", "-batch", "-ex", "bt", "-ex", "x/2xw 0x300000000000"])
        .args(["-ex", "x/1xw 0x300000005000", "-ex", "x/2xw 0x300000300000"])
        .args(["-ex", "x/1xw 0x300000100000", "-ex", "info registers rip"])
        .args([
            "-ex",
            "p $_siginfo.si_signo",
            "-ex",
            "p $_siginfo._sifields._sigfault.si_addr",
        ])
        .arg(&program)
        .arg(scratch.path().join("core"))
        .output()
        .expect("gdb runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let frames: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with('#'))
        .filter_map(|line| line.split(" in ").nth(1)?.split(' ').next())
        .collect();
    // The innermost frame is told twice: when the file is opened, and in the backtrace.
    assert_eq!(
        frames,
        ["third", "third", "second", "first", "main"],
        "{text}"
    );
    for wanted in [
        "0x300000000000:\t0xfeedface\t0x00000000",
        "0x300000005000:\t0x12345678",
        "0x300000300000:\t0x00000000\t0x5ead5ead",
        "$1 = 11",
        "$2 = (void *) 0x8",
        "terminated with signal SIGSEGV",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    assert!(!text.contains("0xdeaddead"), "{text}");
}

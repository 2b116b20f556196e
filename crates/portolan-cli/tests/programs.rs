//! This machine's own programs, unmodified, on its kernel and under `portolan run`: the same output, error output and exit status. Where a
//! machine lacks one, a stand-in of ours (`tests/guest`) is run in its place.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Job, Link, Scratch, assert_text, find_program, guest, noise, python};

/// One line of /proc/PID/maps.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Region {
    start: u64,
    end: u64,
    permissions: String,
    offset: u64,
    device: String,
    inode: u64,
    name: String,
}

impl Region {
    /// Reads a line, and demands that it is laid out exactly as Linux lays it out.
    fn parse(line: &str) -> Region {
        let mut words = line.splitn(6, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (range, permissions, offset, device) = (word(), word(), word(), word());
        let (inode, name) = (word(), word().trim_start());
        let hex = |text: &str| {
            u64::from_str_radix(text, 16).unwrap_or_else(|_| panic!("not a maps line: {line}"))
        };
        let (start, end) = range
            .split_once('-')
            .unwrap_or_else(|| panic!("not a maps line: {line}"));
        let region = Region {
            start: hex(start),
            end: hex(end),
            permissions: permissions.to_owned(),
            offset: hex(offset),
            device: device.to_owned(),
            inode: inode
                .parse()
                .unwrap_or_else(|_| panic!("not a maps line: {line}")),
            name: name.to_owned(),
        };
        assert_eq!(region.to_line(), line, "a line of maps in Linux's form");
        region
    }

    fn to_line(&self) -> String {
        let Region {
            start,
            end,
            permissions,
            offset,
            device,
            inode,
            name,
        } = self;
        let front = format!("{start:08x}-{end:08x} {permissions} {offset:08x} {device} {inode} ");
        if name.is_empty() {
            front
        } else {
            format!("{front:<73}{name}")
        }
    }

    /// Everything but where it lies: what two runs of a program have in common.
    fn shape(&self) -> String {
        let Region {
            start,
            end,
            permissions,
            offset,
            device,
            inode,
            name,
        } = self;
        format!(
            "{:6}k {permissions} {offset:08x} {device} {inode} {name}",
            (end - start) >> 10
        )
    }
}

fn regions(maps: &str) -> Vec<Region> {
    let regions: Vec<Region> = maps.lines().map(Region::parse).collect();
    assert!(
        regions.windows(2).all(|pair| pair[0].end <= pair[1].start),
        "ascending and disjoint:\n{maps}"
    );
    regions
}

/// What the comparison leaves out: the pages that Linux itself adds to a program (docs/deviations.md).
fn is_kernels_own(region: &Region) -> bool {
    matches!(
        region.name.as_str(),
        "[vvar]" | "[vvar_vclock]" | "[vdso]" | "[vsyscall]"
    )
}

/// Compares two address spaces region by region, addresses aside.
fn assert_same_regions(guest: &str, native: &str) {
    let shapes = |maps: &str, devices: bool| {
        let kept = regions(maps)
            .into_iter()
            .filter(|region| !is_kernels_own(region));
        let lines = kept.map(|mut region| {
            if !devices {
                region.device.clear();
                region.inode = 0;
            }
            region.shape() + "\n"
        });
        lines.collect::<String>()
    };
    // Some file systems show other numbers in maps than in stat; there they cannot be compared.
    let devices = regions(native).iter().all(|region| {
        let attributes = Path::new(&region.name).metadata();
        attributes.map_or(true, |attributes| attributes.ino() == region.inode)
    });
    assert_text(
        shapes(guest, devices).as_bytes(),
        shapes(native, devices).as_bytes(),
        "the regions of the address space",
    );
}

fn maps_of(program: &Path, args: &[&str], options: &[&str]) -> (String, String) {
    let job = Job::new(program, args).options(options);
    let (native, guest) = (job.native(), job.guest());
    assert_eq!((native.status, guest.status), (0, 0), "{guest:?}");
    assert_text(&guest.error, &native.error, "standard error");
    (guest.text(), native.text())
}

/// /bin/cat, or the stand-in with its first argument.
fn tool(name: &str, own: &'static str) -> (PathBuf, Vec<&'static str>) {
    match find_program(&[name]) {
        Some(program) => (program, Vec::new()),
        None => (guest("tools", Link::Dynamic), vec![own]),
    }
}

#[test]
fn cat_shows_its_address_space() {
    let (cat, mut args) = tool("cat", "cat");
    args.push("/proc/self/maps");
    for options in [&[][..], &["--no-aslr"], &["--overlay"]] {
        let (guest, native) = maps_of(&cat, &args, options);
        assert_same_regions(&guest, &native);
        for name in ["[heap]", "[stack]"] {
            assert!(
                regions(&guest).iter().any(|region| region.name == name),
                "{name}:\n{guest}"
            );
        }
    }
}

#[test]
fn addresses_are_random_unless_asked_otherwise() {
    let (cat, mut args) = tool("cat", "cat");
    args.push("/proc/self/maps");
    let starts = |options: &[&str]| {
        let outcome = Job::new(&cat, &args).options(options).guest();
        regions(&outcome.text())
            .iter()
            .map(|region| region.start)
            .collect::<Vec<_>>()
    };
    assert_eq!(starts(&["--no-aslr"]), starts(&["--no-aslr"]));
    let (one, other) = (starts(&[]), starts(&[]));
    assert!(one.iter().zip(&other).any(|(a, b)| a != b), "{one:x?}");
}

/// Without randomisation even the addresses are Linux's: those of the program and of its heap, which depend on nothing else.
#[test]
fn addresses_without_randomisation_are_linuxs() {
    let Some(setarch) = find_program(&["setarch"]) else {
        let outcome = Job::new(guest("hello", Link::StaticPie), ["0"])
            .options(["--no-aslr"])
            .same();
        assert_eq!(outcome.status, 0);
        return;
    };
    let (cat, mut args) = tool("cat", "cat");
    args.push("/proc/self/maps");
    let native = Command::new(setarch)
        .arg("-R")
        .arg(&cat)
        .args(&args)
        .env("LC_ALL", "C")
        .output()
        .expect("setarch");
    let native = String::from_utf8_lossy(&native.stdout).into_owned();
    let guest = Job::new(&cat, &args).options(["--no-aslr"]).guest().text();
    let program = |maps: &str| {
        let low = regions(maps)
            .into_iter()
            .filter(|region| region.start < 0x7000_0000_0000);
        low.map(|region| region.to_line() + "\n")
            .collect::<String>()
    };
    assert!(!program(&native).is_empty());
    assert_text(
        program(&guest).as_bytes(),
        program(&native).as_bytes(),
        "regions of the program itself",
    );
}

#[test]
fn ls_lists_a_large_directory() {
    match find_program(&["ls"]) {
        Some(ls) => {
            let outcome = Job::new(&ls, ["-l", "/usr/bin"]).same();
            assert!(outcome.output.len() > 100);
            Job::new(&ls, ["-laR", "/etc", "/usr/include", "/no/such/file"]).same();
        }
        None => drop(Job::new(guest("tools", Link::Dynamic), ["list", "/usr/bin"]).same()),
    }
}

#[test]
fn a_checksum_of_50_megabytes() {
    let scratch = Scratch::new("checksum");
    let file = scratch.file("noise", noise(1, 50 << 20));
    let (program, args) = tool("sha256sum", "sum");
    let args = args
        .iter()
        .map(|arg| arg.as_ref())
        .chain([file.as_os_str()]);
    let outcome = Job::new(program, args).same();
    assert!(outcome.output.len() > 16);
}

#[test]
fn a_sort_of_20_megabytes() {
    let scratch = Scratch::new("sort");
    let words = noise(2, 20 << 20);
    let mut text: Vec<u8> = words
        .iter()
        .map(|byte| {
            if byte % 11 == 0 {
                b'\n'
            } else {
                b'a' + byte % 26
            }
        })
        .collect();
    text.push(b'\n');
    let file = scratch.file("words", &text);
    let job = match find_program(&["sort"]) {
        Some(sort) => Job::new(sort, ["--parallel=1".as_ref(), file.as_os_str()]),
        None => Job::new(
            guest("tools", Link::Dynamic),
            ["sort".as_ref(), file.as_os_str()],
        ),
    };
    let outcome = job.same();
    assert!(outcome.output.len() > 10 << 20);
}

#[test]
fn pipes_and_standard_input() {
    let (cat, args) = tool("cat", "cat");
    let input = noise(5, 3_000_000);
    if args.is_empty() {
        let outcome = Job::new(&cat, [""; 0]).input(input.clone()).same();
        assert!(outcome.output == input);
    }
    let outcome = Job::new(guest("tools", Link::Static), ["sum", "/dev/stdin"])
        .input(input)
        .same();
    assert_eq!(outcome.status, 0);
}

#[test]
fn perl_allocates_and_maps() {
    let Some(perl) = find_program(&["perl"]) else {
        Job::new(guest("hello", Link::Dynamic), ["0"]).same();
        return;
    };
    let scratch = Scratch::new("perl");
    let file = scratch.file("noise", noise(6, 1_234_567));
    let allocate = r#"
        my @a = map { $_ * 2 } 1 .. 200000; my $s = 0; $s += $_ for @a; print "$s\n";
        my %h; $h{$_ % 1000} .= "x" x ($_ % 7) for 1 .. 100000;
        print length(join "", map { $h{$_} } sort { $a <=> $b } keys %h), "\n";
        my $x = "a" x 30_000_000; substr($x, 12_345_678, 3) = "xyz"; print length($x), " ", index($x, "xyz"), "\n";
        @a = (); undef $x; my @b = map { [$_, "s$_"] } 1 .. 50000; print $b[-1][1], "\n"; exit 3"#;
    assert_eq!(Job::new(&perl, ["-e", allocate]).same().status, 3);
    let map = r#"
        open my $f, "<:mmap", $ARGV[0] or die; local $/; my $text = <$f>;
        print length($text), " ", unpack("%32C*", $text), "\n"; seek $f, 1_000_000, 0; read $f, my $part, 10; print unpack("H*", $part), "\n""#;
    Job::new(&perl, ["-e".as_ref(), map.as_ref(), file.as_os_str()]).same();
}

#[test]
fn perl_catches_faults() {
    let Some(perl) = find_program(&["perl"]) else {
        Job::new(guest("signals", Link::Static), [""; 0]).same();
        return;
    };
    let script = r#"
        use POSIX; $SIG{USR1} = sub { print "got $_[0]\n" }; kill USR1 => $$; $SIG{SEGV} = sub { print "got $_[0]\n" }; kill SEGV => $$;
        POSIX::sigaction(SIGSEGV, POSIX::SigAction->new(sub { die "fault\n" }, POSIX::SigSet->new, SA_NODEFER));
        for (1 .. 3) { eval { my $x = unpack("p", pack("J", 8 * $_)); print "no fault\n" }; print "caught $@" }
        POSIX::sigaction(SIGSEGV, POSIX::SigAction->new("DEFAULT")); $| = 1; print "now without\n"; unpack("p", pack("J", 8)); print "alive\n""#;
    let outcome = Job::new(perl, ["-e", script]).same();
    assert_eq!(outcome.status, 139);
    assert!(outcome.text().contains("caught fault"));
}

#[test]
fn python_maps_files() {
    let scratch = Scratch::new("python-maps");
    let Some(python) = python() else {
        Job::new(guest("files", Link::Static), [""; 0])
            .cwd(scratch.path())
            .same();
        return;
    };
    let script = common::sources().join("mmap_calls.py");
    let outcome = Job::new(python, [script.as_os_str()])
        .cwd(scratch.path())
        .same();
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert!(outcome.text().ends_with("done\n"), "{outcome:?}");
}

#[test]
fn python_allocates_and_faults() {
    let Some(python) = python() else {
        Job::new(guest("hello", Link::Static), ["0"]).same();
        return;
    };
    Job::new(&python, ["-c", "pass"]).same();
    let allocate = "x = [bytes([i % 256]) * (i * 7) for i in range(3000)]\nprint(sum(map(len, x)))\ndel x[::2]\n\
        d = {i: str(i) * 5 for i in range(200000)}\nprint(len(''.join(d.values())))\n\
        b = bytearray(80 << 20)\nb[12345678] = 7\nprint(b.find(b'\\x07'), sum(b[::4096]))";
    Job::new(&python, ["-c", allocate]).same();
    let fault = "import faulthandler, ctypes, sys\nfaulthandler.enable()\nprint('before', flush=True)\nctypes.string_at(8)";
    let job = Job::new(&python, ["-c", fault]);
    let (native, guest) = (job.native(), job.guest());
    assert_eq!(
        (guest.status, guest.text()),
        (139, native.text()),
        "{guest:?}"
    );
    let without_thread = |text: String| {
        text.lines()
            .filter(|line| !line.contains("0x"))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    assert_eq!(
        without_thread(guest.error_text()),
        without_thread(native.error_text())
    );
    let signal = "import os, signal\nsignal.signal(signal.SIGSEGV, lambda s, f: print('caught', s))\n\
        os.kill(os.getpid(), signal.SIGSEGV)\nprint('after')\nraise SystemExit(5)";
    assert_eq!(Job::new(&python, ["-c", signal]).same().status, 5);
}

/// Pythons that bring their own test suite, the one behind `python3` first, then the newest that pyenv installed.
fn python_with_tests() -> Option<PathBuf> {
    let home = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let home =
        home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv")));
    let mut installed: Vec<(Vec<u32>, PathBuf)> = home
        .and_then(|home| fs::read_dir(home.join("versions")).ok())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (
                name.split('.')
                    .map(|part| part.parse().unwrap_or(0))
                    .collect(),
                entry.path().join("bin/python3"),
            )
        })
        .collect();
    installed.sort();
    let candidates = python()
        .into_iter()
        .chain(installed.into_iter().rev().map(|(_, path)| path));
    candidates.into_iter().find(|python| {
        let import = Command::new(python)
            .args(["-c", "import test.test_mmap, test.libregrtest"])
            .output();
        import.is_ok_and(|output| output.status.success())
    })
}

/// Pythons own tests of its mmap module. Where no python has them, `mmap_calls.py` makes the same calls in `python_maps_files`.
#[test]
fn pythons_own_mmap_tests() {
    let Some(python) = python_with_tests() else {
        return;
    };
    let scratch = Scratch::new("test_mmap");
    let job = Job::new(python, ["-m", "test", "test_mmap"]).cwd(scratch.path());
    let (native, guest) = (job.native(), job.guest());
    let steady = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let changes = ["load avg", "random seed", "Total duration", "duration:"];
        let lines = text
            .lines()
            .filter(|line| !changes.iter().any(|word| line.contains(word)));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    assert_eq!(native.status, 0, "{native:?}");
    assert_text(
        steady(&guest.output).as_bytes(),
        steady(&native.output).as_bytes(),
        "python -m test test_mmap",
    );
    assert_eq!(guest.status, native.status, "{guest:?}");
}

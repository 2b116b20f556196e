//! The outside against the standard library's view of the same files.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use portolan_kernel::outside::{FileKind, SyncKind};

use super::*;
use crate::space::Lane;

/// A directory of this test's own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path =
            std::env::temp_dir().join(format!("portolan-outside-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn path(&self, name: &str) -> Vec<u8> {
        self.0.join(name).into_os_string().into_encoded_bytes()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const CREATE: u32 = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL) as u32;

#[test]
fn a_file_is_made_with_exactly_its_mode_and_read_back() {
    let dir = Scratch::new("file");
    let outside = HostOutside::new();
    let path = dir.path("a");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = outside.open(&path, CREATE, 0o666).unwrap();
            assert_eq!(file.write_at(10, b"portolan").unwrap(), 8);
            let mut bytes = [0xff; 32];
            assert_eq!(file.read_at(0, &mut bytes).unwrap(), 18);
            assert_eq!(&bytes[..18], b"\0\0\0\0\0\0\0\0\0\0portolan");
            assert_eq!(file.seek(-3, libc::SEEK_END as u32), Ok(15));
            assert_eq!(file.read(&mut bytes).unwrap(), 3);
            file.sync(SyncKind::Data).unwrap();
            file.set_len(12).unwrap();
            assert_eq!(file.stat().unwrap().size, 12);
            assert_eq!(file.read_at(u64::MAX, &mut bytes), Err(Errno::EINVAL));
            let again = file.reopen(libc::O_RDONLY as u32).unwrap();
            assert_eq!(again.write(b"x"), Err(Errno::EBADF));
            assert_ne!(again.handle(), file.handle());
        });
    });
    let real = std::fs::metadata(dir.0.join("a")).unwrap();
    assert_eq!(real.permissions().mode() & 0o777, 0o666, "no mask applied");
    let stat = outside.stat(&path, Follow::Yes).unwrap();
    assert_eq!(
        (stat.ino, stat.dev, stat.size, stat.mode),
        (real.ino(), real.dev(), 12, real.mode())
    );
    assert_eq!(
        (stat.mtime.seconds, i64::from(stat.mtime.nanoseconds)),
        (real.mtime(), real.mtime_nsec())
    );
    assert_eq!(outside.open(&path, CREATE, 0).err(), Some(Errno::EEXIST));
    assert_eq!(outside.open(b"/no\0where", 0, 0).err(), Some(Errno::ENOENT));
}

#[test]
fn names_come_and_go() {
    let dir = Scratch::new("names");
    let outside = HostOutside::new();
    outside.make_dir(&dir.path("d"), 0o750).unwrap();
    outside.symlink(b"somewhere/else", &dir.path("s")).unwrap();
    assert_eq!(
        outside.read_link(&dir.path("s")).unwrap(),
        b"somewhere/else"
    );
    assert_eq!(
        outside.stat(&dir.path("s"), Follow::Yes).err(),
        Some(Errno::ENOENT)
    );
    assert_eq!(
        outside.stat(&dir.path("s"), Follow::No).unwrap().kind(),
        FileKind::Symlink
    );
    drop(outside.open(&dir.path("f"), CREATE, 0o600).unwrap());
    outside.link(&dir.path("f"), &dir.path("g")).unwrap();
    assert_eq!(
        outside.rename(&dir.path("f"), &dir.path("g"), libc::RENAME_NOREPLACE),
        Err(Errno::EEXIST)
    );
    outside.rename(&dir.path("f"), &dir.path("d/f"), 0).unwrap();
    assert_eq!(outside.remove_dir(&dir.path("d")), Err(Errno::ENOTEMPTY));
    outside
        .make_node(&dir.path("p"), libc::S_IFIFO | 0o600, 0)
        .unwrap();
    outside.set_mode(&dir.path("g"), 0o400).unwrap();
    let then = Timestamp {
        seconds: 1_000_000_000,
        nanoseconds: 7,
    };
    outside
        .set_times(
            &dir.path("g"),
            SetTime::Keep,
            SetTime::At(then),
            Follow::Yes,
        )
        .unwrap();
    let stat = outside.stat(&dir.path("g"), Follow::Yes).unwrap();
    assert_eq!(
        (stat.mode & 0o777, stat.mtime, stat.nlink),
        (0o400, then, 2)
    );
    outside
        .access(&dir.path("g"), 4, AccessAs::Effective, Follow::No)
        .unwrap();
    assert_eq!(
        outside.access(&dir.path("h"), 0, AccessAs::Real, Follow::Yes),
        Err(Errno::ENOENT)
    );

    let own = outside
        .open(
            dir.0.as_os_str().as_encoded_bytes(),
            libc::O_DIRECTORY as u32,
            0,
        )
        .unwrap();
    for _ in 0..2 {
        let mut names: Vec<_> = own
            .read_dir()
            .unwrap()
            .into_iter()
            .map(|e| (e.name, e.kind))
            .collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        let kinds = [
            (&b"."[..], FileKind::Directory),
            (b"..", FileKind::Directory),
            (b"d", FileKind::Directory),
            (b"g", FileKind::Regular),
            (b"p", FileKind::Fifo),
            (b"s", FileKind::Symlink),
        ];
        assert_eq!(
            names.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(),
            kinds.map(|(name, _)| name)
        );
        assert!(
            names
                .iter()
                .zip(kinds)
                .all(|((_, is), (_, kind))| is.is_none_or(|is| is == kind))
        );
    }
}

#[test]
fn requests_of_unknown_size_are_refused() {
    let outside = HostOutside::new();
    let null = outside.open(b"/dev/null", libc::O_RDWR as u32, 0).unwrap();
    let mut data = [0; 64];
    assert_eq!(null.ioctl(0x1234_5678, &mut data), Err(Errno::ENOTTY));
    assert_eq!(
        null.ioctl(libc::TCGETS as u32, &mut data[..8]),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        null.ioctl(libc::TCGETS as u32, &mut data),
        Err(Errno::ENOTTY)
    );
}

#[test]
fn the_user_is_the_process_s() {
    let identity = HostOutside::new().identity();
    assert_eq!(identity.pid, std::process::id());
    assert_eq!(identity.names.sysname, b"Linux");
    assert!(identity.umask <= 0o777);
}

#[test]
fn a_kick_ends_a_wait_and_is_still_there_for_the_next_run() {
    let lane = std::sync::Arc::new(Lane::new().unwrap());
    let dir = Scratch::new("kick");
    let outside = HostOutside::new();
    outside
        .make_node(&dir.path("p"), libc::S_IFIFO | 0o600, 0)
        .unwrap();
    let pipe = outside
        .open(&dir.path("p"), libc::O_RDWR as u32, 0)
        .unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            interrupt::set_current(Some(lane.clone()));
            let mut byte = [0];
            let read = pipe.read(&mut byte);
            let slept = outside.sleep(Duration::from_secs(1000));
            let was = lane.take_kick();
            let poll = outside.poll(
                &mut [PollItem {
                    handle: pipe.handle(),
                    events: 4,
                    revents: 0,
                }],
                None,
            );
            (
                read,
                slept,
                was,
                poll,
                outside.sleep(Duration::from_millis(1)),
            )
        });
        lane.kick();
        let expected = (Err(Errno::EINTR), Err(Errno::EINTR), true, Ok(1), Ok(()));
        assert_eq!(waiting.join().unwrap(), expected);
    });
}

//! What a program sees of files, over an outside in memory: walks, the page cache, the overlay, descriptors, /proc and /dev.

mod fake;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fake::Fake;
use portolan::errno::Errno;
use portolan::machine::{Machine, Settings};
use portolan::paging::X86_64;
use portolan::sim::Sim;
use portolan::space::{Mm, MmConfig, MmUser};
use portolan_kernel::fs::attributes::{Change, Target};
use portolan_kernel::fs::file::{Body, Room};
use portolan_kernel::fs::pipe::PipeEnd;
use portolan_kernel::fs::vfs::Missing;
use portolan_kernel::fs::{
    FdTable, OnExec, OpenFile, Place, Session, SignalSets, TaskView, Vfs, Writes, abi,
};
use portolan_kernel::outside::{Follow, SyncKind};

type Platform = Sim<X86_64>;

/// A machine, a tree and a task.
struct World {
    fake: Fake,
    vfs: Vfs<Platform>,
    task: Someone,
    machine: Machine<Platform>,
    free: u64,
}

struct Someone {
    mm: MmUser<Platform>,
    files: Mutex<FdTable<Platform>>,
}

impl TaskView<Platform> for Someone {
    fn pid(&self) -> u32 {
        77
    }
    fn tid(&self) -> u32 {
        77
    }
    fn family(&self) -> [u32; 3] {
        [1, 77, 77]
    }
    fn name(&self) -> Vec<u8> {
        b"someone".to_vec()
    }
    fn exe(&self) -> Vec<u8> {
        b"/bin/someone".to_vec()
    }
    fn place(&self) -> Place {
        Place {
            cwd: b"/home".to_vec(),
            umask: 0o022,
        }
    }
    fn descriptors(&self) -> BTreeMap<u32, (Arc<OpenFile<Platform>>, OnExec)> {
        let files = self.files.lock().unwrap();
        files
            .open_in(0, u32::MAX)
            .map(|(fd, file)| (fd, (file.clone(), OnExec::Keep)))
            .collect()
    }
    fn descriptor(&self, fd: u32) -> Result<Arc<OpenFile<Platform>>, Errno> {
        self.files.lock().unwrap().get(fd).cloned()
    }
    fn mm(&self) -> Option<&MmUser<Platform>> {
        Some(&self.mm)
    }
    fn auxv(&self) -> Vec<u64> {
        vec![6, 4096, 0, 0]
    }
    fn limits(&self) -> [(u64, u64); 16] {
        [(u64::MAX, u64::MAX); 16]
    }
    fn signals(&self) -> SignalSets {
        SignalSets {
            blocked: 0x10,
            ..SignalSets::default()
        }
    }
    fn faults(&self) -> [u64; 2] {
        [3, 0]
    }
    fn threads(&self) -> usize {
        1
    }
    fn core_filter(&self) -> u32 {
        0x33
    }

    fn set_core_filter(&self, _bits: u32) {}

    fn personality(&self) -> u32 {
        0
    }
    fn randomize(&self) -> u32 {
        2
    }
}

impl World {
    fn new(writes: Writes) -> Self {
        let machine = Machine::new(Sim::new(16 << 20, 2), Settings::default()).unwrap();
        let free = machine.phys().free_frames();
        let mm = Mm::new(&machine, MmConfig::new::<X86_64>()).unwrap();
        let fake = Fake::new();
        fake.dir("/home");
        let vfs = Vfs::new(&machine, &fake, writes);
        Self {
            fake,
            vfs,
            task: Someone {
                mm,
                files: Mutex::new(FdTable::new(64)),
            },
            machine,
            free,
        }
    }

    fn session(&self) -> Session<'_, Platform> {
        Session {
            vfs: &self.vfs,
            out: &self.fake,
            task: &self.task,
        }
    }

    fn open(&self, path: &str, flags: u32) -> Result<OpenFile<Platform>, Errno> {
        self.session().open_path(path.as_bytes(), flags, 0o666)
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        let file = self.open(path, abi::O_RDONLY)?;
        let (mut all, mut part) = (Vec::new(), [0; 1000]);
        loop {
            match file.read(&self.session(), &mut part)? {
                0 => return Ok(all),
                count => all.extend_from_slice(&part[..count]),
            }
        }
    }

    fn text(&self, path: &str) -> String {
        String::from_utf8(self.read(path).unwrap()).unwrap()
    }

    fn write(&self, path: &str, flags: u32, data: &[u8]) -> Result<(), Errno> {
        let file = self.open(path, abi::O_WRONLY | flags)?;
        assert_eq!(file.write(&self.session(), data)?, data.len());
        Ok(())
    }

    /// Writes at an offset; how many bytes were taken.
    fn write_at(&self, path: &str, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let file = self.open(path, abi::O_WRONLY)?;
        file.write_at(&self.session(), offset, data)
    }

    fn names(&self, path: &str) -> Vec<String> {
        let file = self.open(path, abi::O_RDONLY | abi::O_DIRECTORY).unwrap();
        let mut names = Vec::new();
        let take = |entry: &portolan_kernel::outside::DirEntry, _| {
            names.push(String::from_utf8(entry.name.clone()).unwrap());
            Ok(Room::Enough)
        };
        file.entries(&self.session(), take).unwrap();
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }

    fn walk(&self, path: &str) -> Result<String, Errno> {
        let found = self
            .session()
            .walk(b"/home", path.as_bytes(), Follow::Yes, Missing::Error)?;
        Ok(String::from_utf8(found.path).unwrap())
    }

    fn install(&self, file: OpenFile<Platform>) -> u32 {
        self.task
            .files
            .lock()
            .unwrap()
            .insert(Arc::new(file), 0, OnExec::Keep)
            .unwrap()
    }

    /// Every frame came back.
    fn finish(self) {
        let Self {
            vfs,
            task,
            machine,
            free,
            ..
        } = self;
        drop((vfs, task));
        machine.quiesce();
        assert_eq!(machine.phys().free_frames(), free, "frames are missing");
    }
}

#[test]
fn a_walk_follows_links_and_dots() {
    let world = World::new(Writes::Outside);
    world.fake.dir("/home/a");
    world.fake.file("/home/a/f", b"x");
    world.fake.link_to("/home/l", "a");
    world.fake.link_to("/home/abs", "/home/a/../l/f");
    world.fake.link_to("/home/loop", "loop");
    world.fake.link_to("/home/dangling", "nothing");
    world.fake.link_to("/home/slash", "a/f/");
    assert_eq!(world.walk("l/f").unwrap(), "/home/a/f");
    assert_eq!(world.walk("abs").unwrap(), "/home/a/f");
    assert_eq!(world.walk("/../..//home/./a/..").unwrap(), "/home");
    assert_eq!(world.walk("l/").unwrap(), "/home/a");
    assert_eq!(world.walk("loop"), Err(Errno::ELOOP));
    assert_eq!(world.walk("dangling"), Err(Errno::ENOENT));
    assert_eq!(world.walk(""), Err(Errno::ENOENT));
    assert_eq!(world.walk("a/f/"), Err(Errno::ENOTDIR));
    assert_eq!(world.walk("slash"), Err(Errno::ENOTDIR));
    assert_eq!(world.walk("a/f/g"), Err(Errno::ENOTDIR));
    assert_eq!(world.walk("a/f/.."), Err(Errno::ENOTDIR));
    assert_eq!(world.walk("missing/.."), Err(Errno::ENOENT));
    assert_eq!(world.walk(&"n".repeat(256)), Err(Errno::ENAMETOOLONG));
    world.finish();
}

#[test]
fn open_answers_as_linux() {
    let world = World::new(Writes::Outside);
    world.fake.file("/home/f", b"x");
    world.fake.link_to("/home/l", "f");
    let error = |path: &str, flags| world.open(path, flags).map(drop).unwrap_err();
    assert_eq!(error("l", abi::O_NOFOLLOW), Errno::ELOOP);
    assert_eq!(
        error("l", abi::O_NOFOLLOW | abi::O_DIRECTORY),
        Errno::ENOTDIR
    );
    assert_eq!(error("l", abi::O_CREAT | abi::O_EXCL), Errno::EEXIST);
    assert_eq!(error("f", abi::O_DIRECTORY), Errno::ENOTDIR);
    assert_eq!(error("/home", abi::O_RDWR), Errno::EISDIR);
    assert_eq!(error("/home", abi::O_CREAT), Errno::EISDIR);
    assert_eq!(error("new/", abi::O_CREAT), Errno::EISDIR);
    assert_eq!(error("f", abi::O_CREAT | abi::O_DIRECTORY), Errno::EINVAL);
    assert_eq!(error("/home", abi::O_TMPFILE), Errno::EINVAL);
    assert_eq!(
        error("/proc/nothing", abi::O_CREAT | abi::O_WRONLY),
        Errno::ENOENT
    );
    let place = world.open("f", abi::O_PATH).unwrap();
    assert_eq!(place.read(&world.session(), &mut [0; 4]), Err(Errno::EBADF));
    drop(place);
    world.finish();
}

#[test]
fn all_opens_of_a_file_share_its_pages() {
    let world = World::new(Writes::Outside);
    world.fake.file("/home/f", &[b'a'; 10_000]);
    let session = world.session();
    let reader = world.open("f", abi::O_RDONLY).unwrap();
    let writer = world.open("f", abi::O_RDWR).unwrap();
    let mut part = [0; 6];
    assert_eq!(reader.read_at(&session, 4094, &mut part), Ok(6));
    assert_eq!(writer.write_at(&session, 4095, b"bb"), Ok(2));
    assert_eq!(reader.read_at(&session, 4094, &mut part), Ok(6));
    assert_eq!(&part, b"abbaaa");
    assert_eq!(&world.fake.bytes("/home/f").unwrap()[4094..4098], b"abba");
    assert_eq!(writer.write_at(&session, 20_000, b"end"), Ok(3));
    assert_eq!(reader.stat(&session).unwrap().size, 20_003);
    assert_eq!(reader.read_at(&session, 15_000, &mut part), Ok(6));
    assert_eq!(part, [0; 6]);
    assert_eq!(reader.read_at(&session, 20_001, &mut part), Ok(2));
    writer.regular().unwrap().truncate(&session, 5).unwrap();
    assert_eq!(reader.read_at(&session, 0, &mut part), Ok(5));
    assert_eq!(world.fake.bytes("/home/f").unwrap(), b"aaaaa");
    drop((reader, writer));
    world.finish();
}

#[test]
fn a_change_outside_is_noticed_at_open_and_at_the_end() {
    let world = World::new(Writes::Outside);
    world.fake.file("/home/f", b"old contents");
    let session = world.session();
    let first = world.open("f", abi::O_RDONLY).unwrap();
    let mut part = [0; 3];
    assert_eq!(first.read_at(&session, 0, &mut part), Ok(3));
    world.fake.file("/home/f", b"new contents");
    assert_eq!(world.read("f").unwrap(), b"new contents");
    assert_eq!(
        (first.read_at(&session, 0, &mut part), &part),
        (Ok(3), b"new")
    );
    world.fake.file("/home/f", b"new contents, longer");
    let mut rest = [0; 32];
    assert_eq!(first.read_at(&session, 12, &mut rest), Ok(8));
    assert_eq!(&rest[..8], b", longer");
    drop(first);
    world.finish();
}

#[test]
fn pages_dirtied_by_mappings_reach_the_file() {
    let world = World::new(Writes::Outside);
    world.fake.file("/home/f", b"0123456789");
    let file = world.open("f", abi::O_RDWR).unwrap();
    let mapped = file.map_file(&world.session()).unwrap();
    let again = file.map_file(&world.session()).unwrap();
    assert!(Arc::ptr_eq(&mapped, &again));
    let cache = mapped.cache().unwrap().clone();
    cache.page(0).unwrap().write(2, b"xx");
    assert!(cache.mark_dirty(0));
    assert_eq!(world.read("f").unwrap(), b"01xx456789");
    assert_eq!(world.fake.bytes("/home/f").unwrap(), b"0123456789");
    file.sync(SyncKind::Full).unwrap();
    assert_eq!(world.fake.bytes("/home/f").unwrap(), b"01xx456789");
    cache.page(0).unwrap().write(0, b"yy");
    assert!(cache.mark_dirty(0));
    drop((file, mapped, again, cache));
    assert_eq!(world.fake.bytes("/home/f").unwrap(), b"yyxx456789");
    world.finish();
}

#[test]
fn appending_keeps_what_others_append() {
    let world = World::new(Writes::Outside);
    world.fake.file("/home/log", b"a\n");
    let log = world.open("log", abi::O_WRONLY | abi::O_APPEND).unwrap();
    log.write(&world.session(), b"b\n").unwrap();
    world.fake.file("/home/log", b"a\nb\nc\n");
    log.write(&world.session(), b"d\n").unwrap();
    assert_eq!(world.fake.bytes("/home/log").unwrap(), b"a\nb\nc\nd\n");
    assert_eq!(log.seek(&world.session(), 0, abi::SEEK_CUR), Ok(8));
    drop(log);
    world.finish();
}

#[test]
fn an_inherited_file_moves_the_position_that_others_share() {
    let world = World::new(Writes::Outside);
    world.fake.file("/standard0", b"one two");
    let table = world.vfs.standard_files(&world.fake, 8).unwrap();
    let input = table.get(0).unwrap();
    let mut word = [0; 4];
    assert_eq!(input.read(&world.session(), &mut word), Ok(4));
    assert_eq!(input.outer().unwrap().seek(0, abi::SEEK_CUR), Ok(4));
    assert_eq!(table.get(1).map(drop), Err(Errno::EBADF));
    drop(table);
    world.finish();
}

#[test]
fn the_overlay_leaves_the_outside_alone() {
    let world = World::new(Writes::Kept);
    world.fake.dir("/home/d");
    world.fake.file("/home/d/inner", b"inner");
    world.fake.file("/home/f", b"0123456789");
    world.fake.file("/home/g", b"g");
    let session = world.session();
    let home = b"/home".as_slice();

    world.write("f", 0, b"AB").unwrap();
    assert_eq!(world.read("f").unwrap(), b"AB23456789");
    world.write("f", abi::O_APPEND, b"Z").unwrap();
    assert_eq!(world.read("f").unwrap(), b"AB23456789Z");
    session.truncate(home, b"f", 3).unwrap();
    session.truncate(home, b"f", 6).unwrap();
    assert_eq!(world.read("f").unwrap(), b"AB2\0\0\0");
    assert_eq!(
        session
            .walk(home, b"f", Follow::Yes, Missing::Error)
            .unwrap()
            .stat
            .size,
        6
    );

    world
        .write("new", abi::O_CREAT | abi::O_EXCL, b"made")
        .unwrap();
    assert_eq!(world.read("new").unwrap(), b"made");
    session.unlink(home, b"g").unwrap();
    assert_eq!(world.read("g"), Err(Errno::ENOENT));
    world.write("g", abi::O_CREAT, b"again").unwrap();
    assert_eq!(world.read("g").unwrap(), b"again");
    session.make_dir(home, b"sub", 0o777).unwrap();
    world.write("sub/x", abi::O_CREAT, b"x").unwrap();
    session.symlink(b"sub/x", home, b"sl").unwrap();
    assert_eq!(world.read("sl").unwrap(), b"x");
    session
        .rename((home, b"d"), (home, b"sub/moved"), 0)
        .unwrap();
    assert_eq!(world.read("sub/moved/inner").unwrap(), b"inner");
    assert_eq!(world.walk("d"), Err(Errno::ENOENT));
    assert_eq!(
        session.rename((home, b"sub"), (home, b"sub/moved/y"), 0),
        Err(Errno::EINVAL)
    );
    assert_eq!(world.names("/home"), ["f", "g", "new", "sl", "sub"]);
    assert_eq!(world.names("/home/sub"), ["moved", "x"]);
    assert_eq!(session.remove_dir(home, b"sub"), Err(Errno::ENOTEMPTY));
    session.unlink(home, b"sub/moved/inner").unwrap();
    session.remove_dir(home, b"sub/moved").unwrap();
    session.unlink(home, b"sub/x").unwrap();
    session.remove_dir(home, b"sub").unwrap();
    assert_eq!(world.names("/home"), ["f", "g", "new", "sl"]);

    let found = session
        .walk(home, b"f", Follow::Yes, Missing::Error)
        .unwrap();
    session
        .change(Target::Found(&found), Change::Mode(0o600))
        .unwrap();
    session
        .link((home, b"f"), (home, b"f2"), Follow::No)
        .unwrap();
    let stat = session
        .walk(home, b"f2", Follow::Yes, Missing::Error)
        .unwrap()
        .stat;
    assert_eq!((stat.mode, stat.nlink, stat.size), (0o100600, 2, 6));

    assert_eq!(world.fake.changes(), [""; 0]);
    assert_eq!(world.fake.bytes("/home/f").unwrap(), b"0123456789");
    world.finish();
}

#[test]
fn kept_contents_survive_closing_and_write_back() {
    let world = World::new(Writes::Kept);
    world.fake.file("/home/f", &[b'a'; 9000]);
    let file = world.open("f", abi::O_RDWR).unwrap();
    file.write_at(&world.session(), 5000, b"b").unwrap();
    let cache = file.regular().unwrap().inode.cache().clone();
    cache.writeback(0..u64::MAX).unwrap();
    assert_eq!(cache.reclaim(u64::MAX), 3);
    drop(file);
    let again = world.read("f").unwrap();
    assert_eq!(
        (again.len(), again[4999], again[5000], again[8999]),
        (9000, b'a', b'b', b'a')
    );
    drop(cache);
    assert_eq!(world.fake.changes(), [""; 0]);
    world.finish();
}

#[test]
fn without_an_overlay_names_change_outside() {
    let world = World::new(Writes::Outside);
    let session = world.session();
    let home = b"/home".as_slice();
    session.make_dir(home, b"d", 0o777).unwrap();
    world.write("d/f", abi::O_CREAT, b"x").unwrap();
    session.rename((home, b"d/f"), (home, b"e"), 0).unwrap();
    session.symlink(b"e", home, b"l").unwrap();
    session.remove_dir(home, b"d").unwrap();
    session.unlink(home, b"e").unwrap();
    assert_eq!(
        world.fake.changes(),
        [
            "mkdir", "create", "write", "rename", "symlink", "rmdir", "unlink"
        ]
    );
    assert_eq!(session.remove_dir(home, b"."), Err(Errno::EINVAL));
    assert_eq!(session.remove_dir(home, b"x/.."), Err(Errno::ENOENT));
    assert_eq!(session.remove_dir(b"/", b"/"), Err(Errno::EBUSY));
    assert_eq!(session.unlink(home, b"/home"), Err(Errno::EISDIR));
    assert_eq!(
        session.rename((home, b"none"), (home, b"y"), 0),
        Err(Errno::ENOENT)
    );
    assert_eq!(
        session.rename((home, b"l"), (home, b"y"), 8),
        Err(Errno::EINVAL)
    );
    world.finish();
}

#[test]
fn descriptors_are_the_lowest_free_ones() {
    let world = World::new(Writes::Outside);
    let null = || Arc::new(world.open("/dev/null", abi::O_RDWR).unwrap());
    let mut table = FdTable::new(8);
    assert_eq!(table.insert(null(), 0, OnExec::Keep), Ok(0));
    assert_eq!(table.insert(null(), 0, OnExec::Close), Ok(1));
    assert_eq!(table.insert(null(), 5, OnExec::Close), Ok(5));
    assert_eq!(table.insert(null(), 0, OnExec::Keep), Ok(2));
    assert!(table.remove(1).is_ok());
    assert_eq!(table.remove(1).map(drop), Err(Errno::EBADF));
    assert_eq!(table.insert(null(), 1, OnExec::Keep), Ok(1));
    assert_eq!(table.insert(null(), 8, OnExec::Keep), Err(Errno::EMFILE));
    assert_eq!(
        table.replace(8, null(), OnExec::Keep).map(drop),
        Err(Errno::EBADF)
    );
    assert!(table.replace(7, null(), OnExec::Keep).unwrap().is_none());
    assert!(table.replace(7, null(), OnExec::Close).unwrap().is_some());
    let copy = table.clone();
    assert!(Arc::ptr_eq(copy.get(2).unwrap(), table.get(2).unwrap()));
    assert_eq!(table.close_on_exec().len(), 2);
    assert_eq!(
        table.open_in(1, 7).map(|(fd, _)| fd).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(copy.open_in(0, 7).count(), 5);
    drop((table, copy));
    world.finish();
}

#[test]
fn pipes_hold_a_little_and_end() {
    let world = World::new(Writes::Outside);
    let (read, write) = PipeEnd::<Platform>::pair(9);
    let mut part = [0; 8];
    assert_eq!(read.read(&mut part), Err(Errno::EAGAIN));
    assert_eq!(write.write(b"hello"), Ok(5));
    assert_eq!((read.read(&mut part[..2]), &part[..2]), (Ok(2), &b"he"[..]));
    assert_eq!(write.write(&[0; 70_000]), Ok(65_533));
    assert_eq!(write.write(b"x"), Err(Errno::EAGAIN));
    assert_eq!(write.read(&mut part), Err(Errno::EBADF));
    drop(write);
    let mut all = vec![0; 70_000];
    assert_eq!(
        (read.read(&mut all), read.read(&mut all)),
        (Ok(65_536), Ok(0))
    );
    let (read, write) = PipeEnd::<Platform>::pair(10);
    drop(read);
    assert_eq!(write.write(b"x"), Err(Errno::EPIPE));
    world.finish();
}

#[test]
fn devices_do_what_they_do() {
    let world = World::new(Writes::Outside);
    let session = world.session();
    let mut part = [1; 4];
    assert_eq!(world.read("/dev/null").unwrap(), b"");
    let zero = world.open("/dev/zero", abi::O_RDWR).unwrap();
    assert_eq!((zero.read(&session, &mut part), part), (Ok(4), [0; 4]));
    let random = world.open("/dev/urandom", abi::O_RDONLY).unwrap();
    assert_eq!((random.read(&session, &mut part), part), (Ok(4), [4; 4]));
    let full = world.open("/dev/full", abi::O_WRONLY).unwrap();
    assert_eq!(full.write(&session, b"x"), Err(Errno::ENOSPC));
    assert_eq!(zero.stat(&session).unwrap().rdev, 0x105);
    assert!(zero.map_file(&session).is_ok());
    let null = world.open("/dev/null", abi::O_RDWR).unwrap();
    assert_eq!(null.map_file(&session).map(drop), Err(Errno::ENODEV));
    assert_eq!(
        world.open("/dev/sda", abi::O_RDONLY).map(drop),
        Err(Errno::ENOENT)
    );
    assert!(world.names("/dev").contains(&"null".to_string()));
    drop((zero, random, full, null));
    world.finish();
}

#[test]
fn proc_speaks_of_the_task() {
    let world = World::new(Writes::Outside);
    world.fake.file("/home/f", b"0123");
    let fd = world.install(world.open("f", abi::O_RDONLY).unwrap());
    assert_eq!(world.walk("/proc/self").unwrap(), "/proc/77");
    assert_eq!(world.walk("/proc/self/cwd/f").unwrap(), "/home/f");
    assert_eq!(world.walk("/proc/1"), Err(Errno::ENOENT));
    assert_eq!(world.walk("/proc/kcore"), Err(Errno::ENOENT));
    assert_eq!(world.read(&format!("/proc/self/fd/{fd}")).unwrap(), b"0123");
    assert_eq!(world.read("/dev/fd/9"), Err(Errno::ENOENT));
    assert_eq!(world.text("/proc/self/comm"), "someone\n");
    assert!(
        world
            .text("/proc/thread-self/maps")
            .ends_with("[vsyscall]\n")
    );
    assert_eq!(world.read("/proc/self/auxv").unwrap().len(), 32);
    let status = world.text("/proc/self/status");
    assert!(
        status.starts_with("Name:\tsomeone\nUmask:\t0022\nState:\tR (running)\nTgid:\t77\n"),
        "{status}"
    );
    assert!(status.contains("\nVmSize:\t       0 kB\n"), "{status}");
    assert!(status.contains("\nSigBlk:\t0000000000000010\n"), "{status}");
    assert_eq!(world.text("/proc/self/statm"), "0 0 0 0 0 0 0\n");
    let stat = world.text("/proc/self/stat");
    assert!(stat.starts_with("77 (someone) R 1 77 77 0 -1 "), "{stat}");
    assert_eq!(stat.split_whitespace().count(), 52, "{stat}");
    let limits = world.text("/proc/self/limits");
    assert!(
        limits.lines().all(|line| matches!(line.len(), 68 | 78)),
        "{limits}"
    );
    let memory = world.text("/proc/meminfo");
    assert!(memory.starts_with("MemTotal:          16"), "{memory}");
    assert_eq!(world.text("/proc/sys/vm/max_map_count"), "65530\n");
    assert!(world.names("/proc/self/fd").contains(&fd.to_string()));
    assert!(
        world
            .text(&format!("/proc/self/fdinfo/{fd}"))
            .starts_with("pos:\t0\nflags:\t0")
    );
    world.finish();
}

#[test]
fn settings_can_be_changed() {
    let world = World::new(Writes::Outside);
    world
        .write("/proc/sys/vm/max_map_count", 0, b"100\n")
        .unwrap();
    assert_eq!(world.text("/proc/sys/vm/max_map_count"), "100\n");
    assert_eq!(
        world.write("/proc/sys/vm/overcommit_memory", 0, b"3"),
        Err(Errno::EINVAL)
    );
    assert_eq!(world.write("/proc/self/maps", 0, b"3"), Err(Errno::EINVAL));
    world.finish();
}

/// The commit limit is a ratio or a number: setting one takes the other away. Only the first write to an open setting counts.
#[test]
fn settings_reach_the_machine() {
    let world = World::new(Writes::Outside);
    let machine = world.machine.clone();
    let total = machine.phys().total_frames();
    assert_eq!(machine.commit_limit_pages(), total / 2);
    assert_eq!(
        world.write_at("/proc/sys/vm/overcommit_kbytes", 0, b" 0x100 7"),
        Ok(7)
    );
    assert_eq!(machine.commit_limit_pages(), 64);
    assert_eq!(world.text("/proc/sys/vm/overcommit_ratio"), "0\n");
    assert_eq!(
        world.write_at("/proc/sys/vm/overcommit_ratio", 0, b"25"),
        Ok(2)
    );
    assert_eq!(machine.commit_limit_pages(), total / 4);
    assert_eq!(world.text("/proc/sys/vm/overcommit_kbytes"), "0\n");
    assert_eq!(
        world.write_at("/proc/sys/vm/overcommit_ratio", 1, b"75"),
        Ok(2)
    );
    assert_eq!(world.text("/proc/sys/vm/overcommit_ratio"), "25\n");
    assert_eq!(
        world.write_at("/proc/sys/vm/overcommit_memory", 0, b"1\n"),
        Ok(2)
    );
    assert_eq!(world.text("/proc/sys/vm/overcommit_memory"), "1\n");
    world.finish();
}

#[test]
fn a_large_file_does_not_exhaust_memory() {
    let world = World::new(Writes::Outside);
    let large: Vec<u8> = (0..40 << 20).map(|n: u32| (n >> 12) as u8).collect();
    world.fake.file("/home/large", &large);
    let file = world.open("large", abi::O_RDONLY).unwrap();
    let mut part = vec![0; 1 << 18];
    let mut at = 0;
    loop {
        world.vfs.relieve();
        let count = file.read(&world.session(), &mut part).unwrap();
        if count == 0 {
            break;
        }
        assert_eq!(&part[..count], &large[at..at + count]);
        at += count;
    }
    assert_eq!(at, large.len());
    drop(file);
    world.finish();
}

#[test]
fn bodies_say_whether_they_are_ready() {
    let world = World::new(Writes::Outside);
    let (read, write) = PipeEnd::pair(1);
    let (read, write) = (
        OpenFile::new(Body::<Platform>::Pipe(read), Vec::new(), abi::O_RDONLY),
        OpenFile::new(Body::Pipe(write), Vec::new(), abi::O_WRONLY),
    );
    assert_eq!((read.ready(), write.ready()), (Some(0), Some(0x104)));
    write.write(&world.session(), b"x").unwrap();
    assert_eq!(read.ready(), Some(0x41));
    drop(write);
    assert_eq!(read.ready(), Some(0x51));
    assert_eq!(
        read.seek(&world.session(), 0, abi::SEEK_CUR),
        Err(Errno::ESPIPE)
    );
    world.finish();
}

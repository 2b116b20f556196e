//! Tests of objects as a whole: byte ranges, truncation, holes, write-back and mappings against a model, one after the other and at once.

mod allocate;
mod concurrent;
mod failures;
mod mappings;
mod model;
mod nodes;
mod platform;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::*;
use crate::errno::Errno;
use platform::{Disk, Ram, Space, TestMachine};

type Ram4K = Ram<12>;

fn small(bytes: Vec<u8>) -> (TestMachine<12>, Arc<Disk>, Arc<Cache<Ram4K>>) {
    let machine = TestMachine::<12>::new(512);
    let disk = Disk::new::<12>(bytes.clone());
    let cache = Cache::new(&machine.machine, disk.clone(), bytes.len() as u64).unwrap();
    (machine, disk, cache)
}

#[test]
fn reads_end_at_the_end() {
    let (machine, _, cache) = small(vec![7; 5000]);
    let mut to = [0; 4096];
    assert_eq!(cache.read(4000, &mut to), Ok(1000));
    assert!(to[..1000].iter().all(|&byte| byte == 7) && to[1000..].iter().all(|&byte| byte == 0));
    assert_eq!(cache.read(5000, &mut to), Ok(0));
    assert_eq!(cache.read(u64::MAX, &mut to), Ok(0));
    assert_eq!(cache.read(0, &mut []), Ok(0));
    assert_eq!(cache.page(2).err(), Some(Errno::ENXIO));
    assert_eq!(cache.page(u64::MAX).err(), Some(Errno::ENXIO));
    drop(cache);
    machine.assert_all_back();
}

#[test]
fn a_missing_page_brings_its_neighbours_in_one_call() {
    let (machine, disk, cache) = small(vec![1; 40 * 4096]);
    cache.page(5).unwrap();
    assert_eq!(cache.cached_pages(), 32);
    assert_eq!(disk.reads.load(Ordering::Relaxed), 32);
    let mut run = [const { None }; 4];
    cache.lookup_run(30, &mut run);
    assert_eq!(run.map(|page| page.is_some()), [true, true, false, false]);
    cache.set_read_ahead(0);
    cache.page(39).unwrap();
    assert_eq!(cache.cached_pages(), 33);
    assert_eq!(cache.reclaim(100), 33);
    cache.page(3).unwrap();
    cache.set_read_ahead(128 * 1024);
    cache.page(1).unwrap();
    // Only up to the next cached page.
    assert_eq!(cache.cached_pages(), 4);
    drop(cache);
    machine.assert_all_back();
}

#[test]
fn writes_grow_the_object_and_leave_zeros_in_the_gap() {
    let (machine, disk, cache) = small(vec![1; 10]);
    assert_eq!(cache.write(9000, b"end"), Ok(3));
    assert_eq!(cache.size(), 9003);
    assert_eq!(cache.append(b"!"), Ok((9003, 1)));
    let mut all = vec![0xff; 10_000];
    assert_eq!(cache.read(0, &mut all), Ok(9004));
    assert!(all[..10].iter().all(|&byte| byte == 1) && all[10..9000].iter().all(|&byte| byte == 0));
    assert_eq!(&all[9000..9004], b"end!");
    cache.sync().unwrap();
    assert_eq!(disk.contents(), &all[..9004]);
    assert_eq!(*disk.written.lock().unwrap(), [2]);
    assert_eq!(disk.syncs.load(Ordering::Relaxed), 1);
    assert_eq!(cache.write(MAX_BYTES, b"x"), Err(Errno::EFBIG));
    assert_eq!(cache.write(u64::MAX, b"x"), Err(Errno::EFBIG));
    assert_eq!(cache.truncate(u64::MAX), Err(Errno::EFBIG));
    drop(cache);
    machine.assert_all_back();
}

#[test]
fn the_last_byte_that_can_be_is_written() {
    let machine = TestMachine::<12>::new(64);
    let cache = Cache::anonymous_shared(&machine.machine, 0, Commit::Unreserved).unwrap();
    assert_eq!(cache.write(MAX_BYTES - 2, b"abc"), Ok(2));
    assert_eq!(cache.size(), MAX_BYTES);
    let mut to = [0; 4];
    assert_eq!(cache.read(MAX_BYTES - 2, &mut to), Ok(2));
    assert_eq!(&to[..2], b"ab");
    assert_eq!(cache.page(MAX_BYTES >> 12).map(|page| page.count()), Ok(2));
    assert!(cache.page((MAX_BYTES >> 12) + 1).is_err());
    cache.truncate(0).unwrap();
    machine.assert_all_back();
}

#[test]
fn shared_memory_is_charged_as_a_whole_and_read_without_frames() {
    let machine = TestMachine::<12>::new(64);
    let file = Cache::shared_zero_file(&machine.machine, 10 * 4096).unwrap();
    assert_eq!(
        (file.path(), file.identity().major, file.identity().minor),
        (&b"/dev/zero (deleted)"[..], 0, 1)
    );
    assert!(
        file.is_readable() && file.is_writable() && !file.is_noexec() && !file.is_append_only()
    );
    let cache = file.cache().unwrap();
    assert!(cache.is_shmem());
    assert_eq!(machine.machine.committed_pages(), 10);
    let mut to = [9; 100];
    assert_eq!(cache.read(4090, &mut to), Ok(100));
    assert!(to == [0; 100] && cache.cached_pages() == 0);
    assert!(!cache.mark_dirty(0) && cache.page(0).is_ok() && cache.mark_dirty(0));
    assert_eq!((cache.dirty_pages(), cache.reclaim(100)), (0, 0));
    cache.truncate(3 * 4096).unwrap();
    assert_eq!(machine.machine.committed_pages(), 3);
    assert_eq!(cache.truncate(100 * 4096), Err(Errno::ENOMEM));
    assert_eq!(cache.invalidate(0), Err(Errno::EINVAL));
    assert_eq!(cache.size(), 3 * 4096);
    cache.sync().unwrap();
    drop(file);
    machine.assert_all_back();
}

#[test]
fn what_changed_outside_is_read_again_but_not_what_is_dirty() {
    let (machine, disk, cache) = small(vec![1; 3 * 4096]);
    let mut to = [0; 3 * 4096];
    cache.read(0, &mut to).unwrap();
    cache.write(4096, &[5; 10]).unwrap();
    *disk.bytes.lock().unwrap() = vec![2; 2 * 4096 + 50];
    assert_eq!(cache.invalidate(2 * 4096 + 50), Ok(1));
    assert_eq!(cache.read(0, &mut to), Ok(2 * 4096 + 50));
    assert!(to[..4096].iter().all(|&byte| byte == 2));
    assert!(to[4096..4106] == [5; 10] && to[4106..8192].iter().all(|&byte| byte == 1));
    assert!(to[8192..8242] == [2; 50]);
    drop(cache);
    machine.assert_all_back();
}

#[test]
fn reclaim_leaves_what_is_dirty_or_in_use() {
    let (machine, disk, cache) = small(vec![3; 8 * 4096]);
    let kept = cache.page(4).unwrap();
    cache.write(0, b"dirty").unwrap();
    assert_eq!(cache.reclaim(3), 3);
    assert_eq!(cache.reclaim(100), 3);
    assert_eq!(cache.cached_pages(), 2);
    assert!(cache.lookup(4) == Some(kept) && cache.is_cached(0) && !cache.is_cached(1));
    cache.writeback(0..1).unwrap();
    assert_eq!(cache.reclaim(100), 2);
    assert_eq!(&disk.contents()[..6], b"dirty\x03");
    drop(cache);
    machine.assert_all_back();
}

#[test]
fn the_last_reference_writes_what_is_dirty() {
    let (machine, disk, cache) = small(vec![0; 100]);
    cache.write(50, b"kept").unwrap();
    drop(cache);
    assert_eq!(&disk.contents()[50..54], b"kept");
    assert_eq!(disk.contents().len(), 100);
    machine.assert_all_back();
}

#[test]
fn writers_and_those_who_deny_them_exclude_each_other() {
    let (machine, _, cache) = small(vec![0; 100]);
    let open = |mode| {
        let (identity, path, cache) = (FileIdentity::default(), Vec::new(), Some(cache.clone()));
        File::new(
            &machine.machine,
            FileSpec {
                cache,
                mode,
                identity,
                path,
                operations: None,
            },
        )
    };
    let reader = open(FileMode::READ).unwrap();
    cache.deny_write_access().unwrap();
    assert_eq!(open(FileMode::WRITE).err(), Some(Errno::ETXTBSY));
    cache.allow_write_access();
    let writer = open(FileMode::READ | FileMode::WRITE).unwrap();
    assert_eq!(cache.deny_write_access(), Err(Errno::ETXTBSY));
    drop(writer);
    cache.deny_write_access().unwrap();
    cache.allow_write_access();
    assert!(reader.operations().can_mmap(&reader) && reader.operations().extra_map_flags() == 0);

    cache.deny_writable().unwrap();
    assert_eq!(cache.map_writable(), Err(Errno::EPERM));
    cache.allow_writable();
    let (_, id) = Space::map(&cache, 1, MappingKind::SharedWritable);
    assert_eq!(cache.deny_writable(), Err(Errno::EBUSY));
    assert!(cache.is_mapped() && cache.is_writably_mapped());
    cache.remove_mapping(id);
    assert!(!cache.is_mapped() && !cache.is_writably_mapped());
    cache.deny_writable().unwrap();
}

#[test]
fn a_file_without_pages_cannot_be_mapped() {
    let machine = TestMachine::<12>::new(64);
    let spec = FileSpec {
        cache: None,
        mode: FileMode::READ,
        identity: FileIdentity {
            major: 1,
            minor: 5,
            inode: 9,
        },
        path: b"/dev/tty".to_vec(),
        operations: None,
    };
    let file = File::new(&machine.machine, spec).unwrap();
    assert!(!file.operations().can_mmap(&file));
    let nowhere = crate::addr::VirtRange::with_len(crate::addr::VirtAddr::new(0), 4096).unwrap();
    let mut draft = crate::device::VmaDraft::new(nowhere, VmFlags::READ, 0);
    assert_eq!(
        file.operations().mmap(&file, &mut draft),
        Err(Errno::ENOEXEC)
    );
    assert!(format!("{file:?}").contains("/dev/tty"));
}

#[test]
fn a_file_that_grew_is_as_long_outside_even_if_its_end_is_a_hole() {
    let (_machine, disk, cache) = small(vec![1; 10]);
    cache.write(3 * 4096, b"end").unwrap();
    cache.punch_hole(3..4).unwrap();
    cache.writeback(0..2).unwrap();
    assert_eq!(disk.contents().len(), 10);
    cache.writeback(0..4).unwrap();
    assert_eq!(disk.contents().len(), 3 * 4096 + 3);
    assert!(disk.contents()[10..].iter().all(|&byte| byte == 0));
}

#[test]
fn the_object_ends_where_its_size_says_even_if_the_backing_is_longer() {
    let (_machine, disk, cache) = small(vec![7; 50]);
    *disk.bytes.lock().unwrap() = vec![7; 100];
    let mut tail = [9; 10];
    cache.page(0).unwrap().read(45, &mut tail);
    assert_eq!(tail, [7, 7, 7, 7, 7, 0, 0, 0, 0, 0]);
}

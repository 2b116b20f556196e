//! Every allocation and every call of the backing fails once: nothing is lost, nothing leaks, and what a call says it did it did.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::platform::{Disk, Ram, TestMachine};
use super::small;
use crate::errno::Errno;
use crate::object::{Cache, Commit};

const ENOMEM: Errno = Errno::ENOMEM;

/// Mixed work; keeps `bytes` equal to what the object must hold, failed calls included.
fn work(cache: &Cache<Ram<12>>, bytes: &mut Vec<u8>, expected: Errno) {
    let checked = |result: Result<(), Errno>| match result {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error, expected);
            false
        }
    };
    for (offset, len) in [
        (100, 10),
        (4000, 200),
        (300_000, 4096),
        (0, 12_288),
        (1 << 21, 5),
    ] {
        let data = vec![len as u8 | 1; len];
        let done = match cache.write(offset, &data) {
            Ok(done) => done,
            Err(error) => {
                assert_eq!(error, expected);
                0
            }
        };
        let end = offset as usize + done;
        if done != 0 {
            bytes.resize(bytes.len().max(end), 0);
            bytes[offset as usize..end].copy_from_slice(&data[..done]);
        }
        let mut to = vec![0; 9000];
        match cache.read(offset.saturating_sub(50), &mut to) {
            Ok(count) => {
                let start = (offset.saturating_sub(50) as usize).min(bytes.len());
                assert!(to[..count] == bytes[start..start + count]);
            }
            Err(error) => assert_eq!(error, expected),
        }
        assert_eq!(cache.size(), bytes.len() as u64);
    }
    if checked(cache.truncate(290_000)) {
        bytes.resize(290_000, 0);
    }
    if checked(cache.punch_hole(1..2)) {
        let end = bytes.len().min(8192);
        bytes[4096..end].fill(0);
    }
    checked(cache.sync());
    if checked(cache.truncate(500_000)) {
        bytes.resize(500_000, 0);
    }
    checked(cache.writeback(0..u64::MAX));
}

/// The object holds these bytes, and so does what it writes.
fn verify(cache: &Cache<Ram<12>>, disk: Option<&Disk>, bytes: &[u8]) {
    let mut all = vec![0; bytes.len() + 1];
    assert_eq!(cache.read(0, &mut all), Ok(bytes.len()));
    assert!(all[..bytes.len()] == *bytes);
    cache.sync().unwrap();
    if let Some(disk) = disk {
        assert!(disk.contents() == bytes);
    }
}

#[test]
fn each_allocation_fails_once() {
    let mut nth = 1;
    loop {
        let (machine, disk, cache) = small(vec![1; 20_000]);
        let mut bytes = vec![1; 20_000];
        let fail = machine.machine.fail_point();
        fail.arm(nth);
        work(&cache, &mut bytes, ENOMEM);
        let fired = fail.disarm();
        verify(&cache, Some(&disk), &bytes);
        drop(cache);
        machine.assert_all_back();
        if !fired {
            assert!(nth > 20, "the work allocates more than that");
            return;
        }
        nth += 1;
    }
}

#[test]
fn each_allocation_of_shared_memory_fails_once() {
    let mut nth = 1;
    loop {
        let machine = TestMachine::<12>::new(256);
        let fail = machine.machine.fail_point();
        fail.arm(nth);
        let made = Cache::shared_zero_file_with(&machine.machine, 100, Commit::Charged);
        if let Ok(file) = &made {
            let mut bytes = vec![0; 100];
            let cache = file.cache().unwrap();
            work(cache, &mut bytes, ENOMEM);
            fail.disarm();
            verify(cache, None, &bytes);
        } else {
            assert_eq!(made.as_ref().err(), Some(&ENOMEM));
        }
        let fired = made.is_err() || fail.disarm();
        drop(made);
        machine.assert_all_back();
        if !fired && nth > 40 {
            return;
        }
        nth += 1;
    }
}

#[test]
fn each_call_of_the_backing_fails_once() {
    for nth in 1..40 {
        let (machine, disk, cache) = small(vec![1; 20_000]);
        let mut bytes = vec![1; 20_000];
        disk.fail(nth);
        work(&cache, &mut bytes, Errno::EIO);
        disk.fail(0);
        verify(&cache, Some(&disk), &bytes);
        drop(cache);
        machine.assert_all_back();
    }
}

#[test]
fn a_page_that_cannot_be_read_does_not_take_its_neighbours_along() {
    let (_machine, disk, cache) = small(vec![1; 8 * 4096]);
    // The third page of the run; then the page itself is read alone.
    disk.fail(3);
    assert!(cache.page(5).is_ok());
    assert_eq!(cache.cached_pages(), 1);
    cache.set_read_ahead(0);
    disk.fail(1);
    assert_eq!(cache.page(2).err(), Some(Errno::EIO));
    let mut to = [0; 3 * 4096];
    disk.fail(2);
    assert_eq!(cache.read(10, &mut to), Ok(4086));
    assert!(cache.page(2).is_ok());
}

#[test]
fn a_page_that_cannot_be_written_stays_dirty_and_the_rest_is_written() {
    let (_machine, disk, cache) = small(vec![1; 4 * 4096]);
    cache.write(0, &[2; 4 * 4096]).unwrap();
    // The run fails at its second page, then the third of the single ones fails.
    disk.fail(2);
    let refail = disk.clone();
    let backing = Arc::new(FailAgain { disk: refail });
    let again = Cache::new(cache.machine(), backing.clone(), 4 * 4096).unwrap();
    again.write(0, &[2; 4 * 4096]).unwrap();
    assert_eq!(again.sync(), Err(Errno::ENOSPC));
    assert_eq!(again.dirty_pages(), 1);
    assert_eq!(disk.contents()[2 * 4096], 1);
    assert_eq!(disk.contents()[3 * 4096], 2);
    disk.fail(0);
    cache.sync().unwrap();
    assert_eq!(
        (cache.dirty_pages(), disk.contents()),
        (0, vec![2; 4 * 4096])
    );
    // What is still dirty in `again` goes where it came from.
    drop(again);
    assert_eq!(disk.syncs.load(Ordering::Relaxed), 1);
}

/// Cannot write page 2.
struct FailAgain {
    disk: Arc<Disk>,
}

impl crate::object::Backing for FailAgain {
    fn read_page(&self, index: u64, page: &mut [u8]) -> Result<(), Errno> {
        self.disk.read_page(index, page)
    }

    fn write_page(&self, index: u64, page: &[u8]) -> Result<(), Errno> {
        self.disk.fail(0);
        if index == 2 {
            Err(Errno::ENOSPC)
        } else {
            self.disk.write_page(index, page)
        }
    }

    fn set_len(&self, bytes: u64) -> Result<(), Errno> {
        self.disk.set_len(bytes)
    }
}

#[test]
fn a_backing_that_refuses_leaves_all_as_it_was() {
    let (_machine, disk, cache) = small(vec![1; 3 * 4096]);
    cache.write(0, b"dirty").unwrap();
    disk.fail(1);
    assert_eq!(cache.truncate(10), Err(Errno::EIO));
    disk.fail(1);
    assert_eq!(cache.punch_hole(0..1), Err(Errno::EIO));
    let holeless = Cache::new(cache.machine(), Arc::new(FailAgain { disk }), 4096).unwrap();
    assert_eq!(holeless.punch_hole(0..1), Err(Errno::EOPNOTSUPP));
    let mut to = [0; 5];
    assert_eq!(
        (cache.read(0, &mut to), &to, cache.size()),
        (Ok(5), b"dirty", 3 * 4096)
    );
}

#[test]
fn no_room_for_a_mapping_is_an_error() {
    let (machine, _, cache) = small(vec![1; 100]);
    machine.machine.fail_point().arm(1);
    assert!(cache.reserve_mapping().is_err());
    machine.machine.fail_point().disarm();
    let id = cache.reserve_mapping().unwrap();
    // Given back without having been filled.
    cache.remove_mapping(id);
    assert!(!cache.is_mapped());
}

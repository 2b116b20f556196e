//! Random operations on an object, its mapping and its backing, against a plain vector of bytes.

use super::platform::{Disk, Ram, Random, Space, TestMachine};
use crate::object::{Cache, Commit, MappingKind};
use std::collections::BTreeMap;
use std::sync::Arc;

struct Model<const SHIFT: u32> {
    bytes: Vec<u8>,
    /// What stores left past the end of shared memory, in its last page: part of it when it grows.
    beyond: BTreeMap<usize, u8>,
    cache: Arc<Cache<Ram<SHIFT>>>,
    space: Arc<Space<SHIFT>>,
    disk: Option<Arc<Disk>>,
    random: Random,
    limit: u64,
}

impl<const SHIFT: u32> Model<SHIFT> {
    fn step(&mut self) {
        let page = 1u64 << SHIFT;
        match self.random.below(16) {
            0..=2 => self.read(),
            3..=4 => self.write(),
            5..=7 => self.store(),
            8 => self.load(),
            9 => self.truncate(),
            10 => {
                let first = self.random.below(self.limit / page);
                let end = first + self.random.below(3);
                let at = |index: u64| ((index * page) as usize).min(self.bytes.len());
                let range = at(first)..at(end);
                self.cache.punch_hole(first..end).unwrap();
                self.bytes[range].fill(0);
                let hole = (first * page) as usize..(end * page) as usize;
                self.beyond.retain(|at, _| !hole.contains(at));
            }
            11 => {
                let first = self.random.below(self.limit / page);
                self.cache
                    .writeback(first..first + self.random.below(5))
                    .unwrap();
            }
            12 => self.sync(),
            13 if self.disk.is_some() => {
                self.sync();
                assert_eq!(self.cache.invalidate(self.bytes.len() as u64), Ok(0));
                assert_eq!(self.cache.cached_pages(), 0);
            }
            14 => {
                self.cache.reclaim(self.random.below(10));
            }
            _ => {
                let bytes = self.some_bytes(300);
                assert_eq!(
                    self.cache.append(&bytes),
                    Ok((self.bytes.len() as u64, bytes.len()))
                );
                let start = self.bytes.len();
                self.grow(start + bytes.len());
                self.bytes[start..].copy_from_slice(&bytes);
            }
        }
        assert_eq!(self.cache.size(), self.bytes.len() as u64);
    }

    fn some_bytes(&mut self, most: u64) -> Vec<u8> {
        let len = self.random.below(most) as usize;
        self.random.bytes(len)
    }

    fn read(&mut self) {
        let offset = self.random.below(self.limit);
        let mut to = vec![0xee; self.random.below(3 << SHIFT) as usize];
        let count = self.cache.read(offset, &mut to).unwrap();
        let start = (offset as usize).min(self.bytes.len());
        let end = (start + to.len()).min(self.bytes.len());
        assert!(
            to[..count] == self.bytes[start..end],
            "read of {} at {offset}",
            to.len()
        );
    }

    fn write(&mut self) {
        let mut offset = self.random.below(self.limit);
        let mut bytes = self.some_bytes(2 << SHIFT);
        if self.random.below(3) == 0 {
            offset = offset >> SHIFT << SHIFT;
            bytes = self.random.bytes(1 << SHIFT);
        }
        assert_eq!(self.cache.write(offset, &bytes), Ok(bytes.len()));
        let end = offset as usize + bytes.len();
        if !bytes.is_empty() && self.bytes.len() < end {
            self.grow(end);
        }
        if !bytes.is_empty() {
            self.bytes[offset as usize..end].copy_from_slice(&bytes);
        }
    }

    fn store(&mut self) {
        let offset = self.random.below(self.limit);
        let value = self.random.below(256) as u8;
        let inside = offset >> SHIFT < (self.bytes.len() as u64).div_ceil(1 << SHIFT);
        assert_eq!(self.space.store(&self.cache, offset, &[value]), inside);
        match self.bytes.get_mut(offset as usize) {
            Some(byte) => *byte = value,
            // What is stored past the end of a file is nobody's.
            None if inside && self.disk.is_none() => {
                self.beyond.insert(offset as usize, value);
            }
            None => {}
        }
    }

    fn load(&mut self) {
        let offset = self.random.below(self.limit);
        let loaded = self.space.load(&self.cache, offset);
        match self.bytes.get(offset as usize) {
            Some(&byte) => assert_eq!(loaded, Some(byte)),
            None => assert_eq!(
                loaded.is_some(),
                offset >> SHIFT < (self.bytes.len() as u64).div_ceil(1 << SHIFT)
            ),
        }
    }

    fn truncate(&mut self) {
        let size = self.random.below(self.limit);
        self.cache.truncate(size).unwrap();
        let size = size as usize;
        if size < self.bytes.len() {
            self.bytes.truncate(size);
            self.beyond.clear();
        }
        self.grow(size);
    }

    fn grow(&mut self, size: usize) {
        self.bytes.resize(size, 0);
        let rest = self.beyond.split_off(&size);
        for (at, value) in std::mem::replace(&mut self.beyond, rest) {
            self.bytes[at] = value;
        }
    }

    fn sync(&mut self) {
        self.cache.sync().unwrap();
        if let Some(disk) = &self.disk {
            assert!(
                disk.contents() == self.bytes,
                "the file is not what was written"
            );
            assert_eq!(self.cache.dirty_pages(), 0);
        }
    }
}

fn run<const SHIFT: u32>(seed: u64, steps: usize, backed: bool) {
    let machine = TestMachine::<SHIFT>::new(256);
    let bytes = Random(seed).bytes(5 << SHIFT);
    let disk = backed.then(|| Disk::new::<SHIFT>(bytes.clone()));
    let cache = match &disk {
        Some(disk) => Cache::new(&machine.machine, disk.clone(), bytes.len() as u64).unwrap(),
        None => {
            let cache = Cache::anonymous_shared(&machine.machine, 0, Commit::Unreserved).unwrap();
            cache.write(0, &bytes).unwrap();
            cache
        }
    };
    let (space, id) = Space::map(&cache, 1000, MappingKind::SharedWritable);
    let mut model = Model {
        bytes,
        beyond: BTreeMap::new(),
        cache,
        space,
        disk,
        random: Random(seed),
        limit: 40 << SHIFT,
    };
    for _ in 0..steps {
        model.step();
    }
    model.sync();
    let mut all = vec![0; model.bytes.len() + 1];
    assert_eq!(model.cache.read(0, &mut all), Ok(model.bytes.len()));
    assert!(all[..model.bytes.len()] == model.bytes);
    model.cache.remove_mapping(id);
    drop(model);
    machine.assert_all_back();
}

#[test]
fn files_behave_as_a_vector_of_bytes() {
    for seed in 1..9 {
        run::<12>(seed, 2000, true);
    }
    run::<16>(9, 300, true);
}

#[test]
fn shared_memory_behaves_as_a_vector_of_bytes() {
    for seed in 11..15 {
        run::<12>(seed, 2000, false);
    }
    run::<16>(15, 300, false);
}

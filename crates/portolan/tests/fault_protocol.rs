//! A loom model of the protocol by which faults and writers of one space meet (`space` in the library, "How an operation runs"): every
//! interleaving of one fault with an unmap, a protect and a fork. It models the protocol, not the code: VMAs are two flags, a page-table page is
//! a lock and an entry, a frame is a count. What it shows is that the order of the steps is enough; the thread tests run the code itself.

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::sync::{Arc, Mutex, RwLock};
use loom::thread;

/// An area: immutable but for the mark that it has left the index.
struct Vma {
    writable: bool,
    detached: AtomicBool,
}

impl Vma {
    fn new(writable: bool) -> Self {
        Self {
            writable,
            detached: AtomicBool::new(false),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    Absent,
    Present { writable: bool },
}

const NONE: usize = usize::MAX;

/// A space with one area and two page-table pages of one entry each.
struct Space {
    /// The area before the change and the one after it.
    vmas: [Vma; 2],
    /// Which of them the index holds.
    index: AtomicUsize,
    mmap_lock: RwLock<()>,
    gate: AtomicUsize,
    tables: [Mutex<Entry>; 2],
    /// Frames that are allocated and not freed.
    frames: AtomicUsize,
}

#[derive(PartialEq, Eq, Debug)]
enum Outcome {
    Installed,
    Refused,
}

impl Space {
    fn new(after_writable: bool) -> Arc<Self> {
        Arc::new(Self {
            vmas: [Vma::new(true), Vma::new(after_writable)],
            index: AtomicUsize::new(0),
            mmap_lock: RwLock::new(()),
            gate: AtomicUsize::new(0),
            tables: [Mutex::new(Entry::Absent), Mutex::new(Entry::Absent)],
            frames: AtomicUsize::new(0),
        })
    }

    fn find(&self) -> Option<&Vma> {
        self.vmas.get(self.index.load(Ordering::Acquire))
    }

    /// One try at a write fault; `None`: repeat under the mmap lock.
    fn try_fault(&self, table: usize) -> Option<Outcome> {
        let vma = self.find()?;
        if !vma.writable {
            return None;
        }
        let mut entry = self.tables[table].lock().unwrap();
        if vma.detached.load(Ordering::Acquire) || self.gate.load(Ordering::Acquire) != 0 {
            return None;
        }
        self.install(&mut entry);
        Some(Outcome::Installed)
    }

    fn install(&self, entry: &mut Entry) {
        if *entry == Entry::Absent {
            self.frames.fetch_add(1, Ordering::Relaxed);
        }
        *entry = Entry::Present { writable: true };
    }

    /// A write fault: first without the mmap lock, then under it, where the answer is final.
    fn fault(&self, table: usize) -> Outcome {
        if let Some(outcome) = self.try_fault(table) {
            return outcome;
        }
        let _lock = self.mmap_lock.read().unwrap();
        match self.find() {
            Some(vma) if vma.writable => {
                self.install(&mut self.tables[table].lock().unwrap());
                Outcome::Installed
            }
            _ => Outcome::Refused,
        }
    }

    /// The writer's side of `munmap` and `mprotect`: detach, publish, then change the entry.
    fn replace(&self, successor: usize, change: impl Fn(Entry) -> Entry) {
        let _lock = self.mmap_lock.write().unwrap();
        self.vmas[0].detached.store(true, Ordering::Release);
        self.index.store(successor, Ordering::Release);
        let mut entry = self.tables[0].lock().unwrap();
        let old = *entry;
        *entry = change(old);
        if old != Entry::Absent && *entry == Entry::Absent {
            self.frames.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn entry(&self, table: usize) -> Entry {
        *self.tables[table].lock().unwrap()
    }
}

fn faulting(space: &Arc<Space>) -> thread::JoinHandle<Outcome> {
    let space = space.clone();
    thread::spawn(move || space.fault(0))
}

#[test]
fn a_fault_sees_the_unmap_or_is_swept_by_it() {
    loom::model(|| {
        let space = Space::new(false);
        let faulter = faulting(&space);
        space.replace(NONE, |_| Entry::Absent);
        faulter.join().unwrap();
        assert_eq!(space.entry(0), Entry::Absent);
        assert_eq!(
            space.frames.load(Ordering::Relaxed),
            0,
            "every frame came back"
        );
    });
}

#[test]
fn no_entry_stays_writable_after_protect() {
    loom::model(|| {
        let space = Space::new(false);
        let faulter = faulting(&space);
        space.replace(1, |entry| match entry {
            Entry::Absent => Entry::Absent,
            Entry::Present { .. } => Entry::Present { writable: false },
        });
        faulter.join().unwrap();
        assert_ne!(space.entry(0), Entry::Present { writable: true });
        let mapped = (space.entry(0) != Entry::Absent) as usize;
        assert_eq!(space.frames.load(Ordering::Relaxed), mapped);
    });
}

#[test]
fn a_protect_that_loosens_loses_no_fault() {
    loom::model(|| {
        let space = Space::new(true);
        let faulter = faulting(&space);
        space.replace(1, |entry| entry);
        assert_eq!(faulter.join().unwrap(), Outcome::Installed);
        assert_eq!(space.entry(0), Entry::Present { writable: true });
        assert_eq!(space.frames.load(Ordering::Relaxed), 1);
    });
}

/// Two stores of one thread, each with its fault, while another forks: a child that has the second has the first.
#[test]
fn a_fork_copies_stores_in_the_order_they_were_made() {
    loom::model(|| {
        let space = Space::new(true);
        let storer = {
            let space = space.clone();
            thread::spawn(move || {
                space.fault(0);
                space.fault(1);
            })
        };
        let child = {
            let _lock = space.mmap_lock.write().unwrap();
            space.gate.fetch_add(1, Ordering::SeqCst);
            let copied = [0, 1].map(|table| {
                let mut entry = space.tables[table].lock().unwrap();
                if *entry != Entry::Absent {
                    *entry = Entry::Present { writable: false };
                }
                *entry
            });
            space.gate.fetch_sub(1, Ordering::SeqCst);
            copied
        };
        storer.join().unwrap();
        if child[1] != Entry::Absent {
            assert_ne!(
                child[0],
                Entry::Absent,
                "the child has the second store without the first"
            );
        }
    });
}

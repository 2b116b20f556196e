//! The sequence that tells a reader whether what it saw was one moment's truth. `seqcount_t`.
//! Not for keeping memory alive: that is the epoch's part.

use crate::epoch::sync::{AtomicUsize, Ordering, fence};

/// Odd while a write section is open; counted up at both its ends.
pub(super) struct Sequence(AtomicUsize);

impl Sequence {
    pub fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Opens a write section; there must be one writer at a time.
    pub fn write(&self) -> Section<'_> {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.wrapping_add(1), Ordering::Relaxed);
        // A reader that sees a store of the section sees the odd count at its validation: this fence meets the one there.
        fence(Ordering::Release);
        Section {
            sequence: &self.0,
            after: before.wrapping_add(2),
        }
    }

    /// Starts a read; `None` while a write section is open.
    #[inline(always)]
    pub fn read(&self) -> Option<usize> {
        let seen = self.0.load(Ordering::Acquire);
        (seen & 1 == 0).then_some(seen)
    }

    /// Whether nothing was written since the read that began with `seen`.
    #[inline(always)]
    pub fn validate(&self, seen: usize) -> bool {
        fence(Ordering::Acquire);
        self.0.load(Ordering::Relaxed) == seen
    }
}

/// An open write section, closed on drop.
pub(super) struct Section<'s> {
    sequence: &'s AtomicUsize,
    after: usize,
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        // Release: a reader that begins with this count sees all of the section.
        self.sequence.store(self.after, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod model {
    use alloc::sync::Arc;
    use loom::thread;

    use super::*;

    #[test]
    fn a_validated_read_is_of_one_moment() {
        loom::model(|| {
            let shared = Arc::new((Sequence::new(), AtomicUsize::new(0), AtomicUsize::new(0)));
            let writer = {
                let shared = shared.clone();
                thread::spawn(move || {
                    for value in 1..=2 {
                        let _section = shared.0.write();
                        shared.1.store(value, Ordering::Relaxed);
                        shared.2.store(value, Ordering::Relaxed);
                    }
                })
            };
            if let Some(seen) = shared.0.read() {
                let (a, b) = (
                    shared.1.load(Ordering::Acquire),
                    shared.2.load(Ordering::Acquire),
                );
                if shared.0.validate(seen) {
                    assert_eq!(a, b);
                }
            }
            writer.join().unwrap();
        });
    }
}

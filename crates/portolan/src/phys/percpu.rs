//! A short stack of free frames for each CPU, so that taking and giving one meets no other CPU. `struct per_cpu_pages`.
//! Not for blocks of several frames, and not where frames are counted as gone: what lies here is free.
//!
//! A list is only ever tried, never waited for: who finds it held (two threads on one CPU number, or a drain) goes to the buddy
//! allocator. So its lock needs no platform, and a thread that is preempted while it holds one delays nobody.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// How many frames move between a list and the buddy allocator at once. `pcp->batch`.
pub(super) const BATCH: usize = 32;

/// How many frames a list holds at most; with the two words before them they fill whole cache lines. `pcp->high`.
pub(super) const CAPACITY: usize = 124;

/// The free frames of one CPU, the most recently used last.
pub(super) struct List {
    held: AtomicBool,
    len: AtomicU32,
    frames: [AtomicU32; CAPACITY],
}

impl Default for List {
    fn default() -> List {
        List {
            held: AtomicBool::new(false),
            len: AtomicU32::new(0),
            frames: [const { AtomicU32::new(0) }; CAPACITY],
        }
    }
}

impl List {
    /// The list, if nobody else holds it.
    #[inline]
    pub(super) fn try_hold(&self) -> Option<Held<'_>> {
        if self.held.swap(true, Ordering::Acquire) {
            None
        } else {
            Some(Held(self))
        }
    }

    /// The list, waiting for whoever holds it.
    pub(super) fn hold(&self, relax: impl Fn(u32)) -> Held<'_> {
        let mut turn = 0u32;
        loop {
            if let Some(held) = self.try_hold() {
                return held;
            }
            while self.held.load(Ordering::Relaxed) {
                relax(turn);
                turn = turn.saturating_add(1);
            }
        }
    }

    /// How many frames lie in it; exact while nobody changes it.
    pub(super) fn len(&self) -> u32 {
        self.len.load(Ordering::Relaxed)
    }
}

/// A list that is held; dropping it lets go.
pub(super) struct Held<'a>(&'a List);

impl Held<'_> {
    /// The frame that was put in last.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<u32> {
        let top = self.0.len().checked_sub(1)?;
        let frame = self.0.frames.get(top as usize)?.load(Ordering::Relaxed);
        self.0.len.store(top, Ordering::Relaxed);
        Some(frame)
    }

    /// Puts a frame in; false if there is no room.
    #[inline]
    pub(super) fn push(&mut self, frame: u32) -> bool {
        let len = self.0.len();
        let Some(slot) = self.0.frames.get(len as usize) else {
            return false;
        };
        slot.store(frame, Ordering::Relaxed);
        self.0.len.store(len + 1, Ordering::Relaxed);
        true
    }

    /// How many frames fit in still.
    pub(super) fn room(&self) -> usize {
        CAPACITY - self.0.len() as usize
    }

    /// Takes the frames out that have been in longest, as many as fill `out`, and returns how many.
    pub(super) fn take_oldest(&mut self, out: &mut [u32]) -> usize {
        let len = self.0.len() as usize;
        let taken = out.len().min(len);
        for (to, from) in out.iter_mut().zip(&self.0.frames[..taken]) {
            *to = from.load(Ordering::Relaxed);
        }
        for (to, from) in self.0.frames.iter().zip(&self.0.frames[taken..len]) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.0.len.store((len - taken) as u32, Ordering::Relaxed);
        taken
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.held.store(false, Ordering::Release);
    }
}

//! Heap allocations that can fail, and the fail point that makes any allocation fail in a test.
//! Not for frames, which `Phys` gives out; they consult the same fail point.

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::errno::Errno;

/// No memory was left: of frames, or of the heap.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct OutOfMemory;

impl From<OutOfMemory> for Errno {
    fn from(_: OutOfMemory) -> Errno {
        Errno::ENOMEM
    }
}

impl core::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("out of memory")
    }
}

impl core::error::Error for OutOfMemory {}

/// Makes one chosen allocation fail, so that tests reach every error path. `should_fail`. Off it costs one relaxed load.
#[derive(Default, Debug)]
pub struct FailPoint {
    /// How many allocations from now the failing one is; 0 when off.
    left: AtomicU64,
    fired: AtomicBool,
}

impl FailPoint {
    /// One that is off.
    pub const fn new() -> FailPoint {
        FailPoint {
            left: AtomicU64::new(0),
            fired: AtomicBool::new(false),
        }
    }

    /// Makes the `nth` allocation from now fail, counted from 1; the ones after it succeed again. 0 turns it off.
    pub fn arm(&self, nth: u64) {
        self.fired.store(false, Ordering::Relaxed);
        self.left.store(nth, Ordering::Release);
    }

    /// Turns it off; true if an allocation was made to fail since it was armed.
    pub fn disarm(&self) -> bool {
        self.left.store(0, Ordering::Release);
        self.fired.swap(false, Ordering::AcqRel)
    }

    /// Counts one allocation.
    ///
    /// # Errors
    /// This is the one that was to fail.
    #[inline]
    pub fn check(&self) -> Result<(), OutOfMemory> {
        if self.left.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        self.count_down()
    }

    #[cold]
    #[inline(never)]
    fn count_down(&self) -> Result<(), OutOfMemory> {
        match self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            }) {
            Ok(1) => {
                self.fired.store(true, Ordering::Release);
                Err(OutOfMemory)
            }
            _ => Ok(()),
        }
    }
}

/// `Box::new` that can fail.
///
/// # Errors
/// The heap is exhausted, or the fail point fired; `value` is dropped.
pub fn try_box<T>(fail: &FailPoint, value: T) -> Result<Box<T>, OutOfMemory> {
    fail.check()?;
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        return Ok(Box::new(value));
    }
    // SAFETY: the layout's size is not zero.
    let memory = unsafe { alloc(layout) }.cast::<T>();
    if memory.is_null() {
        return Err(OutOfMemory);
    }
    // SAFETY: `memory` comes from the global allocator with the layout of `T`, is valid for a write of a `T`, and is owned by
    // nothing else, which is what a `Box` needs.
    unsafe {
        memory.write(value);
        Ok(Box::from_raw(memory))
    }
}

/// `Arc::new` that can fail.
///
/// Stable Rust has no fallible `Arc`, so this asks the allocator for that much first and gives it back. Where another thread
/// takes the last memory in between, `Arc::new` ends the program as it always does.
///
/// # Errors
/// The heap is exhausted, or the fail point fired; `value` is dropped.
pub fn try_arc<T>(fail: &FailPoint, value: T) -> Result<Arc<T>, OutOfMemory> {
    fail.check()?;
    let counts = Layout::new::<[usize; 2]>();
    let (layout, _) = counts.extend(Layout::new::<T>()).map_err(|_| OutOfMemory)?;
    let layout = layout.pad_to_align();
    // SAFETY: the layout's size is not zero, it holds the two counts. The compiler may not assume that this succeeds and drop it,
    // since `black_box` shows it the result.
    let probe = core::hint::black_box(unsafe { alloc(layout) });
    if probe.is_null() {
        return Err(OutOfMemory);
    }
    // SAFETY: allocated just above with this layout.
    unsafe { dealloc(probe, layout) };
    Ok(Arc::new(value))
}

/// An empty `Vec` with room for `capacity` values.
///
/// # Errors
/// The heap is exhausted, or the fail point fired.
pub fn try_vec<T>(fail: &FailPoint, capacity: usize) -> Result<Vec<T>, OutOfMemory> {
    fail.check()?;
    let mut values = Vec::new();
    values
        .try_reserve_exact(capacity)
        .map_err(|_| OutOfMemory)?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_armed_allocation_fails_and_no_other() {
        let fail = FailPoint::new();
        fail.arm(3);
        let results: Vec<bool> = (0..5).map(|n| try_box(&fail, n).is_ok()).collect();
        assert_eq!(results, [true, true, false, true, true]);
        assert!(fail.disarm());
        assert!(!fail.disarm());
        fail.arm(2);
        assert!(try_arc(&fail, 1).is_ok());
        assert!(!fail.disarm() && try_arc(&fail, 1).is_ok());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let fail = FailPoint::new();
        assert_eq!(try_vec::<u64>(&fail, usize::MAX).err(), Some(OutOfMemory));
        assert_eq!(*try_box(&fail, 7u64).unwrap(), 7);
        assert_eq!(*try_arc(&fail, [9u8; 100]).unwrap(), [9; 100]);
        try_box(&fail, ()).unwrap();
        assert_eq!(Errno::from(OutOfMemory), Errno::ENOMEM);
    }
}

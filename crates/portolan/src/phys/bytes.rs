//! Copies to, from and between frames. Frame bytes are shared with everything that maps the frame: user code, other threads, the
//! outside. So each access here is as if made of relaxed atomic byte accesses; it may see a mix of old and new, never more.
//! Words are a shorthand for eight such bytes; nothing is concluded from reading one whole.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const WORD: usize = size_of::<u64>();

/// From this length on one string instruction is faster than a loop of words.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const STRING_FROM: usize = 256;

/// Copies `len` bytes out of a frame.
///
/// # Safety
/// `frame` must be valid for reads of `len` bytes, however shared; `to` must be valid for writes of `len` bytes and not shared.
/// The two must not overlap.
pub(super) unsafe fn load(frame: *const u8, to: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if len >= STRING_FROM {
        // SAFETY: passed on from the caller.
        return unsafe { move_bytes(frame, to, len) };
    }
    let (head, words) = split(frame as usize, len);
    for at in (0..head).chain(head + words * WORD..len) {
        // SAFETY: `at` is below `len`; see the caller's promise.
        unsafe {
            to.add(at)
                .write(AtomicU8::from_ptr(frame.add(at).cast_mut()).load(Ordering::Relaxed))
        };
    }
    for at in (head..).step_by(WORD).take(words) {
        // SAFETY: all eight bytes are below `len`, and `split` makes `frame + at` aligned for a word.
        unsafe {
            let word = AtomicU64::from_ptr(frame.add(at).cast_mut().cast()).load(Ordering::Relaxed);
            to.add(at).cast::<u64>().write_unaligned(word);
        }
    }
}

/// Copies `len` bytes into a frame.
///
/// # Safety
/// `frame` must be valid for writes of `len` bytes, however shared; `from` must be valid for reads of `len` bytes and not be
/// written meanwhile. The two must not overlap.
pub(super) unsafe fn store(frame: *mut u8, from: *const u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if len >= STRING_FROM {
        // SAFETY: passed on from the caller.
        return unsafe { move_bytes(from, frame, len) };
    }
    let (head, words) = split(frame as usize, len);
    for at in (0..head).chain(head + words * WORD..len) {
        // SAFETY: `at` is below `len`; see the caller's promise.
        unsafe { AtomicU8::from_ptr(frame.add(at)).store(from.add(at).read(), Ordering::Relaxed) };
    }
    for at in (head..).step_by(WORD).take(words) {
        // SAFETY: all eight bytes are below `len`, and `split` makes `frame + at` aligned for a word.
        unsafe {
            let word = from.add(at).cast::<u64>().read_unaligned();
            AtomicU64::from_ptr(frame.add(at).cast()).store(word, Ordering::Relaxed);
        }
    }
}

/// Copies a whole frame to another.
///
/// # Safety
/// Both must be valid for `len` bytes, however shared, be aligned to 8, and not overlap; `len` must be a multiple of 8.
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: passed on from the caller.
    unsafe {
        move_bytes(from, to, len);
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    for at in (0..len).step_by(WORD) {
        // SAFETY: eight aligned bytes below `len` of both.
        unsafe {
            let word = AtomicU64::from_ptr(from.add(at).cast_mut().cast()).load(Ordering::Relaxed);
            AtomicU64::from_ptr(to.add(at).cast()).store(word, Ordering::Relaxed);
        }
    }
}

/// Sets `len` bytes of a frame.
///
/// # Safety
/// `frame` must be valid for writes of `len` bytes, however shared.
pub(super) unsafe fn fill(frame: *mut u8, value: u8, len: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if len >= STRING_FROM {
        // SAFETY: writes `len` bytes from `frame` on, which the caller allows; the direction flag is clear on entry to any
        // `asm!` block.
        unsafe {
            core::arch::asm!("rep stosb", inout("rcx") len => _, inout("rdi") frame => _, in("al") value,
                options(nostack, preserves_flags));
        }
        return;
    }
    let (head, words) = split(frame as usize, len);
    for at in (0..head).chain(head + words * WORD..len) {
        // SAFETY: `at` is below `len`.
        unsafe { AtomicU8::from_ptr(frame.add(at)).store(value, Ordering::Relaxed) };
    }
    let word = u64::from_ne_bytes([value; WORD]);
    for at in (head..).step_by(WORD).take(words) {
        // SAFETY: all eight bytes are below `len`, and `split` makes `frame + at` aligned for a word.
        unsafe { AtomicU64::from_ptr(frame.add(at).cast()).store(word, Ordering::Relaxed) };
    }
}

/// How many bytes come before the first aligned word of `len` bytes at `address`, and how many whole words follow.
fn split(address: usize, len: usize) -> (usize, usize) {
    let head = (address.wrapping_neg() % WORD).min(len);
    (head, (len - head) / WORD)
}

/// # Safety
/// `from` must be valid for reads and `to` for writes of `len` bytes, and they must not overlap.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn move_bytes(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: reads and writes just these bytes, each once, as relaxed atomic byte accesses would; the direction flag is clear on
    // entry to any `asm!` block.
    unsafe {
        core::arch::asm!("rep movsb", inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}

//! A program without std around the library and the reference kernel. That it builds and links is the test; running it shows that it
//! is not empty.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::ffi::{c_int, c_void};
use core::panic::PanicInfo;

use portolan::errno::Errno;
use portolan::paging::{Format, X86_64};
use portolan_kernel::engine::Registers;

#[link(name = "c")]
unsafe extern "C" {
    fn aligned_alloc(align: usize, size: usize) -> *mut c_void;
    fn free(memory: *mut c_void);
    fn abort() -> !;
}

struct CHeap;

// SAFETY: aligned_alloc returns memory of the size and alignment asked for or NULL, and free takes back what it returned.
unsafe impl GlobalAlloc for CHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: both take any numbers.
        unsafe { aligned_alloc(layout.align(), layout.size().next_multiple_of(layout.align())).cast() }
    }

    unsafe fn dealloc(&self, memory: *mut u8, _layout: Layout) {
        // SAFETY: the caller hands back what alloc returned.
        unsafe { free(memory.cast()) }
    }
}

#[global_allocator]
static HEAP: CHeap = CHeap;

#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    // SAFETY: abort has no precondition.
    unsafe { abort() }
}

/// What the precompiled `alloc` refers to; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const u8) -> c_int {
    let mut bytes = Vec::new();
    if bytes.try_reserve_exact(X86_64::GRANULE.bytes() as usize).is_err() {
        return Errno::ENOMEM.raw() as c_int;
    }
    bytes.push(Registers::default().syscall_number() as u8);
    c_int::from(bytes[0])
}

//! The guest's physical memory: one memory file, mapped once in the supervisor. A physical address is an offset in it.
//! Not for: who uses which frame (`portolan::phys`).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use crate::error::HostError;

/// The base page of the machine.
pub(crate) const PAGE: u64 = 4096;

/// Makes an empty memory file of `bytes`.
pub(crate) fn memory_file(name: &CStr, bytes: u64) -> io::Result<OwnedFd> {
    // Kernels before 6.3 do not know MFD_EXEC and refuse it; later ones may insist on it.
    let flags = [libc::MFD_CLOEXEC | libc::MFD_EXEC, libc::MFD_CLOEXEC];
    let mut outcome = Err(io::Error::from_raw_os_error(libc::EINVAL));
    for flag in flags {
        // SAFETY: `name` is a NUL-terminated string that outlives the call.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), flag) };
        if fd >= 0 {
            // SAFETY: the call above returned this descriptor, and nothing else owns it.
            outcome = Ok(unsafe { OwnedFd::from_raw_fd(fd) });
            break;
        }
        outcome = Err(io::Error::last_os_error());
    }
    let fd = outcome?;
    let length = i64::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: ftruncate takes no pointers.
    if unsafe { libc::ftruncate(fd.as_raw_fd(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}

/// A shared mapping of a file in the supervisor, unmapped on drop.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a `Mapping` is only an address and a length; it gives out raw pointers and dereferences none itself.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`: shared use of the value touches no memory behind it.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `bytes` of `fd` from `offset` on, shared, with these PROT_* rights.
    pub(crate) fn new(fd: &OwnedFd, offset: u64, bytes: usize, prot: i32) -> io::Result<Mapping> {
        let offset =
            i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        // SAFETY: a new mapping where the kernel likes: no memory in use is touched.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                prot,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                fd.as_raw_fd(),
                offset,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(at.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Mapping { base, bytes })
    }

    /// The first byte.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this range was mapped by `new`, is unmapped only here, and whoever holds pointers into it must not
        // outlive the value (the `Platform` contract for guest memory; private to `stub` for the rest).
        unsafe { libc::munmap(self.base().cast(), self.bytes) };
    }
}

/// All frames of one machine.
pub(crate) struct GuestMemory {
    fd: OwnedFd,
    map: Mapping,
    bytes: u64,
}

impl GuestMemory {
    /// `bytes` of memory, taken from the system only where touched.
    pub(crate) fn new(bytes: u64) -> Result<GuestMemory, HostError> {
        let length = usize::try_from(bytes).map_err(|_| HostError::BadMemorySize(bytes))?;
        if bytes == 0 || !bytes.is_multiple_of(PAGE) || bytes > 1 << 46 {
            return Err(HostError::BadMemorySize(bytes));
        }
        let fd = memory_file(c"portolan-memory", bytes).map_err(HostError::Memory)?;
        let map = Mapping::new(&fd, 0, length, libc::PROT_READ | libc::PROT_WRITE)
            .map_err(HostError::Memory)?;
        Ok(GuestMemory { fd, map, bytes })
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first byte of physical address 0.
    pub(crate) fn base(&self) -> *mut u8 {
        self.map.base()
    }

    /// The memory file.
    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Copies bytes out; `None` when the range is not all memory. The guest may write them meanwhile.
    pub(crate) fn read(&self, at: u64, out: &mut [u8]) -> Option<()> {
        let end = at.checked_add(out.len() as u64)?;
        if end > self.bytes {
            return None;
        }
        for (i, byte) in out.iter_mut().enumerate() {
            // SAFETY: in bounds of the mapping, checked above; volatile because the guest's process may write it.
            *byte = unsafe { self.base().add(at as usize + i).read_volatile() };
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_sizes_are_refused() {
        for size in [0, 1, PAGE + 1, u64::MAX, 1 << 60] {
            assert!(
                matches!(GuestMemory::new(size), Err(HostError::BadMemorySize(_))),
                "{size:#x}"
            );
        }
        let memory = GuestMemory::new(4 * PAGE).unwrap();
        assert_eq!(memory.read(4 * PAGE - 1, &mut [0; 2]), None);
        assert_eq!(memory.read(u64::MAX, &mut [0; 2]), None);
        assert_eq!(memory.read(4 * PAGE - 1, &mut [0; 1]), Some(()));
    }
}

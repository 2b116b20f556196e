//! What a handler is given: the kernel, its task, the arguments, and ways to read and write the program's memory. Values are read and
//! written as bytes in the machine's order; nothing here interprets a structure.

use alloc::vec;
use alloc::vec::Vec;

use portolan::addr::VirtAddr;
use portolan::errno::Errno;
use portolan::space::Piece;

use crate::engine::Engine;
use crate::kernel::Kernel;
use crate::outside::Outside;
use crate::task::Task;

/// The most bytes one call moves. `MAX_RW_COUNT`.
pub(super) const MAX_RW_COUNT: u64 = 0x7fff_f000;

/// A system call under way.
pub struct SyscallContext<'a, E: Engine> {
    /// The kernel.
    pub kernel: &'a Kernel<E>,
    /// The thread that called.
    pub task: &'a mut Task<E>,
    /// The six argument registers.
    pub args: [u64; 6],
}

impl<'a, E: Engine> SyscallContext<'a, E> {
    /// The files and the clock of the outside.
    pub fn outside(&self) -> &'a dyn Outside {
        self.kernel.outside()
    }

    /// Argument `n` (0 to 5) as an address.
    pub fn addr(&self, n: usize) -> VirtAddr {
        VirtAddr::new(self.args[n])
    }

    /// Argument `n` as an address, `None` for NULL.
    pub fn addr_opt(&self, n: usize) -> Option<VirtAddr> {
        Some(self.addr(n)).filter(|addr| addr.get() != 0)
    }

    /// The low half of argument `n`, signed.
    pub fn int(&self, n: usize) -> i32 {
        self.args[n] as i32
    }

    /// The low half of argument `n`, unsigned.
    pub fn uint(&self, n: usize) -> u32 {
        self.args[n] as u32
    }

    /// Fills `into` from the program's memory.
    ///
    /// # Errors
    /// `EFAULT`: not readable. `ENOMEM`: no frame.
    pub fn read(&self, from: VirtAddr, into: &mut [u8]) -> Result<(), Errno> {
        self.task.mm.copy_from_user(from, into)
    }

    /// Puts bytes into the program's memory.
    ///
    /// # Errors
    /// `EFAULT`: not writable. `ENOMEM`: no frame.
    pub fn write(&self, to: VirtAddr, from: &[u8]) -> Result<(), Errno> {
        self.task.mm.copy_to_user(to, from)
    }

    /// `N` bytes: a structure as it lies in memory.
    ///
    /// # Errors
    /// `EFAULT`: not readable. `ENOMEM`: no frame.
    pub fn read_array<const N: usize>(&self, from: VirtAddr) -> Result<[u8; N], Errno> {
        let mut bytes = [0; N];
        self.read(from, &mut bytes)?;
        Ok(bytes)
    }

    /// `len` bytes on the heap.
    ///
    /// # Errors
    /// `EFAULT`: not readable. `ENOMEM`: no frame or no heap.
    pub fn read_vec(&self, from: VirtAddr, len: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(len, 0);
        self.read(from, &mut bytes)?;
        Ok(bytes)
    }

    /// A 32-bit number.
    ///
    /// # Errors
    /// `EFAULT`: not readable. `ENOMEM`: no frame.
    pub fn read_u32(&self, from: VirtAddr) -> Result<u32, Errno> {
        self.read_array(from).map(u32::from_ne_bytes)
    }

    /// A 64-bit number.
    ///
    /// # Errors
    /// `EFAULT`: not readable. `ENOMEM`: no frame.
    pub fn read_u64(&self, from: VirtAddr) -> Result<u64, Errno> {
        self.read_array(from).map(u64::from_ne_bytes)
    }

    /// `N` 64-bit numbers in a row.
    ///
    /// # Errors
    /// `EFAULT`: not readable. `ENOMEM`: no frame.
    pub fn read_words<const N: usize>(&self, from: VirtAddr) -> Result<[u64; N], Errno> {
        let mut words = [0; N];
        for (n, word) in words.iter_mut().enumerate() {
            *word = self.read_u64(from.checked_add(8 * n as u64).ok_or(Errno::EFAULT)?)?;
        }
        Ok(words)
    }

    /// Writes a 32-bit number.
    ///
    /// # Errors
    /// `EFAULT`: not writable. `ENOMEM`: no frame.
    pub fn write_u32(&self, to: VirtAddr, value: u32) -> Result<(), Errno> {
        self.write(to, &value.to_ne_bytes())
    }

    /// Writes a 64-bit number.
    ///
    /// # Errors
    /// `EFAULT`: not writable. `ENOMEM`: no frame.
    pub fn write_u64(&self, to: VirtAddr, value: u64) -> Result<(), Errno> {
        self.write(to, &value.to_ne_bytes())
    }

    /// Writes 64-bit numbers in a row.
    ///
    /// # Errors
    /// `EFAULT`: not writable. `ENOMEM`: no frame.
    pub fn write_words<const N: usize>(&self, to: VirtAddr, words: [u64; N]) -> Result<(), Errno> {
        let mut bytes = [[0; 8]; N];
        for (slot, word) in bytes.iter_mut().zip(words) {
            *slot = word.to_ne_bytes();
        }
        self.write(to, bytes.as_flattened())
    }

    /// A string up to its NUL, of fewer than `limit` bytes. `strndup_user`.
    ///
    /// # Errors
    /// `EFAULT`: not readable. `ENAMETOOLONG`: no NUL in the first `limit` bytes. `ENOMEM`: no frame.
    pub fn read_cstr(&self, from: VirtAddr, limit: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; limit];
        let len = self.task.mm.read_cstr(from, &mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    /// The `count` pieces listed at `at`, cut to what one call transfers. `import_iovec`.
    ///
    /// # Errors
    /// `EINVAL`: more than 1024, or a length below zero. `EFAULT`: not readable. `ENOMEM`: no frame or no heap.
    pub fn read_iovec(&self, at: VirtAddr, count: u64) -> Result<Vec<Piece>, Errno> {
        /// `UIO_MAXIOV`.
        const MOST_PIECES: u64 = 1024;
        if count > MOST_PIECES {
            return Err(Errno::EINVAL);
        }
        let bytes = self.read_vec(at, count as usize * 16)?;
        let mut left = MAX_RW_COUNT;
        let mut pieces = Vec::with_capacity(count as usize);
        for piece in bytes.chunks_exact(16) {
            let word = |at: usize| {
                piece[at..]
                    .first_chunk()
                    .map_or(0, |word| u64::from_ne_bytes(*word))
            };
            if word(8) > i64::MAX as u64 {
                return Err(Errno::EINVAL);
            }
            let len = word(8).min(left);
            let addr = VirtAddr::new(word(0));
            pieces.push(Piece { addr, len });
            left -= len;
        }
        Ok(pieces)
    }

    /// A path; may be empty. `getname`.
    ///
    /// # Errors
    /// `EFAULT`: not readable. `ENAMETOOLONG`: PATH_MAX or longer.
    pub fn read_path(&self, from: VirtAddr) -> Result<Vec<u8>, Errno> {
        self.read_cstr(from, 4096)
    }
}

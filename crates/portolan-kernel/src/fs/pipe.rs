//! Pipes and event counters in memory. With one task nobody else can fill or drain them, so a call that would have to wait says so
//! with `EAGAIN` to its caller, which decides whether waiting could ever end. Not for: pipes of the outside (`OuterFile`).

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use lock_api::RwLock;
use portolan::errno::Errno;
use portolan::platform::Platform;

use super::Sleep;
use super::poll::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM};

/// Bytes a pipe holds. `PIPE_DEF_BUFFERS` pages.
pub const PIPE_SIZE: usize = 65536;
/// Bytes that are written whole or not at all. `PIPE_BUF`.
pub const PIPE_BUF: usize = 4096;

/// Which end of a pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Where it is read.
    Read,
    /// Where it is written.
    Write,
}

/// `struct pipe_inode_info`: the buffer both ends share.
pub struct Pipe<P: Platform> {
    data: Sleep<P, VecDeque<u8>>,
    ends: [AtomicU32; 2],
    ino: u64,
}

/// One end. The pipe knows how many of each are open.
pub struct PipeEnd<P: Platform> {
    pipe: Arc<Pipe<P>>,
    end: End,
}

impl<P: Platform> PipeEnd<P> {
    /// A new pipe's two ends, the reading one first. `ino` tells pipes apart.
    pub fn pair(ino: u64) -> (Self, Self) {
        let ends = [AtomicU32::new(1), AtomicU32::new(1)];
        let pipe = Arc::new(Pipe {
            data: RwLock::new(VecDeque::new()),
            ends,
            ino,
        });
        (
            Self {
                pipe: pipe.clone(),
                end: End::Read,
            },
            Self {
                pipe,
                end: End::Write,
            },
        )
    }

    /// A further end of the same pipe, as opening it through /proc gives.
    pub fn another(&self, end: End) -> Self {
        self.pipe.ends[end as usize].fetch_add(1, Ordering::AcqRel);
        Self {
            pipe: self.pipe.clone(),
            end,
        }
    }

    /// Its inode number.
    pub fn ino(&self) -> u64 {
        self.pipe.ino
    }

    fn open(&self, end: End) -> bool {
        self.pipe.ends[end as usize].load(Ordering::Acquire) != 0
    }

    /// Takes what is there, up to the buffer's length; 0 at the end of file.
    ///
    /// # Errors
    /// `EAGAIN`: empty, and somebody may still write. `EBADF`: the writing end.
    pub fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        if self.end != End::Read {
            return Err(Errno::EBADF);
        }
        let mut data = self.pipe.data.write();
        if data.is_empty() && !into.is_empty() && self.open(End::Write) {
            return Err(Errno::EAGAIN);
        }
        let count = into.len().min(data.len());
        for (slot, byte) in into.iter_mut().zip(data.drain(..count)) {
            *slot = byte;
        }
        Ok(count)
    }

    /// Puts bytes in, as many as fit; up to [`PIPE_BUF`] all or none.
    ///
    /// # Errors
    /// `EPIPE`: nobody reads. `EAGAIN`: full. `EBADF`: the reading end.
    pub fn write(&self, from: &[u8]) -> Result<usize, Errno> {
        if self.end != End::Write {
            return Err(Errno::EBADF);
        }
        if !self.open(End::Read) {
            return Err(Errno::EPIPE);
        }
        let mut data = self.pipe.data.write();
        let room = PIPE_SIZE.saturating_sub(data.len());
        if !from.is_empty() && (room == 0 || from.len() <= PIPE_BUF && room < from.len()) {
            return Err(Errno::EAGAIN);
        }
        let count = from.len().min(room);
        data.extend(&from[..count]);
        Ok(count)
    }

    /// Bytes that wait to be read. `FIONREAD`.
    pub fn waiting(&self) -> usize {
        self.pipe.data.read().len()
    }

    /// The poll events that are true now.
    pub fn ready(&self) -> u16 {
        let waiting = self.waiting();
        match self.end {
            End::Read => {
                let data = if waiting != 0 { POLLIN | POLLRDNORM } else { 0 };
                if self.open(End::Write) {
                    data
                } else {
                    data | POLLHUP
                }
            }
            End::Write => {
                let room = if waiting < PIPE_SIZE {
                    POLLOUT | POLLWRNORM
                } else {
                    0
                };
                if self.open(End::Read) {
                    room
                } else {
                    room | POLLERR
                }
            }
        }
    }
}

impl<P: Platform> Drop for PipeEnd<P> {
    fn drop(&mut self) {
        self.pipe.ends[self.end as usize].fetch_sub(1, Ordering::AcqRel);
    }
}

/// How an event counter is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CountBy {
    /// The whole count at once.
    All,
    /// One at a time. `EFD_SEMAPHORE`.
    One,
}

/// `struct eventfd_ctx`: a counter that is read and written as eight bytes.
pub struct EventCounter<P: Platform> {
    count: Sleep<P, u64>,
    by: CountBy,
}

impl<P: Platform> EventCounter<P> {
    /// A counter that starts at `count`.
    pub fn new(count: u32, by: CountBy) -> Self {
        Self {
            count: RwLock::new(count.into()),
            by,
        }
    }

    /// Takes the count, or one of it.
    ///
    /// # Errors
    /// `EINVAL`: room for fewer than eight bytes. `EAGAIN`: the count is 0.
    pub fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        let into = into.get_mut(..8).ok_or(Errno::EINVAL)?;
        let mut count = self.count.write();
        let taken = match self.by {
            _ if *count == 0 => return Err(Errno::EAGAIN),
            CountBy::All => *count,
            CountBy::One => 1,
        };
        *count -= taken;
        into.copy_from_slice(&taken.to_ne_bytes());
        Ok(8)
    }

    /// Adds to the count.
    ///
    /// # Errors
    /// `EINVAL`: fewer than eight bytes, or the value 2^64-1. `EAGAIN`: the count would pass 2^64-2.
    pub fn write(&self, from: &[u8]) -> Result<usize, Errno> {
        let bytes = from.first_chunk::<8>().ok_or(Errno::EINVAL)?;
        let more = u64::from_ne_bytes(*bytes);
        let mut count = self.count.write();
        if more == u64::MAX {
            return Err(Errno::EINVAL);
        }
        match count.checked_add(more) {
            Some(sum) if sum < u64::MAX => *count = sum,
            _ => return Err(Errno::EAGAIN),
        }
        Ok(8)
    }

    /// The poll events that are true now.
    pub fn ready(&self) -> u16 {
        let count = *self.count.read();
        let readable = if count > 0 { POLLIN | POLLRDNORM } else { 0 };
        if count < u64::MAX - 1 {
            readable | POLLOUT | POLLWRNORM
        } else {
            readable
        }
    }
}

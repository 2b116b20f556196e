//! The descriptors of a task and its place in the file tree: `struct files_struct` and `struct fs_struct`. Not for: what an open file
//! does (`file`).

use alloc::sync::Arc;
use alloc::vec::Vec;

use portolan::errno::Errno;
use portolan::platform::Platform;

use super::file::OpenFile;

/// What becomes of a descriptor at exec. `FD_CLOEXEC`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnExec {
    /// It stays.
    Keep,
    /// It is closed.
    Close,
}

impl OnExec {
    /// `Close` when `bit` is among `flags`.
    pub const fn from_bit(flags: u32, bit: u32) -> OnExec {
        if flags & bit != 0 {
            OnExec::Close
        } else {
            OnExec::Keep
        }
    }
}

struct Slot<P: Platform> {
    file: Arc<OpenFile<P>>,
    on_exec: OnExec,
}

impl<P: Platform> Clone for Slot<P> {
    fn clone(&self) -> Self {
        Self {
            file: self.file.clone(),
            on_exec: self.on_exec,
        }
    }
}

/// `struct files_struct`: descriptors, lowest free one first. Clone is what fork gives the child: the same open files.
pub struct FdTable<P: Platform> {
    slots: Vec<Option<Slot<P>>>,
    limit: u32,
}

impl<P: Platform> Clone for FdTable<P> {
    fn clone(&self) -> Self {
        Self {
            slots: self.slots.clone(),
            limit: self.limit,
        }
    }
}

impl<P: Platform> FdTable<P> {
    /// No descriptors, and room for `limit`. `RLIMIT_NOFILE`.
    pub fn new(limit: u32) -> Self {
        Self {
            slots: Vec::new(),
            limit,
        }
    }

    /// How many descriptors there may be.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Changes how many there may be; those beyond stay open.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// The open file behind a descriptor.
    ///
    /// # Errors
    /// `EBADF`: not open.
    pub fn get(&self, fd: u32) -> Result<&Arc<OpenFile<P>>, Errno> {
        self.slot(fd).map(|slot| &slot.file)
    }

    fn slot(&self, fd: u32) -> Result<&Slot<P>, Errno> {
        self.slots
            .get(fd as usize)
            .and_then(Option::as_ref)
            .ok_or(Errno::EBADF)
    }

    /// Gives a file the lowest free descriptor that is at least `from`. `__get_unused_fd_flags`, `fd_install`.
    ///
    /// # Errors
    /// `EMFILE`: none below the limit. `ENOMEM`: no heap.
    pub fn insert(
        &mut self,
        file: Arc<OpenFile<P>>,
        from: u32,
        on_exec: OnExec,
    ) -> Result<u32, Errno> {
        let free = self
            .slots
            .iter()
            .enumerate()
            .skip(from as usize)
            .find(|(_, slot)| slot.is_none());
        let fd = free.map_or(self.slots.len().max(from as usize), |(fd, _)| fd);
        if fd >= self.limit as usize {
            return Err(Errno::EMFILE);
        }
        self.put(fd, Slot { file, on_exec })?;
        Ok(fd as u32)
    }

    /// Gives a file this very descriptor; what was open there is returned, to be closed by being dropped. `dup2`.
    ///
    /// # Errors
    /// `EBADF`: at or beyond the limit. `ENOMEM`: no heap.
    pub fn replace(
        &mut self,
        fd: u32,
        file: Arc<OpenFile<P>>,
        on_exec: OnExec,
    ) -> Result<Option<Arc<OpenFile<P>>>, Errno> {
        if fd >= self.limit {
            return Err(Errno::EBADF);
        }
        self.put(fd as usize, Slot { file, on_exec })
    }

    fn put(&mut self, fd: usize, slot: Slot<P>) -> Result<Option<Arc<OpenFile<P>>>, Errno> {
        if fd >= self.slots.len() {
            self.slots
                .try_reserve(fd + 1 - self.slots.len())
                .map_err(|_| Errno::ENOMEM)?;
            self.slots.resize_with(fd + 1, || None);
        }
        Ok(self.slots[fd].replace(slot).map(|old| old.file))
    }

    /// Takes a descriptor away. The file closes when the last reference to it is dropped.
    ///
    /// # Errors
    /// `EBADF`: not open.
    pub fn remove(&mut self, fd: u32) -> Result<Arc<OpenFile<P>>, Errno> {
        let slot = self
            .slots
            .get_mut(fd as usize)
            .and_then(Option::take)
            .ok_or(Errno::EBADF)?;
        while matches!(self.slots.last(), Some(None)) {
            self.slots.pop();
        }
        Ok(slot.file)
    }

    /// What becomes of it at exec.
    ///
    /// # Errors
    /// `EBADF`: not open.
    pub fn on_exec(&self, fd: u32) -> Result<OnExec, Errno> {
        self.slot(fd).map(|slot| slot.on_exec)
    }

    /// Changes what becomes of it at exec.
    ///
    /// # Errors
    /// `EBADF`: not open.
    pub fn set_on_exec(&mut self, fd: u32, on_exec: OnExec) -> Result<(), Errno> {
        let slot = self
            .slots
            .get_mut(fd as usize)
            .and_then(Option::as_mut)
            .ok_or(Errno::EBADF)?;
        slot.on_exec = on_exec;
        Ok(())
    }

    /// The open descriptors in `first..=last`, ascending.
    pub fn open_in(&self, first: u32, last: u32) -> impl Iterator<Item = (u32, &Arc<OpenFile<P>>)> {
        let slots = self.slots.iter().enumerate().skip(first as usize);
        let slots = slots.take_while(move |&(fd, _)| fd <= last as usize);
        slots.filter_map(|(fd, slot)| slot.as_ref().map(|slot| (fd as u32, &slot.file)))
    }

    /// Takes away every descriptor that does not survive exec; the files close as they are dropped. `do_close_on_exec`.
    pub fn close_on_exec(&mut self) -> Vec<Arc<OpenFile<P>>> {
        let closing =
            |slot: &mut Option<Slot<P>>| slot.take_if(|slot| slot.on_exec == OnExec::Close);
        self.slots
            .iter_mut()
            .filter_map(closing)
            .map(|slot| slot.file)
            .collect()
    }

    /// How many slots there are, open or not, a multiple of 64. `FDSize` of /proc/PID/status.
    pub fn size(&self) -> usize {
        self.slots.len().next_multiple_of(64).max(64)
    }
}

/// `struct fs_struct`: where a task stands in the file tree, and what it takes off the modes it creates with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The working directory: a canonical path.
    pub cwd: Vec<u8>,
    /// The file mode creation mask, within `0o777`.
    pub umask: u32,
}

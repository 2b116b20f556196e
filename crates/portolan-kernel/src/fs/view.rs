//! A task of the kernel as files see it: the bridge from `task` to this room.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use portolan::errno::Errno;
use portolan::platform::Platform;
use portolan::space::MmUser;

use super::fdtable::{OnExec, Place};
use super::file::OpenFile;
use super::proc::{SignalSets, TaskView};
use super::vfs::{Session, Vfs};
use crate::engine::Engine;
use crate::kernel::{Kernel, Randomize};
use crate::outside::{Identity, Outside};
use crate::task::Task;

/// A task and its kernel.
pub struct TaskOf<'a, E: Engine> {
    /// The kernel.
    pub kernel: &'a Kernel<E>,
    /// The task.
    pub task: &'a Task<E>,
}

impl<E: Engine> TaskOf<'_, E> {
    /// What its calls on files are made through.
    pub fn session(&self) -> Session<'_, E> {
        Session {
            vfs: self.kernel.vfs(),
            out: self.kernel.outside(),
            task: self,
        }
    }
}

impl<E: Engine> TaskView<E> for TaskOf<'_, E> {
    fn pid(&self) -> u32 {
        self.task.process.pid
    }

    fn tid(&self) -> u32 {
        self.task.thread.tid
    }

    fn family(&self) -> [u32; 3] {
        let process = &self.task.process;
        [&process.ppid, &process.pgid, &process.sid].map(|id| id.load(Ordering::Relaxed))
    }

    fn name(&self) -> Vec<u8> {
        self.task.thread.name.lock().clone()
    }

    fn exe(&self) -> Vec<u8> {
        self.task.process.program.read().exe.clone()
    }

    fn place(&self) -> Place {
        self.task.place.read().clone()
    }

    fn descriptors(&self) -> BTreeMap<u32, (Arc<OpenFile<E>>, OnExec)> {
        let files = self.task.files.read();
        let all = files.open_in(0, u32::MAX);
        all.map(|(fd, file)| {
            (
                fd,
                (file.clone(), files.on_exec(fd).unwrap_or(OnExec::Keep)),
            )
        })
        .collect()
    }

    fn descriptor(&self, fd: u32) -> Result<Arc<OpenFile<E>>, Errno> {
        self.task.files.read().get(fd).cloned()
    }

    fn mm(&self) -> Option<&MmUser<E>> {
        Some(&self.task.mm)
    }

    fn auxv(&self) -> Vec<u64> {
        self.task.process.program.read().auxv.clone()
    }

    fn limits(&self) -> [(u64, u64); 16] {
        self.task.process.limits.lock().pairs()
    }

    fn signals(&self) -> SignalSets {
        let (ignored, caught) = self.task.process.actions.lock().summary();
        SignalSets {
            pending: self.task.thread.pending.lock().set().0,
            shared_pending: self.task.process.pending.lock().set().0,
            blocked: self.task.thread.blocked.lock().0,
            ignored: ignored.0,
            caught: caught.0,
        }
    }

    fn faults(&self) -> [u64; 2] {
        let [minor, major] = &self.task.process.faults;
        [minor.load(Ordering::Relaxed), major.load(Ordering::Relaxed)]
    }

    fn threads(&self) -> usize {
        self.task.process.threads.lock().len()
    }

    fn personality(&self) -> u32 {
        self.task.process.personality.load(Ordering::Relaxed)
    }

    fn core_filter(&self) -> u32 {
        self.task.process.core_filter.load(Ordering::Relaxed)
    }

    fn set_core_filter(&self, bits: u32) {
        self.task.process.core_filter.store(bits, Ordering::Relaxed);
    }

    fn randomize(&self) -> u32 {
        if self.kernel.randomize == Randomize::Off {
            0
        } else {
            2
        }
    }
}

/// Who opens files before there is a task: the kernel itself, to load a program.
pub struct Boot<'a> {
    /// Where it stands.
    pub place: Place,
    /// For whom.
    pub identity: &'a Identity,
}

impl Boot<'_> {
    /// What its calls on files are made through.
    pub fn session<'a, P: Platform>(
        &'a self,
        vfs: &'a Vfs<P>,
        out: &'a dyn Outside,
    ) -> Session<'a, P> {
        Session {
            vfs,
            out,
            task: self,
        }
    }
}

impl<P: Platform> TaskView<P> for Boot<'_> {
    fn pid(&self) -> u32 {
        self.identity.pid
    }

    fn tid(&self) -> u32 {
        self.identity.pid
    }

    fn family(&self) -> [u32; 3] {
        [self.identity.ppid, self.identity.pgid, self.identity.sid]
    }

    fn name(&self) -> Vec<u8> {
        Vec::new()
    }

    fn exe(&self) -> Vec<u8> {
        Vec::new()
    }

    fn place(&self) -> Place {
        self.place.clone()
    }

    fn descriptors(&self) -> BTreeMap<u32, (Arc<OpenFile<P>>, OnExec)> {
        BTreeMap::new()
    }

    fn descriptor(&self, _fd: u32) -> Result<Arc<OpenFile<P>>, Errno> {
        Err(Errno::EBADF)
    }

    fn mm(&self) -> Option<&MmUser<P>> {
        None
    }

    fn auxv(&self) -> Vec<u64> {
        Vec::new()
    }

    fn limits(&self) -> [(u64, u64); 16] {
        [(u64::MAX, u64::MAX); 16]
    }

    fn signals(&self) -> SignalSets {
        SignalSets::default()
    }

    fn faults(&self) -> [u64; 2] {
        [0; 2]
    }

    fn threads(&self) -> usize {
        1
    }

    fn personality(&self) -> u32 {
        0
    }

    fn core_filter(&self) -> u32 {
        0
    }

    fn set_core_filter(&self, _bits: u32) {}

    fn randomize(&self) -> u32 {
        2
    }
}

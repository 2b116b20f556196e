//! System calls: the one table that says for each number its name, the kinds of its arguments and its handler. Dispatch, tracing and
//! counting all read it. Not for: what a call does (a module per family).

mod cachestat;
mod context;
pub mod dir;
mod exec;
pub mod fd;
pub mod file;
mod futex;
mod info;
pub mod ioctl;
mod lock;
mod membarrier;
mod mm;
mod names;
mod numa;
pub mod path;
pub mod poll;
mod prctl_mm;
mod process;
mod process_vm;
mod resource;
mod signal;
mod time;

use alloc::vec::Vec;

use portolan::errno::Errno;

use crate::engine::Engine;
use crate::trace::Returns;

pub use context::SyscallContext;
pub use names::name_of;
pub(crate) use names::number_of;

/// The number of a call by its name, as a constant. The numbers are x86-64's whatever machine this kernel is built for: they are the
/// programs' own.
macro_rules! nr {
    ($name:ident) => {
        const { super::names::number_of(stringify!($name)) }
    };
}
use nr;

/// What a handler answers: the value for rax, or the error number.
pub type SyscallResult = Result<u64, Errno>;

/// Serves one call.
pub type Handler<E> = fn(&mut SyscallContext<'_, E>) -> SyscallResult;

/// What an argument means, for those who print it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arg {
    /// A signed 32-bit number.
    Int,
    /// A signed 64-bit number.
    Long,
    /// An unsigned number or a size in bytes.
    Size,
    /// Bits, in hexadecimal.
    Hex,
    /// A file mode, in octal.
    Mode,
    /// An address.
    Pointer,
    /// A descriptor.
    Fd,
    /// A directory's descriptor or AT_FDCWD.
    DirFd,
    /// The address of a path.
    Path,
    /// `O_*`.
    Open,
    /// `PROT_*`.
    Prot,
    /// `MAP_*`.
    Map,
    /// `MREMAP_*`.
    Remap,
    /// `MADV_*`.
    Advice,
    /// `MS_*`.
    Sync,
    /// A signal's number.
    Signal,
    /// An `RLIMIT_*` number.
    Limit,
}

/// What becomes of a call that a signal interrupts, when its handler answers EINTR and the signal's action allows a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// It fails with EINTR (`ERESTARTNOHAND` apart, when no handler runs).
    Never,
    /// It starts again under SA_RESTART, and always when no handler runs (`ERESTARTSYS`).
    IfAsked,
    /// It starts again only when no handler runs (`ERESTARTNOHAND`).
    WithoutHandler,
}

/// One system call.
pub struct Call<E: Engine> {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
    /// Its arguments.
    pub args: &'static [Arg],
    /// What serves it.
    pub handler: Handler<E>,
    /// What an interruption does to it.
    pub restart: Restart,
    /// Whether it is traced, and how its result is shown.
    pub traced: Option<Returns>,
}

impl<E: Engine> Clone for Call<E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E: Engine> Copy for Call<E> {}

/// A call that is not restarted.
pub const fn call<E: Engine>(
    number: u32,
    name: &'static str,
    args: &'static [Arg],
    handler: Handler<E>,
) -> Call<E> {
    Call {
        number,
        name,
        args,
        handler,
        restart: Restart::Never,
        traced: None,
    }
}

impl<E: Engine> Call<E> {
    /// The same, restarted under SA_RESTART.
    pub const fn restarts(self) -> Self {
        Call {
            restart: Restart::IfAsked,
            ..self
        }
    }

    /// The same, restarted when no handler runs.
    pub const fn restarts_without_handler(self) -> Self {
        Call {
            restart: Restart::WithoutHandler,
            ..self
        }
    }

    /// The same, with a line in the trace.
    pub const fn traced(self, returns: Returns) -> Self {
        Call {
            traced: Some(returns),
            ..self
        }
    }
}

/// One more than the highest number in the table.
pub const TABLE_SIZE: usize = 480;

/// The calls by number.
pub struct Table<E: Engine>(Vec<Option<Call<E>>>);

impl<E: Engine> Table<E> {
    /// Every call this kernel knows.
    ///
    /// # Errors
    /// `ENOMEM`: no heap.
    pub fn new() -> Result<Self, Errno> {
        let mut calls = Vec::new();
        calls
            .try_reserve_exact(TABLE_SIZE)
            .map_err(|_| Errno::ENOMEM)?;
        calls.resize(TABLE_SIZE, None);
        let mut table = Self(calls);
        table.add(mm::calls());
        table.add(lock::calls());
        table.add(numa::calls());
        table.add(process_vm::calls());
        table.add(futex::calls());
        table.add(process::calls());
        table.add(exec::calls());
        table.add(signal::calls());
        table.add(time::calls());
        table.add(info::calls());
        table.add(resource::calls());
        table.add(file::calls());
        table.add(fd::calls());
        table.add(dir::calls());
        table.add(path::calls());
        table.add(poll::calls());
        table.add(ioctl::calls());
        Ok(table)
    }

    fn add(&mut self, calls: impl IntoIterator<Item = Call<E>>) {
        for call in calls {
            let Some(slot) = self.0.get_mut(call.number as usize) else {
                continue;
            };
            debug_assert!(slot.is_none(), "{} is listed twice", call.name);
            *slot = Some(call);
        }
    }

    /// The call with this number.
    pub fn get(&self, number: u64) -> Option<&Call<E>> {
        self.0.get(usize::try_from(number).ok()?)?.as_ref()
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Call<E>> {
        self.0.iter().flatten()
    }
}

//! The table of calls. A call is one type that implements [`Call`], in the file of its family, and one word in the list below: its arguments, how
//! they are made up, how Linux and the library do it, and what it is in C.

mod access;
mod advise;
mod file;
mod fork;
mod heap;
mod limit;
mod lock;
mod look;
mod map;
mod policy;
mod process;
mod protect;
mod remap;
mod seal;

use portolan::paging::Format;

use crate::arg::{Arg, Args};
use crate::cprogram;
use crate::generate::Gen;
use crate::linux::Child;
use crate::ours::{Space, World};

/// Something that a sequence can do.
pub trait Call {
    /// Its name in cases, coverage and `--only`.
    const NAME: &'static str;
    /// Its arguments.
    const ARGS: &'static [Arg];
    /// How often it is chosen, against the others; 0 for never.
    const WEIGHT: u64;
    /// What it can answer, as far as sequences are meant to reach it: every one is counted.
    const ERRNOS: &'static [i32] = &[];

    /// Makes arguments up.
    fn generate(g: &mut Gen) -> Args;

    /// Does it on Linux. Must not allocate. The result as the system call gives it, or [`crate::trace::signal_word`].
    fn linux(child: &mut Child, args: &Args) -> i64;

    /// Does it on the library.
    fn ours<F: Format>(world: &mut World<F>, space: &Space<F>, args: &Args) -> i64;

    /// A C statement that does it.
    fn c(args: &Args) -> String {
        cprogram::system_call(Self::NAME, Self::ARGS, args)
    }
}

struct Entry {
    name: &'static str,
    args: &'static [Arg],
    weight: u64,
    errnos: &'static [i32],
    generate: fn(&mut Gen) -> Args,
    linux: fn(&mut Child, &Args) -> i64,
    c: fn(&Args) -> String,
}

macro_rules! calls {
    ($($module:ident::$name:ident,)*) => {
        /// Which call.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum CallId { $($name,)* }

        impl CallId {
            /// All calls.
            pub const ALL: &'static [CallId] = &[$(CallId::$name,)*];

            const TABLE: &'static [Entry] = &[$(Entry {
                name: <$module::$name as Call>::NAME,
                args: <$module::$name as Call>::ARGS,
                weight: <$module::$name as Call>::WEIGHT,
                errnos: <$module::$name as Call>::ERRNOS,
                generate: <$module::$name as Call>::generate,
                linux: <$module::$name as Call>::linux,
                c: <$module::$name as Call>::c,
            },)*];

            /// Does it on the library.
            pub fn ours<F: Format>(self, world: &mut World<F>, space: &Space<F>, args: &Args) -> i64 {
                match self {
                    $(CallId::$name => <$module::$name as Call>::ours(world, space, args),)*
                }
            }
        }
    };
}

calls! {
    map::Mmap,
    map::Munmap,
    protect::Mprotect,
    remap::Mremap,
    heap::Brk,
    advise::Madvise,
    advise::Msync,
    advise::Mincore,
    access::Load,
    access::Store,
    access::Fill,
    access::Execute,
    file::Ftruncate,
    file::PunchHole,
    file::Pwrite,
    file::Pread,
    lock::Mlock2,
    lock::Munlock,
    lock::Mlockall,
    lock::Munlockall,
    seal::Mseal,
    seal::AddSeals,
    seal::RemapFilePages,
    process::ProcessVmReadv,
    process::ProcessVmWritev,
    process::ProcessMadvise,
    policy::Mbind,
    policy::GetMempolicy,
    policy::SetHomeNode,
    limit::Setrlimit,
    fork::ForkShow,
    fork::ForkInto,
    fork::ForkHold,
    look::Memory,
    look::Counts,
    look::Pagemap,
}

impl CallId {
    fn entry(self) -> &'static Entry {
        &Self::TABLE[self as usize]
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// Its arguments.
    pub fn args(self) -> &'static [Arg] {
        self.entry().args
    }

    /// How often it is chosen.
    pub fn weight(self) -> u64 {
        self.entry().weight
    }

    /// What it can answer.
    pub fn errnos(self) -> &'static [i32] {
        self.entry().errnos
    }

    /// Makes arguments up.
    pub fn generate(self, g: &mut Gen) -> Args {
        (self.entry().generate)(g)
    }

    /// Does it on Linux.
    pub fn linux(self, child: &mut Child, args: &Args) -> i64 {
        (self.entry().linux)(child, args)
    }

    /// A C statement.
    pub fn c(self, args: &Args) -> String {
        (self.entry().c)(args)
    }

    /// The call of a name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|call| call.name() == name)
    }

    /// The calls that sequences use unless told otherwise.
    pub fn enabled() -> Vec<Self> {
        let used = |call: &CallId| call.weight() != 0;
        Self::ALL.iter().copied().filter(used).collect()
    }

    /// The call with this number.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}

/// What the library answered, as Linux would.
pub(crate) fn unit(result: Result<(), portolan::errno::Errno>) -> i64 {
    match result {
        Ok(()) => 0,
        Err(error) => -i64::from(error.raw()),
    }
}

/// The same for a number.
pub(crate) fn number(result: Result<u64, portolan::errno::Errno>) -> i64 {
    match result {
        Ok(number) => number as i64,
        Err(error) => -i64::from(error.raw()),
    }
}

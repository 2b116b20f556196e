//! Signals: what is pending, blocked and asked for, and how one is sent and delivered. Not for: the calls (`syscall::signal`) and the
//! layout of a frame on the user stack (`frame`).

mod deliver;
pub mod frame;
mod info;
mod queue;

pub use deliver::{Delivery, deliver};
pub use info::{SI_KERNEL, SI_TKILL, SI_USER, SigFields, SigInfo};
pub use queue::Pending;

/// The highest signal number. `_NSIG`.
pub const MAX_SIGNAL: i32 = 64;
/// The first real-time signal.
pub const SIGRTMIN: i32 = 32;

macro_rules! signals {
    ($($name:ident = $number:literal,)*) => {
        $(#[doc = concat!("Signal ", $number, ".")] pub const $name: i32 = $number;)*

        /// A signal's name; `None` for real-time ones and numbers that are none.
        pub const fn name(signal: i32) -> Option<&'static str> {
            match signal { $($name => Some(stringify!($name)),)* _ => None }
        }
    };
}

signals! {
    SIGHUP = 1,
    SIGINT = 2,
    SIGQUIT = 3,
    SIGILL = 4,
    SIGTRAP = 5,
    SIGABRT = 6,
    SIGBUS = 7,
    SIGFPE = 8,
    SIGKILL = 9,
    SIGUSR1 = 10,
    SIGSEGV = 11,
    SIGUSR2 = 12,
    SIGPIPE = 13,
    SIGALRM = 14,
    SIGTERM = 15,
    SIGSTKFLT = 16,
    SIGCHLD = 17,
    SIGCONT = 18,
    SIGSTOP = 19,
    SIGTSTP = 20,
    SIGTTIN = 21,
    SIGTTOU = 22,
    SIGURG = 23,
    SIGXCPU = 24,
    SIGXFSZ = 25,
    SIGVTALRM = 26,
    SIGPROF = 27,
    SIGWINCH = 28,
    SIGIO = 29,
    SIGPWR = 30,
    SIGSYS = 31,
}

/// A set of signals, signal N as bit N-1. `sigset_t`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SignalSet(pub u64);

impl SignalSet {
    /// No signal.
    pub const EMPTY: SignalSet = SignalSet(0);
    /// Those that can be neither caught, blocked nor ignored.
    pub const UNMASKABLE: SignalSet = SignalSet(bit(SIGKILL) | bit(SIGSTOP));
    /// Those that an instruction causes, which go first. `SYNCHRONOUS_MASK`.
    pub const SYNCHRONOUS: SignalSet = SignalSet(
        bit(SIGSEGV) | bit(SIGBUS) | bit(SIGILL) | bit(SIGTRAP) | bit(SIGFPE) | bit(SIGSYS),
    );

    /// Just this one; empty for a number that is no signal.
    pub const fn only(signal: i32) -> SignalSet {
        SignalSet(bit(signal))
    }

    /// Whether it is in the set.
    pub const fn contains(self, signal: i32) -> bool {
        self.0 & bit(signal) != 0
    }

    /// Both sets together.
    pub const fn with(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 | other.0)
    }

    /// What is in this set and not in `other`.
    pub const fn without(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 & !other.0)
    }

    /// Whether no signal is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lowest signal in it.
    pub const fn lowest(self) -> Option<i32> {
        if self.0 == 0 {
            None
        } else {
            Some(self.0.trailing_zeros() as i32 + 1)
        }
    }

    /// The set as a program may block it.
    pub const fn maskable(self) -> SignalSet {
        self.without(Self::UNMASKABLE)
    }
}

const fn bit(signal: i32) -> u64 {
    if signal >= 1 && signal <= MAX_SIGNAL {
        1 << (signal - 1)
    } else {
        0
    }
}

/// Whether a number is a signal.
pub const fn is_valid(signal: i32) -> bool {
    signal >= 1 && signal <= MAX_SIGNAL
}

/// What happens to a task that did not say otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefaultAction {
    /// Nothing.
    Ignore,
    /// It goes on, if it was stopped.
    Continue,
    /// It stops.
    Stop,
    /// It ends.
    Terminate,
    /// It ends, leaving a core dump.
    Core,
}

/// The default action of a signal.
pub const fn default_action(signal: i32) -> DefaultAction {
    match signal {
        SIGCHLD | SIGURG | SIGWINCH => DefaultAction::Ignore,
        SIGCONT => DefaultAction::Continue,
        SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU => DefaultAction::Stop,
        SIGQUIT | SIGILL | SIGTRAP | SIGABRT | SIGBUS | SIGFPE | SIGSEGV | SIGXCPU | SIGXFSZ
        | SIGSYS => DefaultAction::Core,
        _ => DefaultAction::Terminate,
    }
}

/// `SIG_DFL`.
pub const SIG_DFL: u64 = 0;
/// `SIG_IGN`.
pub const SIG_IGN: u64 = 1;

bitflags::bitflags! {
    /// `SA_*`.
    #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
    pub struct ActionFlags: u64 {
        /// No SIGCHLD for children that stop.
        const NOCLDSTOP = 1;
        /// Children leave no zombie.
        const NOCLDWAIT = 2;
        /// The handler takes a siginfo and a context.
        const SIGINFO = 4;
        /// Tag bits stay in si_addr.
        const EXPOSE_TAGBITS = 0x800;
        /// `sa_restorer` is given.
        const RESTORER = 0x0400_0000;
        /// On the alternate stack.
        const ONSTACK = 0x0800_0000;
        /// Interrupted calls start again.
        const RESTART = 0x1000_0000;
        /// The signal is not blocked while its handler runs.
        const NODEFER = 0x4000_0000;
        /// Back to the default action once delivered.
        const RESETHAND = 0x8000_0000;
    }
}

/// `struct k_sigaction`: what a program wants done about a signal.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Action {
    /// The handler's address, [`SIG_DFL`] or [`SIG_IGN`].
    pub handler: u64,
    /// `SA_*`.
    pub flags: ActionFlags,
    /// Where a handler returns to.
    pub restorer: u64,
    /// Blocked as well while the handler runs.
    pub mask: SignalSet,
}

impl Action {
    /// Reads the structure that `rt_sigaction` takes; unknown flags are dropped.
    pub fn from_words([handler, flags, restorer, mask]: [u64; 4]) -> Self {
        Self {
            handler,
            flags: ActionFlags::from_bits_truncate(flags),
            restorer,
            mask: SignalSet(mask).maskable(),
        }
    }

    /// The structure that `rt_sigaction` gives.
    pub fn to_words(self) -> [u64; 4] {
        [self.handler, self.flags.bits(), self.restorer, self.mask.0]
    }

    /// Whether a signal with this action comes to nothing.
    pub fn ignores(&self, signal: i32) -> bool {
        let harmless = matches!(
            default_action(signal),
            DefaultAction::Ignore | DefaultAction::Continue
        );
        self.handler == SIG_IGN || self.handler == SIG_DFL && harmless
    }
}

/// The action of every signal. `struct sighand_struct`.
#[derive(Clone, Debug)]
pub struct Actions([Action; MAX_SIGNAL as usize]);

impl Default for Actions {
    fn default() -> Self {
        Self([Action::default(); MAX_SIGNAL as usize])
    }
}

impl Actions {
    /// The action of a signal; the default one for a number that is no signal.
    pub fn get(&self, signal: i32) -> Action {
        let index = usize::try_from(signal.wrapping_sub(1)).unwrap_or(usize::MAX);
        self.0.get(index).copied().unwrap_or_default()
    }

    /// Changes it. A number that is no signal changes nothing.
    pub fn set(&mut self, signal: i32, action: Action) {
        let index = usize::try_from(signal.wrapping_sub(1)).unwrap_or(usize::MAX);
        if let Some(slot) = self.0.get_mut(index) {
            *slot = action;
        }
    }

    /// What exec leaves: handlers are gone, ignored signals stay ignored. `flush_signal_handlers`.
    pub fn after_exec(&mut self) {
        for action in &mut self.0 {
            let handler = if action.handler == SIG_IGN {
                SIG_IGN
            } else {
                SIG_DFL
            };
            *action = Action {
                handler,
                ..Action::default()
            };
        }
    }

    /// The signals that are ignored, and those that have a handler.
    pub fn summary(&self) -> (SignalSet, SignalSet) {
        let mut sets = (SignalSet::EMPTY, SignalSet::EMPTY);
        for (signal, action) in (1..).zip(&self.0) {
            match action.handler {
                SIG_DFL => {}
                SIG_IGN => sets.0 = sets.0.with(SignalSet::only(signal)),
                _ => sets.1 = sets.1.with(SignalSet::only(signal)),
            }
        }
        sets
    }
}

/// `SS_ONSTACK`.
pub const SS_ONSTACK: u32 = 1;
/// `SS_DISABLE`.
pub const SS_DISABLE: u32 = 2;
/// `SS_AUTODISARM`.
pub const SS_AUTODISARM: u32 = 1 << 31;

/// An alternate signal stack as a task has it set. `sas_ss_sp` and its kin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AltStack {
    /// Lowest address.
    pub base: u64,
    /// Bytes; 0 when there is none.
    pub size: u64,
    /// As set: `SS_DISABLE`, `SS_AUTODISARM` or 0.
    pub flags: u32,
}

impl Default for AltStack {
    fn default() -> Self {
        Self {
            base: 0,
            size: 0,
            flags: SS_DISABLE,
        }
    }
}

impl AltStack {
    /// Whether `sp` lies on it, whatever its flags. `__on_sig_stack`.
    pub fn holds(&self, sp: u64) -> bool {
        sp > self.base && sp - self.base <= self.size
    }

    /// Whether a task with this stack pointer runs on it. `on_sig_stack`.
    pub fn is_active(&self, sp: u64) -> bool {
        self.flags & SS_AUTODISARM == 0 && self.holds(sp)
    }

    /// What `sigaltstack` reports for a task with this stack pointer.
    pub fn reported_flags(&self, sp: u64) -> u32 {
        let mode = match (self.size, self.is_active(sp)) {
            (0, _) => SS_DISABLE,
            (_, true) => SS_ONSTACK,
            (_, false) => 0,
        };
        mode | self.flags & SS_AUTODISARM
    }

    /// The one byte after its end, where a frame starts.
    pub fn top(&self) -> u64 {
        self.base.wrapping_add(self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_bit_n_minus_one() {
        assert_eq!(SignalSet::only(1).0, 1);
        assert_eq!(SignalSet::only(64).0, 1 << 63);
        assert_eq!(
            SignalSet::only(0).0 | SignalSet::only(65).0 | SignalSet::only(-1).0,
            0
        );
        assert_eq!(SignalSet(u64::MAX).maskable().0, !(1 << 8 | 1 << 18));
        assert_eq!(SignalSet(0b1000).lowest(), Some(4));
    }

    #[test]
    fn unknown_action_flags_are_dropped() {
        let action = Action::from_words([0x1000, u64::MAX, 0, u64::MAX]);
        assert_eq!(action.flags, ActionFlags::all());
        assert!(!action.mask.contains(SIGKILL) && action.mask.contains(SIGSEGV));
    }

    #[test]
    fn the_alternate_stack_excludes_its_base_and_includes_its_end() {
        let stack = AltStack {
            base: 0x1000,
            size: 0x800,
            flags: 0,
        };
        assert!(
            !stack.holds(0x1000)
                && stack.holds(0x1001)
                && stack.holds(0x1800)
                && !stack.holds(0x1801)
        );
        assert_eq!(stack.reported_flags(0x1400), SS_ONSTACK);
        assert_eq!(AltStack::default().reported_flags(0), SS_DISABLE);
        let disarming = AltStack {
            flags: SS_AUTODISARM,
            ..stack
        };
        assert_eq!(disarming.reported_flags(0x1400), SS_AUTODISARM);
    }

    #[test]
    fn actions_out_of_range_are_harmless() {
        let mut actions = Actions::default();
        actions.set(
            0,
            Action {
                handler: 5,
                ..Action::default()
            },
        );
        actions.set(
            i32::MIN + 1,
            Action {
                handler: 5,
                ..Action::default()
            },
        );
        assert_eq!((actions.get(0).handler, actions.get(65).handler), (0, 0));
        actions.set(
            2,
            Action {
                handler: SIG_IGN,
                ..Action::default()
            },
        );
        actions.set(
            3,
            Action {
                handler: 0x4000,
                ..Action::default()
            },
        );
        actions.after_exec();
        assert_eq!(
            (actions.get(2).handler, actions.get(3).handler),
            (SIG_IGN, SIG_DFL)
        );
    }
}

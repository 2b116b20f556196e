//! Sending a signal, and delivering what is pending before a task returns to user mode: default actions, handlers, calls that start
//! again.

use portolan::addr::VirtAddr;
use portolan::errno::Errno;

use super::frame::{self, Content};
use super::{
    Action, ActionFlags, AltStack, DefaultAction, SIG_DFL, SS_AUTODISARM, SigInfo, SignalSet,
    default_action,
};
use super::{SIGCONT, SIGKILL, SIGSEGV};
use crate::coredump::Dumped;
use crate::engine::{Engine, Registers};
use crate::kernel::Kernel;
use crate::syscall::Restart;
use crate::task::{ExitStatus, Process, Task, Thread};

/// What a task does after its signals were looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// It returns to user mode.
    Resume,
    /// It ends.
    Exit(ExitStatus),
}

impl<E: Engine> Process<E> {
    /// Whether a signal would come to nothing: it is ignored, and nobody holds it back to look at it later. `sig_ignored`.
    fn drops(&self, signal: i32, blocked: SignalSet) -> bool {
        !blocked.contains(signal) && self.actions.lock().get(signal).ignores(signal)
    }

    /// Sends a signal to the group: any thread that does not block it takes it.
    ///
    /// # Errors
    /// `EAGAIN`: too many real-time signals wait.
    pub fn send(&self, info: SigInfo) -> Result<(), Errno> {
        let threads = self.threads.lock();
        let blocked = threads.iter().fold(SignalSet(u64::MAX), |all, thread| {
            SignalSet(all.0 & thread.blocked.lock().0)
        });
        if self.drops(info.signal, blocked) {
            return Ok(());
        }
        self.pending.lock().push(info)?;
        if let Some(taker) = threads
            .iter()
            .find(|thread| !thread.blocked.lock().contains(info.signal))
        {
            taker.kicker.kick();
        }
        Ok(())
    }

    /// Sends a signal to one thread of the group.
    ///
    /// # Errors
    /// `EAGAIN`: too many real-time signals wait.
    pub fn send_to(&self, thread: &Thread<E>, info: SigInfo) -> Result<(), Errno> {
        let blocked = *thread.blocked.lock();
        if self.drops(info.signal, blocked) {
            return Ok(());
        }
        thread.pending.lock().push(info)?;
        if !blocked.contains(info.signal) {
            thread.kicker.kick();
        }
        Ok(())
    }
}

impl<E: Engine> Task<E> {
    /// The signals that wait for this thread and are not held back.
    pub fn deliverable(&self) -> SignalSet {
        let waiting = self
            .thread
            .pending
            .lock()
            .set()
            .with(self.process.pending.lock().set());
        waiting.without(*self.thread.blocked.lock())
    }

    /// Whether a wait must end: a signal that is not held back waits. `signal_pending`.
    pub fn is_interrupted(&self) -> bool {
        !self.deliverable().is_empty()
    }

    /// Sends this thread a signal that it cannot escape: blocked or ignored, it gets the default action. `force_sig_info`.
    pub fn force(&mut self, info: SigInfo) {
        let only = SignalSet::only(info.signal);
        let mut blocked = self.thread.blocked.lock();
        let mut actions = self.process.actions.lock();
        let action = actions.get(info.signal);
        if blocked.contains(info.signal) || action.handler == super::SIG_IGN {
            actions.set(
                info.signal,
                Action {
                    handler: SIG_DFL,
                    ..action
                },
            );
        }
        *blocked = blocked.without(only);
        let mut pending = self.thread.pending.lock();
        pending.forget(only);
        // A standard signal is never refused.
        let _ = pending.push(info);
    }

    /// Sends this thread a signal that its default action answers, whatever the program asked for. `force_fatal_sig`.
    pub fn force_fatal(&mut self, signal: i32) {
        self.process.actions.lock().set(signal, Action::default());
        self.force(SigInfo::kernel(signal));
    }

    /// Takes the next signal that is not held back, its own before its group's.
    fn take_signal(&self) -> Option<SigInfo> {
        let ready = SignalSet(u64::MAX).without(*self.thread.blocked.lock());
        let own = self.thread.pending.lock().take(ready);
        own.or_else(|| self.process.pending.lock().take(ready))
    }

    /// Winds an interrupted call back so that it starts again. `ERESTARTSYS` and its kin.
    fn restart_call(&mut self) {
        self.regs.rax = self.regs.orig_rax;
        self.regs.rip = self.regs.rip.wrapping_sub(2);
    }

    /// How the call that just failed with EINTR starts again; `Never` when it did not.
    fn restart_kind(&self) -> Restart {
        let interrupted = self.regs.rax as i64 == -i64::from(Errno::EINTR.raw());
        match (&self.call, interrupted) {
            (Some(call), true) => call.restart,
            _ => Restart::Never,
        }
    }
}

/// Looks at a task's signals before it returns to user mode. `get_signal`, `arch_do_signal_or_restart`.
pub fn deliver<E: Engine>(kernel: &Kernel<E>, task: &mut Task<E>) -> Delivery {
    let mut restart = task.restart_kind();
    while let Some(info) = task.take_signal() {
        let signal = info.signal;
        let action = task.process.actions.lock().get(signal);
        if signal != SIGKILL && action.ignores(signal) {
            continue;
        }
        kernel.stats.count_signal(signal);
        if signal == SIGKILL || action.handler == SIG_DFL {
            match default_action(signal) {
                DefaultAction::Stop => kernel.note_stop(signal),
                DefaultAction::Terminate => {
                    let core = false;
                    return Delivery::Exit(ExitStatus::Killed { signal, core });
                }
                DefaultAction::Core => {
                    let core = kernel.dump_core(task, &info) == Dumped::Yes;
                    return Delivery::Exit(ExitStatus::Killed { signal, core });
                }
                DefaultAction::Ignore | DefaultAction::Continue => {}
            }
            continue;
        }
        if restart == Restart::IfAsked && action.flags.contains(ActionFlags::RESTART) {
            task.restart_call();
        }
        restart = Restart::Never;
        if run_handler(task, kernel, &info, &action).is_err() {
            force_segv(task, signal);
        }
        task.call = None;
        task.regs.orig_rax = Registers::NO_SYSCALL;
    }
    if restart != Restart::Never {
        task.restart_call();
    }
    task.call = None;
    if let Some(mask) = task.saved_mask.take() {
        *task.thread.blocked.lock() = mask;
    }
    Delivery::Resume
}

/// A frame could not be written: the task gets SIGSEGV, and if that was the signal, without its handler. `force_sigsegv`.
fn force_segv<E: Engine>(task: &mut Task<E>, failed: i32) {
    if failed == SIGSEGV {
        task.process.actions.lock().set(SIGSEGV, Action::default());
    }
    task.force(SigInfo::kernel(SIGSEGV));
}

/// Makes the task run a handler next. `handle_signal`.
///
/// # Errors
/// `EFAULT`: no restorer, or the frame could not be written.
fn run_handler<E: Engine>(
    task: &mut Task<E>,
    kernel: &Kernel<E>,
    info: &SigInfo,
    action: &Action,
) -> Result<(), Errno> {
    let signal = info.signal;
    if action.flags.contains(ActionFlags::RESETHAND) {
        task.process.actions.lock().set(
            signal,
            Action {
                handler: SIG_DFL,
                ..*action
            },
        );
    }
    if !action.flags.contains(ActionFlags::RESTORER) {
        return Err(Errno::EFAULT);
    }
    let engine = kernel.engine();
    let cpu = engine.cpu_description();
    let mut image = engine.extended_state(&mut task.vcpu);
    let size = image.len();
    task.extended_size = Some(size);
    let place =
        frame::place(task.regs.rsp, action.flags, &task.alt_stack, size).ok_or(Errno::EFAULT)?;
    frame::mark_extended(&mut image, cpu.xfeatures)?;
    let blocked = *task.thread.blocked.lock();
    let content = Content {
        restorer: action.restorer,
        mask: task.saved_mask.unwrap_or(blocked),
        alt: task.alt_stack,
        fault: task.fault,
        info: Some(info).filter(|_| action.flags.contains(ActionFlags::SIGINFO)),
        has_xsave: image.len() > size,
    };
    let bytes = frame::encode(&task.regs, place, &content);
    task.mm
        .copy_to_user(VirtAddr::new(place.extended), &image)?;
    task.mm.copy_to_user(VirtAddr::new(place.frame), &bytes)?;
    task.regs = frame::enter(&task.regs, place, action.handler, signal);
    engine.set_extended_state(&mut task.vcpu, &frame::initial_extended(size)?)?;
    if task.alt_stack.flags & SS_AUTODISARM != 0 {
        task.alt_stack = AltStack::default();
    }
    task.saved_mask = None;
    let own = if action.flags.contains(ActionFlags::NODEFER) {
        SignalSet::EMPTY
    } else {
        SignalSet::only(signal)
    };
    *task.thread.blocked.lock() = blocked.with(action.mask).with(own).maskable();
    Ok(())
}

impl<E: Engine> Kernel<E> {
    /// Job control is the outer shell's: a signal that would stop the program is only noted.
    fn note_stop(&self, signal: i32) {
        debug_assert_ne!(signal, SIGCONT);
        let name = super::name(signal).unwrap_or("a signal");
        self.log.note(format_args!(
            "{name} would stop the program; job control is not built yet, so it goes on"
        ));
    }
}

//! One guest thread's user-mode side: runs its process until the kernel must decide, and fills its TLB on the way.

use std::io;
use std::sync::Arc;

use portolan::addr::VirtAddr;
use portolan::paging::Access;
use portolan::platform::Asid;

use crate::classify::{self, Installed, Meaning};
use crate::error::HostError;
use crate::fill::{Fill, Tables};
use crate::interrupt;
use crate::pin::Pin;
use crate::platform::Shared;
use crate::space::{Lane, Space};
use crate::stub::Call;
use crate::tracee::{self, KICK, RawRegisters, Resume, Stop, StubError, Tracee};
use portolan_kernel::engine::{ExceptionKind, Kick, Trap};

/// The same fault so many times in a row, with its page installed, is no progress: the guest is ended.
const MOST_REPEATS: u32 = 100;

/// One guest thread's user-mode side. Dropping it ends its process.
///
/// It belongs to the thread that first runs it (a tracer is a thread); on another one it reports [`Trap::Killed`].
pub struct Vcpu {
    host: Arc<Shared>,
    lane: Arc<Lane>,
    body: Option<Body>,
    /// Extended state that was set before there was a process.
    state: Option<Vec<u8>>,
    fill: Fill,
    calls: Vec<Call>,
    /// The fault that `run` last returned, installed on the next entry if the kernel resolved it.
    missed: Option<Miss>,
    repeats: u32,
}

/// The process and what it runs on, from the first run on.
struct Body {
    tracee: Tracee,
    space: Arc<Space>,
    pin: Option<Pin>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Miss {
    rip: u64,
    address: u64,
    access: Access,
}

/// What a stop leads to.
enum Next {
    /// Guest code goes on with the registers it has, once the fill is installed.
    Resume,
    /// The kernel decides.
    Return(Trap),
}

impl Vcpu {
    pub(crate) fn new(host: Arc<Shared>) -> io::Result<Vcpu> {
        Ok(Vcpu {
            host,
            lane: Arc::new(Lane::new()?),
            state: None,
            body: None,
            fill: Fill::default(),
            calls: Vec::new(),
            missed: None,
            repeats: 0,
        })
    }

    /// What makes `run` return, and ends a wait in the outside, from any thread.
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Runs user mode until the kernel must decide.
    pub(crate) fn run(&mut self, tables: &dyn Tables, regs: &mut RawRegisters) -> Trap {
        if let Err(why) = self.attach(tables) {
            self.host.note(why.to_string());
            return Trap::Killed {
                signal: libc::SIGKILL,
            };
        }
        let missed = self.missed.take();
        self.fill.clear();
        if let Some(miss) = missed.filter(|miss| miss.rip == regs.rip) {
            self.prepare(tables, miss.address, miss.access);
        }
        let mut outcome = self.enter(regs, Write::Yes);
        loop {
            let stop = match outcome {
                Ok(Some(stop)) => stop,
                Ok(None) => return Trap::Interrupted,
                Err(StubError::Gone(signal)) => return Trap::Killed { signal },
                Err(StubError::Call(_, why)) => {
                    self.host.note(format!(
                        "the outer kernel refused a mapping of the guest: {why}"
                    ));
                    return Trap::Killed {
                        signal: libc::SIGKILL,
                    };
                }
            };
            outcome = match self.after(stop, tables, regs) {
                Ok(Next::Return(trap)) => return trap,
                Ok(Next::Resume) => self.enter(regs, Write::No),
                Err(why) => {
                    self.host
                        .note(format!("the guest's process cannot be read: {why}"));
                    return Trap::Killed {
                        signal: libc::SIGKILL,
                    };
                }
            };
        }
    }

    /// Whether its process stands for this space.
    pub(crate) fn runs_on(&self, asid: Asid) -> bool {
        self.body
            .as_ref()
            .is_some_and(|body| body.space.asid == asid)
    }

    /// Makes sure that there is a process, that it is this thread's, and that it stands for this space.
    fn attach(&mut self, tables: &dyn Tables) -> Result<(), HostError> {
        let asid = tables.asid();
        if let Some(body) = &mut self.body {
            if !body.tracee.is_mine() {
                return Err(HostError::Child(
                    "run",
                    io::Error::other("another thread's vcpu"),
                ));
            }
            if body.space.asid == asid {
                return Ok(());
            }
            // exec: the process is emptied and serves the new space.
            self.host.part(&body.space, &self.lane);
            body.space = self.host.join(asid, &self.lane);
            self.lane.state().drop_all();
            self.missed = None;
            return Ok(());
        }
        let pin = self.host.pin();
        let tracee = self.host.tracee()?;
        if let Some(image) = self.state.take() {
            let failed = |why| HostError::Child("set the vector registers", why);
            tracee.set_extended_state(&image).map_err(failed)?;
        }
        self.lane.state().pid = tracee.pid();
        interrupt::set_current(Some(Arc::clone(&self.lane)));
        let space = self.host.join(asid, &self.lane);
        self.body = Some(Body { tracee, space, pin });
        Ok(())
    }

    /// Reads what a miss needs; whether the access is allowed.
    fn prepare(&mut self, tables: &dyn Tables, address: u64, access: Access) -> bool {
        let flushes = self.lane.state().flushes;
        self.fill.read(tables, address, access, flushes) || {
            self.fill.clear();
            false
        }
    }

    /// Carries out what is pending and what is to be filled, runs guest code and waits for its next stop. `None`: kicked before.
    fn enter(&mut self, regs: &RawRegisters, mut write: Write) -> Result<Option<Stop>, StubError> {
        let Some(body) = &mut self.body else {
            return Err(StubError::Gone(libc::SIGKILL));
        };
        {
            let mut state = self.lane.state();
            if state.flushes != self.fill.flushes {
                // The tables changed since they were read. Without a fill the guest faults again and asks anew.
                self.fill.clear();
            }
            if self.lane.take_kick() {
                return Ok(None);
            }
            self.fill.commit(&mut state, &mut self.calls);
            if !self.calls.is_empty() {
                write = Write::Yes;
                match body.tracee.call(&self.calls) {
                    Err(StubError::Call(_, why)) if why.raw_os_error() == Some(libc::ENOMEM) => {
                        self.fill.commit_alone(&mut state, &mut self.calls);
                        body.tracee.call(&self.calls)?;
                    }
                    other => other?,
                }
            }
            self.fill.clear();
            state.running = true;
        }
        let outcome = go(&mut body.tracee, regs, write);
        self.lane.leave();
        outcome.map(Some)
    }

    /// Looks at a stop.
    fn after(
        &mut self,
        stop: Stop,
        tables: &dyn Tables,
        regs: &mut RawRegisters,
    ) -> io::Result<Next> {
        let Some(body) = &mut self.body else {
            return Ok(killed(libc::SIGKILL));
        };
        if let Stop::Gone(signal) = stop {
            return Ok(killed(signal));
        }
        *regs = body.tracee.registers()?;
        match stop {
            Stop::Syscall => Ok(Next::Return(system_call(regs))),
            Stop::Vsyscall => legacy_call(&mut body.tracee, regs),
            Stop::Signal(KICK) if self.lane.take_kick() => Ok(Next::Return(Trap::Interrupted)),
            Stop::Signal(signal) => {
                let (code, address) = body.tracee.signal()?;
                match classify::signal(signal, code) {
                    Meaning::PageFault => Ok(self.page_fault(tables, regs, address)),
                    Meaning::Exception(kind) => {
                        let kind = classify::refine(kind, &self.host.memory, tables, regs);
                        Ok(Next::Return(Trap::Exception {
                            kind,
                            addr: VirtAddr::new(address),
                        }))
                    }
                    Meaning::Nothing => Ok(Next::Resume),
                    Meaning::OutOfMemory => {
                        self.host
                            .note("the outer system has no memory left for the guest".into());
                        Ok(killed(libc::SIGBUS))
                    }
                }
            }
            Stop::Gone(_) => Ok(killed(libc::SIGKILL)),
        }
    }

    fn page_fault(&mut self, tables: &dyn Tables, regs: &RawRegisters, address: u64) -> Next {
        let installed = Installed::at(&self.lane.state().tlb, regs, address);
        let access = classify::access(&self.host.memory, tables, installed, regs, address);
        let Some(access) = access else {
            // Its page is installed with every right: nothing is missing, so it should not come back.
            self.repeats += 1;
            if self.repeats > MOST_REPEATS {
                self.host.note(format!(
                    "a fault at {address:#x} that nothing explains, rip {:#x}",
                    regs.rip
                ));
                return killed(libc::SIGSEGV);
            }
            return Next::Resume;
        };
        self.repeats = 0;
        if self.prepare(tables, address, access) {
            return Next::Resume;
        }
        self.missed = Some(Miss {
            rip: regs.rip,
            address,
            access,
        });
        Next::Return(Trap::Fault {
            addr: VirtAddr::new(address),
            access,
        })
    }

    /// The extended state as an XSAVE image.
    pub(crate) fn extended_state(&self) -> io::Result<Vec<u8>> {
        match (&self.body, &self.state) {
            (Some(body), _) => body.tracee.extended_state(),
            (None, Some(image)) => Ok(image.clone()),
            (None, None) => Ok(tracee::initial_state(tracee::LEGACY_AND_HEADER, [0; 8])),
        }
    }

    /// Sets the extended state.
    pub(crate) fn set_extended_state(&mut self, image: &[u8]) -> io::Result<()> {
        match &self.body {
            Some(body) => body.tracee.set_extended_state(image),
            None if image.len() < tracee::LEGACY_AND_HEADER => {
                Err(io::Error::from_raw_os_error(libc::EINVAL))
            }
            None => {
                self.state = Some(image.to_vec());
                Ok(())
            }
        }
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.lane.state().pid = 0;
        if let Some(body) = self.body.take() {
            self.host.part(&body.space, &self.lane);
            if body.tracee.is_mine() {
                interrupt::set_current(None);
            }
            drop(body.tracee);
            if let Some(pin) = body.pin {
                self.host.unpin(pin);
            }
        }
    }
}

/// Whether the process's registers differ from the ones in hand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Write {
    Yes,
    No,
}

fn go(tracee: &mut Tracee, regs: &RawRegisters, write: Write) -> Result<Stop, StubError> {
    let gone = |_| StubError::Gone(libc::SIGKILL);
    if write == Write::Yes {
        let mut raw = *regs;
        // No system call to restart, whatever rax holds.
        raw.orig_rax = u64::MAX;
        tracee.set_registers(&raw).map_err(gone)?;
    }
    tracee.resume(Resume::Guest).map_err(gone)?;
    Ok(tracee.wait())
}

fn killed(signal: i32) -> Next {
    Next::Return(Trap::Killed { signal })
}

/// `syscall` leaves the return address in rcx. The other ways into a kernel (`int 0x80`, `sysenter`) do not: they are for 32-bit
/// programs, and a kernel without support for those answers with a general-protection fault at the instruction.
fn system_call(regs: &mut RawRegisters) -> Trap {
    if regs.rcx == regs.rip {
        return Trap::Syscall;
    }
    regs.rip = regs.rip.wrapping_sub(2);
    regs.rax = regs.orig_rax;
    regs.orig_rax = u64::MAX;
    Trap::Exception {
        kind: ExceptionKind::GeneralProtection,
        addr: VirtAddr::new(0),
    }
}

/// A call into the `[vsyscall]` page. The outer kernel is told to skip it, which makes it return to the guest's caller; a stop sent
/// beforehand comes before the caller's next instruction, and there it is a system call like any other.
fn legacy_call(tracee: &mut Tracee, regs: &mut RawRegisters) -> io::Result<Next> {
    let number = regs.orig_rax;
    regs.orig_rax = u64::MAX;
    tracee.set_registers(regs)?;
    tracee.kick();
    tracee.resume(Resume::Guest)?;
    match tracee.wait() {
        Stop::Signal(KICK) => {}
        Stop::Gone(signal) => return Ok(killed(signal)),
        // The call was not completed (its return address could not be read, say): the fault comes again at the next try.
        _ => {
            *regs = tracee.registers()?;
            return Ok(Next::Resume);
        }
    }
    *regs = tracee.registers()?;
    regs.orig_rax = number;
    Ok(Next::Return(Trap::Syscall))
}

impl Kick for Lane {
    fn kick(&self) {
        Lane::kick(self);
    }
}

#[cfg(test)]
mod tests;

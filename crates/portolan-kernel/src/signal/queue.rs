//! Signals that wait to be delivered.

use alloc::collections::VecDeque;

use portolan::errno::Errno;

use super::info::SigInfo;
use super::{SIGRTMIN, SignalSet};

/// `struct sigpending`: which signals wait, and what is known of each. A standard signal waits once, a real-time signal as often as it
/// was sent.
#[derive(Default, Debug)]
pub struct Pending {
    set: SignalSet,
    queue: VecDeque<SigInfo>,
}

impl Pending {
    /// How many may wait at a time. `RLIMIT_SIGPENDING` at its usual value is far above it.
    const LIMIT: usize = 1024;

    /// The signals that wait.
    pub fn set(&self) -> SignalSet {
        self.set
    }

    /// Adds one. A standard signal that waits already is not added again.
    ///
    /// # Errors
    /// `EAGAIN`: too many wait, and this is a real-time signal; a standard one then waits without what is known of it.
    pub fn push(&mut self, info: SigInfo) -> Result<(), Errno> {
        let is_standard = info.signal < SIGRTMIN;
        if is_standard && self.set.contains(info.signal) {
            return Ok(());
        }
        let room = self.queue.len() < Self::LIMIT && self.queue.try_reserve(1).is_ok();
        if !room && !is_standard {
            return Err(Errno::EAGAIN);
        }
        self.set = self.set.with(SignalSet::only(info.signal));
        if room {
            self.queue.push_back(info);
        }
        Ok(())
    }

    /// Takes the next one that is among `wanted`: what instructions caused first, then the lowest number. `dequeue_signal`.
    pub fn take(&mut self, wanted: SignalSet) -> Option<SigInfo> {
        let ready = SignalSet(self.set.0 & wanted.0);
        let urgent = SignalSet(ready.0 & SignalSet::SYNCHRONOUS.0);
        let signal = if urgent.is_empty() {
            ready.lowest()?
        } else {
            urgent.lowest()?
        };
        let found = self
            .queue
            .iter()
            .position(|info| info.signal == signal)
            .and_then(|at| self.queue.remove(at));
        if !self.queue.iter().any(|info| info.signal == signal) {
            self.set = self.set.without(SignalSet::only(signal));
        }
        Some(found.unwrap_or(SigInfo::sent(signal, super::info::SI_USER, 0, 0)))
    }

    /// Forgets these. `flush_sigqueue_mask`.
    pub fn forget(&mut self, signals: SignalSet) {
        self.queue.retain(|info| !signals.contains(info.signal));
        self.set = self.set.without(signals);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_signals_wait_once_and_real_time_ones_in_order() {
        let mut pending = Pending::default();
        for code in 0..3 {
            pending
                .push(SigInfo {
                    code,
                    ..SigInfo::kernel(10)
                })
                .unwrap();
            pending
                .push(SigInfo {
                    code,
                    ..SigInfo::kernel(40)
                })
                .unwrap();
        }
        let all = SignalSet(u64::MAX);
        assert_eq!(
            pending.take(all).map(|info| (info.signal, info.code)),
            Some((10, 0))
        );
        let rest: [_; 4] =
            core::array::from_fn(|_| pending.take(all).map(|info| (info.signal, info.code)));
        assert_eq!(rest, [Some((40, 0)), Some((40, 1)), Some((40, 2)), None]);
        assert!(pending.set().is_empty());
    }

    #[test]
    fn faults_go_before_lower_numbers() {
        let mut pending = Pending::default();
        pending.push(SigInfo::kernel(2)).unwrap();
        pending.push(SigInfo::kernel(11)).unwrap();
        assert_eq!(
            pending.take(SignalSet(u64::MAX)).map(|info| info.signal),
            Some(11)
        );
        assert_eq!(pending.take(SignalSet::only(11)), None);
    }

    #[test]
    fn a_full_queue_refuses_real_time_signals_only() {
        let mut pending = Pending::default();
        for _ in 0..Pending::LIMIT {
            pending.push(SigInfo::kernel(50)).unwrap();
        }
        assert_eq!(pending.push(SigInfo::kernel(50)), Err(Errno::EAGAIN));
        assert_eq!(pending.push(SigInfo::kernel(15)), Ok(()));
        assert_eq!(
            pending.take(SignalSet::only(15)).map(|info| info.signal),
            Some(15)
        );
    }
}

//! How sequences are made up: calls by weight, arguments that collide.

use crate::arena::{ARENA_END, BASE, PAGE, PAGES};
use crate::calls::CallId;
use crate::op::{Op, Sequence, User};
use crate::random::Random;

/// What the arguments of a sequence are drawn from.
#[derive(Debug)]
pub struct Gen {
    /// Chance.
    pub random: Random,
    /// Whether this sequence locks memory.
    pub locks: bool,
    /// The pages where most of it happens.
    hot: (u64, u64),
}

impl Gen {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let first = random.below(40);
        let hot = (first, 6 + random.below(PAGES - 8 - first).min(18));
        Self {
            locks: random.one_in(3),
            random,
            hot,
        }
    }

    /// An address that a call can name: mostly a page in the hot part, now and then anywhere or unaligned.
    pub fn addr(&mut self) -> u64 {
        let page = match self.random.below(8) {
            0 => self.random.below(PAGES),
            _ => self.hot.0 + self.random.below(self.hot.1),
        };
        let within = match self.random.below(70) {
            0 => self.random.pick(&[1, 8, 4095]),
            _ => 0,
        };
        BASE + page * PAGE + within
    }

    /// The address of a byte.
    pub fn byte_addr(&mut self) -> u64 {
        let page = self.addr() & !(PAGE - 1);
        page + self.random.pick(&[0, 0, 0, 1, 1000, 2000, 4088, 4095])
    }

    /// A length: a few pages, now and then many or not whole.
    pub fn length(&mut self) -> u64 {
        let pages = match self.random.below(12) {
            0 | 1 => 1 + self.random.below(24),
            _ => 1 + self.random.below(5),
        };
        let within = match self.random.below(40) {
            0 => self.random.pick(&[1, 4095]),
            _ => 0,
        };
        pages * PAGE - within
    }

    /// The same, now and then nonsense that reaches nothing above the arena.
    pub fn length_or_hostile(&mut self) -> u64 {
        match self.random.below(60) {
            0 => self.random.pick(&[0, u64::MAX, u64::MAX - 4095, !0 << 13]),
            _ => self.length(),
        }
    }

    /// Rights.
    pub fn prot(&mut self) -> u64 {
        self.random.pick(&[3, 3, 3, 3, 3, 1, 1, 0, 2, 5, 7, 4])
    }

    /// A byte; often the one that can be executed.
    pub fn byte(&mut self) -> u64 {
        match self.random.below(3) {
            0 => 0xc3,
            _ => 1 + self.random.below(250),
        }
    }
}

/// Whether this call can end a sequence in too many processes.
fn is_fork(call: CallId) -> bool {
    matches!(call, CallId::ForkShow | CallId::ForkInto | CallId::ForkHold)
}

/// Whether the step reaches only what sequences own. Addresses beyond the arena belong to the executor.
fn is_contained(op: &Op) -> bool {
    let reaches = |addr: u64, len: u64| {
        let wraps = addr.checked_add(len).is_none_or(|end| end >= 1 << 47);
        wraps || addr + len <= ARENA_END
    };
    let a = &op.args;
    match op.call {
        CallId::Mmap if a[3] & 0x10_0010 == 0 => true,
        CallId::Mremap => reaches(a[0], a[1]) && reaches(a[4], a[1].max(a[2])),
        CallId::Mincore
        | CallId::Mmap
        | CallId::Munmap
        | CallId::Mprotect
        | CallId::Madvise
        | CallId::Mlock2
        | CallId::Munlock
        | CallId::Mseal
        | CallId::RemapFilePages
        | CallId::Mbind
        | CallId::SetHomeNode
        | CallId::Msync => reaches(a[0], a[1]),
        CallId::ProcessVmReadv | CallId::ProcessVmWritev => {
            reaches(a[1], a[2]) && reaches(a[3], a[4])
        }
        CallId::ProcessMadvise => reaches(a[0], a[1]) && reaches(a[2], a[3]),
        CallId::Fill => reaches(a[0], a[1] * PAGE),
        _ => true,
    }
}

/// The sequence of a seed, of the calls given.
pub fn sequence(seed: u64, calls: &[CallId]) -> Sequence {
    let mut g = Gen::new(seed);
    let length = match g.random.below(120) {
        0 => 1000,
        _ => 20 + g.random.below(100),
    };
    let user = match g.random.below(4) {
        0 => User::Nobody,
        _ => User::Root,
    };
    let total: u64 = calls.iter().map(|call| call.weight().max(1)).sum();
    let (mut ops, mut forks) = (Vec::new(), 0);
    while (ops.len() as u64) < length {
        let mut at = g.random.below(total.max(1));
        let chosen = calls.iter().find(|call| {
            let weight = call.weight().max(1);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        });
        let Some(&call) = chosen else { break };
        if is_fork(call) {
            forks += 1;
            if forks > 3 && calls.len() > 3 {
                continue;
            }
        }
        if call == CallId::Mlock2 && !g.locks {
            continue;
        }
        let args = call.generate(&mut g);
        let op = Op { call, args };
        if is_contained(&op) {
            ops.push(op);
        }
    }
    Sequence { user, ops }
}

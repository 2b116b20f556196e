//! The memory that the tester and its Linux processes share: what to do goes in, what was seen comes out. Plain words at fixed places.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arg::Args;
use crate::calls::CallId;
use crate::op::{Op, Sequence, User};
use crate::trace::Sink;

/// The most steps of a sequence.
pub const MOST_OPS: usize = 2048;
const WORDS: usize = 1 << 18;
const OP_WORDS: usize = 7;
const SCRATCH: usize = 256 << 10;
const OPS_AT: usize = 64;
const SCRATCH_AT: usize = OPS_AT + MOST_OPS * OP_WORDS;
const TRACE_AT: usize = SCRATCH_AT + SCRATCH / 8;

/// What a process has before its first step.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Base {
    /// Pages mapped.
    pub total: u64,
    /// Pages mapped that can be locked.
    pub lockable: u64,
    /// Pages of data.
    pub data: u64,
    /// Pages of stack.
    pub stack: u64,
    /// Pages that are executable and not writable.
    pub exec: u64,
}

/// One slot of shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    at: *mut u64,
}

// SAFETY: a slot is used by one side at a time: the tester writes it, then a process works on it, then the tester reads.
unsafe impl Send for Slot {}

#[repr(usize)]
#[derive(Clone, Copy)]
enum Field {
    Ops = 0,
    User = 1,
    Len = 2,
    Total = 3,
    Lockable = 4,
    Data = 5,
    Stack = 6,
    Exec = 7,
}

impl Slot {
    /// Shared memory, to be made before the processes are.
    ///
    /// # Errors
    /// The system has none.
    pub fn new() -> std::io::Result<Self> {
        let bytes = (TRACE_AT + WORDS) * 8;
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        );
        // SAFETY: fresh memory at no place in particular.
        let at = unsafe { libc::mmap(core::ptr::null_mut(), bytes, prot, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Self { at: at.cast() })
    }

    fn cell(&self, at: usize) -> &AtomicU64 {
        assert!(at < TRACE_AT + WORDS, "a word of the slot");
        // SAFETY: inside the memory of `new`, which is never unmapped, aligned, and only accessed this way.
        unsafe { AtomicU64::from_ptr(self.at.add(at)) }
    }

    fn get(&self, field: Field) -> u64 {
        self.cell(field as usize).load(Ordering::Acquire)
    }

    fn put(&self, field: Field, value: u64) {
        self.cell(field as usize).store(value, Ordering::Release);
    }

    /// Writes down what to do.
    pub fn put_sequence(&self, sequence: &Sequence) {
        assert!(sequence.ops.len() <= MOST_OPS, "a sequence that fits");
        for (n, op) in sequence.ops.iter().enumerate() {
            let at = OPS_AT + n * OP_WORDS;
            self.cell(at).store(op.call as u64, Ordering::Relaxed);
            for (n, arg) in op.args.iter().enumerate() {
                self.cell(at + 1 + n).store(*arg, Ordering::Relaxed);
            }
        }
        self.put(Field::User, u64::from(sequence.user == User::Nobody));
        self.put(Field::Len, 0);
        self.put(Field::Ops, sequence.ops.len() as u64);
    }

    /// How many steps there are.
    pub fn ops(&self) -> usize {
        (self.get(Field::Ops) as usize).min(MOST_OPS)
    }

    /// Who does them.
    pub fn user(&self) -> User {
        match self.get(Field::User) {
            0 => User::Root,
            _ => User::Nobody,
        }
    }

    /// A step.
    pub fn op(&self, n: usize) -> Option<Op> {
        let at = OPS_AT + n * OP_WORDS;
        let call = CallId::from_number(self.cell(at).load(Ordering::Relaxed))?;
        let mut args = Args::default();
        for (n, arg) in args.iter_mut().enumerate() {
            *arg = self.cell(at + 1 + n).load(Ordering::Relaxed);
        }
        Some(Op { call, args })
    }

    /// What the process had before its first step.
    pub fn base(&self) -> Base {
        Base {
            total: self.get(Field::Total),
            lockable: self.get(Field::Lockable),
            data: self.get(Field::Data),
            stack: self.get(Field::Stack),
            exec: self.get(Field::Exec),
        }
    }

    /// Writes down what the process has before its first step.
    pub fn put_base(&self, base: Base) {
        self.put(Field::Total, base.total);
        self.put(Field::Lockable, base.lockable);
        self.put(Field::Data, base.data);
        self.put(Field::Stack, base.stack);
        self.put(Field::Exec, base.exec);
    }

    /// What was seen.
    pub fn trace(&self) -> &[u64] {
        let len = (self.get(Field::Len) as usize).min(WORDS);
        // SAFETY: inside the memory of `new`; the process that wrote it has ended.
        unsafe { core::slice::from_raw_parts(self.at.add(TRACE_AT), len) }
    }

    /// Memory to read files into.
    ///
    /// # Safety
    /// The slice of the last call must be gone.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn scratch(&self) -> &mut [u8] {
        // SAFETY: inside the memory of `new`, at a place for this alone; the caller sees to it that it is borrowed once.
        unsafe { core::slice::from_raw_parts_mut(self.at.add(SCRATCH_AT).cast(), SCRATCH) }
    }
}

/// The trace, as what a process and its children write to in turn.
#[derive(Clone, Copy, Debug)]
pub struct SharedSink(pub(super) Slot);

impl Sink for SharedSink {
    fn push(&mut self, word: u64) {
        let at = self.0.get(Field::Len);
        if (at as usize) < WORDS {
            self.0
                .cell(TRACE_AT + at as usize)
                .store(word, Ordering::Relaxed);
            self.0.put(Field::Len, at + 1);
        }
    }

    fn here(&self) -> usize {
        self.0.get(Field::Len) as usize
    }

    fn set(&mut self, at: usize, word: u64) {
        if at < WORDS {
            self.0.cell(TRACE_AT + at).store(word, Ordering::Relaxed);
        }
    }

    fn tag_at(&self, at: usize) -> u64 {
        self.0
            .cell(TRACE_AT + at.min(WORDS - 1))
            .load(Ordering::Relaxed)
            >> 56
    }
}

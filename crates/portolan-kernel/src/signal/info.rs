//! `siginfo_t`: what a handler is told about a signal, and its layout in memory.

/// `SI_USER`: sent by `kill`.
pub const SI_USER: i32 = 0;
/// `SI_KERNEL`: sent by the kernel, with no more to say.
pub const SI_KERNEL: i32 = 0x80;
/// `SI_TKILL`: sent by `tkill` or `tgkill`.
pub const SI_TKILL: i32 = -6;

/// Bytes of a `siginfo_t`.
pub const SIZE: usize = 128;

/// What a signal is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SigFields {
    /// Nothing more.
    None,
    /// Sent by a process.
    Sender {
        /// Its id.
        pid: u32,
        /// Its real user.
        uid: u32,
    },
    /// An instruction's fault.
    Fault {
        /// `si_addr`.
        addr: u64,
    },
    /// A child that changed.
    Child {
        /// Its id.
        pid: u32,
        /// Its real user.
        uid: u32,
        /// Exit status or signal.
        status: i32,
    },
    /// Given by the sender byte by byte (`rt_sigqueueinfo`).
    Raw([u8; SIZE - 16]),
}

/// `siginfo_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SigInfo {
    /// Which signal.
    pub signal: i32,
    /// `si_errno`.
    pub errno: i32,
    /// `si_code`.
    pub code: i32,
    /// What it is about.
    pub fields: SigFields,
}

impl SigInfo {
    /// From the kernel, with no more to say. `SEND_SIG_PRIV`.
    pub const fn kernel(signal: i32) -> Self {
        Self {
            signal,
            errno: 0,
            code: SI_KERNEL,
            fields: SigFields::None,
        }
    }

    /// From a process.
    pub const fn sent(signal: i32, code: i32, pid: u32, uid: u32) -> Self {
        Self {
            signal,
            errno: 0,
            code,
            fields: SigFields::Sender { pid, uid },
        }
    }

    /// From an instruction.
    pub const fn fault(signal: i32, code: i32, addr: u64) -> Self {
        Self {
            signal,
            errno: 0,
            code,
            fields: SigFields::Fault { addr },
        }
    }

    /// Its layout in memory.
    pub fn to_bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, &self.signal.to_ne_bytes());
        put(4, &self.errno.to_ne_bytes());
        put(8, &self.code.to_ne_bytes());
        match self.fields {
            SigFields::None => {}
            SigFields::Sender { pid, uid } => {
                put(16, &pid.to_ne_bytes());
                put(20, &uid.to_ne_bytes());
            }
            SigFields::Fault { addr } => put(16, &addr.to_ne_bytes()),
            SigFields::Child { pid, uid, status } => {
                put(16, &pid.to_ne_bytes());
                put(20, &uid.to_ne_bytes());
                put(24, &status.to_ne_bytes());
            }
            SigFields::Raw(rest) => put(16, &rest),
        }
        bytes
    }

    /// What `rt_sigqueueinfo` was given, as this signal.
    pub fn from_bytes(signal: i32, bytes: &[u8; SIZE]) -> Self {
        let int = |at: usize| {
            i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut rest = [0; SIZE - 16];
        rest.copy_from_slice(&bytes[16..]);
        Self {
            signal,
            errno: int(4),
            code: int(8),
            fields: SigFields::Raw(rest),
        }
    }
}

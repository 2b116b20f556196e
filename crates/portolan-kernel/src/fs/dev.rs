//! The kernel's own devices under /dev. Every other entry of the outer /dev is hidden. Not for: terminals, which are outer files
//! (`/dev/tty` opens one).

use alloc::vec::Vec;

use portolan::errno::Errno;

use crate::outside::{DirEntry, FileKind, Outside, Stat, make_dev};

/// A memory device. `drivers/char/mem.c`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device {
    /// Takes everything, gives nothing.
    Null,
    /// Zeros without end; mapped, it is anonymous memory.
    Zero,
    /// Zeros, and never any room.
    Full,
    /// Random bytes.
    Random,
    /// Random bytes.
    Urandom,
}

impl Device {
    const fn minor(self) -> u32 {
        match self {
            Device::Null => 3,
            Device::Zero => 5,
            Device::Full => 7,
            Device::Random => 8,
            Device::Urandom => 9,
        }
    }

    /// Attributes.
    pub fn stat(self) -> Stat {
        Stat {
            dev: DEV,
            ino: u64::from(self.minor()) + 1,
            mode: FileKind::CharDevice.mode_bits() | 0o666,
            nlink: 1,
            rdev: make_dev(1, self.minor()),
            block_size: 4096,
            ..Stat::default()
        }
    }

    /// Reads.
    ///
    /// # Errors
    /// None of these devices fails to be read.
    pub fn read(self, outside: &dyn Outside, into: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Device::Null => return Ok(0),
            Device::Zero | Device::Full => into.fill(0),
            Device::Random | Device::Urandom => outside.random(into),
        }
        Ok(into.len())
    }

    /// Writes.
    ///
    /// # Errors
    /// `ENOSPC`: /dev/full.
    pub fn write(self, from: &[u8]) -> Result<usize, Errno> {
        if self == Device::Full {
            Err(Errno::ENOSPC)
        } else {
            Ok(from.len())
        }
    }

    /// Whether a seek leaves the position at 0. `null_lseek`.
    pub const fn ignores_seek(self) -> bool {
        matches!(self, Device::Null | Device::Zero | Device::Full)
    }
}

/// The device number that /dev itself has.
const DEV: u64 = make_dev(0, 5);

/// Something under /dev.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DevNode {
    /// /dev.
    Root,
    /// A device of ours.
    Device(Device),
    /// The controlling terminal.
    Tty,
    /// A symbolic link.
    Link(&'static [u8]),
    /// The outer /dev/shm.
    Shm,
}

const ENTRIES: [(&[u8], DevNode); 11] = [
    (b"fd", DevNode::Link(b"/proc/self/fd")),
    (b"full", DevNode::Device(Device::Full)),
    (b"null", DevNode::Device(Device::Null)),
    (b"random", DevNode::Device(Device::Random)),
    (b"shm", DevNode::Shm),
    (b"stderr", DevNode::Link(b"/proc/self/fd/2")),
    (b"stdin", DevNode::Link(b"/proc/self/fd/0")),
    (b"stdout", DevNode::Link(b"/proc/self/fd/1")),
    (b"tty", DevNode::Tty),
    (b"urandom", DevNode::Device(Device::Urandom)),
    (b"zero", DevNode::Device(Device::Zero)),
];

impl DevNode {
    /// What a name in /dev is.
    ///
    /// # Errors
    /// `ENOENT`: nothing that is shown.
    pub fn lookup(self, name: &[u8]) -> Result<DevNode, Errno> {
        let found = ENTRIES
            .iter()
            .find(|(known, _)| self == DevNode::Root && *known == name);
        found.map(|&(_, node)| node).ok_or(Errno::ENOENT)
    }

    /// Attributes.
    pub fn stat(self) -> Stat {
        let (mode, ino, size) = match self {
            DevNode::Device(device) => return device.stat(),
            DevNode::Root | DevNode::Shm => (FileKind::Directory.mode_bits() | 0o755, 1, 0),
            DevNode::Tty => (FileKind::CharDevice.mode_bits() | 0o666, 20, 0),
            DevNode::Link(target) => (
                FileKind::Symlink.mode_bits() | 0o777,
                21,
                target.len() as u64,
            ),
        };
        let rdev = if self == DevNode::Tty {
            make_dev(5, 0)
        } else {
            0
        };
        let nlink = if self == DevNode::Root { 2 } else { 1 };
        Stat {
            dev: DEV,
            ino,
            mode,
            nlink,
            size,
            rdev,
            block_size: 4096,
            ..Stat::default()
        }
    }

    /// The entries of /dev.
    pub fn list() -> Vec<DirEntry> {
        let entry = |name: &[u8], node: DevNode| {
            let stat = node.stat();
            DirEntry {
                ino: stat.ino,
                kind: Some(stat.kind()),
                name: name.to_vec(),
            }
        };
        let dots = [entry(b".", DevNode::Root), entry(b"..", DevNode::Root)];
        dots.into_iter()
            .chain(ENTRIES.iter().map(|&(name, node)| entry(name, node)))
            .collect()
    }
}

//! Shared anonymous memory: an object without a backing, whose pages are zeros at first use. What MAP_SHARED|MAP_ANONYMOUS maps.

use alloc::sync::Arc;

use super::cache::{Cache, PastEnd};
use super::file::{File, FileIdentity, FileMode, FileSpec};
use crate::errno::Errno;
use crate::machine::Machine;
use crate::phys::heap;
use crate::platform::Platform;

/// Whether shared memory is charged to the commit limit as a whole, when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Commit {
    /// All of it, until it is gone. `VM_ACCOUNT`.
    Charged,
    /// None of it. `VM_NORESERVE`.
    Unreserved,
}

impl<P: Platform> Cache<P> {
    /// Shared memory of `size` bytes without a name. `shmem_file_setup`.
    ///
    /// # Errors
    /// `EFBIG`: beyond [`super::MAX_BYTES`]. `ENOMEM`: no heap, or the commit limit.
    pub fn anonymous_shared(
        machine: &Machine<P>,
        size: u64,
        commit: Commit,
    ) -> Result<Arc<Self>, Errno> {
        let charged = commit == Commit::Charged;
        Self::build(machine, None, size, charged, PastEnd::Kept)
    }

    /// The pages of a file that is kept in memory where it stands for one on a disk: not charged, empty at first.
    ///
    /// # Errors
    /// `ENOMEM`: no heap.
    pub fn in_memory(machine: &Machine<P>) -> Result<Arc<Self>, Errno> {
        Self::build(machine, None, 0, false, PastEnd::Zeroed)
    }

    /// The file behind a shared anonymous mapping of `bytes`, charged to the commit limit; shown as `/dev/zero (deleted)`.
    /// `shmem_zero_setup`.
    ///
    /// # Errors
    /// As [`Cache::anonymous_shared`].
    pub fn shared_zero_file(machine: &Machine<P>, bytes: u64) -> Result<Arc<File<P>>, Errno> {
        Self::shared_zero_file_with(machine, bytes, Commit::Charged)
    }

    /// The same, charged or not.
    ///
    /// # Errors
    /// As [`Cache::anonymous_shared`].
    pub fn shared_zero_file_with(
        machine: &Machine<P>,
        bytes: u64,
        commit: Commit,
    ) -> Result<Arc<File<P>>, Errno> {
        let name = b"/dev/zero (deleted)";
        let mut path = heap::try_vec(machine.fail_point(), name.len())?;
        path.extend_from_slice(name);
        let spec = FileSpec {
            cache: Some(Self::anonymous_shared(machine, bytes, commit)?),
            mode: FileMode::READ | FileMode::WRITE | FileMode::OBSERVABLE,
            identity: FileIdentity {
                major: 0,
                minor: 1,
                inode: machine.new_anon_root(),
            },
            path,
            operations: None,
        };
        File::new(machine, spec)
    }
}

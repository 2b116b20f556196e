//! The files that sequences map, the same on both sides.

use crate::arena::PAGE;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// For both.
    ReadWrite,
    /// For reading.
    Read,
    /// For writing.
    Write,
}

/// One descriptor.
#[derive(Clone, Copy, Debug)]
pub struct FileKind {
    /// Which of [`OBJECTS`] it is.
    pub object: usize,
    /// How it is open.
    pub opened: Opened,
}

/// Bytes that each object has at first: five pages and a part.
pub const SIZE: usize = 5 * PAGE as usize + 1000;
/// How many objects there are, each a memfd.
pub const OBJECTS: usize = 2;
/// The index of "no file".
pub const NO_FILE: u64 = 0;

/// The descriptors: index 0 is none.
pub const FILES: [Option<FileKind>; 5] = [
    None,
    Some(FileKind {
        object: 0,
        opened: Opened::ReadWrite,
    }),
    Some(FileKind {
        object: 0,
        opened: Opened::Read,
    }),
    Some(FileKind {
        object: 1,
        opened: Opened::ReadWrite,
    }),
    Some(FileKind {
        object: 0,
        opened: Opened::Write,
    }),
];

/// The descriptors that are open for writing.
pub const WRITABLE: [u64; 4] = [1, 1, 3, 4];

/// The byte that fills page `page` of object `object` at first.
pub fn content(object: usize, page: usize) -> u8 {
    (1 + 2 * object as u8).wrapping_add((page as u8).wrapping_mul(16))
}

//! Numbers of the file system calls, x86-64 values, whatever the kernel is built for.
#![allow(missing_docs)]

macro_rules! numbers {
    ($($name:ident = $value:expr;)*) => { $(pub const $name: u32 = $value;)* };
}

numbers! {
    O_ACCMODE = 0o3;
    O_RDONLY = 0o0;
    O_WRONLY = 0o1;
    O_RDWR = 0o2;
    O_CREAT = 0o100;
    O_EXCL = 0o200;
    O_NOCTTY = 0o400;
    O_TRUNC = 0o1000;
    O_APPEND = 0o2000;
    O_NONBLOCK = 0o4000;
    O_DSYNC = 0o10000;
    O_ASYNC = 0o20000;
    O_DIRECT = 0o40000;
    O_LARGEFILE = 0o100000;
    O_DIRECTORY = 0o200000;
    O_NOFOLLOW = 0o400000;
    O_NOATIME = 0o1000000;
    O_CLOEXEC = 0o2000000;
    O_SYNC = 0o4010000;
    O_PATH = 0o10000000;
    O_TMPFILE = 0o20200000;
    // The bit of O_TMPFILE that is not O_DIRECTORY.
    O_TMPFILE_BIT = 0o20000000;

    SEEK_SET = 0;
    SEEK_CUR = 1;
    SEEK_END = 2;
    SEEK_DATA = 3;
    SEEK_HOLE = 4;

    AT_SYMLINK_NOFOLLOW = 0x100;
    // unlinkat and faccessat use the same bit.
    AT_REMOVEDIR = 0x200;
    AT_EACCESS = 0x200;
    AT_SYMLINK_FOLLOW = 0x400;
    AT_NO_AUTOMOUNT = 0x800;
    AT_EMPTY_PATH = 0x1000;
    AT_STATX_SYNC_TYPE = 0x6000;

    RENAME_NOREPLACE = 1;
    RENAME_EXCHANGE = 2;
    RENAME_WHITEOUT = 4;

    FALLOC_FL_KEEP_SIZE = 0x1;
    FALLOC_FL_PUNCH_HOLE = 0x2;
    FALLOC_FL_COLLAPSE_RANGE = 0x8;
    FALLOC_FL_ZERO_RANGE = 0x10;
    FALLOC_FL_INSERT_RANGE = 0x20;
    FALLOC_FL_UNSHARE_RANGE = 0x40;
}

/// The working directory, where a call takes a directory's descriptor.
pub const AT_FDCWD: i32 = -100;

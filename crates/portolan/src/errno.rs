//! Error numbers: Linux's own, as a type. A call that fails says which one, and nothing else.

use core::fmt;
use linux_raw_sys::errno as raw;

/// A Linux error number, positive (`EINVAL` is 22). The value a system call returns is its negation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

macro_rules! errnos {
    ($($name:ident: $text:literal,)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Errno = Errno(raw::$name as i32);)*

            /// The symbolic name ("EINVAL"), or "E?" for a number that has none here.
            pub const fn name(self) -> &'static str {
                match self { $(Errno::$name => stringify!($name),)* _ => "E?" }
            }

            /// What the number means, in the words of errno(3).
            pub const fn message(self) -> &'static str {
                match self { $(Errno::$name => $text,)* _ => "Unknown error" }
            }
        }
    };
}

errnos! {
    EPERM: "Operation not permitted",
    ENOENT: "No such file or directory",
    ESRCH: "No such process",
    EINTR: "Interrupted system call",
    EIO: "Input/output error",
    ENXIO: "No such device or address",
    E2BIG: "Argument list too long",
    ENOEXEC: "Exec format error",
    EBADF: "Bad file descriptor",
    ECHILD: "No child processes",
    EAGAIN: "Resource temporarily unavailable",
    ENOMEM: "Cannot allocate memory",
    EACCES: "Permission denied",
    EFAULT: "Bad address",
    EBUSY: "Device or resource busy",
    EEXIST: "File exists",
    EXDEV: "Invalid cross-device link",
    ENODEV: "No such device",
    ENOTDIR: "Not a directory",
    EISDIR: "Is a directory",
    EINVAL: "Invalid argument",
    ENFILE: "Too many open files in system",
    EMFILE: "Too many open files",
    ENOTTY: "Inappropriate ioctl for device",
    ETXTBSY: "Text file busy",
    EFBIG: "File too large",
    ENOSPC: "No space left on device",
    ESPIPE: "Illegal seek",
    EROFS: "Read-only file system",
    EMLINK: "Too many links",
    EPIPE: "Broken pipe",
    EDOM: "Numerical argument out of domain",
    ERANGE: "Numerical result out of range",
    ENAMETOOLONG: "File name too long",
    ENOSYS: "Function not implemented",
    ENOTEMPTY: "Directory not empty",
    ELOOP: "Too many levels of symbolic links",
    ENODATA: "No data available",
    ETIME: "Timer expired",
    EOVERFLOW: "Value too large for defined data type",
    ELIBBAD: "Accessing a corrupted shared library",
    EOPNOTSUPP: "Operation not supported",
    EADDRINUSE: "Address already in use",
    ENOTCONN: "Transport endpoint is not connected",
    ETIMEDOUT: "Connection timed out",
    EHWPOISON: "Memory page has hardware error",
}

impl Errno {
    /// The error with this number, for an embedder that passes on one of the outside. Numbers outside 1..=4095 become `EIO`.
    pub const fn from_raw(number: i32) -> Errno {
        if number >= 1 && number <= 4095 {
            Errno(number)
        } else {
            Errno::EIO
        }
    }

    /// The positive number.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// What a system call returns for it: the negated number, as the register holds it.
    pub const fn as_return(self) -> u64 {
        -(self.0 as i64) as u64
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "E?" => write!(f, "Errno({})", self.0),
            name => f.write_str(name),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message(), self.name())
    }
}

impl core::error::Error for Errno {}

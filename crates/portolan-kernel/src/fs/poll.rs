//! The poll events of the x86-64 ABI, as `poll`, `select` and the outer poll use them.

/// Data to read.
pub const POLLIN: u16 = 0x001;
/// Urgent data.
pub const POLLPRI: u16 = 0x002;
/// Room to write.
pub const POLLOUT: u16 = 0x004;
/// An error; reported without being asked for.
pub const POLLERR: u16 = 0x008;
/// The other side is gone; reported without being asked for.
pub const POLLHUP: u16 = 0x010;
/// The descriptor is not open.
pub const POLLNVAL: u16 = 0x020;
/// Normal data to read.
pub const POLLRDNORM: u16 = 0x040;
/// Normal data may be written.
pub const POLLWRNORM: u16 = 0x100;

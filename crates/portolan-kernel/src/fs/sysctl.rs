//! /proc/sys/vm: the settings of the machine as numbers, read and written as Linux's sysctl does. Not for what a setting does, nor for the rest of
//! /proc (`proc`).

use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use portolan::errno::Errno;
use portolan::machine::Overcommit;
use portolan::platform::Platform;

use super::vfs::Session;

/// Settings under /proc/sys/vm that are the kernel's own, not the library's.
#[derive(Default, Debug)]
pub struct Tunables {
    /// Whether programs started from now on map from the bottom up. `legacy_va_layout`.
    pub legacy_va_layout: AtomicBool,
    /// What memory files may be executed: all unless asked otherwise (0), those for which it is asked (1), none (2). `memfd_noexec`.
    pub memfd_noexec: AtomicU32,
    /// `legacy_va_layout` as it was written.
    legacy_number: AtomicU32,
}

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $mode:literal, $numbers:expr;)*) => {
        /// A file of /proc/sys/vm.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Setting { $($(#[$doc])* $name,)* }

        impl Setting {
            /// All of them.
            pub const ALL: &'static [Setting] = &[$(Setting::$name,)*];

            /// Its name.
            pub const fn name(self) -> &'static [u8] {
                match self { $(Setting::$name => $text,)* }
            }

            /// Its permissions, which hold for the superuser too.
            pub const fn mode(self) -> u32 {
                match self { $(Setting::$name => $mode,)* }
            }

            const fn numbers(self) -> Numbers {
                match self { $(Setting::$name => $numbers,)* }
            }
        }
    };
}

/// Which numbers a setting takes.
enum Numbers {
    /// Those of an `int` from here to there. `proc_dointvec_minmax`.
    Int(i32, i32),
    /// Those of an `unsigned long`. `proc_doulongvec_minmax`.
    Unsigned,
}

settings! {
    /// KiB that are kept for the administrator.
    AdminReserve = b"admin_reserve_kbytes", 0o644, Numbers::Unsigned;
    /// Drops what is cached and not in use.
    DropCaches = b"drop_caches", 0o200, Numbers::Int(1, i32::MAX);
    /// Where mappings go.
    LegacyLayout = b"legacy_va_layout", 0o644, Numbers::Int(0, i32::MAX);
    /// The most mappings of a space.
    MaxMapCount = b"max_map_count", 0o644, Numbers::Int(0, i32::MAX);
    /// Which memory files may be executed.
    MemfdNoexec = b"memfd_noexec", 0o644, Numbers::Int(0, 2);
    /// The lowest address that can be mapped.
    MmapMinAddr = b"mmap_min_addr", 0o644, Numbers::Unsigned;
    /// The commit limit in KiB.
    OvercommitKbytes = b"overcommit_kbytes", 0o644, Numbers::Unsigned;
    /// The overcommit mode.
    OvercommitMemory = b"overcommit_memory", 0o644, Numbers::Int(0, 2);
    /// The commit limit in percent of memory.
    OvercommitRatio = b"overcommit_ratio", 0o644, Numbers::Int(i32::MIN, i32::MAX);
    /// KiB that are kept from the largest program.
    UserReserve = b"user_reserve_kbytes", 0o644, Numbers::Unsigned;
}

impl Setting {
    /// The one of this name.
    pub fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.name() == name)
    }

    /// Whether its permissions allow what an opener wants: bits 4 and 2 of `mask`. The superuser's capabilities do not count. `sysctl_perm`.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn check_rights(self, user: u32, mask: u32) -> Result<(), Errno> {
        let bits = if user == 0 {
            self.mode() >> 6
        } else {
            self.mode()
        };
        match mask & 6 & !bits {
            0 => Ok(()),
            _ => Err(Errno::EACCES),
        }
    }

    /// Its text; empty but at the start of the file.
    pub fn read<P: Platform>(self, session: &Session<'_, P>, offset: u64) -> Vec<u8> {
        if offset != 0 {
            return Vec::new();
        }
        format!("{}\n", self.value(session)).into_bytes()
    }

    fn value<P: Platform>(self, session: &Session<'_, P>) -> i128 {
        let (settings, own) = (session.vfs.machine.settings(), &session.vfs.tunables);
        let number = match self {
            Setting::AdminReserve => &settings.admin_reserve_kbytes,
            Setting::UserReserve => &settings.user_reserve_kbytes,
            Setting::MaxMapCount => &settings.max_map_count,
            Setting::MmapMinAddr => &settings.mmap_min_addr,
            Setting::OvercommitKbytes => &settings.overcommit_kbytes,
            Setting::OvercommitRatio => {
                return (settings.overcommit_ratio.load(Ordering::Relaxed) as i64).into();
            }
            Setting::OvercommitMemory => return (settings.overcommit() as u8).into(),
            Setting::LegacyLayout => return own.legacy_number.load(Ordering::Relaxed).into(),
            Setting::MemfdNoexec => return own.memfd_noexec.load(Ordering::Relaxed).into(),
            Setting::DropCaches => return 0,
        };
        number.load(Ordering::Relaxed).into()
    }

    /// Takes a number; returns how many bytes that were. As under `sysctl_writes_strict`, what is not written at the start of the file has no effect.
    ///
    /// # Errors
    /// `EINVAL`: not a number, or none of those it takes; nothing has changed.
    pub fn write<P: Platform>(
        self,
        session: &Session<'_, P>,
        offset: u64,
        from: &[u8],
    ) -> Result<usize, Errno> {
        if offset != 0 || from.is_empty() {
            return Ok(from.len());
        }
        let written = Written::parse(from)?;
        let number = match self.numbers() {
            Numbers::Int(least, most) => written.int(least, most)?.into(),
            Numbers::Unsigned => written.unsigned()?.into(),
        };
        self.set(session, number);
        Ok(written.taken)
    }

    fn set<P: Platform>(self, session: &Session<'_, P>, number: i128) {
        let (settings, own) = (session.vfs.machine.settings(), &session.vfs.tunables);
        // Only a ratio can be below zero, which Linux multiplies with all the same: a limit beyond all bounds.
        let value = number as u64;
        match self {
            Setting::AdminReserve => settings
                .admin_reserve_kbytes
                .store(value, Ordering::Relaxed),
            Setting::UserReserve => settings.user_reserve_kbytes.store(value, Ordering::Relaxed),
            Setting::MaxMapCount => settings.max_map_count.store(value, Ordering::Relaxed),
            Setting::MmapMinAddr => settings.mmap_min_addr.store(value, Ordering::Relaxed),
            Setting::OvercommitMemory => settings.set_overcommit(match value {
                0 => Overcommit::Guess,
                1 => Overcommit::Always,
                _ => Overcommit::Never,
            }),
            // Each of the two takes the other's place.
            Setting::OvercommitRatio => {
                settings.overcommit_ratio.store(value, Ordering::Relaxed);
                settings.overcommit_kbytes.store(0, Ordering::Relaxed);
            }
            Setting::OvercommitKbytes => {
                settings.overcommit_kbytes.store(value, Ordering::Relaxed);
                settings.overcommit_ratio.store(0, Ordering::Relaxed);
            }
            Setting::LegacyLayout => {
                own.legacy_number.store(value as u32, Ordering::Relaxed);
                own.legacy_va_layout.store(value != 0, Ordering::Relaxed);
            }
            Setting::MemfdNoexec => own.memfd_noexec.store(value as u32, Ordering::Relaxed),
            Setting::DropCaches => drop_caches(session, value),
        }
    }
}

/// `drop_caches_sysctl_handler`: bit 0 drops clean pages of files that nobody maps. What bit 1 drops, slabs, is not in the machine's memory.
fn drop_caches<P: Platform>(session: &Session<'_, P>, bits: u64) {
    if bits & 1 != 0 {
        for inode in session.vfs.inodes.all() {
            inode.cache().reclaim(u64::MAX);
        }
    }
}

/// A number as it was written. `proc_get_long`.
struct Written {
    negative: bool,
    magnitude: u64,
    /// Bytes up to the next number, if there is one.
    taken: usize,
}

impl Written {
    /// # Errors
    /// `EINVAL`: no number, one that is too large, or something right behind it.
    fn parse(from: &[u8]) -> Result<Self, Errno> {
        let spaces = |from: &[u8]| {
            let is_space = |byte: &&u8| matches!(byte, b' ' | 9..=13);
            from.iter().take_while(is_space).count()
        };
        let start = spaces(from);
        let text = &from[start..];
        let negative = text.first() == Some(&b'-');
        let digits = &text[usize::from(negative)..];
        let (radix, prefix) = match digits {
            [b'0', b'x' | b'X', next, ..] if next.is_ascii_hexdigit() => (16, 2),
            [b'0', ..] => (8, 0),
            _ => (10, 0),
        };
        let is_digit = |byte: &&u8| char::from(**byte).is_digit(radix);
        let number = &digits[prefix..];
        let number = &number[..number.iter().take_while(is_digit).count()];
        let text = core::str::from_utf8(number).map_err(|_| Errno::EINVAL)?;
        let magnitude = u64::from_str_radix(text, radix).map_err(|_| Errno::EINVAL)?;
        let end = start + usize::from(negative) + prefix + number.len();
        let rest = &from[end..];
        if !matches!(rest.first(), None | Some(b' ' | b'\t' | b'\n')) {
            return Err(Errno::EINVAL);
        }
        Ok(Self {
            negative,
            magnitude,
            taken: end + spaces(rest),
        })
    }

    fn int(&self, least: i32, most: i32) -> Result<i32, Errno> {
        let magnitude = i64::try_from(self.magnitude).map_err(|_| Errno::EINVAL)?;
        let value = if self.negative { -magnitude } else { magnitude };
        i32::try_from(value)
            .ok()
            .filter(|value| (least..=most).contains(value))
            .ok_or(Errno::EINVAL)
    }

    fn unsigned(&self) -> Result<u64, Errno> {
        match self.negative {
            true => Err(Errno::EINVAL),
            false => Ok(self.magnitude),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Errno, Written};

    fn int(text: &str) -> Result<(i32, usize), Errno> {
        let written = Written::parse(text.as_bytes())?;
        Ok((written.int(-5, 300)?, written.taken))
    }

    fn unsigned(text: &str) -> Result<(u64, usize), Errno> {
        let written = Written::parse(text.as_bytes())?;
        Ok((written.unsigned()?, written.taken))
    }

    /// Each as Linux 6.18 answers it.
    #[test]
    fn numbers_are_read_as_linux_reads_them() {
        for (text, number, taken) in [
            ("5", 5, 1),
            ("6\n", 6, 2),
            (" 7", 7, 2),
            ("8 ", 8, 2),
            ("9 2", 9, 2),
            ("1\n2", 1, 2),
            ("7\t", 7, 2),
            ("0x10", 16, 4),
            ("010", 8, 3),
            ("201", 201, 3),
        ] {
            assert_eq!(int(text), Ok((number, taken)), "{text:?}");
            assert_eq!(unsigned(text), Ok((number as u64, taken)), "{text:?}");
        }
        for text in [
            "x",
            "1x",
            "\n",
            " ",
            "7,8",
            "+4",
            "5\0",
            "\0",
            "-",
            "- 1",
            "0x",
            "08",
            "",
            "99999999999999999999999",
        ] {
            assert_eq!(int(text), Err(Errno::EINVAL), "{text:?}");
            assert_eq!(unsigned(text), Err(Errno::EINVAL), "{text:?}");
        }
        assert_eq!(int("-1"), Ok((-1, 2)));
        assert_eq!(int(" -0"), Ok((0, 3)));
        assert_eq!(unsigned("-1"), Err(Errno::EINVAL));
        assert_eq!(unsigned(" -0"), Err(Errno::EINVAL));
        assert_eq!(int("4294967301"), Err(Errno::EINVAL));
        assert_eq!(unsigned("4294967301"), Ok((4_294_967_301, 10)));
    }
}

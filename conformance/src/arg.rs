//! The arguments of calls: what kind of number each is, and how it is written in a case and in C. Not for what calls do with them.

use crate::arena::{ARENA_END, BASE};

/// Six numbers, as a system call takes them. Addresses are those of the 4 KiB layout.
pub type Args = [u64; 6];

/// A name for a bit or a value.
pub type Names = &'static [(&'static str, u64)];

/// What an argument is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// An address, in the arena most of the time.
    Addr,
    /// A number of bytes.
    Len,
    /// Bits, each with a name.
    Flags(Names),
    /// One of these values.
    Choice(Names),
    /// A file: an index into [`crate::files::FILES`].
    File,
    /// A plain number.
    Number,
}

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// What it is called.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
}

/// An argument.
pub const fn arg(name: &'static str, kind: Kind) -> Arg {
    Arg { name, kind }
}

/// A number as cases and C have it.
pub fn write_arg(kind: Kind, value: u64) -> String {
    match kind {
        Kind::Addr if value == BASE => "A".to_owned(),
        Kind::Addr if (BASE..=ARENA_END).contains(&value) => format!("A+{:#x}", value - BASE),
        Kind::Addr | Kind::Len => format!("{value:#x}"),
        Kind::File => format!("{}", value as i64),
        Kind::Number => format!("{value}"),
        Kind::Flags(names) => write_flags(names, value),
        Kind::Choice(names) => match names.iter().find(|(_, of)| *of == value) {
            Some((name, _)) => (*name).to_owned(),
            None => format!("{value:#x}"),
        },
    }
}

/// The names of the bits that are set, the rest as a number. A value of several bits stands before its bits in `names`.
fn write_flags(names: Names, value: u64) -> String {
    let mut rest = value;
    let mut shown = Vec::new();
    for &(name, bits) in names {
        if bits != 0 && rest & bits == bits {
            rest &= !bits;
            shown.push(name.to_owned());
        }
    }
    if rest != 0 || shown.is_empty() {
        let zero = names.iter().find(|(_, bits)| *bits == 0 && rest == 0);
        shown.push(zero.map_or(format!("{rest:#x}"), |(name, _)| (*name).to_owned()));
    }
    shown.join("|")
}

/// Reads what [`write_arg`] wrote.
///
/// # Errors
/// What is not understood.
pub fn read_arg(kind: Kind, text: &str) -> Result<u64, String> {
    let names: Names = match kind {
        Kind::Flags(names) | Kind::Choice(names) => names,
        _ => &[],
    };
    // A choice may itself be written as several names.
    if let Some((_, bits)) = names.iter().find(|(name, _)| *name == text.trim()) {
        return Ok(*bits);
    }
    let mut value = 0u64;
    for part in text.split('|').map(str::trim) {
        let named = names.iter().find(|(name, _)| *name == part);
        value |= match (named, part.strip_prefix('A')) {
            (Some((_, bits)), _) => *bits,
            (None, Some("")) => BASE,
            (None, Some(offset)) if offset.starts_with('+') => BASE + number(&offset[1..])?,
            _ => number(part)?,
        };
    }
    Ok(value)
}

fn number(text: &str) -> Result<u64, String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1i64 as u64, digits),
        None => (1, text),
    };
    let value = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    let value = value.map_err(|_| format!("not a number: {text}"))?;
    Ok(value.wrapping_mul(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        const NAMES: Names = &[("BOTH", 6), ("TWO", 2), ("FOUR", 4), ("NONE", 0)];
        let kinds = [
            Kind::Addr,
            Kind::Len,
            Kind::Number,
            Kind::Flags(NAMES),
            Kind::Choice(NAMES),
        ];
        for kind in kinds {
            for value in [
                0,
                2,
                4,
                6,
                7,
                BASE,
                BASE + 0x3000,
                ARENA_END,
                u64::MAX,
                1 << 47,
            ] {
                assert_eq!(
                    read_arg(kind, &write_arg(kind, value)),
                    Ok(value),
                    "{kind:?}"
                );
            }
        }
        assert_eq!(write_arg(Kind::Flags(NAMES), 7), "BOTH|0x1");
        assert_eq!(read_arg(Kind::File, "-1"), Ok(u64::MAX));
        assert!(read_arg(Kind::Len, "0xyz").is_err());
    }
}

//! Paths as byte strings: splitting, joining, limits. Not for: what a path leads to (`vfs`).

use alloc::vec::Vec;

use portolan::errno::Errno;

/// The longest path a call takes, its NUL included. `PATH_MAX`.
pub const PATH_MAX: usize = 4096;
/// The longest name of one component. `NAME_MAX`.
pub const NAME_MAX: usize = 255;
/// How many symbolic links one walk follows. `MAXSYMLINKS`.
pub const MAX_LINKS: usize = 40;

/// The components of a path: what stands between slashes, empty ones left out.
pub fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty())
}

/// `dir` and `name` as one path; `dir` is absolute, without a trailing slash unless it is "/".
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// The directory that holds a canonical path's last component; "/" for "/".
pub fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&byte| byte == b'/') {
        None | Some(0) => b"/",
        Some(slash) => &path[..slash],
    }
}

/// The last component of a canonical path; empty for "/".
pub fn name(path: &[u8]) -> &[u8] {
    let start = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    &path[start..]
}

/// Whether `inner` is `outer` or lies below it; both canonical.
pub fn lies_within(inner: &[u8], outer: &[u8]) -> bool {
    outer == b"/"
        || inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Checks the limits on a path a program handed in.
///
/// # Errors
/// `ENAMETOOLONG`: the path or a component is too long.
pub fn check(path: &[u8]) -> Result<(), Errno> {
    if path.len() >= PATH_MAX || components(path).any(|part| part.len() > NAME_MAX) {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(())
}

/// A decimal number that fills the whole name, as /proc names descriptors and processes.
pub fn number(name: &[u8]) -> Option<u32> {
    let plain = !name.is_empty()
        && name.iter().all(u8::is_ascii_digit)
        && (name.len() == 1 || name[0] != b'0');
    if plain {
        core::str::from_utf8(name).ok()?.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_and_join() {
        assert_eq!(
            components(b"//a/./b//").collect::<Vec<_>>(),
            [&b"a"[..], b".", b"b"]
        );
        assert_eq!(join(b"/", b"a"), b"/a");
        assert_eq!(join(b"/a", b"b"), b"/a/b");
        assert_eq!((parent(b"/a/b"), name(b"/a/b")), (&b"/a"[..], &b"b"[..]));
        assert_eq!(
            (parent(b"/a"), parent(b"/"), name(b"/")),
            (&b"/"[..], &b"/"[..], &b""[..])
        );
        assert!(
            lies_within(b"/a/b", b"/a") && lies_within(b"/a", b"/a") && lies_within(b"/x", b"/")
        );
        assert!(!lies_within(b"/ab", b"/a"));
    }

    #[test]
    fn limits_are_linux() {
        assert_eq!(check(&[b'a'; 255]), Ok(()));
        assert_eq!(check(&[b'a'; 256]), Err(Errno::ENAMETOOLONG));
        assert_eq!(check(&b"a/".repeat(2047)), Ok(()));
        assert_eq!(check(&b"a/".repeat(2048)), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn numbers_are_plain() {
        assert_eq!(
            (number(b"0"), number(b"17"), number(b"4294967296")),
            (Some(0), Some(17), None)
        );
        assert_eq!(
            (number(b""), number(b"01"), number(b"+1"), number(b"1x")),
            (None, None, None, None)
        );
    }
}

//! The first line of a script: `#!`, an interpreter, at most one argument.

use portolan::errno::Errno;

/// What a `#!` line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line<'a> {
    /// The interpreter's path.
    pub interpreter: &'a [u8],
    /// All that follows, as one argument.
    pub argument: Option<&'a [u8]>,
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn trim(bytes: &[u8]) -> &[u8] {
    let start = bytes
        .iter()
        .position(|&byte| !is_blank(byte))
        .unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(|&byte| !is_blank(byte))
        .map_or(start, |last| last + 1);
    &bytes[start..end]
}

/// Reads the line from a file's first bytes, zeros after the file's end; they start with `#!`. `load_script`.
///
/// # Errors
/// `ENOEXEC`: no interpreter, or its name goes on beyond these bytes.
pub fn parse(head: &[u8]) -> Result<Line<'_>, Errno> {
    let rest = head.get(2..).ok_or(Errno::ENOEXEC)?;
    let ends = |&byte: &u8| byte == b'\n' || byte == 0;
    let (line, is_whole) = match rest.iter().position(ends) {
        Some(end) => (trim(&rest[..end]), true),
        None => (rest, false),
    };
    let start = line
        .iter()
        .position(|&byte| !is_blank(byte))
        .ok_or(Errno::ENOEXEC)?;
    let line = &line[start..];
    let Some(end) = line.iter().position(|&byte| is_blank(byte)) else {
        return if is_whole {
            Ok(Line {
                interpreter: line,
                argument: None,
            })
        } else {
            Err(Errno::ENOEXEC)
        };
    };
    let argument = trim(&line[end..]);
    Ok(Line {
        interpreter: &line[..end],
        argument: Some(argument).filter(|argument| !argument.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<(&[u8], Option<&[u8]>), Errno> {
        parse(text.as_bytes()).map(|line| (line.interpreter, line.argument))
    }

    #[test]
    fn everything_after_the_interpreter_is_one_argument() {
        assert_eq!(line("#!/bin/sh\nx"), Ok((&b"/bin/sh"[..], None)));
        assert_eq!(
            line("#! \t/bin/sh \t -e  x \t\nx"),
            Ok((&b"/bin/sh"[..], Some(&b"-e  x"[..])))
        );
        assert_eq!(
            line("#!/bin/sh -e\0\0"),
            Ok((&b"/bin/sh"[..], Some(&b"-e"[..])))
        );
    }

    #[test]
    fn a_line_without_a_whole_interpreter_is_refused() {
        assert_eq!(line("#!\n"), Err(Errno::ENOEXEC));
        assert_eq!(line("#!  \t\n"), Err(Errno::ENOEXEC));
        assert_eq!(line("#!/bin/interpreter-that-goes-on"), Err(Errno::ENOEXEC));
        assert_eq!(
            line("#!/bin/sh argument that goes on"),
            Ok((&b"/bin/sh"[..], Some(&b"argument that goes on"[..])))
        );
        assert_eq!(line("#"), Err(Errno::ENOEXEC));
    }
}

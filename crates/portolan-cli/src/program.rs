//! Which file a program name means, and the environment it starts with. Not for: loading it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::args::Variable;

/// What `execvp` searches when PATH is not set.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Why there is nothing to run.
#[derive(PartialEq, Eq, Debug)]
pub enum NoProgram {
    /// No file of that name.
    Missing,
    /// A file that cannot be executed, and why.
    Unusable(&'static str),
}

/// The caller's environment with `changes` made, each as "NAME=VALUE"; a later change of a name replaces an earlier one.
pub fn environment(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    changes: &[Variable],
) -> Vec<Vec<u8>> {
    let mut variables: Vec<(OsString, OsString)> = inherited.collect();
    for change in changes {
        match variables.iter_mut().find(|(name, _)| *name == change.name) {
            Some((_, value)) => value.clone_from(&change.value),
            None => variables.push((change.name.clone(), change.value.clone())),
        }
    }
    variables
        .into_iter()
        .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
        .collect()
}

/// The value of PATH among variables of the form "NAME=VALUE".
pub fn path_of(environment: &[Vec<u8>]) -> OsString {
    let value = environment
        .iter()
        .find_map(|variable| variable.strip_prefix(b"PATH="));
    value.map_or_else(
        || DEFAULT_PATH.into(),
        |value| OsString::from_vec(value.to_vec()),
    )
}

/// The file that `name` means to a program whose working directory is `cwd`: as it is when it contains a slash, else the first that can be
/// executed in a directory of `path`.
///
/// # Errors
/// As a shell tells them apart: nothing there, or something that cannot be run.
pub fn find(name: &OsStr, path: &OsStr, cwd: &Path) -> Result<PathBuf, NoProgram> {
    if name.is_empty() {
        return Err(NoProgram::Missing);
    }
    if name.as_bytes().contains(&b'/') {
        let file = PathBuf::from(name);
        return check(&cwd.join(&file)).map(|()| file);
    }
    let mut result = NoProgram::Missing;
    for directory in path.as_bytes().split(|&byte| byte == b':') {
        let directory = if directory.is_empty() {
            Path::new(".")
        } else {
            Path::new(OsStr::from_bytes(directory))
        };
        let file = directory.join(name);
        match check(&cwd.join(&file)) {
            Ok(()) => return Ok(file),
            Err(NoProgram::Missing) => {}
            Err(unusable) => result = unusable,
        }
    }
    Err(result)
}

/// Whether a file can be executed at all, as far as its attributes say.
fn check(file: &Path) -> Result<(), NoProgram> {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    match std::fs::metadata(file) {
        Ok(attributes) if attributes.is_dir() => Err(NoProgram::Unusable("is a directory")),
        Ok(attributes) if attributes.permissions().mode() & 0o111 == 0 => {
            Err(NoProgram::Unusable("permission denied"))
        }
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Err(NoProgram::Missing),
        Err(error) if error.kind() == PermissionDenied => {
            Err(NoProgram::Unusable("permission denied"))
        }
        Err(_) => Err(NoProgram::Unusable("cannot be reached")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: &str) -> Variable {
        Variable {
            name: name.into(),
            value: value.into(),
        }
    }

    #[test]
    fn later_variables_replace_earlier_ones() {
        let inherited = [("A".into(), "1".into()), ("B".into(), "2".into())];
        let changes = [variable("B", "3"), variable("C", "4"), variable("C", "5")];
        let result = environment(inherited.into_iter(), &changes);
        assert_eq!(result, [b"A=1".to_vec(), b"B=3".to_vec(), b"C=5".to_vec()]);
    }

    #[test]
    fn path_is_taken_from_the_programs_environment() {
        assert_eq!(path_of(&[b"X=1".to_vec(), b"PATH=/a:/b".to_vec()]), "/a:/b");
        assert_eq!(path_of(&[]), DEFAULT_PATH);
    }

    #[test]
    fn names_are_found_as_a_shell_finds_them() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(
            find("sh".as_ref(), "/nowhere:/bin".as_ref(), here),
            Ok("/bin/sh".into())
        );
        assert_eq!(
            find("no-such-program".as_ref(), "/bin".as_ref(), here),
            Err(NoProgram::Missing)
        );
        assert_eq!(
            find("/no/such".as_ref(), "/bin".as_ref(), here),
            Err(NoProgram::Missing)
        );
        assert_eq!(
            find("".as_ref(), "/bin".as_ref(), here),
            Err(NoProgram::Missing)
        );
        assert_eq!(
            find("./Cargo.toml".as_ref(), "".as_ref(), here),
            Err(NoProgram::Unusable("permission denied"))
        );
        assert_eq!(
            find("src/".as_ref(), "".as_ref(), here),
            Err(NoProgram::Unusable("is a directory"))
        );
        assert_eq!(
            find("Cargo.toml/x".as_ref(), "".as_ref(), here),
            Err(NoProgram::Missing)
        );
        assert_eq!(
            find("Cargo.toml".as_ref(), ":/bin".as_ref(), here),
            Err(NoProgram::Unusable("permission denied"))
        );
    }
}

//! A step, a sequence of steps, and how both are written as text: what a case file holds.

use crate::arg::{Args, read_arg, write_arg};
use crate::calls::CallId;

/// One step: a call and its arguments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op {
    /// What is done.
    pub call: CallId,
    /// With what; what the call does not take is 0.
    pub args: Args,
}

/// Who does the calls.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum User {
    /// root: no limit on locked memory, low addresses may be mapped.
    #[default]
    Root,
    /// A user without rights.
    Nobody,
}

/// What a fresh process does.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Sequence {
    /// As whom.
    pub user: User,
    /// The steps.
    pub ops: Vec<Op>,
}

impl Op {
    /// One line, as [`Op::parse`] reads it.
    pub fn text(&self) -> String {
        let shown: Vec<String> = self
            .call
            .args()
            .iter()
            .zip(self.args)
            .map(|(arg, value)| format!("{}={}", arg.name, write_arg(arg.kind, value)))
            .collect();
        format!("{} {}", self.call.name(), shown.join(" "))
            .trim_end()
            .to_owned()
    }

    /// Reads a line.
    ///
    /// # Errors
    /// What is not understood.
    pub fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or("");
        let call = CallId::by_name(name).ok_or_else(|| format!("no such call: {name}"))?;
        let mut args = Args::default();
        for word in words {
            let (name, text) = word
                .split_once('=')
                .ok_or_else(|| format!("not an argument: {word}"))?;
            let at = call.args().iter().position(|arg| arg.name == name);
            let at = at.ok_or_else(|| format!("{} has no argument {name}", call.name()))?;
            args[at] = read_arg(call.args()[at].kind, text)?;
        }
        Ok(Self { call, args })
    }
}

impl Sequence {
    /// The text of a case, without a comment.
    pub fn text(&self) -> String {
        let user = match self.user {
            User::Root => "",
            User::Nobody => "user nobody\n",
        };
        let lines: String = self.ops.iter().map(|op| op.text() + "\n").collect();
        user.to_owned() + &lines
    }

    /// Reads a case. Lines that begin with `#` are comments.
    ///
    /// # Errors
    /// Which line is not understood, and why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut sequence = Self::default();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            match line {
                "" => {}
                "user nobody" => sequence.user = User::Nobody,
                line if line.starts_with('#') => {}
                line => {
                    let op = Op::parse(line).map_err(|error| format!("line {}: {error}", n + 1))?;
                    sequence.ops.push(op);
                }
            }
        }
        Ok(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::sequence;

    #[test]
    fn a_sequence_is_read_back_from_its_text() {
        for seed in 0..200 {
            let made = sequence(seed, &CallId::enabled());
            assert_eq!(Sequence::parse(&made.text()), Ok(made));
        }
        assert!(Sequence::parse("nonsense").is_err());
        assert!(Sequence::parse("munmap addr=A length=1").is_err());
    }
}

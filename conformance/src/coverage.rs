//! What a run reached: calls, flags and results, on both sides.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::arg::Kind;
use crate::calls::CallId;
use crate::compare::result_text;
use crate::op::Op;
use crate::trace::{Tag, sections};

/// How often calls, flags and results occurred.
#[derive(Clone, Default, Debug)]
pub struct Coverage {
    /// Answers by call and result class, on Linux and here.
    results: BTreeMap<(CallId, i64), [u64; 2]>,
    /// Calls by flag: the call, the argument, which name.
    flags: BTreeMap<(CallId, usize, usize), u64>,
}

impl Coverage {
    /// Counts what a sequence did.
    pub fn add(&mut self, ops: &[Op], linux: Option<&[u64]>, ours: &[u64]) {
        for op in ops {
            self.add_flags(op);
        }
        for (side, words) in [linux, Some(ours)].into_iter().enumerate() {
            for section in sections(words.unwrap_or(&[])) {
                if section.tag == Tag::Result
                    && let [n, _, result, ..] = *section.words
                    && let Some(op) = ops.get(n as usize)
                {
                    let class = (result as i64).min(0);
                    self.results.entry((op.call, class)).or_default()[side] += 1;
                }
            }
        }
    }

    fn add_flags(&mut self, op: &Op) {
        for (at, arg) in op.call.args().iter().enumerate() {
            let value = op.args[at];
            let (names, is_flag) = match arg.kind {
                Kind::Flags(names) => (names, true),
                Kind::Choice(names) => (names, false),
                _ => continue,
            };
            for (n, &(_, bits)) in names.iter().enumerate() {
                let here = match (is_flag, bits) {
                    (true, bits) if bits != 0 => value & bits == bits,
                    _ => value == bits,
                };
                if here {
                    *self.flags.entry((op.call, at, n)).or_default() += 1;
                }
            }
        }
    }

    /// Takes another's counts in.
    pub fn merge(&mut self, other: &Coverage) {
        for (key, [linux, ours]) in &other.results {
            let sum = self.results.entry(*key).or_default();
            sum[0] += linux;
            sum[1] += ours;
        }
        for (key, count) in &other.flags {
            *self.flags.entry(*key).or_default() += count;
        }
    }

    /// How often a call answered so: on Linux, and here. A negative class is an errno or a signal, 0 any success.
    pub fn result(&self, call: CallId, class: i64) -> [u64; 2] {
        self.results
            .get(&(call, class))
            .copied()
            .unwrap_or_default()
    }

    /// A table, and at its end what was never reached.
    pub fn text(&self, calls: &[CallId]) -> String {
        let mut shown =
            String::from("call                 answer                      linux      library\n");
        let mut missing = Vec::new();
        for &call in calls {
            let mut classes: Vec<i64> = vec![0];
            classes.extend(call.errnos().iter().map(|errno| -i64::from(*errno)));
            let seen = self
                .results
                .keys()
                .filter(|key| key.0 == call)
                .map(|key| key.1);
            classes.extend(seen);
            classes.sort_unstable_by_key(|class| std::cmp::Reverse(*class));
            classes.dedup();
            for class in classes {
                let [linux, ours] = self.result(call, class);
                let name = match class {
                    0 => "success".to_owned(),
                    class => result_text(class as u64),
                };
                let _ = writeln!(
                    shown,
                    "{:<20} {name:<24} {linux:>10} {ours:>10}",
                    call.name()
                );
                if linux == 0 && ours == 0 {
                    missing.push(format!("{} {name}", call.name()));
                }
            }
            self.write_flags(call, &mut shown, &mut missing);
        }
        match missing.is_empty() {
            true => shown.push_str("every call, flag and answer was reached\n"),
            false => {
                let _ = writeln!(shown, "NEVER REACHED: {}", missing.join(", "));
            }
        }
        shown
    }

    fn write_flags(&self, call: CallId, shown: &mut String, missing: &mut Vec<String>) {
        for (at, arg) in call.args().iter().enumerate() {
            let (Kind::Flags(names) | Kind::Choice(names)) = arg.kind else {
                continue;
            };
            let _ = write!(shown, "{:<20} {}:", call.name(), arg.name);
            for (n, (name, _)) in names.iter().enumerate() {
                let count = self.flags.get(&(call, at, n)).copied().unwrap_or(0);
                let _ = write!(shown, " {name} {count}");
                if count == 0 {
                    missing.push(format!("{} {name}", call.name()));
                }
            }
            shown.push('\n');
        }
    }
}

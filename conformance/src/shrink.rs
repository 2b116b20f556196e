//! Makes a sequence that shows a difference short: fewer steps first, then simpler arguments. The difference stays the same one.

use crate::arena::PAGE;
use crate::arg::Kind;
use crate::op::{Sequence, User};

/// The shortest sequence found for which `shows` still says true.
pub fn shrink(mut sequence: Sequence, mut shows: impl FnMut(&Sequence) -> bool) -> Sequence {
    loop {
        let before = sequence.clone();
        fewer(&mut sequence, &mut shows);
        simpler(&mut sequence, &mut shows);
        if sequence == before {
            return sequence;
        }
    }
}

fn attempt(
    sequence: &mut Sequence,
    shows: &mut impl FnMut(&Sequence) -> bool,
    change: impl FnOnce(&mut Sequence),
) -> bool {
    let mut changed = sequence.clone();
    change(&mut changed);
    let better = changed != *sequence && shows(&changed);
    if better {
        *sequence = changed;
    }
    better
}

fn fewer(sequence: &mut Sequence, shows: &mut impl FnMut(&Sequence) -> bool) {
    let mut chunk = sequence.ops.len().div_ceil(2);
    while chunk > 0 {
        let mut end = sequence.ops.len();
        while end > 0 {
            let start = end.saturating_sub(chunk);
            attempt(sequence, shows, |changed| {
                changed.ops.drain(start..end);
            });
            end = start;
        }
        chunk = match chunk {
            1 => 0,
            more => more.div_ceil(2),
        };
    }
}

fn simpler(sequence: &mut Sequence, shows: &mut impl FnMut(&Sequence) -> bool) {
    attempt(sequence, shows, |changed| changed.user = User::Root);
    for n in 0..sequence.ops.len() {
        for (at, arg) in sequence.ops[n].call.args().iter().enumerate() {
            for value in candidates(arg.kind, sequence.ops[n].args[at]) {
                attempt(sequence, shows, |changed| changed.ops[n].args[at] = value);
            }
        }
    }
}

/// Simpler values of an argument, the simplest first.
fn candidates(kind: Kind, value: u64) -> Vec<u64> {
    match kind {
        Kind::Len => {
            let pages = value / PAGE;
            let mut smaller = vec![0, PAGE];
            if pages < 64 {
                smaller.extend([
                    pages / 2 * PAGE,
                    pages.saturating_sub(1) * PAGE,
                    pages * PAGE,
                ]);
            }
            smaller.retain(|less| *less < value);
            smaller
        }
        Kind::Flags(names) => {
            let single = |&(_, bits): &(&str, u64)| bits.is_power_of_two().then_some(bits);
            let bits = names.iter().filter_map(single);
            bits.filter(|bit| value & bit != 0)
                .map(|bit| value & !bit)
                .collect()
        }
        Kind::Number => [0, 1, value / 2]
            .into_iter()
            .filter(|less| *less < value)
            .collect(),
        Kind::Addr => vec![value & !(PAGE - 1)],
        Kind::File | Kind::Choice(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::CallId;
    use crate::generate::sequence;

    #[test]
    fn only_what_matters_stays() {
        let made = sequence(3, &CallId::enabled());
        let wanted = |sequence: &Sequence| {
            let calls = sequence.ops.iter();
            calls.filter(|op| op.call == CallId::Munmap).count() >= 2
        };
        assert!(wanted(&made), "a sequence that unmaps twice");
        let short = shrink(made, wanted);
        assert_eq!(short.ops.len(), 2);
        assert_eq!(short.ops[0].args[1], 0);
    }
}

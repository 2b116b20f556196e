//! What a guest's process has mapped, as runs of pages: the record of its TLB. A run is what the outer kernel makes one mapping
//! of (neighbouring pages, contiguous frames, equal rights), so the number of runs is the number of outer mappings.

use std::collections::BTreeMap;

bitflags::bitflags! {
    /// What an installed page allows.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct Rights: u8 {
        /// Loads.
        const READ = 1;
        /// Stores.
        const WRITE = 2;
        /// Fetches.
        const EXEC = 4;
    }
}

/// Neighbouring pages on contiguous frames with equal rights. Units: pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    /// First page.
    pub(crate) page: u64,
    /// How many.
    pub(crate) pages: u64,
    /// The first page's frame.
    pub(crate) frame: u64,
    /// What each allows.
    pub(crate) rights: Rights,
}

impl Run {
    /// The first page after it.
    pub(crate) fn end(&self) -> u64 {
        self.page + self.pages
    }

    /// Takes `next` in if the two are one run.
    pub(crate) fn absorb(&mut self, next: &Run) -> bool {
        let one = self.end() == next.page
            && self.frame + self.pages == next.frame
            && self.rights == next.rights;
        if one {
            self.pages += next.pages;
        }
        one
    }

    /// The part from `from` up to `to`, both within the run.
    fn part(&self, from: u64, to: u64) -> Run {
        Run {
            page: from,
            pages: to - from,
            frame: self.frame + (from - self.page),
            rights: self.rights,
        }
    }
}

/// The installed runs of one process, disjoint, by first page.
#[derive(Default, Debug)]
pub(crate) struct Tlb {
    runs: BTreeMap<u64, Run>,
}

impl Tlb {
    /// How many outer mappings there are.
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.runs.clear();
    }

    /// The run that holds a page.
    pub(crate) fn find(&self, page: u64) -> Option<&Run> {
        self.runs
            .range(..=page)
            .next_back()
            .map(|(_, run)| run)
            .filter(|run| page < run.end())
    }

    /// Whether a page is installed on this frame with these rights or more.
    pub(crate) fn has(&self, page: u64, frame: u64, rights: Rights) -> bool {
        self.find(page).is_some_and(|run| {
            run.frame + (page - run.page) == frame && run.rights.contains(rights)
        })
    }

    /// What a page allows; nothing when it is not installed.
    pub(crate) fn rights(&self, page: u64) -> Rights {
        self.find(page).map_or(Rights::empty(), |run| run.rights)
    }

    /// Forgets the pages `from..to`; tells the hull of what was installed there, `None` if nothing was.
    pub(crate) fn cut(&mut self, from: u64, to: u64) -> Option<(u64, u64)> {
        let mut hull: Option<(u64, u64)> = None;
        if let Some(run) = self.find(from).copied() {
            hull = Some((from, run.end().min(to)));
            self.runs.remove(&run.page);
            self.keep(run.part(run.page, from));
            if run.end() > to {
                self.keep(run.part(to, run.end()));
            }
        }
        while let Some(run) = self.runs.range(from..to).next().map(|(_, run)| *run) {
            let start = hull.map_or(run.page, |(start, _)| start);
            hull = Some((start, run.end().min(to)));
            self.runs.remove(&run.page);
            if run.end() > to {
                self.keep(run.part(to, run.end()));
            }
        }
        hull
    }

    /// Records a run as installed, over whatever was there.
    pub(crate) fn insert(&mut self, run: Run) {
        self.cut(run.page, run.end());
        let mut whole = run;
        if let Some((&at, before)) = self.runs.range_mut(..run.page).next_back()
            && before.absorb(&whole)
        {
            whole = *before;
            self.runs.remove(&at);
        }
        if let Some(after) = self.runs.get(&whole.end()).copied()
            && whole.absorb(&after)
        {
            self.runs.remove(&after.page);
        }
        self.keep(whole);
    }

    fn keep(&mut self, run: Run) {
        if run.pages > 0 {
            self.runs.insert(run.page, run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RW: Rights = Rights::READ.union(Rights::WRITE);

    fn run(page: u64, pages: u64, frame: u64) -> Run {
        Run {
            page,
            pages,
            frame,
            rights: RW,
        }
    }

    #[test]
    fn contiguous_runs_become_one_and_others_do_not() {
        let mut tlb = Tlb::default();
        tlb.insert(run(10, 1, 100));
        tlb.insert(run(12, 1, 102));
        tlb.insert(run(11, 1, 101));
        assert_eq!(tlb.find(12), Some(&run(10, 3, 100)));
        tlb.insert(run(13, 1, 7));
        tlb.insert(Run {
            rights: Rights::READ,
            ..run(9, 1, 99)
        });
        assert_eq!(tlb.len(), 3);
    }

    #[test]
    fn a_cut_tells_what_it_hit_and_keeps_the_rest() {
        let mut tlb = Tlb::default();
        tlb.insert(run(10, 10, 100));
        assert_eq!(tlb.cut(0, 10), None);
        assert_eq!(tlb.cut(12, 15), Some((12, 15)));
        assert_eq!(tlb.cut(12, 15), None);
        assert_eq!(
            (tlb.find(11), tlb.find(15)),
            (Some(&run(10, 2, 100)), Some(&run(15, 5, 105)))
        );
        assert_eq!(tlb.cut(0, u64::MAX), Some((10, 20)));
        assert_eq!(tlb.len(), 0);
    }

    #[test]
    fn agrees_with_a_page_array_under_random_changes() {
        let mut tlb = Tlb::default();
        let mut model: [Option<(u64, Rights)>; 64] = [None; 64];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..20_000 {
            let (page, pages) = (next(60), 1 + next(4));
            if next(2) == 0 {
                let hull = tlb.cut(page, page + pages);
                let mut hit = (page..page + pages).filter(|&p| model[p as usize].is_some());
                let first = hit.next();
                let last = hit.next_back().or(first);
                assert_eq!(hull, first.zip(last.map(|p| p + 1)));
                (page..page + pages).for_each(|p| model[p as usize] = None);
            } else {
                let rights = if next(2) == 0 { RW } else { Rights::READ };
                let frame = page + 100 * next(2);
                tlb.insert(Run {
                    page,
                    pages,
                    frame,
                    rights,
                });
                (0..pages).for_each(|i| model[(page + i) as usize] = Some((frame + i, rights)));
            }
            for (p, is) in model.iter().enumerate() {
                let p = p as u64;
                assert_eq!(tlb.find(p).map(|r| (r.frame + (p - r.page), r.rights)), *is);
            }
            let mapped =
                |i: usize| model[i].map(|(frame, rights)| (frame.wrapping_sub(i as u64), rights));
            let runs = (0..64)
                .filter(|&i| mapped(i).is_some() && (i == 0 || mapped(i) != mapped(i - 1)))
                .count();
            assert_eq!(tlb.len(), runs);
        }
    }
}

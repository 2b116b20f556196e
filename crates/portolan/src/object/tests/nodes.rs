//! The tree of pages against a `BTreeMap`, with indices from 0 to the last.

use std::collections::BTreeMap;

use super::platform::{Random, TestMachine};
use crate::object::tree::{Spare, Tag, Tree};
use crate::phys::{FailPoint, FrameKind};

/// Indices that are close together, far apart, and at the edges of every height.
fn index(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => random.below(200),
        1 => u64::MAX - random.below(3),
        2 => (1u64 << random.below(64)).wrapping_sub(random.below(2)),
        _ => random.below(1 << 31) << random.below(33),
    }
}

#[test]
fn finds_and_tags_as_a_map_does() {
    let machine = TestMachine::<12>::new(1024);
    let (phys, fail) = (machine.machine.phys(), FailPoint::new());
    for seed in 1..5 {
        let mut random = Random(seed);
        let mut tree = Tree::new();
        let mut map = BTreeMap::new();
        for _ in 0..4000 {
            let at = index(&mut random);
            match random.below(6) {
                0..=1 if map.len() < 300 => {
                    let page = phys.alloc(FrameKind::Cache).unwrap();
                    let mut spare = Spare::new();
                    let need = tree.missing(at);
                    spare.fill(&fail, need).unwrap();
                    assert!(spare.covers(need));
                    let inserted = tree.insert(at, page.clone(), &mut spare).is_ok();
                    assert_eq!(inserted, !map.contains_key(&at));
                    map.entry(at).or_insert((page.pfn(), false));
                }
                2 => {
                    let nearest = map.range(at..).next().map_or(at, |(&at, _)| at);
                    let old = map.remove(&nearest).map(|(pfn, _)| pfn);
                    assert_eq!(tree.take(nearest).map(|page| page.pfn()), old);
                }
                3 => {
                    let nearest = map.range(at..).next().map_or(at, |(&at, _)| at);
                    let entry = map.get_mut(&nearest);
                    assert_eq!(tree.set_dirty(nearest), entry.is_some());
                    entry.into_iter().for_each(|entry| entry.1 = true);
                }
                4 => {
                    let nearest = map
                        .range(at..)
                        .find(|(_, entry)| entry.1)
                        .map_or(at, |(&at, _)| at);
                    let was = map
                        .get_mut(&nearest)
                        .is_some_and(|entry| std::mem::take(&mut entry.1));
                    assert_eq!(tree.clear_dirty(nearest), was);
                }
                _ => {
                    let mut run = [const { None }; 70];
                    tree.get_run(at, &mut run);
                    for (n, page) in run.iter().enumerate() {
                        let expected = at.checked_add(n as u64).and_then(|at| map.get(&at));
                        assert_eq!(
                            page.as_ref().map(|page| page.pfn()),
                            expected.map(|entry| entry.0)
                        );
                    }
                }
            }
            assert_eq!(
                tree.next(Tag::Present, at),
                map.range(at..).next().map(|(&at, _)| at),
                "seed {seed}"
            );
            assert_eq!(
                tree.next(Tag::Dirty, at),
                map.range(at..)
                    .find(|(_, entry)| entry.1)
                    .map(|(&at, _)| at)
            );
            assert_eq!(
                tree.get(at).map(|page| page.pfn()),
                map.get(&at).map(|entry| entry.0)
            );
            assert_eq!(
                (tree.len(), tree.dirty_len()),
                (
                    map.len() as u64,
                    map.values().filter(|e| e.1).count() as u64
                )
            );
        }
        for &at in map.keys() {
            assert!(tree.take(at).is_some());
        }
        assert_eq!(
            (tree.len(), tree.dirty_len(), tree.next(Tag::Present, 0)),
            (0, 0, None)
        );
    }
    machine.assert_all_back();
}

#[test]
fn an_insertion_without_its_nodes_changes_nothing() {
    let machine = TestMachine::<12>::new(64);
    let (phys, fail) = (machine.machine.phys(), FailPoint::new());
    let mut tree = Tree::new();
    let mut spare = Spare::new();
    let page = phys.alloc(FrameKind::Cache).unwrap();
    let page = tree.insert(1 << 40, page, &mut spare).unwrap_err();
    fail.arm(3);
    assert!(spare.fill(&fail, tree.missing(1 << 40)).is_err());
    let page = tree.insert(1 << 40, page, &mut spare).unwrap_err();
    assert_eq!((tree.len(), tree.get(1 << 40)), (0, None));
    spare.fill(&fail, tree.missing(1 << 40)).unwrap();
    tree.insert(1 << 40, page, &mut spare).unwrap();
    assert_eq!(tree.missing(1 << 40), Default::default());
}

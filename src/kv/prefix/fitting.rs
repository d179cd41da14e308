//! Which of the things of a text are worth their room, where there is not room for all of them: those
//! from which a sequence starts the deepest.

use super::super::{PagePool, first_page};
use super::kept::{KeptAt, KeptKind};
use crate::backend::pages::PAGE_TOKENS;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Bytes that things take beyond those that are there.
struct Costs {
    /// `[group][n]`: of the first `n` pages, those that are known, and their bytes.
    pages: Vec<Vec<(usize, usize)>>,
    /// Of pages that are not full, by group and place.
    tails: HashMap<(usize, usize), usize>,
    /// Of states, by place.
    states: BTreeMap<usize, usize>,
}

impl PagePool {
    /// Says for each of the things of a text whether it is to be put back: all of them if the budget
    /// has room, else those of the deepest place whose things have room together.
    pub fn fitting(&self, tokens: &[u32], things: &[KeptAt]) -> Vec<bool> {
        let kept = self.kept(tokens);
        let there: BTreeSet<KeptAt> = kept.iter().map(|thing| thing.0).collect();
        let cost = |at: &KeptAt| match there.contains(at) {
            true => 0,
            false => self.kept_bytes(at.kind),
        };
        // What is there of the text does not make room for the rest of it.
        let idle = kept.iter().filter(|&&(at, id)| self.is_idle(at, id));
        let own: usize = idle.map(|thing| self.kept_bytes(thing.0.kind)).sum();
        let room = self.store.bytes_left() + self.store.cached_bytes().saturating_sub(own);
        if things.iter().map(cost).sum::<usize>() <= room {
            return vec![true; things.len()];
        }
        let costs = self.costs(things, cost);
        let places: Vec<usize> = match self.has_states {
            true => costs.states.keys().copied().collect(),
            false => {
                let whole = (1..=tokens.len() / PAGE_TOKENS).map(|n| n * PAGE_TOKENS);
                let ends = costs.tails.keys().map(|tail| tail.1);
                whole.chain(ends).collect::<BTreeSet<usize>>().into_iter().collect()
            }
        };
        let fits =
            |&&len: &&usize| self.start_bytes(&costs, len).is_some_and(|bytes| bytes <= room);
        let best = places.iter().rev().find(fits).copied().unwrap_or(0);
        let is_wanted = |at: &KeptAt| match at.kind {
            KeptKind::States => at.len == best,
            KeptKind::Page { group } => {
                let first = first_page(&self.groups[group].shape, best);
                at.len == best
                    || at.len < best
                        && at.len.is_multiple_of(PAGE_TOKENS)
                        && at.len / PAGE_TOKENS > first
            }
        };
        things.iter().map(is_wanted).collect()
    }

    fn costs(&self, things: &[KeptAt], cost: impl Fn(&KeptAt) -> usize) -> Costs {
        let n_pages = things.last().map_or(0, |at| at.len / PAGE_TOKENS);
        let (mut tails, mut states) = (HashMap::new(), BTreeMap::new());
        let mut known = vec![vec![None; n_pages]; self.groups.len()];
        for at in things {
            match at.kind {
                KeptKind::States => drop(states.insert(at.len, cost(at))),
                KeptKind::Page { group } if at.len.is_multiple_of(PAGE_TOKENS) => {
                    known[group][at.len / PAGE_TOKENS - 1] = Some(cost(at));
                }
                KeptKind::Page { group } => drop(tails.insert((group, at.len), cost(at))),
            }
        }
        let sums = known.iter().map(|pages| {
            let add = |sum: &mut (usize, usize), page: &Option<usize>| {
                let (n, bytes) = page.map_or((0, 0), |bytes| (1, bytes));
                *sum = (sum.0 + n, sum.1 + bytes);
                Some(*sum)
            };
            std::iter::once((0, 0)).chain(pages.iter().scan((0, 0), add)).collect()
        });
        Costs { pages: sums.collect(), tails, states }
    }

    /// Bytes that are needed for a sequence to start at a place; `None` if it cannot.
    fn start_bytes(&self, costs: &Costs, len: usize) -> Option<usize> {
        let mut bytes = match self.has_states {
            true => *costs.states.get(&len)?,
            false => 0,
        };
        let depth = len / PAGE_TOKENS;
        for (group, sums) in costs.pages.iter().enumerate() {
            let first = first_page(&self.groups[group].shape, len);
            if first < depth {
                let ((n_before, before), (n, to)) = (sums[first], *sums.get(depth)?);
                if n - n_before < depth - first {
                    return None;
                }
                bytes += to - before;
            }
            if !len.is_multiple_of(PAGE_TOKENS) && first <= depth {
                bytes += costs.tails.get(&(group, len))?;
            }
        }
        Some(bytes)
    }
}

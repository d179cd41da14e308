//! Submissions: how many operations are one. Systems take a device away from a program whose work keeps it for seconds, and a
//! desktop stands still meanwhile, so long steps are cut.

use std::ops::Range;

/// Multiplications in a submission, but for those of its last dispatch: a slow GPU takes a tenth of a second.
pub(super) const WORK_MAX: u64 = 1 << 35;

/// Multiplications of a dispatch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// A few for each element.
    Little,
    /// So many for each token.
    PerToken(u64),
    /// So many for each key that each token sees.
    PerKey(u64),
}

impl Work {
    /// The multiplications for `n` tokens that see `n_keys` keys, all together.
    pub fn of(self, n: u64, n_keys: u64) -> u64 {
        match self {
            Work::Little => 0,
            Work::PerToken(work) => work.saturating_mul(n),
            Work::PerKey(work) => work.saturating_mul(n_keys),
        }
    }
}

/// Consecutive dispatches with so much work each as submissions: each but the last ends with the dispatch
/// that brings it to `most`.
pub(super) fn cuts(work: &[u64], most: u64) -> Vec<Range<usize>> {
    let mut cuts = Vec::new();
    let (mut start, mut sum) = (0, 0_u64);
    for (i, work) in work.iter().enumerate() {
        sum = sum.saturating_add(*work);
        if sum >= most {
            cuts.push(start..i + 1);
            (start, sum) = (i + 1, 0);
        }
    }
    if start < work.len() {
        cuts.push(start..work.len());
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_ends_when_it_has_enough() {
        let one_cut = |costs: &[u64], enough| match &cuts(costs, enough)[..] {
            [only] => Some(only.clone()),
            _ => None,
        };
        assert_eq!(one_cut(&[1, 2, 3, 4], 11), Some(0..4));
        assert_eq!(one_cut(&[1, 2, 3, 4], 10), Some(0..4));
        assert_eq!(cuts(&[1, 2, 3, 4], 3), [0..2, 2..3, 3..4]);
        assert_eq!(cuts(&[1, 9, 0, 0], 5), [0..2, 2..4]);
        assert!(cuts(&[], 5).is_empty());
    }

    #[test]
    fn work_grows_with_tokens_or_with_keys() {
        let works = [Work::Little, Work::PerToken(5), Work::PerKey(7)];
        assert_eq!(works.map(|work| work.of(2, 30)), [0, 10, 210]);
        assert_eq!(Work::PerKey(u64::MAX).of(2, 3), u64::MAX);
    }
}

//! Sparsities: how many weights of a row become zero, and which, by scores.

use std::fmt;
use std::str::FromStr;

/// Neighbours of a group at most.
const GROUP_MAX: usize = 32;

/// How many weights become zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sparsity {
    /// This part of each row, wherever they are: `round(part * columns)` of them.
    Part(f64),
    /// All but `kept` of every `of` neighbours.
    Groups {
        /// Weights of a group that stay.
        kept: usize,
        /// Weights of a group.
        of: usize,
    },
}

impl Sparsity {
    /// How many weights are zero in the first `columns` of a row; groups are taken as whole ones.
    pub fn zeros(self, columns: usize) -> usize {
        match self {
            Sparsity::Part(part) => (part * columns as f64).round() as usize,
            Sparsity::Groups { kept, of } => columns / of * (of - kept),
        }
    }

    /// Neighbours among which weights are chosen; `None` where that is the whole row.
    pub fn group(self) -> Option<usize> {
        match self {
            Sparsity::Part(_) => None,
            Sparsity::Groups { of, .. } => Some(of),
        }
    }

    /// Which of a row's weights become zero: those of the least scores, of equal ones the smaller weight
    /// and then the first.
    pub(super) fn choose(self, weights: &[f32], scores: &[f32], is_zero: &mut [bool]) {
        let len = self.group().unwrap_or(weights.len()).max(1);
        let parts = weights.chunks(len).zip(scores.chunks(len)).zip(is_zero.chunks_mut(len));
        for ((weights, scores), is_zero) in parts {
            choose(self.zeros(len), weights, scores, is_zero);
        }
    }
}

/// Marks the `n` weights of the least scores.
pub(super) fn choose(n: usize, weights: &[f32], scores: &[f32], is_zero: &mut [bool]) {
    let mut columns: Vec<usize> = (0..weights.len()).collect();
    let order = |a: &usize, b: &usize| {
        let size = |c: usize| weights[c].abs();
        let by_score = scores[*a].total_cmp(&scores[*b]);
        by_score.then(size(*a).total_cmp(&size(*b))).then(a.cmp(b))
    };
    if n < columns.len() {
        columns.select_nth_unstable_by(n, order);
    }
    is_zero.fill(false);
    columns.iter().take(n).for_each(|&c| is_zero[c] = true);
}

impl fmt::Display for Sparsity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sparsity::Part(part) => part.fmt(f),
            Sparsity::Groups { kept, of } => write!(f, "{kept}:{of}"),
        }
    }
}

/// Text that says no sparsity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSparsity;

impl fmt::Display for NoSparsity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "must be a part between 0 and 1 such as 0.5, or N:M such as 2:4 (N of every M \
             neighbours stay, M at most {GROUP_MAX})"
        )
    }
}

impl std::error::Error for NoSparsity {}

impl FromStr for Sparsity {
    type Err = NoSparsity;

    fn from_str(text: &str) -> Result<Sparsity, NoSparsity> {
        let Some((kept, of)) = text.split_once(':') else {
            let part = text.trim().parse().map_err(|_| NoSparsity)?;
            let is_part = part > 0.0 && part < 1.0;
            return is_part.then_some(Sparsity::Part(part)).ok_or(NoSparsity);
        };
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| NoSparsity);
        let (kept, of) = (number(kept)?, number(of)?);
        let is_group = kept > 0 && kept < of && of <= GROUP_MAX;
        is_group.then_some(Sparsity::Groups { kept, of }).ok_or(NoSparsity)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn texts_say_sparsities() {
        assert_eq!("0.5".parse(), Ok(Sparsity::Part(0.5)));
        assert_eq!("2:4".parse(), Ok(Sparsity::Groups { kept: 2, of: 4 }));
        for text in ["", "0", "1", "-0.5", "nan", "4:2", "0:4", "4:4", "2:64", "2:", ":", "1.5:4"] {
            assert_eq!(text.parse::<Sparsity>(), Err(NoSparsity), "{text}");
        }
        let texts = ["0.25", "0.7", "1:4"];
        assert_eq!(texts.map(|text| text.parse::<Sparsity>().unwrap().to_string()), texts);
    }

    /// Counts are exact, and no weight that stays has a lower score than one that goes.
    #[test]
    fn the_least_scores_go() {
        let weights: Vec<f32> = (0..48).map(|i| ((i * 29) % 48) as f32 - 20.0).collect();
        let scores: Vec<f32> = weights.iter().map(|w| (w.abs() / 4.0).floor()).collect();
        for text in ["0.5", "0.01", "0.99", "0.33", "2:4", "1:4", "3:16"] {
            let sparsity: Sparsity = text.parse().unwrap();
            let mut is_zero = vec![false; 48];
            sparsity.choose(&weights, &scores, &mut is_zero);
            let len = sparsity.group().unwrap_or(48);
            for start in (0..48).step_by(len) {
                let of = |zero: bool| {
                    let own = (start..start + len).filter(|&c| is_zero[c] == zero);
                    own.map(|c| (scores[c], weights[c].abs())).collect::<Vec<_>>()
                };
                assert_eq!(of(true).len(), sparsity.zeros(len), "{text}");
                let most = of(true)
                    .into_iter()
                    .fold((0.0, 0.0), |a: (f32, f32), b| if b > a { b } else { a });
                assert!(of(false).into_iter().all(|kept| kept >= most), "{text}: {is_zero:?}");
            }
        }
    }
}

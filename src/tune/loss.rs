//! What is to become small: the negative log-likelihood of the tokens that come, or the divergence from a
//! teacher's answers; both in nats.

use super::TuneError;
use super::machine::Machine;
use std::ops::Range;
use teff_kernels::FloatOps;

/// Tokens that are seen together, and which predictions count.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// For each token but the last whether its prediction of the next one counts.
    pub counts: Vec<bool>,
}

impl Sequence {
    /// Tokens of a text, all of which count.
    ///
    /// # Panics
    /// If there are fewer than two.
    pub fn of_text(tokens: &[u32]) -> Sequence {
        assert!(tokens.len() > 1, "a token and the one behind it");
        Sequence { tokens: tokens.to_vec(), counts: vec![true; tokens.len() - 1] }
    }

    /// Predictions that count.
    pub fn n_counted(&self) -> usize {
        self.counts.iter().filter(|&&counts| counts).count()
    }
}

/// A sum of losses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Sum of losses, in nats.
    pub sum: f64,
    /// Predictions.
    pub n: usize,
}

impl Score {
    /// The mean loss of a prediction.
    pub fn mean(&self) -> f64 {
        self.sum / self.n.max(1) as f64
    }

    /// Adds others.
    pub fn add(&mut self, other: Score) {
        self.sum += other.sum;
        self.n += other.n;
    }
}

/// Scores rows of logits, and turns them into gradients.
pub(super) struct Objective<'a> {
    pub on: Machine,
    pub sequence: &'a Sequence,
    /// The teacher's logits for each token but the last.
    pub teacher: Option<&'a [f32]>,
    /// Factor of the gradients; `None`: nobody wants them.
    pub factor: Option<f32>,
    pub score: Score,
}

/// Turns a row of logits into probabilities; returns the logarithm of the sum of exponentials.
fn softmax(ops: &FloatOps, row: &mut [f32]) -> f64 {
    let max = (ops.max)(row);
    let sum = (ops.exp_sum)(row, max);
    (ops.scale)(row, 1.0 / sum);
    f64::from(max) + f64::from(sum).ln()
}

/// The loss of a row; what becomes of it is the gradient, if there is a factor.
fn score(
    ops: &FloatOps,
    row: &mut [f32],
    token: usize,
    teacher: Option<&[f32]>,
    factor: Option<f32>,
) -> f64 {
    let Some(teacher) = teacher else {
        let logit = f64::from(row[token]);
        let loss = softmax(ops, row) - logit;
        if let Some(factor) = factor {
            row[token] -= 1.0;
            (ops.scale)(row, factor);
        }
        return loss;
    };
    let mut p = teacher.to_vec();
    let teacher_sum = softmax(ops, &mut p);
    let mut along = 0.0_f64;
    for ((p, t), z) in p.iter().zip(teacher).zip(&*row) {
        // A token that the teacher rules out weighs nothing.
        if *p > 0.0 {
            along += f64::from(*p) * (f64::from(*t) - f64::from(*z));
        }
    }
    let loss = along - teacher_sum + softmax(ops, row);
    if let Some(factor) = factor {
        row.iter_mut().zip(&p).for_each(|(q, p)| *q = factor * (*q - p));
    }
    loss
}

impl Objective<'_> {
    /// Takes the logits of tokens.
    pub fn rows(&mut self, tokens: Range<usize>, logits: &mut [f32]) -> Result<(), TuneError> {
        let (ops, n_vocab) = (self.on.ops(), logits.len() / tokens.len());
        let mut losses = vec![None; tokens.len()];
        let rows = tokens.clone().zip(logits.chunks_exact_mut(n_vocab)).zip(&mut losses);
        let (sequence, teacher, factor) = (self.sequence, self.teacher, self.factor);
        self.on.each(rows, |((t, row), loss)| {
            if !sequence.counts.get(t).is_some_and(|&counts| counts) {
                row.fill(0.0);
                return;
            }
            let next = sequence.tokens[t + 1] as usize;
            let teacher = teacher.map(|rows| &rows[t * n_vocab..][..n_vocab]);
            *loss = Some(score(ops, row, next, teacher, factor));
        })?;
        for (t, loss) in tokens.zip(losses) {
            let Some(loss) = loss else { continue };
            if !loss.is_finite() {
                return Err(TuneError::NotFinite { position: t });
            }
            self.score.add(Score { sum: loss, n: 1 });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::testing::{check_gradient, draw, machine};

    #[test]
    fn gradients_are_those_of_differences() {
        let (on, n) = (machine(), 11);
        let sequence = Sequence { tokens: vec![3, 5, 7, 2], counts: vec![true, false, true] };
        let (logits, taught) = (draw(1, 4 * n), draw(2, 4 * n));
        for teacher in [None, Some(&taught[..])] {
            let run = |logits: &[f32], factor| {
                let score = Score::default();
                let mut own = Objective { on, sequence: &sequence, teacher, factor, score };
                let mut rows = logits.to_vec();
                own.rows(0..4, &mut rows).unwrap();
                (own.score, rows)
            };
            let (score, gradient) = run(&logits, Some(1.0));
            assert!(score.n == 2 && score.mean() > 0.0);
            check_gradient(&logits, &gradient, &[1.0], |x| vec![run(x, None).0.sum as f32]);
        }
        // Nothing diverges from itself.
        let score = Score::default();
        let (sequence, teacher) = (&sequence, Some(&logits[..]));
        let mut own = Objective { on, sequence, teacher, factor: Some(1.0), score };
        let mut rows = logits.clone();
        own.rows(0..4, &mut rows).unwrap();
        assert!(own.score.sum.abs() < 1e-6 && rows.iter().all(|x| x.abs() < 1e-6));
    }
}

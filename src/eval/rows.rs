//! Rows of logits scored, by several threads: what a row says of the token that came, and how far it
//! is from a teacher's.
//!
//! Exponentials are the kernels' f32 ones, all sums are f64, block by block in order, so a score does
//! not depend on the number of threads.

use super::EvalError;
use teff_kernels::FloatOps;

/// Logits whose exponentials are taken at a time: they stay in the first-level cache.
const BLOCK: usize = 512;

/// Score of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Score {
    /// Negative log-likelihood of the token that came, in nats.
    pub nll: f64,
    /// Comparison with the teacher's row, if there is one.
    pub beside: Option<Beside>,
}

/// Comparison of a row with a teacher's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Beside {
    /// Negative log-likelihood that the teacher gives the token.
    pub nll: f64,
    /// Divergence of the model from the teacher: sum of `p (ln p - ln q)`, `p` the teacher's.
    pub kl: f64,
    /// Whether both find the same token likeliest, the first one among equals.
    pub same_top: bool,
}

/// Logarithm of a row's sum of exponentials.
pub(super) fn log_sum(logits: &[f32], ops: &FloatOps) -> f64 {
    let max = (ops.max)(logits);
    let mut exps = [0.0; BLOCK];
    let sum: f64 = logits
        .chunks(BLOCK)
        .map(|block| {
            let exps = &mut exps[..block.len()];
            exps.copy_from_slice(block);
            f64::from((ops.exp_sum)(exps, max))
        })
        .sum();
    f64::from(max) + sum.ln()
}

/// Place of the largest logit, the first one among equals.
fn top(logits: &[f32], ops: &FloatOps) -> Option<usize> {
    let max = (ops.max)(logits);
    logits.iter().position(|&logit| logit == max)
}

/// The divergence of `logits` from a teacher's: with the same bits exactly 0.
fn divergence(
    logits: &[f32],
    log_sum: f64,
    teacher: &[f32],
    teacher_sum: f64,
    ops: &FloatOps,
) -> f64 {
    let max = (ops.max)(teacher);
    let mut exps = [0.0; BLOCK];
    let [mut weighted, mut total] = [0.0; 2];
    for (block, q) in teacher.chunks(BLOCK).zip(logits.chunks(BLOCK)) {
        let exps = &mut exps[..block.len()];
        exps.copy_from_slice(block);
        total += f64::from((ops.exp_sum)(exps, max));
        // Lanes of their own, which the compiler adds side by side.
        let mut lanes = [0.0_f64; 8];
        for ((exps, block), q) in exps.chunks(8).zip(block.chunks(8)).zip(q.chunks(8)) {
            for (((lane, &exp), &p), &q) in lanes.iter_mut().zip(exps).zip(block).zip(q) {
                // A token that the teacher rules out weighs nothing, whatever its logit.
                let ratio = if exp > 0.0 { f64::from(p) - f64::from(q) } else { 0.0 };
                *lane += f64::from(exp) * ratio;
            }
        }
        weighted += lanes.iter().sum::<f64>();
    }
    weighted / total - teacher_sum + log_sum
}

/// Scores one row; `token` came behind it.
fn score(logits: &[f32], token: u32, teacher: Option<&[f32]>, ops: &FloatOps) -> Score {
    let sum = log_sum(logits, ops);
    let nll = sum - f64::from(logits[token as usize]);
    let beside = teacher.map(|teacher| {
        let teacher_sum = log_sum(teacher, ops);
        Beside {
            nll: teacher_sum - f64::from(teacher[token as usize]),
            kl: divergence(logits, sum, teacher, teacher_sum, ops),
            same_top: top(logits, ops) == top(teacher, ops),
        }
    });
    Score { nll, beside }
}

/// Scores rows `[tokens.len()][n_vocab]`, each with the token that came behind it, and beside the
/// teacher's rows if there are some.
///
/// # Errors
/// Threads could not be started.
pub(super) fn score_rows(
    rows: &[f32],
    tokens: &[u32],
    teacher: Option<&[f32]>,
    ops: &FloatOps,
    n_threads: usize,
) -> Result<Vec<Score>, EvalError> {
    let Some(n_vocab) = rows.len().checked_div(tokens.len()) else { return Ok(Vec::new()) };
    let mut scores = vec![Score::default(); tokens.len()];
    let part = tokens.len().div_ceil(n_threads.max(1));
    let work = |first: usize, scores: &mut [Score]| {
        for (i, score_of) in (first..).zip(scores) {
            let row = i * n_vocab..(i + 1) * n_vocab;
            let teacher = teacher.map(|teacher| &teacher[row.clone()]);
            *score_of = score(&rows[row], tokens[i], teacher, ops);
        }
    };
    std::thread::scope(|scope| {
        let mut parts = scores.chunks_mut(part).enumerate();
        let own = parts.next();
        for (number, scores) in parts {
            let work = move || work(number * part, scores);
            std::thread::Builder::new().spawn_scoped(scope, work).map_err(EvalError::Threads)?;
        }
        own.into_iter().for_each(|(_, scores)| work(0, scores));
        Ok::<_, EvalError>(())
    })?;
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use teff_kernels::KernelTable;

    fn draw(seed: u64, n: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / 2e6 - 4.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// The definition, in f64.
    fn exact(logits: &[f32], teacher: &[f32]) -> f64 {
        let log_softmax = |row: &[f32]| {
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            row.iter().map(|&x| f64::from(x) - sum.ln()).collect::<Vec<f64>>()
        };
        let (p, q) = (log_softmax(teacher), log_softmax(logits));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
    }

    #[test]
    fn scores_are_those_of_the_definition_for_any_number_of_threads() {
        let ops = KernelTable::detect().float();
        for n in [1, 7, 512, 1301] {
            let (rows, teacher) = (draw(1, 5 * n), draw(2, 5 * n));
            let tokens: Vec<u32> = (0..5).map(|i| (i * 3 % n) as u32).collect();
            let scores = score_rows(&rows, &tokens, Some(&teacher), ops, 1).unwrap();
            for threads in [2, 3, 9] {
                let others = score_rows(&rows, &tokens, Some(&teacher), ops, threads).unwrap();
                assert_eq!(scores, others);
            }
            for (i, score) in scores.iter().enumerate() {
                let (row, teacher) = (&rows[i * n..][..n], &teacher[i * n..][..n]);
                let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                let nll = sum.ln() - f64::from(row[tokens[i] as usize]);
                assert!((score.nll - nll).abs() < 1e-6, "{} {nll}", score.nll);
                let beside = score.beside.unwrap();
                assert!((beside.kl - exact(row, teacher)).abs() < 1e-6, "{}", beside.kl);
            }
        }
    }

    #[test]
    fn nothing_diverges_from_itself() {
        let ops = KernelTable::detect().float();
        let mut row = draw(3, 1000);
        row[5] = f32::NEG_INFINITY;
        let beside = score(&row, 9, Some(&row), ops).beside.unwrap();
        assert!(beside.kl == 0.0 && beside.same_top);
        let mut other = row.clone();
        other[0] += 1.0;
        assert!(score(&other, 9, Some(&row), ops).beside.unwrap().kl > 0.0);
    }

    #[test]
    fn what_is_no_number_shows() {
        let ops = KernelTable::detect().float();
        assert!(!score(&[1.0, f32::NAN], 0, None, ops).nll.is_finite());
        assert!(!score(&[f32::INFINITY, 0.0], 0, None, ops).nll.is_finite());
        assert!(!score(&[f32::NEG_INFINITY; 2], 0, None, ops).nll.is_finite());
    }
}

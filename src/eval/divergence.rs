//! How far a model's answers are from a teacher's: the Kullback-Leibler divergence of the two
//! distributions at each position, how often both find the same token likeliest, and by how much the
//! probability of the token that came changed. Definitions and quantiles are llama.cpp's.

use super::rows::{Beside, Score};

/// Comparison of a model with a teacher over all scored positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Divergence {
    /// Divergences, in nats.
    kl: Vec<f64>,
    sum_teacher_nll: f64,
    n_same_top: usize,
    sum_dp: f64,
    sum_dp2: f64,
}

impl Divergence {
    /// Adds a position.
    pub(super) fn add(&mut self, score: &Score, beside: &Beside) {
        self.kl.push(beside.kl);
        self.sum_teacher_nll += beside.nll;
        self.n_same_top += usize::from(beside.same_top);
        let dp = (-score.nll).exp() - (-beside.nll).exp();
        self.sum_dp += dp;
        self.sum_dp2 += dp * dp;
    }

    /// Number of positions, at least 1 where there is a mean.
    fn n(&self) -> f64 {
        self.kl.len().max(1) as f64
    }

    /// Mean divergence, in nats.
    pub fn kl_mean(&self) -> f64 {
        self.kl.iter().sum::<f64>() / self.n()
    }

    /// Standard error of [`Divergence::kl_mean`]; 0 for fewer than two positions.
    pub fn kl_error(&self) -> f64 {
        let mean = self.kl_mean();
        let variance = self.kl.iter().map(|kl| (kl - mean).powi(2)).sum::<f64>() / self.n();
        (variance / (self.n() - 1.0).max(1.0)).sqrt()
    }

    /// Quantiles of the divergences, for fractions from 0 (the least) to 1 (the largest), between two
    /// positions by their distance.
    pub fn kl_quantiles<const N: usize>(&self, fractions: [f64; N]) -> [f64; N] {
        let mut sorted = self.kl.clone();
        sorted.sort_by(f64::total_cmp);
        fractions.map(|fraction| {
            let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
            let at = fraction.clamp(0.0, 1.0) * last as f64;
            let below = at as usize;
            let part = at - below as f64;
            (1.0 - part) * sorted[below] + part * sorted[(below + 1).min(last)]
        })
    }

    /// Share of positions at which both find the same token likeliest, from 0 to 1.
    pub fn same_top(&self) -> f64 {
        self.n_same_top as f64 / self.n()
    }

    /// Mean change of the probability of the token that came, from -1 to 1.
    pub fn dp_mean(&self) -> f64 {
        self.sum_dp / self.n()
    }

    /// Root of the mean square of that change, from 0 to 1.
    pub fn dp_rms(&self) -> f64 {
        (self.sum_dp2 / self.n()).sqrt()
    }

    /// Perplexity of the teacher on the same positions.
    pub fn teacher_perplexity(&self) -> f64 {
        (self.sum_teacher_nll / self.n()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_positions() {
        let mut divergence = Divergence::default();
        for (kl, p, q, same_top) in
            [(0.5, 0.5, 0.25, true), (0.0, 0.1, 0.1, true), (1.0, 0.2, 0.6, false)]
        {
            let beside = Beside { nll: -f64::ln(p), kl, same_top };
            divergence.add(&Score { nll: -f64::ln(q), beside: Some(beside) }, &beside);
        }
        let near = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(near(divergence.kl_mean(), 0.5));
        assert!(near(divergence.kl_error(), (0.5_f64 / 3.0 / 2.0).sqrt()));
        assert_eq!(divergence.kl_quantiles([0.0, 0.5, 0.75, 1.0]), [0.0, 0.5, 0.75, 1.0]);
        assert!(near(divergence.same_top(), 2.0 / 3.0));
        assert!(near(divergence.dp_mean(), 0.05));
        assert!(near(divergence.dp_rms(), ((0.0625 + 0.16) / 3.0_f64).sqrt()));
        assert!(near(divergence.teacher_perplexity(), 0.01_f64.powf(-1.0 / 3.0)));
        assert_eq!(Divergence::default().kl_quantiles([0.5]), [0.0]);
    }
}

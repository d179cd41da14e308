//! AdamW (arXiv:1711.05101) with a warm-up and a cosine (arXiv:1608.03983).

use std::f64::consts::PI;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.99;
const EPS: f64 = 1e-10;

/// How far parameters move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Steps in all.
    pub steps: u64,
    /// Steps in which the rate grows from nothing to its most.
    pub warmup: u64,
    /// The most that a parameter moves in a step, about.
    pub rate: f64,
    /// Part of a parameter that is taken away in a step, times the rate.
    pub decay: f64,
    /// Length that gradients are cut to.
    pub clip: f64,
}

impl Schedule {
    /// The rate of a step, counted from 0.
    pub fn rate_at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.rate * (step + 1) as f64 / self.warmup as f64;
        }
        let rest = self.steps.saturating_sub(self.warmup).max(1);
        let part = (step - self.warmup) as f64 / rest as f64;
        self.rate * 0.5 * (1.0 + (PI * part.min(1.0)).cos())
    }
}

/// Means of a parameter's gradients and of their squares.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Moments {
    pub mean: Vec<f32>,
    pub square: Vec<f32>,
}

impl Moments {
    /// Moments of `n` numbers, before the first step.
    pub fn new(n: usize) -> Moments {
        Moments { mean: vec![0.0; n], square: vec![0.0; n] }
    }

    /// Moves numbers by their gradients times `factor`; steps are counted from 0.
    pub fn step(
        &mut self,
        values: &mut [f32],
        gradients: &[f32],
        factor: f64,
        step: u64,
        schedule: &Schedule,
    ) {
        let rate = schedule.rate_at(step);
        let n = i32::try_from(step + 1).unwrap_or(i32::MAX);
        let by_mean = rate / (1.0 - BETA_1.powi(n));
        let by_square = 1.0 / (1.0 - BETA_2.powi(n));
        let means = self.mean.iter_mut().zip(&mut self.square);
        for ((x, g), (mean, square)) in values.iter_mut().zip(gradients).zip(means) {
            let g = f64::from(*g) * factor;
            let m = BETA_1 * f64::from(*mean) + (1.0 - BETA_1) * g;
            let v = BETA_2 * f64::from(*square) + (1.0 - BETA_2) * g * g;
            (*mean, *square) = (m as f32, v as f32);
            let old = f64::from(*x);
            let moved = by_mean * m / ((v * by_square).sqrt() + EPS);
            *x = (old - moved - rate * schedule.decay * old) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule =
        Schedule { steps: 200, warmup: 10, rate: 0.05, decay: 0.0, clip: 1.0 };

    #[test]
    fn the_rate_grows_and_falls() {
        let at = |step| SCHEDULE.rate_at(step);
        assert!((at(0) - 0.005).abs() < 1e-12 && (at(9) - 0.05).abs() < 1e-12);
        assert!((at(105) - 0.025).abs() < 1e-12 && at(199) < 1e-4);
        assert_eq!(Schedule { warmup: 0, ..SCHEDULE }.rate_at(0), 0.05);
    }

    /// The first step is the rate whatever the gradient's size; many find the least of a square.
    #[test]
    fn squares_become_small() {
        let mut x = [1.0_f32, -2.0];
        let mut moments = Moments::new(2);
        moments.step(&mut x, &[1e-3, -1e3], 1.0, 0, &SCHEDULE);
        assert!((x[0] - 0.995).abs() < 1e-6 && (x[1] + 1.995).abs() < 1e-6, "{x:?}");
        // Means of those would take long to forget.
        moments = Moments::new(2);
        for step in 0..200 {
            let gradients = [x[0] - 0.5, x[1] + 1.0];
            moments.step(&mut x, &gradients, 1.0, step, &SCHEDULE);
        }
        assert!((x[0] - 0.5).abs() < 0.02 && (x[1] + 1.0).abs() < 0.02, "{x:?}");
    }
}

//! The coarsest step whose multiples a group of values are, each to the precision that it was rounded to.

/// A number that is a multiple of the step, but for rounding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// The number, which is not negative.
    pub x: f64,
    /// How far the multiple may be.
    pub half: f64,
}

impl Sample {
    fn is_zero(&self) -> bool {
        self.x <= self.half
    }
}

/// Steps that all samples are multiples of: any between these two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Steps {
    pub low: f64,
    pub high: f64,
}

impl Steps {
    pub fn middle(self) -> f64 {
        (self.low + self.high) / 2.0
    }

    /// What becomes of them if a sample is so many steps; `None`: it is not.
    fn with(self, sample: Sample, times: f64) -> Option<Steps> {
        let low = self.low.max((sample.x - sample.half) / times);
        let high = self.high.min((sample.x + sample.half) / times);
        (low <= high).then_some(Steps { low, high })
    }
}

/// Choices that are tried in a group where a sample may be one or another multiple: bounds the time; the
/// coarser precisions need some.
const TRIALS_MAX: usize = 64;

/// Says whether steps will do.
pub(super) type Accept<'a> = dyn FnMut(Steps) -> bool + 'a;

/// Gives `accept` steps that all samples are multiples of, `max` times at most, coarse ones first, until it
/// takes some. Samples that are all zero have none.
pub(super) fn coarsest(samples: &[Sample], max: f64, accept: &mut Accept<'_>) -> Option<Steps> {
    let by_size = |a: &&Sample, b: &&Sample| a.x.total_cmp(&b.x);
    let least = samples.iter().filter(|sample| !sample.is_zero()).min_by(by_size)?;
    let most = samples.iter().max_by(by_size)?;
    if !most.x.is_finite() {
        return None;
    }
    let mut times = 1.0;
    let mut search = Search { samples, max, trials: TRIALS_MAX, accept };
    // The largest would be more than `max` times the step.
    while times * (most.x - most.half) <= max * (least.x + least.half) {
        let steps =
            Steps { low: (least.x - least.half) / times, high: (least.x + least.half) / times };
        // The largest bounds the step best, and rules out most guesses.
        for guess in guesses(*most, steps, max) {
            let found = steps.with(*most, guess).and_then(|steps| search.narrow(steps));
            if found.is_some() {
                return found;
            }
        }
        times += 1.0;
    }
    None
}

/// Multiples that a sample may be.
fn guesses(sample: Sample, steps: Steps, max: f64) -> impl Iterator<Item = f64> {
    let first = ((sample.x - sample.half) / steps.high).ceil();
    let last = ((sample.x + sample.half) / steps.low).floor().min(max);
    let n = if last >= first { (last - first) as usize + 1 } else { 0 };
    (0..n).map(move |i| first + i as f64)
}

struct Search<'a, 'f> {
    samples: &'a [Sample],
    max: f64,
    /// Choices that may still be tried.
    trials: usize,
    accept: &'a mut Accept<'f>,
}

impl Search<'_, '_> {
    /// Steps among these that all samples are multiples of, and that will do.
    fn narrow(&mut self, steps: Steps) -> Option<Steps> {
        let mut steps = steps;
        loop {
            let before = steps;
            let mut unsure = None;
            let (mut by_low, mut by_high) = (1.0 / steps.low, 1.0 / steps.high);
            for sample in self.samples.iter().filter(|sample| !sample.is_zero()) {
                // An ulp of these products is far below what samples are apart.
                let first = ((sample.x - sample.half) * by_high - SLACK).ceil();
                let last = ((sample.x + sample.half) * by_low + SLACK).floor();
                if last < first || first > self.max {
                    return None;
                }
                if last > first {
                    unsure = unsure.or(Some(*sample));
                    continue;
                }
                let narrower = steps.with(*sample, first)?;
                if narrower != steps {
                    steps = narrower;
                    (by_low, by_high) = (1.0 / steps.low, 1.0 / steps.high);
                }
            }
            match unsure {
                None => return (self.accept)(steps).then_some(steps),
                Some(sample) if steps == before => {
                    return guesses(sample, steps, self.max).find_map(|guess| {
                        self.trials = self.trials.checked_sub(1)?;
                        self.narrow(steps.with(sample, guess)?)
                    });
                }
                Some(_) => {}
            }
        }
    }
}

/// Slack of quotients, in steps.
const SLACK: f64 = 1e-9;

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64], half: f64) -> Vec<Sample> {
        values.iter().map(|&x| Sample { x, half: x * half }).collect()
    }

    #[test]
    fn the_coarsest_step_is_found() {
        let of = |values: &[f64]| {
            coarsest(&samples(values, 1e-7), 15.0, &mut |_| true).map(Steps::middle)
        };
        let near = |found: Option<f64>, step: f64| (found.unwrap() / step - 1.0).abs() < 1e-6;
        assert!(near(of(&[0.5, 1.5, 0.0, 3.5]), 0.5));
        assert!(near(of(&[0.3, 0.5, 0.7]), 0.1), "none of them is one step");
        assert!(near(of(&[0.4]), 0.4));
        let finer = &mut |steps: Steps| steps.middle() < 0.3;
        assert!(near(coarsest(&samples(&[0.4], 1e-7), 15.0, finer).map(Steps::middle), 0.2));
        assert_eq!(of(&[0.0, 0.0]), None);
        assert_eq!(of(&[0.1, 1.61]), None);
        assert_eq!(of(&[0.1, 0.1414]), None);
        assert_eq!(of(&[1.0, f64::INFINITY]), None);
        assert!(coarsest(&samples(&[1.0, 200.0, 3.0], 1e-7), 255.0, &mut |_| true).is_some());
        assert!(coarsest(&samples(&[1.0, 200.0, 3.0], 1e-7), 127.0, &mut |_| true).is_none());
    }
}

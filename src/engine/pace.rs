//! Pace of a runner's steps, by the clock: how many tokens of prompts a step may have so that the answers
//! of others do not stutter. Results never depend on it.

use std::time::Duration;

/// Time that a step with generating requests takes at most, where the machine is fast enough.
const STEP_TIME: Duration = Duration::from_millis(100);
/// Time that a step of prompts alone takes at most, so that who comes meanwhile is heard. Larger steps share weights
/// better, above all those of experts.
const PROMPT_STEP_TIME: Duration = Duration::from_secs(2);
/// Tokens that such a step may have in any case.
const PROMPT_TOKENS_MIN: usize = 128;
/// Tokens by which the number of a prompt's tokens changes.
const UNIT: usize = 16;
/// Most tokens of prompts in such a step: more hardly share weights better.
const TOKENS_MAX: usize = 512;
/// A part of the past that each step's time replaces in a mean.
const FORGETTING: f64 = 0.25;

/// Upper bounds of the times of steps that are counted, in seconds.
pub const STEP_BOUNDS: [f64; 12] =
    [0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 5.0];

/// Speeds and times of steps so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct StepTimes {
    /// Steps by their times, each up to the bound of that place in [`STEP_BOUNDS`]; the last are longer.
    pub counts: [u64; STEP_BOUNDS.len() + 1],
    /// Time of all steps.
    pub total: Duration,
    /// Seconds that a token of a prompt takes, a mean of the last steps; 0 when nothing is known.
    pub prompt_token_seconds: f64,
    /// Tokens per second of the last steps that only generated; 0 when nothing is known.
    pub decode_rate: f64,
}

/// Kind of a step: what it was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StepKind {
    /// Requests that generate.
    pub n_generating: usize,
    /// Tokens of prompts.
    pub n_prompt: usize,
}

/// Measures steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    times: StepTimes,
    /// Seconds of a step that only generates.
    decode_seconds: f64,
}

impl Pace {
    /// Takes note of a step's time.
    pub fn learn(&mut self, kind: StepKind, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = STEP_BOUNDS.partition_point(|bound| *bound < seconds);
        self.times.counts[at] += 1;
        self.times.total += time;
        let StepKind { n_generating, n_prompt } = kind;
        match (n_generating, n_prompt) {
            (0, 0) => {}
            (n, 0) => {
                mean(&mut self.decode_seconds, seconds);
                mean(&mut self.times.decode_rate, n as f64 / seconds.max(1e-6));
            }
            // Weights are read for a handful of tokens as for one.
            (_, n) if n < UNIT => {}
            (generating, n) => {
                let decode = if generating > 0 { self.decode_seconds } else { 0.0 };
                // What generates beside costs something, whatever the clock says.
                let prompt = (seconds - decode).max(seconds / 4.0);
                mean(&mut self.times.prompt_token_seconds, prompt / n as f64);
            }
        }
    }

    /// Tokens of prompts that a step beside generating requests may have; `None` when nothing is known.
    pub fn tokens_beside(&self) -> Option<usize> {
        let each = self.times.prompt_token_seconds;
        (each > 0.0).then(|| {
            let room = (STEP_TIME.as_secs_f64() - self.decode_seconds).max(0.0);
            let n = (room / each).min(TOKENS_MAX as f64) as usize;
            (n / UNIT * UNIT).max(UNIT)
        })
    }

    /// Tokens of prompts that a step may have in which nothing generates; `None` when nothing is known.
    pub fn tokens_alone(&self) -> Option<usize> {
        let each = self.times.prompt_token_seconds;
        let n = || (PROMPT_STEP_TIME.as_secs_f64() / each) as usize / UNIT * UNIT;
        (each > 0.0).then(|| n().max(PROMPT_TOKENS_MIN))
    }

    /// Times that have been measured.
    pub fn times(&self) -> StepTimes {
        self.times
    }
}

/// Moves a mean towards a new value; the first one is the mean.
fn mean(mean: &mut f64, value: f64) {
    let part = if *mean == 0.0 { 1.0 } else { FORGETTING };
    *mean += (value - *mean) * part;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(n_generating: usize, n_prompt: usize) -> StepKind {
        StepKind { n_generating, n_prompt }
    }

    #[test]
    fn parts_of_prompts_are_as_large_as_a_step_may_take() {
        let mut pace = Pace::default();
        assert_eq!(pace.tokens_beside(), None);
        // A token of a prompt takes 1 ms, a step that only generates 20 ms.
        pace.learn(step(0, 512), Duration::from_millis(512));
        assert_eq!(pace.tokens_beside(), Some(96));
        assert_eq!(pace.tokens_alone(), Some(2000));
        pace.learn(step(3, 0), Duration::from_millis(20));
        assert_eq!(pace.tokens_beside(), Some(80));
        assert!((pace.times().decode_rate - 150.0).abs() < 1e-6);
        // What is slower than that is heard of.
        for _ in 0..30 {
            pace.learn(step(3, 80), Duration::from_millis(20 + 160));
        }
        assert_eq!(pace.tokens_beside(), Some(32));
        assert_eq!(pace.times().counts.iter().sum::<u64>(), 32);
    }

    #[test]
    fn parts_have_bounds() {
        let mut pace = Pace::default();
        pace.learn(step(0, 100), Duration::from_secs(1000));
        assert_eq!(pace.tokens_beside(), Some(UNIT));
        assert_eq!(pace.tokens_alone(), Some(PROMPT_TOKENS_MIN));
        let mut pace = Pace::default();
        pace.learn(step(0, 100), Duration::from_micros(1));
        assert_eq!(pace.tokens_beside(), Some(TOKENS_MAX));
        pace.learn(step(1, 3), Duration::from_secs(1));
        assert_eq!(pace.tokens_beside(), Some(TOKENS_MAX), "so few tell nothing");
    }
}

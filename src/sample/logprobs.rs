//! Log-probabilities of a drawn token and of the likeliest ones, from the model's own logits:
//! before penalties, masks and the temperature, as the APIs of OpenAI and llama.cpp give them.
//!
//! Cost: a pass over the vocabulary and an exponential for each token, for requests that ask.

use super::mass::sum_of_weights;

/// Likeliest tokens that a request may ask for, at most: as OpenAI's API.
pub const LOGPROBS_MAX: usize = 20;

/// Natural logarithms of probabilities at one position.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Logprobs {
    /// Log-probability of the drawn token.
    pub token: f32,
    /// The likeliest tokens with their log-probabilities, descending; equal ones by token id.
    pub top: Vec<(u32, f32)>,
}

impl Logprobs {
    /// Log-probabilities of `token` and of the `n_top` likeliest tokens. A token with a logit of
    /// negative infinity has a log-probability of negative infinity.
    ///
    /// # Panics
    /// If `token` is no index into the logits.
    pub fn of(logits: &[f32], token: u32, n_top: usize) -> Logprobs {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let log_sum = f64::from(max) + sum_of_weights(logits, max).ln();
        let of = |logit: f32| (f64::from(logit) - log_sum) as f32;
        let mut top: Vec<(u32, f32)> = Vec::with_capacity(n_top.min(LOGPROBS_MAX) + 1);
        for (id, &logit) in logits.iter().enumerate() {
            if top.len() == n_top && top.last().is_none_or(|&(_, least)| logit <= least) {
                continue;
            }
            let at = top.partition_point(|&(_, other)| other >= logit);
            top.insert(at, (id as u32, logit));
            top.truncate(n_top);
        }
        top.iter_mut().for_each(|(_, logit)| *logit = of(*logit));
        Logprobs { token: of(logits[token as usize]), top }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_those_of_the_softmax() {
        let logits = [0.5_f32.ln(), 0.125_f32.ln(), 0.25_f32.ln(), 0.125_f32.ln()];
        let all = Logprobs::of(&logits.map(|x| x + 3.0), 1, 3);
        let near = |a: f32, b: f32| (a - b.ln()).abs() < 1e-6;
        assert!(near(all.token, 0.125));
        assert_eq!(all.top.iter().map(|top| top.0).collect::<Vec<_>>(), [0, 2, 1]);
        assert!(near(all.top[0].1, 0.5) && near(all.top[1].1, 0.25) && near(all.top[2].1, 0.125));
    }

    #[test]
    fn forbidden_tokens_and_no_top_are_allowed() {
        let logits = [f32::NEG_INFINITY, 2.0];
        let of_forbidden = Logprobs::of(&logits, 0, 0);
        assert_eq!(of_forbidden, Logprobs { token: f32::NEG_INFINITY, top: Vec::new() });
        assert_eq!(Logprobs::of(&logits, 1, 5).top, [(1, 0.0), (0, f32::NEG_INFINITY)]);
    }
}

//! Infill (llama.cpp 2024), for text between two others: ends the answer as soon as an end is nearly as
//! likely as any text, counts tokens that begin others together, and keeps the likely rest.
//!
//! Runs where it is named, behind top-k and top-p. Cost: at most [`N_MAX`] tokens, each with each.

use std::sync::Arc;

use super::{
    Candidate, Candidates, Filter, FilterDef, Place, Rng, SampleError, SampleParams, Vocabulary,
};

pub(super) const FILTER: FilterDef =
    FilterDef { name: "infill", other_names: &[], place: Place::Named, params: &[], build };

type Vocab<'v> = Option<&'v Arc<dyn Vocabulary>>;

fn build(_: &SampleParams, vocab: Vocab<'_>) -> Result<Option<Box<dyn Filter>>, SampleError> {
    let vocabulary = FILTER.need(vocab)?.clone();
    Ok(Some(Box::new(Infill { vocabulary })))
}

/// Likeliest tokens that are looked at: others are far below [`LIKELY`].
const N_MAX: usize = 512;
/// Probability that a text's token needs.
const LIKELY: f64 = 0.2;
/// An end counts so much for each token, against all texts.
const END_WEIGHT: f64 = 3.0;

#[derive(Clone, Debug)]
struct Infill {
    vocabulary: Arc<dyn Vocabulary>,
}

/// A candidate while probabilities move.
struct Choice {
    candidate: Candidate,
    p: f64,
    ends: bool,
    bytes: Vec<u8>,
}

impl Infill {
    fn choices(&self, candidates: &Candidates<'_>) -> Vec<Choice> {
        let Some(weights) = candidates.weights() else { return Vec::new() };
        let choice = |candidate: Candidate| Choice {
            candidate,
            p: weights.probability(candidate.logit),
            ends: self.vocabulary.ends_answer(candidate.id),
            bytes: self.vocabulary.bytes(candidate.id),
        };
        candidates.iter().filter(|c| c.logit > f32::NEG_INFINITY).map(choice).collect()
    }
}

impl Filter for Infill {
    fn apply(&mut self, candidates: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
        candidates.keep_best(N_MAX);
        let mut choices = self.choices(candidates);
        let sum_of = |choices: &[Choice], ends| -> f64 {
            choices.iter().filter(|c| c.ends == ends).map(|c| c.p).sum()
        };
        let (end, text) = (sum_of(&choices, true), sum_of(&choices, false));
        if END_WEIGHT * end * choices.len() as f64 > text {
            candidates
                .retain(|c| choices.iter().any(|choice| choice.ends && choice.candidate == *c));
            return Ok(());
        }
        merge(&mut choices);
        choices.retain(|choice| choice.ends || choice.p >= LIKELY);
        let n_texts = choices.iter().filter(|choice| !choice.ends).count();
        if n_texts == 0 {
            // Nothing is likely: the answer ends, where it may.
            if let Some(end) = self.vocabulary.end().filter(|&end| candidates.logit(end).is_some())
            {
                candidates.keep_only(&[end]);
            }
            return Ok(());
        }
        let total: f64 = choices.iter().map(|choice| choice.p).sum();
        let least = 1.0 / (n_texts + 1) as f64;
        choices.retain(|choice| choice.ends || choice.p / total >= least);
        candidates.retain(|c| choices.iter().any(|choice| choice.candidate == *c));
        Ok(())
    }
}

/// Has the likelier one of two tokens, of which one begins the other, get the probability of both.
fn merge(choices: &mut [Choice]) {
    let mut is_gone = vec![false; choices.len()];
    for a in 0..choices.len() {
        for b in 0..choices.len() {
            if is_gone[a] {
                break;
            }
            let begins =
                |a: &Choice, b: &Choice| !a.bytes.is_empty() && b.bytes.starts_with(&a.bytes);
            if a == b || is_gone[b] || !begins(&choices[a], &choices[b]) {
                continue;
            }
            let (to, from) = if choices[b].p > choices[a].p { (b, a) } else { (a, b) };
            choices[to].p += std::mem::take(&mut choices[from].p);
            is_gone[from] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Texts, assert_distribution, filtered};
    use super::*;

    fn with(probabilities: &[f32]) -> Vec<(u32, f64)> {
        of(["a", "ab", "b", "c", "d", ""], probabilities)
    }

    fn of(texts: [&'static str; 6], probabilities: &[f32]) -> Vec<(u32, f64)> {
        let texts = Texts::of(&texts);
        let filter = (FILTER.build)(&SampleParams::default(), Some(&texts)).unwrap().unwrap();
        let logits: Vec<f32> = probabilities.iter().map(|p| p.ln()).collect();
        filtered(filter, &logits)
    }

    #[test]
    fn a_likely_end_is_taken() {
        // 3 * 0.06 * 6 is more than the rest, 0.94; 3 * 0.04 * 6 is less.
        assert_distribution(&with(&[0.3, 0.2, 0.2, 0.2, 0.04, 0.06]), &[(5, 1.0)]);
        assert!(with(&[0.3, 0.22, 0.2, 0.2, 0.04, 0.04]).len() > 1);
    }

    #[test]
    fn tokens_that_begin_others_count_together_and_unlikely_ones_go() {
        // "a" has 0.25 of "ab", 0.57 in all, "b" 0.39; "c" and "d" go. Of 0.98, "a" and "b" are above a
        // third, the end stays: logits as they were, 0.32, 0.39 and 0.02 of 0.73.
        let left = with(&[0.32, 0.25, 0.39, 0.01, 0.01, 0.02]);
        assert_distribution(&left, &[(0, 0.43836), (2, 0.53425), (5, 0.02740)]);
        // "b", 0.21 of 0.96, is below a third.
        let left = with(&[0.5, 0.25, 0.21, 0.01, 0.01, 0.02]);
        assert_distribution(&left, &[(0, 0.96154), (5, 0.03846)]);
    }

    #[test]
    fn where_nothing_is_likely_the_answer_ends_if_it_may() {
        let apart = ["e", "ab", "b", "c", "d", ""];
        let even = [0.196, 0.196, 0.196, 0.196, 0.196, 0.02];
        assert_distribution(&of(apart, &even), &[(5, 1.0)]);
        let all = of(apart, &even.map(|p| if p < 0.1 { 0.0 } else { p }));
        assert_eq!(all.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }
}

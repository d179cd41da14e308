//! The chain of one sequence: its filters with their states, its random generator, and the draw.

use super::{
    Candidate, Candidates, Filter, Place, SampleError, SampleParams, Vocabulary, rng::Rng,
};
use crate::workers::{Alone, Workers};
use std::sync::Arc;
use teff_kernels::BlockMax;

/// Filters in their order, then one draw. A copy goes on from the same state, for a forked sequence.
#[derive(Debug)]
pub struct SamplerChain {
    params: SampleParams,
    filters: Vec<Box<dyn Filter>>,
    rng: Rng,
    /// Scratch for [`Candidates`].
    list: Vec<Candidate>,
}

impl Clone for SamplerChain {
    fn clone(&self) -> Self {
        let Self { params, filters, rng, list: _ } = self;
        let (params, filters, rng) = (params.clone(), filters.clone(), rng.clone());
        Self { params, filters, rng, list: Vec::new() }
    }
}

impl SamplerChain {
    /// A chain for one sequence.
    ///
    /// # Errors
    /// As [`SampleParams::validate`].
    pub fn new(params: SampleParams) -> Result<Self, SampleError> {
        Self::with_first(params, Vec::new())
    }

    /// A chain in which `first` run before those that the parameters name: what a request brings
    /// along and no parameter describes, as a grammar.
    ///
    /// # Errors
    /// As [`SampleParams::validate`].
    pub fn with_first(
        params: SampleParams,
        first: Vec<Box<dyn Filter>>,
    ) -> Result<Self, SampleError> {
        Self::of_vocabulary(params, first, None)
    }

    /// Such a chain for a vocabulary, where the texts of tokens are known.
    ///
    /// # Errors
    /// As [`SampleParams::validate`], and [`SampleError::NoVocabulary`] where a filter needs one.
    pub fn of_vocabulary(
        params: SampleParams,
        first: Vec<Box<dyn Filter>>,
        vocabulary: Option<&Arc<dyn Vocabulary>>,
    ) -> Result<Self, SampleError> {
        params.validate()?;
        let mut filters = Vec::new();
        let (before, behind): (Vec<_>, Vec<_>) =
            params.filters()?.into_iter().partition(|row| row.place == Place::First);
        for row in before {
            filters.extend((row.build)(&params, vocabulary)?);
        }
        filters.extend(first);
        for row in behind {
            filters.extend((row.build)(&params, vocabulary)?);
        }
        leave_out_idle(&mut filters);
        let rng = Rng::new(params.seed);
        Ok(Self { params, filters, rng, list: Vec::new() })
    }

    /// The parameters it was made with.
    pub fn params(&self) -> &SampleParams {
        &self.params
    }

    /// Draws the next token from `logits` (one per token id), with the maxima of their blocks. It
    /// may overwrite both.
    ///
    /// The token is not remembered until [`accept`](Self::accept). Negative infinity forbids a
    /// token.
    ///
    /// # Errors
    /// [`SampleError::NotFinite`] for NaN and positive infinity, [`SampleError::NothingLeft`] where
    /// every token is forbidden, and what filters say.
    pub fn sample(&mut self, logits: BlockMax<'_>) -> Result<u32, SampleError> {
        self.sample_on(&Alone, logits)
    }

    /// [`sample`](Self::sample), of whose passes over the vocabulary workers take a share. Their number
    /// changes no token.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn sample_on(
        &mut self,
        workers: &dyn Workers,
        logits: BlockMax<'_>,
    ) -> Result<u32, SampleError> {
        check_logits(&logits)?;
        let mut candidates = Candidates::new(logits, &mut self.list).on(workers);
        for filter in &mut self.filters {
            filter.apply(&mut candidates, &mut self.rng)?;
        }
        candidates.draw(self.rng.unit_f64()).ok_or(SampleError::NothingLeft)
    }

    /// Tells the filters that `token` is now part of the text (prompt tokens too).
    pub fn accept(&mut self, token: u32) {
        self.filters.iter_mut().for_each(|filter| filter.accept(token));
    }
}

/// Drops filters that cannot change what one behind them takes: a greedy chain, which takes the
/// likeliest, needs no others that keep it. Tells filters what the next one takes.
fn leave_out_idle(filters: &mut Vec<Box<dyn Filter>>) {
    if let Some(end) = filters.iter().rposition(|filter| filter.takes_best() == Some(1)) {
        let needed = filters[..end].iter().rposition(|filter| !filter.keeps_best());
        filters.drain(needed.map_or(0, |last| last + 1)..end);
    }
    for next in 1..filters.len() {
        if let Some(k) = filters[next].takes_best() {
            filters[next - 1].only_best_matter(k);
        }
    }
}

/// Logits come from a model file, so nonsense in them is input, not a bug.
fn check_logits(logits: &BlockMax<'_>) -> Result<(), SampleError> {
    // The maximum of a block with NaN is infinity. Branch-free, so that it vectorizes.
    let bad = logits.bounds().iter().fold(false, |bad, &max| bad | (max == f32::INFINITY));
    if bad {
        let token = logits.values().iter().position(|l| l.is_nan() || *l == f32::INFINITY);
        return Err(SampleError::NotFinite { token: token.unwrap_or_default() });
    }
    if logits.bounds().iter().all(|&max| max == f32::NEG_INFINITY) {
        return Err(SampleError::NothingLeft);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(chain: &mut SamplerChain, logits: &[f32]) -> Result<u32, SampleError> {
        chain.sample(BlockMax::of(&mut logits.to_vec(), &mut Vec::new()))
    }

    #[test]
    fn nonsense_logits_are_errors() {
        let sample = |logits: &[f32]| {
            sample(&mut SamplerChain::new(SampleParams::default()).unwrap(), logits)
        };
        let not_finite = |token| Err(SampleError::NotFinite { token });
        assert_eq!(sample(&[0.0, f32::NAN]), not_finite(1));
        assert_eq!(sample(&[f32::INFINITY, 0.0]), not_finite(0));
        assert_eq!(sample(&[f32::NEG_INFINITY; 3]), Err(SampleError::NothingLeft));
        assert_eq!(sample(&[]), Err(SampleError::NothingLeft));
        let mut many = [f32::NEG_INFINITY; 50];
        (many[41], many[38], many[35]) = (1.0, f32::INFINITY, f32::NAN);
        assert_eq!(sample(&many), not_finite(35));
    }

    #[test]
    fn extreme_finite_logits_still_draw() {
        for temperature in [1e-3, 1.0, 100.0] {
            let params = SampleParams { temperature, top_k: 0, min_p: 0.0, ..Default::default() };
            let mut chain = SamplerChain::new(params).unwrap();
            for _ in 0..20 {
                let logits = [f32::MIN, f32::MAX, 0.0, f32::NEG_INFINITY];
                assert_eq!(sample(&mut chain, &logits), Ok(1));
            }
        }
    }

    #[test]
    fn greedy_chains_leave_out_what_cannot_matter() {
        let n_filters = |params| SamplerChain::new(params).unwrap().filters.len();
        assert_eq!(n_filters(SampleParams::greedy()), 1);
        let penalized = SampleParams { repeat_penalty: 2.0, ..SampleParams::greedy() };
        assert_eq!(n_filters(penalized.clone()), 2);
        // Penalties see fewer tokens behind top-k, so top-k stays.
        let samplers = ["top-k", "penalties", "top-p", "temperature"].map(String::from).to_vec();
        assert_eq!(n_filters(SampleParams { samplers, ..penalized }), 3);
        assert_eq!(n_filters(SampleParams::default()), 4);
    }

    #[test]
    fn filters_run_in_the_order_of_the_parameters() {
        // Likely tokens are 0 (p 0.6) and 1 (p 0.4), without a penalty.
        let logits = [0.6f32, 0.4, 0.001].map(f32::ln);
        let params = |names: [&str; 3]| SampleParams {
            samplers: names.map(String::from).to_vec(),
            temperature: 0.0,
            top_k: 1,
            frequency_penalty: 5.0,
            ..SampleParams::default()
        };
        let token = |names| {
            let mut chain = SamplerChain::new(params(names)).unwrap();
            chain.accept(0);
            sample(&mut chain, &logits)
        };
        assert_eq!(token(["penalties", "top-k", "temperature"]), Ok(1));
        assert_eq!(token(["top-k", "penalties", "temperature"]), Ok(0));
        assert_eq!(token(["top-k", "temperature", "penalties"]), Ok(0));
    }

    /// Threads that are started anew for each of the calls, the last one first.
    #[derive(Debug)]
    struct Started;

    impl Workers for Started {
        fn each(&self, n: usize, f: &(dyn Fn(usize) + Sync)) {
            std::thread::scope(|threads| {
                (0..n).rev().for_each(|i| _ = threads.spawn(move || f(i)));
            });
        }
    }

    #[test]
    fn tokens_are_the_same_with_any_number_of_workers() {
        let off = SampleParams {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            ..SampleParams::default()
        };
        let chains = [
            SampleParams { temperature: 0.8, ..off.clone() },
            SampleParams { dynatemp_range: 0.5, ..off.clone() },
            SampleParams { top_p: 0.9, ..off.clone() },
            SampleParams { typical_p: 0.9, ..off.clone() },
            SampleParams { mirostat: 2, ..off.clone() },
            SampleParams { xtc_probability: 1.0, ..off.clone() },
            SampleParams { adaptive_target: 0.3, ..off },
        ];
        let mut rng = Rng::new(5);
        for params in chains {
            let (mut alone, mut shared) =
                [params.clone(), params].map(|p| SamplerChain::new(p).unwrap()).into();
            for scale in [2.0, 20.0, 200.0] {
                let mut logits: Vec<f32> =
                    (0..40_000).map(|_| (scale * rng.unit_f64().powi(4)) as f32).collect();
                let token = sample(&mut alone, &logits).unwrap();
                let mut room = Vec::new();
                let logits = BlockMax::of(&mut logits, &mut room);
                assert_eq!(shared.sample_on(&Started, logits), Ok(token));
                alone.accept(token);
                shared.accept(token);
            }
        }
    }

    /// Forbids all tokens but those after the accepted one, as a grammar does.
    #[derive(Clone, Debug)]
    struct Ascending {
        next: u32,
    }

    impl Filter for Ascending {
        fn apply(
            &mut self,
            candidates: &mut Candidates<'_>,
            _: &mut Rng,
        ) -> Result<(), SampleError> {
            let allowed: Vec<u32> = (0..4u32)
                .map(|word| {
                    (0..32).filter(|bit| word * 32 + bit >= self.next).map(|bit| 1 << bit).sum()
                })
                .collect();
            candidates.mask(&allowed);
            Ok(())
        }

        fn accept(&mut self, token: u32) {
            self.next = token + 1;
        }
    }

    #[test]
    fn a_mask_with_a_state_holds_until_nothing_is_left_which_is_an_error() {
        for params in [SampleParams::greedy(), SampleParams { seed: 3, ..SampleParams::default() }]
        {
            let first: Vec<Box<dyn Filter>> = vec![Box::new(Ascending { next: 0 })];
            let mut chain = SamplerChain::with_first(params, first).unwrap();
            let logits: Vec<f32> = (0..100).map(|i| (i * 7 % 50) as f32 * 0.01).collect();
            let mut last = None;
            let end = loop {
                // A fork goes its own way.
                let mut fork = chain.clone();
                fork.accept(98);
                assert_eq!(sample(&mut fork, &logits), Ok(99));
                match sample(&mut chain, &logits) {
                    Ok(token) => {
                        assert!(last.is_none_or(|last| token > last));
                        chain.accept(token);
                        last = Some(token);
                    }
                    Err(error) => break error,
                }
            };
            assert_eq!((last, end), (Some(99), SampleError::NothingLeft));
        }
    }

    /// A filter whose state is spent.
    #[derive(Clone, Debug)]
    struct Spent;

    impl Filter for Spent {
        fn apply(&mut self, _: &mut Candidates<'_>, _: &mut Rng) -> Result<(), SampleError> {
            Err(SampleError::Filter { filter: "spent", reason: "no fuel".into() })
        }
    }

    #[test]
    fn a_filters_error_ends_the_draw_also_in_greedy_chains() {
        let first: Vec<Box<dyn Filter>> = vec![Box::new(Spent)];
        let mut chain = SamplerChain::with_first(SampleParams::greedy(), first).unwrap();
        assert_eq!(sample(&mut chain, &[1.0]).unwrap_err().to_string(), "spent: no fuel");
    }
}

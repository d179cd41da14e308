//! From logits to the next token: a chain of filters, then one draw.
//!
//! The order is llama.cpp's: penalties, top-k, top-p, min-p, temperature, draw. Top-p and min-p
//! therefore see the probabilities before the temperature changes them. A temperature of 0 is
//! greedy: the most likely token after penalties, and the other filters cannot change it.
//!
//! The same seed and the same logits give the same tokens on every platform: the generator is
//! [`rng::Rng`], the exponential is [`math::exp`] (no libm), and equal logits are ordered by token
//! id everywhere. A new filter is one file and one line of [`FILTERS`], which also gives the CLI
//! its flag and the HTTP server its JSON field.
//!
//! Cost: one pass over the maxima of blocks of the vocabulary, which the workers took when they
//! computed the logits, then work on the survivors only; without top-k and with a temperature, some
//! passes over all logits. Nothing sorts the whole vocabulary; see `candidates.rs`.

mod candidates;
mod history;
pub mod math;
mod min_p;
mod penalties;
pub mod rng;
mod temperature;
mod top_k;
mod top_p;

use std::fmt;

pub use candidates::{Candidate, Candidates};
pub use history::{History, REPEAT_LAST_N_MAX};
use rng::Rng;
use teff_kernels::BlockMax;

/// Every filter, in the order it runs.
pub const FILTERS: &[Filter] =
    &[penalties::FILTER, top_k::FILTER, top_p::FILTER, min_p::FILTER, temperature::FILTER];

/// One row of [`FILTERS`].
pub struct Filter {
    /// Name in messages and documentation.
    pub name: &'static str,
    /// What the user can set.
    pub params: &'static [Param],
    /// Narrows or reweights the candidates.
    pub apply: fn(&SampleParams, &History, &mut Candidates<'_>),
}

/// One number the user can set: a CLI flag, a JSON field.
pub struct Param {
    /// JSON field and field of [`SampleParams`].
    pub name: &'static str,
    /// CLI flag, without the two dashes.
    pub flag: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Smallest value that is accepted.
    pub min: f64,
    /// Largest value that is accepted.
    pub max: f64,
    /// Whether the value counts something.
    pub integer: bool,
    /// Reads the field.
    pub get: fn(&SampleParams) -> f64,
    /// Writes the field; the value was checked against the bounds above.
    pub set: fn(&mut SampleParams, f64),
}

impl Param {
    /// Sets the field after checking the bounds.
    pub fn assign(&self, params: &mut SampleParams, value: f64) -> Result<(), SampleError> {
        self.check(value)?;
        (self.set)(params, value);
        Ok(())
    }

    fn check(&self, value: f64) -> Result<(), SampleError> {
        // A NaN is in no range, so it fails here too.
        let fits = (self.min..=self.max).contains(&value);
        if fits && (!self.integer || value.fract() == 0.0) {
            return Ok(());
        }
        Err(SampleError::Param {
            flag: self.flag,
            value,
            min: self.min,
            max: self.max,
            integer: self.integer,
        })
    }
}

/// Every parameter of every filter, in the order of [`FILTERS`].
pub fn params() -> impl Iterator<Item = &'static Param> {
    FILTERS.iter().flat_map(|filter| filter.params)
}

/// What the user asked for. The defaults are llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleParams {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keeps this many tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest tokens that hold this much probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this likely relative to the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 is off.
    pub repeat_penalty: f32,
    /// Subtracted once per recent occurrence; 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted once if the token occurred recently; 0 is off.
    pub presence_penalty: f32,
    /// How many tokens back the three penalties look; 0 turns them off.
    pub repeat_last_n: usize,
    /// Seed of the draw. Callers who want variety choose a fresh one.
    pub seed: u64,
}

impl Default for SampleParams {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_n: 64,
            seed: 0,
        }
    }
}

impl SampleParams {
    /// The likeliest token always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every field against its row.
    pub fn validate(&self) -> Result<(), SampleError> {
        params().try_for_each(|param| param.check((param.get)(self)))
    }
}

/// The filters with their state: what was generated, and the generator.
#[derive(Clone, Debug)]
pub struct SamplerChain {
    params: SampleParams,
    history: History,
    rng: Rng,
    list: Vec<Candidate>,
}

impl SamplerChain {
    /// A chain for one sequence; an error names the flag that is out of range.
    pub fn new(params: SampleParams) -> Result<Self, SampleError> {
        params.validate()?;
        let history = History::new(params.repeat_last_n);
        let rng = Rng::new(params.seed);
        Ok(Self { params, history, rng, list: Vec::new() })
    }

    /// The parameters it was made with.
    pub fn params(&self) -> &SampleParams {
        &self.params
    }

    /// Draws the next token from `logits` (one per token id), with the maxima of their blocks. It
    /// may overwrite both.
    ///
    /// The token is not remembered until [`accept`](Self::accept). Negative infinity forbids a
    /// token; NaN, positive infinity, or nothing left to choose is an error.
    pub fn sample(&mut self, logits: BlockMax<'_>) -> Result<u32, SampleError> {
        check_logits(&logits)?;
        let mut candidates = Candidates::new(logits, &mut self.list);
        if self.params.temperature == 0.0 {
            (penalties::FILTER.apply)(&self.params, &self.history, &mut candidates);
            return Ok(candidates.best().id);
        }
        for filter in FILTERS {
            (filter.apply)(&self.params, &self.history, &mut candidates);
        }
        Ok(candidates.draw(self.rng.unit_f64()))
    }

    /// Tells the penalties that `token` is now part of the text (prompt tokens too).
    pub fn accept(&mut self, token: u32) {
        self.history.push(token);
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

/// Why no token can be drawn.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum SampleError {
    /// A parameter is out of range.
    Param {
        /// CLI flag, without the two dashes.
        flag: &'static str,
        /// What was asked for.
        value: f64,
        /// Smallest accepted value.
        min: f64,
        /// Largest accepted value.
        max: f64,
        /// Whether it must be a whole number.
        integer: bool,
    },
    /// The model's logit of this token is NaN or infinite.
    NotFinite {
        /// Token id.
        token: usize,
    },
    /// There are no logits, or all of them are negative infinity.
    NothingLeft,
}

impl fmt::Display for SampleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Param { flag, value, min, max, integer } => {
                let kind = if *integer { "a whole number" } else { "a number" };
                write!(f, "--{flag} {value}: must be {kind} from {min} to {max}")
            }
            Self::NotFinite { token } => {
                write!(f, "the model's logit of token {token} is not a finite number")
            }
            Self::NothingLeft => f.write_str("the model allows no token at all"),
        }
    }
}

impl std::error::Error for SampleError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_parameters_are_valid() {
        SampleParams::default().validate().unwrap();
        SampleParams::greedy().validate().unwrap();
    }

    #[test]
    fn every_parameter_refuses_nan_and_out_of_range_by_flag() {
        for param in params() {
            for bad in [f64::NAN, param.min - 1.0, param.max * 2.0 + 1.0, f64::INFINITY] {
                let mut chosen = SampleParams::default();
                let error = param.assign(&mut chosen, bad).unwrap_err();
                assert!(error.to_string().starts_with(&format!("--{} ", param.flag)), "{error}");
                assert_eq!(chosen, SampleParams::default());
            }
        }
        let params = SampleParams { top_p: f32::NAN, ..SampleParams::default() };
        let error = SamplerChain::new(params).unwrap_err();
        assert_eq!(error.to_string(), "--top-p NaN: must be a number from 0 to 1");
    }

    #[test]
    fn rows_read_what_they_write_and_flags_are_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for param in params() {
            assert!(seen.insert(param.flag), "{} twice", param.flag);
            let mut chosen = SampleParams::default();
            let value = if (param.get)(&chosen) == param.max { param.min } else { param.max };
            param.assign(&mut chosen, value).unwrap();
            assert_eq!((param.get)(&chosen), value, "{}", param.flag);
            assert_ne!(chosen, SampleParams::default(), "{}", param.flag);
        }
    }

    #[test]
    fn nonsense_logits_are_errors() {
        let not_finite = |token| Err(SampleError::NotFinite { token });
        assert_eq!(sample(&mut [0.0, f32::NAN]), not_finite(1));
        assert_eq!(sample(&mut [f32::INFINITY, 0.0]), not_finite(0));
        assert_eq!(sample(&mut [f32::NEG_INFINITY; 3]), Err(SampleError::NothingLeft));
        assert_eq!(sample(&mut []), Err(SampleError::NothingLeft));
        let mut many = [f32::NEG_INFINITY; 50];
        (many[41], many[38], many[35]) = (1.0, f32::INFINITY, f32::NAN);
        assert_eq!(sample(&mut many), not_finite(35));
    }

    fn sample(logits: &mut [f32]) -> Result<u32, SampleError> {
        let mut chain = SamplerChain::new(SampleParams::default()).unwrap();
        chain.sample(BlockMax::of(logits, &mut Vec::new()))
    }

    #[test]
    fn extreme_finite_logits_still_draw() {
        for temperature in [1e-3, 1.0, 100.0] {
            let params = SampleParams { temperature, top_k: 0, min_p: 0.0, ..Default::default() };
            let mut chain = SamplerChain::new(params).unwrap();
            for _ in 0..20 {
                let mut logits = [f32::MIN, f32::MAX, 0.0, f32::NEG_INFINITY];
                let token = chain.sample(BlockMax::of(&mut logits, &mut Vec::new()));
                assert_eq!(token, Ok(1));
            }
        }
    }
}

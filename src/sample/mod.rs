//! From logits to the next token: a chain of filters, then one draw.
//!
//! The order is a parameter ([`SampleParams::samplers`]); the default is llama.cpp's: penalties, DRY,
//! top-nσ, top-k, typical, top-p, min-p, XTC, temperature. What narrows therefore sees the
//! probabilities before the temperature changes them. A temperature of 0 is greedy: that filter
//! leaves the likeliest token. Biases and banned texts come before all, what draws for itself
//! (mirostat, adaptive-p) behind all. A file may bring other defaults ([`SampleParams::of_file`]).
//!
//! The same seed and the same logits give the same tokens on every platform: the generator is
//! [`rng::Rng`], exponential and logarithm are those of [`math`] and of the kernels, which have the same
//! bits at every level (no libm), and equal logits are ordered by token id everywhere. A new filter is one file with its tests beside it, its line and
//! its row in [`FILTERS`] below, which also gives the CLI its flags and the HTTP server its JSON
//! fields, and a field of [`SampleParams`] for each of its parameters, with its default. What filters
//! need of the tokens' texts they ask a [`Vocabulary`].
//!
//! Cost: one pass over the maxima of blocks of the vocabulary, which the workers took when they
//! computed the logits, then work on the survivors only; without top-k and with a temperature, some
//! passes over all logits. Nothing sorts the whole vocabulary; see `candidates.rs`. A greedy chain
//! leaves out filters that cannot change which token is likeliest.

mod adaptive_p;
mod ban;
mod candidates;
mod chain;
mod dry;
mod error;
mod file;
mod filter;
mod history;
mod infill;
mod logit_bias;
mod logprobs;
mod mass;
pub mod math;
mod min_p;
mod mirostat;
mod param;
mod params;
mod penalties;
mod reasoning_budget;
pub mod rng;
mod temperature;
#[cfg(test)]
mod testing;
mod top_k;
mod top_n_sigma;
mod top_p;
mod typical;
mod vocabulary;
mod xtc;

pub use candidates::{Candidate, Candidates};
pub use chain::SamplerChain;
pub use error::SampleError;
pub use filter::{CloneFilter, Filter, FilterDef, Place};
pub use history::{History, REPEAT_LAST_N_MAX};
pub use logprobs::{LOGPROBS_MAX, Logprobs};
pub use param::{Field, Param, Value};
pub use params::{SampleParams, params};
pub use reasoning_budget::ReasoningBudget;
use rng::Rng;
pub use vocabulary::Vocabulary;

/// Every filter that parameters describe. Those of one [`Place`] are in their default order.
pub const FILTERS: &[FilterDef] = &[
    logit_bias::FILTER,
    ban::FILTER,
    penalties::FILTER,
    dry::FILTER,
    top_n_sigma::FILTER,
    top_k::FILTER,
    typical::FILTER,
    top_p::FILTER,
    min_p::FILTER,
    xtc::FILTER,
    temperature::FILTER,
    infill::FILTER,
    mirostat::FILTER,
    adaptive_p::FILTER,
    params::DIST,
];

//! From logits to the next token: a chain of filters, then one draw.
//!
//! The order is a parameter ([`SampleParams::samplers`]); the default is llama.cpp's: penalties,
//! top-k, top-p, min-p, temperature. Top-p and min-p therefore see the probabilities before the
//! temperature changes them. A temperature of 0 is greedy: that filter leaves the likeliest token.
//!
//! The same seed and the same logits give the same tokens on every platform: the generator is
//! [`rng::Rng`], the exponential is [`math::exp`] (no libm), and equal logits are ordered by token
//! id everywhere. A new filter is one file with its tests beside it, its line and its row in
//! [`FILTERS`] below, which also gives the CLI its flags and the HTTP server its JSON fields, and a
//! field of [`SampleParams`] for each of its parameters, with its default.
//!
//! Cost: one pass over the maxima of blocks of the vocabulary, which the workers took when they
//! computed the logits, then work on the survivors only; without top-k and with a temperature, some
//! passes over all logits. Nothing sorts the whole vocabulary; see `candidates.rs`. A greedy chain
//! leaves out filters that cannot change which token is likeliest.

mod candidates;
mod chain;
mod error;
mod filter;
mod history;
mod logprobs;
pub mod math;
mod min_p;
mod params;
mod penalties;
mod reasoning_budget;
pub mod rng;
mod temperature;
#[cfg(test)]
mod testing;
mod top_k;
mod top_p;

pub use candidates::{Candidate, Candidates};
pub use chain::SamplerChain;
pub use error::SampleError;
pub use filter::{CloneFilter, Filter, FilterDef};
pub use history::{History, REPEAT_LAST_N_MAX};
pub use logprobs::{LOGPROBS_MAX, Logprobs};
pub use params::{Field, Param, SampleParams, Value, params};
pub use reasoning_budget::ReasoningBudget;
use rng::Rng;

/// Every filter that parameters describe, in the default order.
pub const FILTERS: &[FilterDef] =
    &[penalties::FILTER, top_k::FILTER, top_p::FILTER, min_p::FILTER, temperature::FILTER];

//! The seam of the sampler: what a filter is, and the row that makes one out of parameters.
//!
//! A filter belongs to one sequence. It may keep a state (penalties: the last tokens), draw from the
//! sequence's random generator (XTC, mirostat), forbid tokens (a grammar, by [`Candidates::mask`]),
//! and learns which token was taken by [`Filter::accept`].

use std::fmt;

use super::{Candidates, Param, SampleError, SampleParams, rng::Rng};

/// One step of a [`SamplerChain`](super::SamplerChain) for one sequence.
///
/// `Clone` makes a forked sequence's filter: it goes on from the same state, apart from this one.
pub trait Filter: CloneFilter + fmt::Debug + Send + Sync {
    /// Narrows or reweights the candidates. It may run several times before a token is accepted.
    ///
    /// # Errors
    /// [`SampleError::Filter`] if its state cannot go on; leaving no candidate is no error here but
    /// in the draw.
    fn apply(&mut self, candidates: &mut Candidates<'_>, rng: &mut Rng) -> Result<(), SampleError>;

    /// Takes note that `token` is now part of the text: of the prompt or of the answer.
    fn accept(&mut self, token: u32) {
        let _ = token;
    }

    /// Whether the likeliest candidate always stays and stays the likeliest, and no state and no
    /// random number is touched: then a chain whose next step takes the likeliest leaves this out.
    fn keeps_best(&self) -> bool {
        false
    }

    /// Whether nothing but the likeliest candidate is left behind this filter.
    fn takes_best(&self) -> bool {
        false
    }
}

/// Copies of boxed filters; every filter that is `Clone` has it.
pub trait CloneFilter {
    /// A copy with the same state.
    fn boxed_clone(&self) -> Box<dyn Filter>;
}

impl<F: Filter + Clone + 'static> CloneFilter for F {
    fn boxed_clone(&self) -> Box<dyn Filter> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn Filter> {
    fn clone(&self) -> Self {
        (**self).boxed_clone()
    }
}

/// One row of [`FILTERS`](super::FILTERS).
pub struct FilterDef {
    /// Name in [`SampleParams::samplers`], messages and documentation.
    pub name: &'static str,
    /// What the user can set.
    pub params: &'static [Param],
    /// Makes the filter of one sequence; `None` if the parameters turn it off.
    pub build: fn(&SampleParams) -> Option<Box<dyn Filter>>,
}

//! The seam of the sampler: what a filter is, and the row that makes one out of parameters.
//!
//! A filter belongs to one sequence. It may keep a state (penalties: the last tokens), draw from the
//! sequence's random generator (XTC, mirostat), forbid tokens (a grammar, by [`Candidates::mask`]),
//! and learns which token was taken by [`Filter::accept`].

use std::fmt;
use std::sync::Arc;

use super::{Candidates, Param, SampleError, SampleParams, Vocabulary, rng::Rng};

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

    /// How many of the likeliest candidates it takes of those that it gets, at most, whatever the others
    /// are; `None` if others count.
    fn takes_best(&self) -> Option<usize> {
        None
    }

    /// Takes note that only the likeliest `k` of the candidates that it leaves matter, as the next filter
    /// takes no others.
    fn only_best_matter(&mut self, k: usize) {
        let _ = k;
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
    /// Names that other programs use. `-` and `_` are the same, and so is the case of letters.
    pub other_names: &'static [&'static str],
    /// When it runs.
    pub place: Place,
    /// What the user can set.
    pub params: &'static [Param],
    /// Makes the filter of one sequence; `None` if the parameters turn it off.
    pub build: Build,
}

/// Makes a filter of parameters, for a vocabulary where the texts of tokens are known.
pub type Build =
    fn(&SampleParams, Option<&Arc<dyn Vocabulary>>) -> Result<Option<Box<dyn Filter>>, SampleError>;

/// When a filter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// Before all others, whatever [`SampleParams::samplers`] says, even before what a request brings
    /// along.
    First,
    /// Where [`SampleParams::samplers`] names it, and by default.
    Listed,
    /// Where [`SampleParams::samplers`] names it.
    Named,
    /// Behind all others, as it draws for itself.
    Last,
}

impl FilterDef {
    /// Whether a text names this row.
    pub fn has_name(&self, text: &str) -> bool {
        let plain = |c: u8| if c == b'_' { b'-' } else { c.to_ascii_lowercase() };
        let text = text.trim().bytes().map(plain);
        let mut names = [self.name].into_iter().chain(self.other_names.iter().copied());
        names.any(|name| text.clone().eq(name.bytes()))
    }

    /// The vocabulary that the filter cannot do without.
    pub(super) fn need<'v>(
        &self,
        vocabulary: Option<&'v Arc<dyn Vocabulary>>,
    ) -> Result<&'v Arc<dyn Vocabulary>, SampleError> {
        vocabulary.ok_or(SampleError::NoVocabulary { filter: self.name })
    }
}

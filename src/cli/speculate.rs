//! `--speculate`: whether answers are sped up by drafts, which change no token.

use crate::engine::{DRAFT_MAX, Speculation};

/// The flag.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct SpeculateArgs {
    /// Check several tokens at a time where the text so far says what may come: the same answer,
    /// sooner. auto: as long as it is faster; ngram: always
    #[arg(long, value_name = "HOW", default_value = "auto")]
    speculate: Speculate,
}

/// Use of drafts.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Speculate {
    /// As long as they make the answer faster
    Auto,
    /// Never
    Off,
    /// Wherever there is one
    Ngram,
}

impl SpeculateArgs {
    /// Value for [`Request::speculation`](crate::engine::Request::speculation).
    pub fn speculation(self) -> Speculation {
        match self.speculate {
            Speculate::Auto => Speculation::Auto,
            Speculate::Off => Speculation::Off,
            Speculate::Ngram => Speculation::Always,
        }
    }

    /// Rows of logits that an engine needs for one request.
    pub fn n_rows(self) -> usize {
        if self.speculate == Speculate::Off { 1 } else { 1 + DRAFT_MAX }
    }
}

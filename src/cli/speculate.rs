//! `--speculate` and `--draft`: whether answers are sped up by drafts, which change no token.

use super::CliError;
use super::engine_args::EngineArgs;
use super::options::{MetadataArgs, resolve};
use crate::backend::pages::KvType;
use crate::cache::ModelRef;
use crate::engine::{DRAFT_MAX, DraftModel, Engine, EngineOptions, Model, Speculation};
use crate::text::Tokenizer;

/// The flags.
#[derive(clap::Args, Clone, Debug)]
pub struct SpeculateArgs {
    /// Check several tokens at a time where the text so far says what may come: the same answer,
    /// sooner. auto: as long as it is faster; ngram: always
    #[arg(long, value_name = "HOW", default_value = "auto")]
    speculate: Speculate,
    /// Have a small model say what may come, as MODEL, in place of the text so far: the same answer, sooner
    /// if the small one is far faster and often right. It must have the same vocabulary
    #[arg(long, value_name = "MODEL")]
    draft: Option<ModelRef>,
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
    pub fn speculation(&self) -> Speculation {
        match self.speculate {
            Speculate::Auto => Speculation::Auto,
            Speculate::Off => Speculation::Off,
            Speculate::Ngram => Speculation::Always,
        }
    }

    /// Rows of logits that an engine needs for one request.
    pub fn n_rows(&self) -> usize {
        if self.speculate == Speculate::Off { 1 } else { 1 + DRAFT_MAX }
    }

    /// The file of the draft model, if one was named.
    ///
    /// # Errors
    /// There is no such model.
    #[cfg(all(feature = "sandbox", target_os = "linux"))]
    pub fn draft_file(&self) -> Result<Option<std::path::PathBuf>, CliError> {
        self.draft.as_ref().map(resolve).transpose()
    }

    /// Gives an engine the draft model that was named, if one was.
    ///
    /// # Errors
    /// It cannot draft for the engine's model, or there is no memory for it.
    pub fn add_draft(
        &self,
        args: &EngineArgs,
        model: &Model,
        tokenizer: &Tokenizer,
        engine: &mut Engine,
    ) -> Result<(), CliError> {
        let Some(name) = &self.draft else { return Ok(()) };
        if self.speculate != Speculate::Auto {
            let problem = "--draft has a model make the drafts, as long as they make the answer \
                           faster: it goes with --speculate auto alone";
            return Err(CliError::usage(problem));
        }
        let draft = MetadataArgs::default().open(&resolve(name)?)?;
        let options = EngineOptions { n_ctx: Some(engine.n_ctx()), ..args.options(KvType::F16)? };
        let made = DraftModel::new(&draft, model, tokenizer, &options);
        let made = made.map_err(CliError::of_model(draft.path()))?;
        if !made.is_small() {
            super::note(format_args!(
                "note: {} is nearly as large as the model, so its drafts could not make the answer faster: they \
                 are made of the text so far",
                draft.path().display()
            ));
        }
        engine.set_draft_model(made);
        Ok(())
    }
}

//! Options of the verbs that answer, `run` and `chat`.

use super::CliError;
use super::answer_view::ReasoningShow;
use super::engine_args::{ContextArgs, EngineArgs};
use super::gpu_args::GpuArgs;
use super::grammar::GrammarArgs;
use super::prefix_cache::PrefixCacheArgs;
use super::sampling::SamplingArgs;
use super::speculate::SpeculateArgs;
use super::template_args::TemplateArgs;
use crate::backend::pages::KvType;
use crate::engine::{Engine, Model};
use crate::text::Tokenizer;

/// Options of answers.
#[derive(clap::Args, Debug)]
pub struct AnswerArgs {
    #[command(flatten)]
    pub template: TemplateArgs,
    /// Treatment of the reasoning of models that think before they answer
    #[arg(long, value_name = "HOW", default_value = "show")]
    pub reasoning: ReasoningShow,
    #[command(flatten)]
    pub context: ContextArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub gpu: GpuArgs,
    #[command(flatten)]
    pub prefixes: PrefixCacheArgs,
    #[command(flatten)]
    pub speculate: SpeculateArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub grammar: GrammarArgs,
}

impl AnswerArgs {
    /// Vocabulary and engine of a model that answers.
    ///
    /// # Errors
    /// The options do not go with the model, or there is no memory for it.
    pub fn ready(&self, model: &Model) -> Result<(Tokenizer, Engine), CliError> {
        let n_rows = self.speculate.n_rows();
        let (tokenizer, mut engine) =
            self.engine.ready(model, &self.context, KvType::F16, n_rows, &self.gpu)?;
        self.speculate.add_draft(&self.engine, model, &tokenizer, &mut engine)?;
        Ok((tokenizer, engine))
    }
}

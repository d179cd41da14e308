//! Options of the verbs that answer, `run` and `chat`.

use super::answer_view::ReasoningShow;
use super::grammar::GrammarArgs;
use super::options::{ContextArgs, EngineArgs};
use super::prefix_cache::PrefixCacheArgs;
use super::sampling::SamplingArgs;
use super::speculate::SpeculateArgs;
use super::template_args::TemplateArgs;

/// Options of answers.
#[derive(clap::Args, Debug)]
pub struct AnswerArgs {
    #[command(flatten)]
    pub template: TemplateArgs,
    /// What to do with the reasoning of models that think before they answer
    #[arg(long, value_name = "HOW", default_value = "show")]
    pub reasoning: ReasoningShow,
    #[command(flatten)]
    pub context: ContextArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub prefixes: PrefixCacheArgs,
    #[command(flatten)]
    pub speculate: SpeculateArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub grammar: GrammarArgs,
}

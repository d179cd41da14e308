//! Measures of what a model knows and of what a file of it lost: one file for each measure.
//!
//! [`perplexity`](perplexity()) runs a text through a model in chunks and scores the second half of
//! each, with llama.cpp's protocol so that figures can be compared; beside a teacher it also gives the
//! Kullback-Leibler divergence of the two ([`Divergence`]). A teacher's answers can be kept in a file
//! ([`LogitsFile`]). [`choose`] answers multiple-choice questions by the likelihood of their endings.
//! [`importance`](importance()) measures how much each column of a weight matters, for quantizers.
//!
//! Cost: prompts at the model's speed, and an exponential for each token of the vocabulary at each
//! scored position, shared by as many threads as the engine has. Limits: rows of logits are computed
//! [`LOGITS_BYTES`] at a time, three times that beside a teacher.
//!
//! ```
//! use teff::engine::{Engine, EngineOptions, Model};
//! use teff::eval::{self, Chunks};
//! # let path = "tests/golden/faults/tiny.gguf";
//! # let text = "The quick brown fox jumps over the lazy dog. ".repeat(8);
//! let model = Model::open(path.as_ref())?;
//! let options = eval::engine_options(&model, 32, &EngineOptions::default());
//! let mut engine = Engine::new(&model, &options)?;
//! let chunks = Chunks::of_text(&model.tokenizer()?, &text, 32)?;
//! let report = eval::perplexity(&mut engine, &chunks, eval::Options::default())?;
//! println!("{:.4} +/- {:.4}", report.perplexity.value(), report.perplexity.error());
//! # assert!(report.perplexity.value() > 1.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod choices;
mod chunks;
mod divergence;
mod error;
mod importance;
mod logits_file;
mod perplexity;
mod rows;
mod sensitivity;
mod steps;

pub use choices::{Accuracy, CHOICES_MAX, Question, QuestionError, choose};
pub use chunks::{Chunks, N_CTX_MIN};
pub use divergence::Divergence;
pub use error::EvalError;
pub use importance::importance;
pub use logits_file::{LogitsFile, LogitsFileError, LogitsWriter};
pub use perplexity::{Options, Perplexity, Report, Teacher, perplexity};
pub use sensitivity::Sensitivity;

use crate::engine::{EngineOptions, Model};

/// Bytes of logits that a step may give: with vocabularies of 262,144 tokens still 128 rows, which
/// is enough tokens for a product to be as fast as it gets.
pub const LOGITS_BYTES: usize = 128 << 20;

/// `base` changed to what measuring needs: sequences of `n_ctx` tokens, many rows of logits in a step,
/// and no repacked weights, which only token-by-token decoding gains by.
pub fn engine_options(model: &Model, n_ctx: usize, base: &EngineOptions) -> EngineOptions {
    let n_vocab = model.file().tensor("token_embd.weight").map_or(1, |info| info.rows());
    let row_bytes = usize::try_from(n_vocab).unwrap_or(usize::MAX).saturating_mul(size_of::<f32>());
    let max_outputs = (LOGITS_BYTES / row_bytes.max(1)).clamp(1, base.max_batch.max(1));
    EngineOptions { n_ctx: Some(n_ctx), max_outputs, repack: false, ..*base }
}

//! A text that a model is measured or calibrated with, and the progress through it.

use super::CliError;
use super::lines::without_bom;
use super::options::{TOKENS_MAX, input_file, whole_number};
use super::progress::{Told, WorkProgress};
use crate::engine::Model;
use crate::eval::{Chunks, EvalError};
use crate::text::{TEXT_BYTES_MAX, Tokenizer};
use std::io::{Read, stdin};
use std::path::Path;

/// Tokens in a chunk when nobody says, as in llama.cpp's tools.
const N_CTX_DEFAULT: usize = 512;

/// The cut of a text into chunks.
#[derive(clap::Args, Debug)]
pub struct ChunkArgs {
    /// Tokens in a chunk, which the model sees by itself [default: the model's context, at most 512]
    #[arg(long, value_name = "TOKENS", value_parser = whole_number(4..=TOKENS_MAX))]
    ctx: Option<u32>,
    /// Use the first N chunks only
    #[arg(long, value_name = "N", value_parser = whole_number(1..=TOKENS_MAX))]
    chunks: Option<u32>,
}

impl ChunkArgs {
    /// Tokens in a chunk.
    pub fn n_ctx(&self, model: &Model) -> usize {
        self.ctx.map_or_else(|| model.spec().n_ctx_default(N_CTX_DEFAULT), |n| n as usize)
    }

    /// Tokens in a chunk, if the user said.
    pub fn ctx(&self) -> Option<usize> {
        self.ctx.map(|n| n as usize)
    }

    /// Chunks of the text of a file.
    ///
    /// # Errors
    /// The text fills none or cannot be tokenized.
    pub fn cut(
        &self,
        model: &Model,
        tokenizer: &Tokenizer,
        path: &Path,
        text: &str,
    ) -> Result<Chunks, CliError> {
        let at = CliError::of_model::<EvalError>(path);
        let mut chunks = Chunks::of_text(tokenizer, text, self.n_ctx(model)).map_err(at)?;
        chunks.truncate(self.chunks.map_or(usize::MAX, |n| n as usize));
        Ok(chunks)
    }
}

/// The text of a file or of standard input, without the line break at its end, as llama.cpp's tools
/// read theirs.
///
/// # Errors
/// The text cannot be read, is too long or not UTF-8.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    let input: Box<dyn Read> = match input_file(Some(path)) {
        Some(path) => Box::new(std::fs::File::open(path).map_err(CliError::at(path))?),
        None => Box::new(stdin().lock()),
    };
    let mut bytes = Vec::new();
    input.take(TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(CliError::at(path))?;
    let failed = |problem: String| CliError::failed(format!("{}: {problem}", path.display()));
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(failed(format!("longer than the {TEXT_BYTES_MAX} bytes that a text may have")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        failed(format!("not UTF-8 from byte {} on", error.utf8_error().valid_up_to()))
    })?;
    let text = without_bom(&text);
    Ok(text.strip_suffix('\n').unwrap_or(text).to_string())
}

/// Progress through chunks or other things that are counted, on stderr.
pub struct ChunkProgress {
    progress: WorkProgress,
    total: usize,
    what: &'static str,
}

impl ChunkProgress {
    /// Progress through `total` things.
    pub fn new(total: usize, what: &'static str) -> ChunkProgress {
        ChunkProgress { progress: WorkProgress::begin(), total, what }
    }

    /// Shows that `done` are done, and `figures`.
    pub fn show(&mut self, done: usize, figures: &str) {
        let (total, what) = (self.total, self.what);
        let line = |Told { left, .. }| format!("{done} of {total} {what}{figures}{left}");
        self.progress.show(done as u64, total as u64, line);
    }
}

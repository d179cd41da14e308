//! `teff rerank`: how well documents answer a query, by the scores of a reranker.
//!
//! A cross-encoder reads query and document together, so that each document costs as much as a
//! prompt of both.

use super::CliError;
use super::engine_args::{ContextArgs, EngineArgs};
use super::lines::{Answered, BadTextArgs, Work, check_len, each_text};
use super::options::{ModelArgs, whole_number};
use crate::engine::{Engine, EngineError};
use crate::model::Pooling;
use crate::text::Tokenizer;
use gguf_rs_lite::GgufFile;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `teff rerank`
#[derive(clap::Args, Debug)]
pub struct RerankArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Query that the documents are scored by
    #[arg(short, long, value_name = "TEXT")]
    query: String,
    /// A document; may be given several times [default: each line of standard input is one]
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    prompt: Vec<String>,
    /// Read the documents from a file, one from each line; - is standard input
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    #[command(flatten)]
    bad: BadTextArgs,
    /// Print only the best N documents, the best first [default: all, in their order]
    #[arg(long, value_name = "N", value_parser = whole_number(0..=usize::MAX))]
    top_n: Option<usize>,
    /// Print one JSON object for each document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// A document and what the model says of it.
struct Scored {
    index: usize,
    text: String,
    n_tokens: usize,
    /// The first one counts; classifiers of several labels give more.
    scores: Vec<f32>,
}

/// Prints the scores of the documents.
pub fn rerank(args: &RerankArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let (model, tokenizer, engine) = args.engine.open_encoder(&args.model, &args.context)?;
    let mut reranker = Reranker {
        file: model.file().clone(),
        path: model.path().into(),
        args,
        tokenizer,
        engine,
        best: Vec::new(),
    };
    each_text(&args.prompt, args.file.as_deref(), args.bad, &mut reranker, out)?;
    reranker.write_best(out)
}

/// State that every document needs.
struct Reranker<'a> {
    /// The model's file, and where it is.
    file: Arc<GgufFile>,
    path: PathBuf,
    args: &'a RerankArgs,
    tokenizer: Tokenizer,
    engine: Engine,
    /// The best so far, if only those are wanted.
    best: Vec<Scored>,
}

impl Work for Reranker<'_> {
    fn model_path(&self) -> &Path {
        &self.path
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut pair = self.pair(text)?;
        if self.args.bad.truncate && pair.len() > self.engine.text_tokens_max() {
            pair = self.pair(self.fitting(text)?)?;
        }
        check_len(pair.len(), self.engine.text_tokens_max())?;
        Ok(pair)
    }

    fn compute(&mut self, pairs: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.file.check_uncut().map_err(EngineError::File)?;
        self.engine.embed(pairs, Pooling::Rank)
    }

    fn write(&mut self, answered: Answered, out: &mut dyn Write) -> Result<(), CliError> {
        let Answered { index, text, n_tokens, vectors: Some(scores) } = answered else {
            return Ok(());
        };
        let scored = Scored { index, text, n_tokens, scores };
        let Some(top_n) = self.args.top_n else { return self.write_score(&scored, out) };
        // Of equals the first come first.
        let place = self.best.partition_point(|best| best.scores[0] >= scored.scores[0]);
        self.best.insert(place, scored);
        self.best.truncate(top_n);
        Ok(())
    }
}

impl Reranker<'_> {
    /// The tokens of the query and a document.
    fn pair(&self, document: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode_pair(&self.args.query, document).map_err(|error| error.to_string())
    }

    /// The longest beginning of a document, in whole characters, with which the pair fits: what
    /// follows the document in a template is not cut.
    fn fitting<'t>(&self, document: &'t str) -> Result<&'t str, String> {
        let ends: Vec<usize> = document.char_indices().map(|(at, _)| at).collect();
        let (mut fits, mut too_long) = (0, ends.len());
        while too_long - fits > 1 {
            let middle = fits + (too_long - fits) / 2;
            match self.pair(&document[..ends[middle]])?.len() <= self.engine.text_tokens_max() {
                true => fits = middle,
                false => too_long = middle,
            }
        }
        Ok(&document[..ends.get(fits).copied().unwrap_or(0)])
    }

    fn write_best(&self, out: &mut dyn Write) -> Result<(), CliError> {
        self.best.iter().try_for_each(|scored| self.write_score(scored, out))
    }

    fn write_score(&self, scored: &Scored, out: &mut dyn Write) -> Result<(), CliError> {
        let Scored { index, text, n_tokens, scores } = scored;
        if !self.args.json {
            return Ok(writeln!(out, "{:?}\t{text}", scores[0])?);
        }
        let mut object = json!({
            "index": index, "tokens": n_tokens, "relevance_score": scores[0], "document": text,
        });
        if scores.len() > 1 {
            object["scores"] = json!(scores);
        }
        Ok(writeln!(out, "{object}")?)
    }
}

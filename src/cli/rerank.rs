//! `teff rerank`: how well documents answer a query, by the scores of a reranker.
//!
//! A cross-encoder reads query and document together, so that each document costs as much as a
//! prompt of both.

use super::lines::each_group;
use super::options::{ContextArgs, EngineArgs, ModelArgs};
use super::{CliError, interrupt};
use crate::engine::Engine;
use crate::model::Pooling;
use crate::text::Tokenizer;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// `teff rerank`
#[derive(clap::Args, Debug)]
pub struct RerankArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// What the documents are scored by
    #[arg(short, long, value_name = "TEXT")]
    query: String,
    /// A document; may be given several times [default: each line of standard input is one]
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    prompt: Vec<String>,
    /// Read the documents from a file, one from each line
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Print only the best N documents, the best first [default: all, in their order]
    #[arg(long, value_name = "N")]
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
    let cancel = interrupt::flag()?;
    let (_, tokenizer, engine) = args.engine.open_encoder(&args.model, &args.context)?;
    let mut reranker = Reranker { args, tokenizer, engine, best: Vec::new(), done: 0 };
    each_group(&args.prompt, args.file.as_deref(), cancel, |texts| reranker.score(texts, out))?;
    reranker.write_best(out)
}

/// What is needed for each group of documents.
struct Reranker<'a> {
    args: &'a RerankArgs,
    tokenizer: Tokenizer,
    engine: Engine,
    /// The best so far, if only those are wanted.
    best: Vec<Scored>,
    /// Documents so far.
    done: usize,
}

impl Reranker<'_> {
    /// Scores some documents, and prints them if all are wanted.
    fn score(&mut self, texts: &[String], out: &mut dyn Write) -> Result<(), CliError> {
        let pairs = texts.iter().map(|text| self.tokenizer.encode_pair(&self.args.query, text));
        let pairs: Vec<Vec<u32>> = pairs.collect::<Result<_, _>>()?;
        let scores = self.engine.embed(&pairs, Pooling::Rank);
        let scores = scores.map_err(|error| error.after_texts(self.done))?;
        for ((text, pair), scores) in texts.iter().zip(pairs).zip(scores) {
            let text = text.clone();
            let scored = Scored { index: self.done, text, n_tokens: pair.len(), scores };
            self.done += 1;
            match self.args.top_n {
                None => self.write(&scored, out)?,
                Some(_) => self.best.push(scored),
            }
        }
        // Sorting is stable: of equals the first come first.
        self.best.sort_by(|a, b| b.scores[0].total_cmp(&a.scores[0]));
        self.best.truncate(self.args.top_n.unwrap_or(0));
        Ok(out.flush()?)
    }

    fn write_best(&self, out: &mut dyn Write) -> Result<(), CliError> {
        self.best.iter().try_for_each(|scored| self.write(scored, out))
    }

    fn write(&self, scored: &Scored, out: &mut dyn Write) -> Result<(), CliError> {
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

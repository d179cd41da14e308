//! `teff embed`: texts to vectors, several texts at a time as they come.

use super::CliError;
use super::engine_args::{ContextArgs, EngineArgs};
use super::lines::{Answered, BadTextArgs, Work, check_len, each_text};
use super::options::ModelArgs;
use crate::engine::{Engine, EngineError, normalize};
use crate::model::Pooling;
use crate::text::{EncodeOptions, Tokenizer};
use gguf_rs_lite::GgufFile;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `teff embed`
#[derive(clap::Args, Debug)]
pub struct EmbedArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A text; may be given several times [default: each line of standard input is one]
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    prompt: Vec<String>,
    /// Read the texts from a file, one from each line; - is standard input
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    #[command(flatten)]
    bad: BadTextArgs,
    /// Pooling of a text's vectors into one: mean, cls (the first), last, or none for all of them
    /// [default: as the model's file says, else mean]
    #[arg(long, value_name = "TYPE")]
    pooling: Option<PoolingArg>,
    /// Leave the vectors as long as they are, instead of dividing them by their lengths
    #[arg(long)]
    no_normalize: bool,
    /// Print one JSON object for each text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    context: ContextArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// [`Pooling`] on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum PoolingArg {
    None,
    Mean,
    Cls,
    Last,
}

impl From<PoolingArg> for Pooling {
    fn from(arg: PoolingArg) -> Pooling {
        match arg {
            PoolingArg::None => Pooling::None,
            PoolingArg::Mean => Pooling::Mean,
            PoolingArg::Cls => Pooling::Cls,
            PoolingArg::Last => Pooling::Last,
        }
    }
}

/// Prints the embeddings of the texts, in their order.
pub fn embed(args: &EmbedArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let (model, tokenizer, engine) = args.engine.open_encoder(&args.model, &args.context)?;
    let pooling = args.pooling.map(Pooling::from).or(model.spec().pooling);
    let pooling = pooling.unwrap_or(Pooling::Mean);
    if pooling == Pooling::Rank {
        return Err(CliError::failed(format!(
            "{}: the model is a reranker: `teff rerank` scores documents by a query, and --pooling \
             turns texts into vectors all the same",
            model.path().display()
        )));
    }
    let mut embedder = Embedder {
        file: model.file().clone(),
        path: model.path().into(),
        args,
        tokenizer,
        engine,
        pooling,
        written: 0,
    };
    each_text(&args.prompt, args.file.as_deref(), args.bad, &mut embedder, out)
}

/// State that every text needs.
struct Embedder<'a> {
    /// The model's file, and where it is.
    file: Arc<GgufFile>,
    path: PathBuf,
    args: &'a EmbedArgs,
    tokenizer: Tokenizer,
    engine: Engine,
    pooling: Pooling,
    /// Texts so far.
    written: usize,
}

impl Work for Embedder<'_> {
    fn model_path(&self) -> &Path {
        &self.path
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>, String> {
        let options = EncodeOptions { add_special: true, parse_special: false };
        let mut tokens = self.tokenizer.encode(text, options).map_err(|e| e.to_string())?;
        let max = self.engine.text_tokens_max();
        if self.args.bad.truncate && tokens.len() > max {
            let end = tokens.last().copied().filter(|_| self.tokenizer.adds_eos());
            tokens.truncate(max);
            if let (Some(last), Some(end)) = (tokens.last_mut(), end) {
                *last = end;
            }
        }
        check_len(tokens.len(), max)?;
        Ok(tokens)
    }

    fn compute(&mut self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.file.check_uncut().map_err(EngineError::File)?;
        self.engine.embed(texts, self.pooling)
    }

    fn write(&mut self, answered: Answered, out: &mut dyn Write) -> Result<(), CliError> {
        let Answered { index, n_tokens, vectors, .. } = answered;
        let n_out = self.engine.decoder().n_out();
        let is_skipped = vectors.is_none();
        let mut vectors = vectors.unwrap_or_default();
        if !self.args.no_normalize {
            vectors.chunks_exact_mut(n_out).for_each(normalize);
        }
        let rows: Vec<&[f32]> = vectors.chunks_exact(n_out).collect();
        match (self.args.json, is_skipped) {
            // An object that is not there is told by the numbers of the others.
            (true, true) => {}
            (true, false) => self.write_json(index, n_tokens, &rows, out)?,
            (false, true) => writeln!(out)?,
            (false, false) => self.write_text(&rows, out)?,
        }
        self.written += 1;
        Ok(())
    }
}

impl Embedder<'_> {
    /// One line for each vector; of several for each text, an empty line is between texts.
    fn write_text(&self, rows: &[&[f32]], out: &mut dyn Write) -> Result<(), CliError> {
        if self.pooling == Pooling::None && self.written > 0 {
            writeln!(out)?;
        }
        for row in rows {
            write_numbers(row, " ", out)?;
            writeln!(out)?;
        }
        Ok(())
    }

    fn write_json(
        &self,
        index: usize,
        n_tokens: usize,
        rows: &[&[f32]],
        out: &mut dyn Write,
    ) -> Result<(), CliError> {
        write!(out, "{{\"index\":{index},\"tokens\":{n_tokens},\"embedding\":")?;
        let is_list = self.pooling == Pooling::None;
        out.write_all(if is_list { b"[" } else { b"" })?;
        for (i, row) in rows.iter().enumerate() {
            out.write_all(if i > 0 { b",[" } else { b"[" })?;
            write_numbers(row, ",", out)?;
            out.write_all(b"]")?;
        }
        Ok(writeln!(out, "{}}}", if is_list { "]" } else { "" })?)
    }
}

/// Numbers with as many digits as tell them apart from their neighbours.
fn write_numbers(numbers: &[f32], between: &str, out: &mut dyn Write) -> std::io::Result<()> {
    for (i, number) in numbers.iter().enumerate() {
        let between = if i > 0 { between } else { "" };
        write!(out, "{between}{number:?}")?;
    }
    Ok(())
}

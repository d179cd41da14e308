//! `teff embed`: texts to vectors, several texts at a time as they come.

use super::lines::each_group;
use super::options::{ContextArgs, EngineArgs, ModelArgs};
use super::{CliError, interrupt};
use crate::engine::{Engine, normalize};
use crate::model::Pooling;
use crate::text::{EncodeOptions, Tokenizer};
use std::io::Write;
use std::path::PathBuf;

/// `teff embed`
#[derive(clap::Args, Debug)]
pub struct EmbedArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A text; may be given several times [default: each line of standard input is one]
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    prompt: Vec<String>,
    /// Read the texts from a file, one from each line
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// How the vectors of a text's tokens become one: mean, cls (the first), last, or none for all
    /// of them [default: what the model's file says, else mean]
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

/// Prints the vectors of the texts, in their order.
pub fn embed(args: &EmbedArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let cancel = interrupt::flag()?;
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
    let mut embedder = Embedder { args, tokenizer, engine, pooling, done: 0 };
    each_group(&args.prompt, args.file.as_deref(), cancel, |texts| embedder.embed(texts, out))
}

/// What is needed for each group of texts.
struct Embedder<'a> {
    args: &'a EmbedArgs,
    tokenizer: Tokenizer,
    engine: Engine,
    pooling: Pooling,
    /// Texts so far.
    done: usize,
}

impl Embedder<'_> {
    /// Prints the vectors of some texts.
    fn embed(&mut self, texts: &[String], out: &mut dyn Write) -> Result<(), CliError> {
        let options = EncodeOptions { add_special: true, parse_special: false };
        let tokens = texts.iter().map(|text| self.tokenizer.encode(text, options));
        let tokens: Vec<Vec<u32>> = tokens.collect::<Result<_, _>>()?;
        let vectors = self.engine.embed(&tokens, self.pooling);
        let vectors = vectors.map_err(|error| error.after_texts(self.done))?;
        let n_out = self.engine.decoder().n_out();
        for (mut vectors, tokens) in vectors.into_iter().zip(tokens) {
            if !self.args.no_normalize {
                vectors.chunks_exact_mut(n_out).for_each(normalize);
            }
            let rows: Vec<&[f32]> = vectors.chunks_exact(n_out).collect();
            match self.args.json {
                true => self.write_json(tokens.len(), &rows, out)?,
                false => self.write_text(&rows, out)?,
            }
            self.done += 1;
        }
        Ok(out.flush()?)
    }

    /// One line for each vector; of several for each text, an empty line is between texts.
    fn write_text(&self, rows: &[&[f32]], out: &mut dyn Write) -> Result<(), CliError> {
        if self.pooling == Pooling::None && self.done > 0 {
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
        n_tokens: usize,
        rows: &[&[f32]],
        out: &mut dyn Write,
    ) -> Result<(), CliError> {
        write!(out, "{{\"index\":{},\"tokens\":{n_tokens},\"embedding\":", self.done)?;
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

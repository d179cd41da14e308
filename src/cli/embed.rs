//! `teff embed`: texts to vectors, several texts at a time as they come.

use super::options::{ContextArgs, EngineArgs, ModelArgs};
use super::{CliError, interrupt};
use crate::backend::pages::KvType;
use crate::engine::{Engine, EngineOptions, normalize};
use crate::model::Pooling;
use crate::text::{EncodeOptions, TEXT_BYTES_MAX, Tokenizer};
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write, stderr, stdin};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Texts that are handed over together, if as many have come: enough for several steps.
pub(super) const TEXTS_MAX: usize = 64;
/// Bytes of the lines that are read at a time: as much as a pipe holds.
const READ_BYTES: usize = 64 << 10;

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
    let options = EngineOptions {
        n_ctx: args.context.ctx.map(|n| n as usize),
        // Which pays for tokens one by one.
        repack: false,
        ..args.engine.options(KvType::F32)?
    };
    let mut model = args.engine.open(&args.model)?;
    model.give_vectors();
    let tokenizer = model.tokenizer()?;
    let engine = Engine::new(&model, &options)?;
    args.engine.lock(&model, &engine)?;
    for warning in tokenizer.warnings() {
        writeln!(stderr(), "warning: {warning}")?;
    }
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
    if !args.prompt.is_empty() {
        return args.prompt.chunks(TEXTS_MAX).try_for_each(|texts| embedder.embed(texts, out));
    }
    let mut lines = Lines::open(args.file.as_deref())?;
    loop {
        let mut texts = Vec::new();
        while let Some(text) = lines.next()? {
            texts.push(text);
            // Whoever waits for an answer before the next line gets it.
            if texts.len() == TEXTS_MAX || !lines.has_next() {
                break;
            }
        }
        if texts.is_empty() || cancel.load(Ordering::Relaxed) {
            return Ok(());
        }
        embedder.embed(&texts, out)?;
    }
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

/// The lines of an input.
pub(super) struct Lines<'a> {
    reader: BufReader<Box<dyn Read>>,
    name: &'a Path,
    /// Lines so far.
    number: usize,
}

impl<'a> Lines<'a> {
    /// Of a file, or of standard input.
    pub(super) fn open(file: Option<&'a Path>) -> Result<Lines<'a>, CliError> {
        let (input, name): (Box<dyn Read>, &Path) = match file {
            Some(path) => (Box::new(File::open(path).map_err(CliError::at(path))?), path),
            None => (Box::new(stdin().lock()), Path::new("standard input")),
        };
        if file.is_none() && stdin().is_terminal() {
            writeln!(stderr(), "Type one text on each line, then Ctrl-D on a line of its own.")?;
        }
        Ok(Lines { reader: BufReader::with_capacity(READ_BYTES, input), name, number: 0 })
    }

    /// The next line without its end, or `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<String>, CliError> {
        self.number += 1;
        let mut line = Vec::new();
        let mut limited = self.reader.by_ref().take(TEXT_BYTES_MAX as u64 + 1);
        limited.read_until(b'\n', &mut line).map_err(CliError::at(self.name))?;
        if line.is_empty() {
            return Ok(None);
        }
        let at = |problem: &str| {
            CliError::failed(format!("{}, line {}: {problem}", self.name.display(), self.number))
        };
        if line.len() > TEXT_BYTES_MAX {
            return Err(at(&format!("longer than {TEXT_BYTES_MAX} bytes")));
        }
        let text = String::from_utf8(line).map_err(|_| at("is not UTF-8"))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_string()))
    }

    /// Whether a further line has come already.
    pub(super) fn has_next(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }
}

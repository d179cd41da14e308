//! `teff tokenize` and `teff detokenize`.

use super::lines::without_bom;
use super::options::{ModelArgs, parse_ids};
use super::{CliError, interrupt};
use crate::text::{EncodeOptions, Tokenizer};
use std::fmt::Display;
use std::io::{Read, Write, stdin};
use std::path::Path;
use std::sync::atomic::Ordering;

/// Standard input, in messages.
const STDIN: &str = "standard input";

/// `teff tokenize`
#[derive(clap::Args, Debug)]
pub struct TokenizeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Add the tokens that begin and end a text, as the model's file says
    #[arg(long)]
    bos: bool,
    /// Recognize control tokens such as <|im_end|> in the text
    #[arg(long)]
    parse_special: bool,
    /// Read many texts: one JSON string per line, for which one line is written
    #[arg(long)]
    json_lines: bool,
}

/// `teff detokenize`
#[derive(clap::Args, Debug)]
pub struct DetokenizeArgs {
    #[command(flatten)]
    model: ModelArgs,
}

/// Only the vocabulary is needed: files without a network will do.
fn tokenizer(model: &ModelArgs) -> Result<Tokenizer, CliError> {
    let (file, path) = model.file()?;
    let tokenizer = Tokenizer::from_gguf(&file).map_err(CliError::of_model(&path))?;
    for warning in tokenizer.warnings() {
        super::note(format_args!("warning: {warning}"));
    }
    Ok(tokenizer)
}

/// Standard input, as text.
fn input() -> Result<String, CliError> {
    let mut text = String::new();
    let at = CliError::at(Path::new(STDIN));
    stdin().lock().read_to_string(&mut text).map_err(at)?;
    Ok(without_bom(&text).to_string())
}

/// Text on standard input to a JSON array of ids.
pub fn tokenize(args: &TokenizeArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let tokenizer = tokenizer(&args.model)?;
    let options = EncodeOptions { add_special: args.bos, parse_special: args.parse_special };
    let input = input()?;
    let mut write = |text: &str, place: &dyn Display| -> Result<(), CliError> {
        let failed = |error| CliError::failed(format!("{place}: {error}"));
        let ids = tokenizer.encode(text, options).map_err(failed)?;
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        Ok(interrupt::whole(|| writeln!(out, "[{}]", ids.join(",")))?)
    };
    if !args.json_lines {
        return write(&input, &STDIN);
    }
    let n_done = interrupt::count("text");
    for (line, number) in input.lines().zip(1..) {
        let place = format!("{STDIN}, line {number}");
        let text: String = serde_json::from_str(line)
            .map_err(|error| CliError::failed(format!("{place}: no JSON string: {error}")))?;
        write(&text, &place)?;
        n_done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// A JSON array of ids on standard input to text.
pub fn detokenize(args: &DetokenizeArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let tokenizer = tokenizer(&args.model)?;
    let ids = parse_ids(&input()?)
        .map_err(|error| CliError::failed(format!("standard input: {error}")))?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= tokenizer.vocab_size()) {
        let n = tokenizer.vocab_size();
        let message = format!("standard input: token id {id} is not in the vocabulary of {n}");
        return Err(CliError::failed(message));
    }
    out.write_all(tokenizer.decode(&ids, true).as_bytes())?;
    Ok(())
}

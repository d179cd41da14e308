//! The datasets of `teff tune`, to learn from and to measure: texts cut into chunks, or conversations.
//!
//! A line of a file of conversations is a JSON object with `messages`, as APIs have them. The model's chat
//! template makes tokens of it; only the answers count, each from behind what stands in front of it to its
//! end. A token that has the end of what stands in front and the beginning of the answer, such as a space
//! and a letter, is the answer's.

use crate::cli::corpus::read_text;
use crate::cli::options::{TOKENS_MAX, whole_number};
use crate::cli::{CliError, lines, note};
use crate::engine::Model;
use crate::eval::Chunks;
use crate::model::describe::counted;
use crate::text::{Prompter, Tokenizer};
use crate::tune::Sequence;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Tokens in a sequence when nobody says.
const N_CTX_DEFAULT: usize = 256;
/// Part of what there is to learn that is measured instead where no other text is given, and its most.
const HELD_OUT_PART: usize = 16;
const HELD_OUT_MAX: usize = 8;
/// Sequences that are measured when nobody says.
const EVAL_DEFAULT: u32 = 8;

/// What to learn from.
#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("learned").args(["file", "chats"]).required(true)))]
pub struct DataArgs {
    /// The text to learn from; - is standard input
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Conversations to learn the answers of: JSON objects with `messages`, one on a line
    #[arg(long, value_name = "PATH")]
    chats: Option<PathBuf>,
    /// What is measured, in the same form [default: the end of what there is to learn from, which is then
    /// left out]
    #[arg(long, value_name = "PATH")]
    eval: Option<PathBuf>,
    /// Measure the first N sequences only
    #[arg(long, value_name = "N", default_value_t = EVAL_DEFAULT, value_parser = whole_number(1..=TOKENS_MAX))]
    eval_chunks: u32,
    /// Tokens in a sequence; longer conversations are cut there [default: the model's context, at most 256]
    #[arg(long, value_name = "TOKENS", value_parser = whole_number(4..=TOKENS_MAX))]
    ctx: Option<u32>,
}

/// Sequences of tokens, to learn from and to measure.
pub struct Dataset {
    /// Sequences that are learned from.
    pub train: Vec<Sequence>,
    /// Sequences that are measured.
    pub held_out: Vec<Sequence>,
}

impl Dataset {
    /// Tokens of the longest.
    pub fn longest(&self) -> usize {
        let all = self.train.iter().chain(&self.held_out);
        all.map(|sequence| sequence.tokens.len()).max().unwrap_or(1)
    }
}

impl DataArgs {
    /// The files, each with what it is.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let file = self.file.as_deref().filter(|path| path.as_os_str() != "-");
        let all =
            [("text", file), ("chats", self.chats.as_deref()), ("eval", self.eval.as_deref())];
        all.into_iter().filter_map(|(name, path)| Some((name, path?)))
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.named().map(|(_, path)| path)
    }

    /// Reads all.
    ///
    /// # Errors
    /// A file cannot be read, is none of its form, or has too little.
    pub fn read(&self, model: &Model, tokenizer: &Tokenizer) -> Result<Dataset, CliError> {
        let n_ctx = self
            .ctx
            .map_or_else(|| model.spec().n_ctx_default(N_CTX_DEFAULT), |n_ctx| n_ctx as usize);
        let read = |path: &Path| match &self.chats {
            Some(_) => chats(path, tokenizer, n_ctx),
            None => texts(path, tokenizer, n_ctx),
        };
        let path = self.chats.as_deref().or(self.file.as_deref()).unwrap_or(Path::new("-"));
        let mut train = read(path)?;
        let most = self.eval_chunks as usize;
        let mut held_out = match &self.eval {
            Some(path) => read(path)?,
            None => {
                let n = (train.len() / HELD_OUT_PART).clamp(1, HELD_OUT_MAX);
                train.split_off(train.len().saturating_sub(n))
            }
        };
        held_out.truncate(most);
        match train.is_empty() {
            true => Err(CliError::failed(format!(
                "{}: fills one sequence of {n_ctx} tokens, and one to measure is needed besides: a longer \
                 text, --eval or a shorter --ctx",
                path.display()
            ))),
            false => Ok(Dataset { train, held_out }),
        }
    }
}

fn texts(path: &Path, tokenizer: &Tokenizer, n_ctx: usize) -> Result<Vec<Sequence>, CliError> {
    let at = CliError::of_model::<crate::eval::EvalError>(path);
    let chunks = Chunks::of_text(tokenizer, &read_text(path)?, n_ctx).map_err(at)?;
    Ok(chunks.iter().map(Sequence::of_text).collect())
}

fn chats(path: &Path, tokenizer: &Tokenizer, n_ctx: usize) -> Result<Vec<Sequence>, CliError> {
    let text = read_text(path)?;
    let prompter = Prompter::new(tokenizer)?;
    let (mut all, mut cut) = (Vec::new(), 0);
    for (number, line) in lines::without_bom(&text).lines().enumerate() {
        let failed = |what: String| {
            CliError::failed(format!("{}: line {}: {what}", path.display(), number + 1))
        };
        if line.trim().is_empty() {
            continue;
        }
        let value: Value =
            serde_json::from_str(line).map_err(|error| failed(format!("no JSON: {error}")))?;
        for mut sequence in conversation(&value, &prompter).map_err(failed)? {
            sequence.tokens.truncate(n_ctx);
            sequence.counts.truncate(sequence.tokens.len() - 1);
            match sequence.n_counted() {
                0 => cut += 1,
                _ => all.push(sequence),
            }
        }
    }
    if cut > 0 {
        note(format_args!(
            "warning: {}: {} left out, beginning behind {n_ctx} tokens (--ctx)",
            path.display(),
            counted(cut, "answer")
        ));
    }
    match all.is_empty() {
        true => Err(CliError::failed(format!("{}: no answer to learn from", path.display()))),
        false => Ok(all),
    }
}

/// The sequences of a conversation: one with all answers where the template renders each beginning as it
/// renders the whole, else one for each answer.
fn conversation(value: &Value, prompter: &Prompter<'_>) -> Result<Vec<Sequence>, String> {
    let messages = value.get("messages").and_then(Value::as_array);
    let messages = messages.ok_or("no object with `messages`")?;
    let prompt = |n: usize, answers: bool| {
        let mut input = json!({ "messages": messages[..n], "add_generation_prompt": answers });
        if let Some(tools) = value.get("tools") {
            input["tools"] = tools.clone();
        }
        prompter.conversation(&input).map_err(|error| error.to_string())
    };
    let is_answer = |message: &Value| message["role"] == "assistant";
    let Some(last) = messages.iter().rposition(is_answer) else { return Ok(Vec::new()) };
    let whole = prompt(last + 1, false)?.ids;
    let (mut joined, mut apart) = (vec![false; whole.len().saturating_sub(1)], Vec::new());
    for (at, _) in messages.iter().enumerate().filter(|(_, message)| is_answer(message)) {
        let (before, with) = (prompt(at, true)?, prompt(at + 1, false)?);
        let goes_on = with.rendered.text.starts_with(&before.rendered.text);
        let with = with.ids;
        let common = before.ids.iter().zip(&with).take_while(|(a, b)| a == b).count();
        if !goes_on || common == 0 || with.len() == common {
            return Err(format!(
                "message {}: the template does not go on where it lets answer",
                at + 1
            ));
        }
        let counted = common - 1..with.len() - 1;
        if whole.starts_with(&with) {
            joined[counted].fill(true);
        } else {
            let mut counts = vec![false; with.len() - 1];
            counts[counted].fill(true);
            apart.push(Sequence { tokens: with, counts });
        }
    }
    if joined.contains(&true) {
        apart.push(Sequence { tokens: whole, counts: joined });
    }
    Ok(apart)
}

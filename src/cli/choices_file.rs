//! Multiple-choice questions as JSON, one object on a line, in the forms in which the well-known
//! collections are published:
//!
//! - `{"context": .., "endings": [..], "label": 0}`, HellaSwag's with `ctx` and the label as text too,
//! - `{"contexts": [..], "ending": .., "label": 0}` for texts that differ in front,
//! - Winogrande's `{"sentence": "a _ b", "option1": .., "option2": .., "answer": "1"}`,
//! - ARC's `{"question": {"stem": .., "choices": [{"text": .., "label": "A"}, ..]}, "answerKey": "A"}`.

use super::CliError;
use crate::eval::Question;
use crate::text::Tokenizer;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Bytes of a line, at most: a question is a few sentences.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Questions of a file, at most: ten times the largest collection.
const QUESTIONS_MAX: usize = 1_000_000;

/// The questions of a file.
///
/// # Errors
/// The file cannot be read, or a line is no question; the line is named.
pub fn read(path: &Path, tokenizer: &Tokenizer) -> Result<Vec<Question>, CliError> {
    let mut reader = BufReader::new(std::fs::File::open(path).map_err(CliError::at(path))?);
    let mut questions = Vec::new();
    for number in 1.. {
        let failed =
            |what: String| CliError::failed(format!("{}: line {number}: {what}", path.display()));
        let mut line = Vec::new();
        let mut limited = reader.by_ref().take(LINE_BYTES_MAX);
        if limited.read_until(b'\n', &mut line).map_err(CliError::at(path))? == 0 {
            break;
        }
        if line.len() as u64 == LINE_BYTES_MAX {
            return Err(failed(format!("longer than {LINE_BYTES_MAX} bytes")));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        if questions.len() == QUESTIONS_MAX {
            return Err(failed(format!("more than {QUESTIONS_MAX} questions")));
        }
        let value = serde_json::from_slice(&line).map_err(|e| failed(format!("no JSON: {e}")))?;
        questions.push(question(&value, tokenizer).map_err(failed)?);
    }
    match questions.is_empty() {
        true => Err(CliError::failed(format!("{}: no question", path.display()))),
        false => Ok(questions),
    }
}

/// The question that an object is.
fn question(value: &Value, tokenizer: &Tokenizer) -> Result<Question, String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let context = text("context").or_else(|| text("ctx"));
    let asked = if let (Some(context), Some(endings)) = (context, value.get("endings")) {
        Question::endings(tokenizer, context, &texts(endings, "endings")?, label(value)?)
    } else if let (Some(contexts), Some(ending)) = (value.get("contexts"), text("ending")) {
        Question::contexts(tokenizer, &texts(contexts, "contexts")?, ending, label(value)?)
    } else if let Some(sentence) = text("sentence") {
        let (before, after) = sentence.split_once('_').ok_or("`sentence` has no `_`")?;
        let options = ["option1", "option2"].map(|key| text(key).map(|o| format!("{before}{o}")));
        let options = options.into_iter().collect::<Option<Vec<_>>>();
        let options = options.ok_or("`option1` and `option2` are no texts")?;
        let label = match text("answer") {
            Some("1") => 0,
            Some("2") => 1,
            _ => return Err("`answer` is neither \"1\" nor \"2\"".into()),
        };
        Question::contexts(tokenizer, &options, after, label)
    } else if let Some(stem) = value.pointer("/question/stem").and_then(Value::as_str) {
        let choices = value.pointer("/question/choices").and_then(Value::as_array);
        let choices = choices.ok_or("`choices` is no list")?;
        let part = |key| {
            let parts = choices.iter().map(|choice| choice.get(key)?.as_str().map(str::to_owned));
            parts.collect::<Option<Vec<String>>>().ok_or(format!("a choice has no text `{key}`"))
        };
        let (endings, labels) = (part("text")?, part("label")?);
        let key = text("answerKey").ok_or("`answerKey` is no text")?;
        let label = labels.iter().position(|label| label == key);
        Question::endings(tokenizer, stem, &endings, label.ok_or("`answerKey` is no choice")?)
    } else {
        let known = "`context` with `endings`, `contexts` with `ending`, `sentence`, `question`";
        return Err(format!("none of {known} is there"));
    };
    asked.map_err(|error| error.to_string())
}

fn texts(value: &Value, key: &str) -> Result<Vec<String>, String> {
    let list = value.as_array().map(|list| list.iter().map(|v| v.as_str().map(str::to_owned)));
    list.and_then(Iterator::collect).ok_or_else(|| format!("`{key}` is no list of texts"))
}

/// The number of the right choice, which HellaSwag writes as text.
fn label(value: &Value) -> Result<usize, String> {
    let label = value.get("label");
    let number = label.and_then(Value::as_u64);
    let number = number.or_else(|| label.and_then(Value::as_str)?.trim().parse().ok());
    number.and_then(|n| usize::try_from(n).ok()).ok_or_else(|| "`label` is no number".into())
}

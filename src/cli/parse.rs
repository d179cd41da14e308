//! `teff parse`: what a model's raw answer means.

use super::options::{ModelArgs, whole_number};
use super::{CliError, interrupt};
use crate::text::{Answer, AnswerFormat, AnswerParser, Tools, on_one_line};
use serde_json::{Value as Json, json};
use std::io::{Read, Write, stdin};

/// Standard input, in messages.
pub const STDIN: &str = "standard input";
/// Longest input that is read.
pub const INPUT_BYTES_MAX: u64 = 256 << 20;

/// `teff parse`
#[derive(clap::Args, Debug)]
pub struct ParseArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Family whose answer it is (hermes, llama3, mistral, ...), or auto: that of the model's chat
    /// template
    #[arg(long, value_name = "NAME")]
    family: Option<String>,
    /// Read the answer this many characters at a time, as if a model were writing it
    #[arg(long, value_name = "N", value_parser = whole_number(1..=u32::MAX as usize))]
    pieces: Option<usize>,
}

/// The object on standard input.
///
/// # Errors
/// It is no JSON object.
pub fn read_object() -> Result<Json, CliError> {
    let failed = |problem: String| CliError::failed(format!("{STDIN}: {problem}"));
    let mut bytes = Vec::new();
    stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(failed(format!("longer than {INPUT_BYTES_MAX} bytes")));
    }
    let value: Json =
        serde_json::from_slice(&bytes).map_err(|e| failed(format!("no JSON: {e}")))?;
    match value.is_object() {
        true => Ok(value),
        false => Err(failed("must be a JSON object".into())),
    }
}

/// Prints a line of JSON for the answer on standard input.
pub fn parse(args: &ParseArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let format = format(args)?;
    let input = read_object()?;
    let raw = input["raw"]
        .as_str()
        .ok_or_else(|| CliError::failed(format!("{STDIN}: `raw` must be a string")))?;
    let tools = match &input["tools"] {
        Json::Null => Tools::none(),
        tools @ Json::Array(_) => Tools::from_json(tools),
        _ => return Err(CliError::failed(format!("{STDIN}: `tools` must be a list"))),
    };
    let answer = match args.pieces {
        None => Answer::parse(format, tools, raw),
        Some(n) => in_pieces(format, tools, raw, n),
    };
    Ok(interrupt::whole(|| writeln!(out, "{}", spelled(&answer)))?)
}

fn format(args: &ParseArgs) -> Result<&'static AnswerFormat, CliError> {
    match args.family.as_deref() {
        Some(name) if name != "auto" => AnswerFormat::by_name(name).ok_or_else(|| {
            let names: Vec<&str> = AnswerFormat::all().iter().map(|format| format.name).collect();
            CliError::usage(format!("--family {name}: must be auto or one of {}", names.join(", ")))
        }),
        given => {
            if given.is_none() && !args.model.is_given() {
                return Err(CliError::usage("--family or -m says whose answer it is"));
            }
            let (file, _) = args.model.file()?;
            let text = |key| file.get(key).and_then(|value| value.as_str());
            let architecture = text("general.architecture").unwrap_or_default();
            Ok(AnswerFormat::of_template(text("tokenizer.chat_template"), architecture))
        }
    }
}

/// The answer of a text that comes `n` characters at a time.
fn in_pieces(format: &'static AnswerFormat, tools: Tools, raw: &str, n: usize) -> Answer {
    let mut parser = AnswerParser::new(format, tools).after_unknown_prompt();
    let mut answer = Answer::default();
    let mut rest = raw;
    while !rest.is_empty() {
        let end = rest.char_indices().nth(n).map_or(rest.len(), |(at, _)| at);
        parser.push(&rest[..end]).into_iter().for_each(|delta| answer.add(delta));
        rest = &rest[end..];
    }
    parser.finish().into_iter().for_each(|delta| answer.add(delta));
    answer
}

/// The answer in JSON. Arguments stay as the model wrote them.
fn spelled(answer: &Answer) -> String {
    let call = |call: &crate::text::ToolCall| {
        let id = match call.id_is_models {
            true => format!(",\"id\":{}", Json::from(call.id.as_str())),
            false => String::new(),
        };
        let name = Json::from(call.name.as_str());
        format!("{{\"name\":{name},\"arguments\":{}{id}}}", on_one_line(&call.arguments))
    };
    let calls: Vec<String> = answer.tool_calls.iter().map(call).collect();
    let texts = json!({ "content": answer.content, "reasoning": answer.reasoning }).to_string();
    format!("{},\"tool_calls\":[{}]}}", texts.trim_end_matches('}'), calls.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_one_line_of_json() {
        let tools = Tools::from_json(&json!([{ "function": { "name": "f" } }]));
        let raw = "a}\n<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1.0,\n\"y\": \" \"}}</tool_call>";
        let format = AnswerFormat::by_name("hermes").unwrap();
        let line = spelled(&Answer::parse(format, tools.clone(), raw));
        let expected = "{\"content\":\"a}\",\"reasoning\":\"\",\"tool_calls\":\
                        [{\"name\":\"f\",\"arguments\":{\"x\":1.0,\"y\":\" \"}}]}";
        assert_eq!(line, expected);
        assert_eq!(spelled(&in_pieces(format, tools, raw, 3)), expected);
    }
}

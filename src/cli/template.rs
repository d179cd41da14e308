//! `teff template`: the prompt that a chat template makes of a conversation.

use super::options::ModelArgs;
use super::parse::read_object;
use super::template_args::{parse_variable, template_source};
use super::{CliError, interrupt};
use crate::text::{ChatTemplate, TextError, Tokenizer, builtin_names};
use serde_json::Value as Json;
use std::io::Write;

/// `teff template`
#[derive(clap::Args, Debug)]
pub struct TemplateVerbArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Template in place of a model's: a Jinja file, or the name of a family's
    #[arg(long, value_name = "FILE|NAME")]
    file: Option<String>,
    /// Named template of the model's file [default: tool_use for conversations with tools where there
    /// is one, otherwise the one without a name]
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    name: Option<String>,
    /// Variable of the template; VALUE is JSON, or else a string. May be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    template_arg: Vec<(String, Json)>,
}

/// Writes the prompt, nothing else.
pub fn template(args: &TemplateVerbArgs, out: &mut dyn Write) -> Result<(), CliError> {
    if args.file.is_some() && args.model.is_given() {
        return Err(CliError::usage("--file and a model: which template is it to be?"));
    }
    if args.file.is_none() && !args.model.is_given() {
        return Err(CliError::usage("-m or --file says which template it is to be"));
    }
    let mut input = read_object()?;
    let (source, place) = match &args.file {
        Some(name) => (template_source(name)?, name.clone()),
        None => of_model(args, &mut input)?,
    };
    if let Some(fields) = input.as_object_mut() {
        fields.extend(args.template_arg.iter().cloned());
    }
    let failed = |error: TextError| CliError::failed(format!("{place}: {error}"));
    let template = ChatTemplate::new(&source).map_err(failed)?;
    let text = template.render_json(&input).map_err(failed)?;
    Ok(interrupt::whole(|| out.write_all(text.as_bytes()))?)
}

/// The source of a model's template and where it is from. The names of BOS and EOS become part of
/// the input unless they are.
fn of_model(args: &TemplateVerbArgs, input: &mut Json) -> Result<(String, String), CliError> {
    let (file, path) = args.model.file()?;
    let tokenizer = Tokenizer::from_gguf(&file).map_err(CliError::of_model(&path))?;
    let with_tools = input["tools"].as_array().is_some_and(|tools| !tools.is_empty());
    let found = match args.name.as_deref() {
        Some(name) => {
            let named = file.get(&format!("tokenizer.chat_template.{name}"));
            named.and_then(|value| value.as_str()).filter(|source| !source.trim().is_empty())
        }
        None => tokenizer.chat_template_for(with_tools),
    };
    let source = found.ok_or_else(|| {
        let place = path.display();
        CliError::failed(match &args.name {
            Some(name) => format!("{place}: no chat template named `{name}`"),
            None => format!(
                "{place}: no chat template (--file takes a file or one of {})",
                builtin_names()
            ),
        })
    })?;
    if let Some(fields) = input.as_object_mut() {
        for (name, id) in [("bos_token", tokenizer.bos()), ("eos_token", tokenizer.eos())] {
            let spelled = id.and_then(|id| tokenizer.token_str(id)).unwrap_or_default();
            fields.entry(name).or_insert_with(|| Json::from(spelled));
        }
    }
    Ok((source.to_owned(), path.display().to_string()))
}

//! Options about chat templates: which one, its variables, and the switch for reasoning.

use super::CliError;
use crate::engine::Model;
use crate::sample::{Filter, ReasoningBudget};
use crate::text::{
    AnswerFormat, ChatTemplate, EFFORTS, Prompter, TextError, Tokenizer, builtin_names,
    builtin_template, effort_variables, thinking_variables,
};
use serde_json::{Map, Value as Json};
use std::path::Path;

/// Chat template, and what is given to it.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TemplateArgs {
    /// Chat template in place of the model's: a Jinja file, or a family: chatml, llama2, llama3,
    /// gemma, mistral, phi3, deepseek, zephyr, vicuna, alpaca
    #[arg(long, value_name = "FILE|NAME")]
    chat_template: Option<String>,
    /// Variable of the template; VALUE is JSON, or else a string. May be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    template_arg: Vec<(String, Json)>,
    /// Have the model think before it answers, or not, or with so much effort (minimal, low, medium, high
    /// or max: what its chat template knows), or for at most this many tokens
    #[arg(long, value_name = "on|off|EFFORT|TOKENS", value_parser = parse_think)]
    think: Option<Think>,
}

/// Wishes about reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Think {
    /// Reason before the answer.
    On,
    /// Answer at once.
    Off,
    /// Reason with so much effort, one of [`EFFORTS`].
    Effort(&'static str),
    /// Reason for at most this many tokens.
    Budget(usize),
}

/// Parses `--think`.
fn parse_think(text: &str) -> Result<Think, String> {
    let number =
        text.strip_prefix("budget").map_or(text, |rest| rest.trim_start_matches([' ', '=', ':']));
    if let Some(effort) = EFFORTS.into_iter().find(|effort| *effort == text) {
        return Ok(Think::Effort(effort));
    }
    match (text, number.parse()) {
        ("on", _) => Ok(Think::On),
        ("off", _) => Ok(Think::Off),
        (_, Ok(n)) => Ok(Think::Budget(n)),
        _ => Err(format!(
            "must be on, off, one of {}, or the most tokens to think, as in 512",
            EFFORTS.join(", ")
        )),
    }
}

/// Parses `name=value`.
pub fn parse_variable(text: &str) -> Result<(String, Json), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            let json = serde_json::from_str(value).unwrap_or_else(|_| Json::from(value));
            Ok((name.to_owned(), json))
        }
        _ => Err("must be NAME=VALUE".into()),
    }
}

/// The source of a template: of a file, or the built-in one of a family.
///
/// # Errors
/// Neither is there.
pub fn template_source(name: &str) -> Result<String, CliError> {
    if let Some(template) = builtin_template(name) {
        return Ok(template.source.to_owned());
    }
    let path = Path::new(name);
    std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound if !name.contains(['/', '\\', '.']) => CliError::usage(
            format!("--chat-template {name}: neither a file nor one of {}", builtin_names()),
        ),
        _ => CliError::at(path)(error),
    })
}

impl TemplateArgs {
    /// The source that stands in for the model's, if one was named.
    ///
    /// # Errors
    /// As [`template_source`].
    pub fn source(&self) -> Result<Option<String>, CliError> {
        self.chat_template.as_deref().map(template_source).transpose()
    }

    /// The prompter with the template that was named, or the model's.
    ///
    /// # Errors
    /// The template does not parse.
    pub fn prompter<'t>(
        &self,
        tokenizer: &'t Tokenizer,
        source: Option<&str>,
    ) -> Result<Prompter<'t>, TextError> {
        match source {
            Some(source) => {
                Ok(Prompter::with_template(tokenizer, Some(ChatTemplate::new(source)?)))
            }
            None => Prompter::new(tokenizer),
        }
    }

    /// An error of the template, with the template's name if it is not the model's own.
    pub fn told(&self, error: &TextError) -> String {
        match (&self.chat_template, error) {
            (Some(name), TextError::Template(_) | TextError::MessageLost { .. }) => {
                format!("--chat-template {name}: {error}")
            }
            _ => error.to_string(),
        }
    }

    /// Adds the variables that were given, and the switch for reasoning, to a template's input.
    ///
    /// # Errors
    /// The template fails, or has no such switch.
    pub fn complete(
        &self,
        prompter: &Prompter<'_>,
        format: &AnswerFormat,
        input: &mut Json,
    ) -> Result<(), CliError> {
        let variables = Map::from_iter(self.template_arg.iter().cloned());
        let Some(fields) = input.as_object_mut() else { return Ok(()) };
        fields.extend(variables);
        let Some(think) = self.think else { return Ok(()) };
        let found = match think {
            Think::Effort(effort) => effort_variables(prompter, input, effort)?,
            think => thinking_variables(prompter, input, think != Think::Off)?,
        };
        let missing = |think: &str, hint: &str| {
            Err(CliError::failed(format!(
                "--think {think}: the chat template has no switch for that which is known here \
                 ({hint}--template-arg sets any variable)"
            )))
        };
        match (found, think) {
            (Some(switch), _) => {
                if let Some(fields) = input.as_object_mut() {
                    fields.extend(switch);
                }
                Ok(())
            }
            // A limit says nothing of whether there is reasoning at all.
            (None, Think::Budget(_)) => Ok(()),
            (None, Think::Effort(effort)) => missing(effort, ""),
            (None, think) => {
                let has_efforts =
                    effort_variables(prompter, input, "high").is_ok_and(|v| v.is_some());
                let always = format.opens_reasoning(&prompter.render(input)?.text);
                match (think, has_efforts) {
                    (Think::On, _) if always || has_efforts => Ok(()),
                    (Think::On, _) => missing("on", ""),
                    (_, true) => missing("off", "but for efforts, as in --think low; "),
                    (_, false) => missing("off", ""),
                }
            }
        }
    }

    /// The filter that limits reasoning, if there is to be one.
    ///
    /// # Errors
    /// The marks of reasoning are no tokens of the vocabulary.
    pub fn budget(
        &self,
        format: &AnswerFormat,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Box<dyn Filter>>, CliError> {
        let Some(Think::Budget(n_max)) = self.think else { return Ok(None) };
        let token = |mark| tokenizer.token_id(mark).filter(|id| tokenizer.is_special(*id));
        let mut pairs = format.reasoning_marks();
        let pair = pairs.find_map(|(open, close)| token(open).zip(token(close)));
        let (open, close) = pair.ok_or_else(|| {
            CliError::failed(format!(
                "--think {n_max}: the vocabulary has no tokens that open and close reasoning as \
                 models of the family `{}` do",
                format.name
            ))
        })?;
        Ok(Some(Box::new(ReasoningBudget::new(vec![open], vec![close], n_max))))
    }

    /// The format of answers to prompts by the template that was named, or the model's.
    pub fn format(
        &self,
        model: &Model,
        source: Option<&str>,
        tokenizer: &Tokenizer,
    ) -> &'static AnswerFormat {
        let architecture = model.file().get("general.architecture");
        let architecture = architecture.and_then(|value| value.as_str()).unwrap_or_default();
        AnswerFormat::of_template(source.or(tokenizer.chat_template()), architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::BUILTIN_TEMPLATES;
    use serde_json::json;

    #[test]
    fn wishes_about_reasoning_have_several_forms() {
        for (text, expected) in [
            ("on", Think::On),
            ("off", Think::Off),
            ("low", Think::Effort("low")),
            ("512", Think::Budget(512)),
            ("budget 0", Think::Budget(0)),
            ("budget=7", Think::Budget(7)),
        ] {
            assert_eq!(parse_think(text), Ok(expected), "{text}");
        }
        for text in ["", "yes", "-1", "budget", "1.5"] {
            assert!(parse_think(text).is_err(), "{text}");
        }
    }

    #[test]
    fn variables_are_json_or_else_strings() {
        let value = |text: &str| parse_variable(text).unwrap().1;
        assert_eq!(value("a=true"), json!(true));
        assert_eq!(value("a=high"), json!("high"));
        assert_eq!(value("a=b=c"), json!("b=c"));
        assert_eq!(value("a=[1]"), json!([1]));
        assert!(parse_variable("a").is_err() && parse_variable("=1").is_err());
    }

    #[test]
    fn help_names_every_built_in_template() {
        use clap::Args;
        let command = TemplateArgs::augment_args(clap::Command::new("x"));
        let arg = command.get_arguments().find(|arg| arg.get_id() == "chat_template").unwrap();
        let help = arg.get_help().unwrap().to_string();
        for template in BUILTIN_TEMPLATES {
            assert!(help.contains(template.name), "{help}");
        }
    }
}

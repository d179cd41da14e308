//! The flags of structured output.

use super::CliError;
use super::options::input_file;
use crate::engine::grammar::{GRAMMAR_BYTES_MAX, Grammar, GrammarError, Grammars};
use crate::sample::Filter;
use crate::text::Tokenizer;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Grammar that the answer has to follow.
#[derive(clap::Args, Debug, Default)]
#[group(multiple = false)]
pub struct GrammarArgs {
    /// Answer with a JSON document that a schema allows: a file, or the schema itself
    #[arg(long, value_name = "FILE|JSON", help_heading = "Structured output")]
    json_schema: Option<String>,
    /// Answer with a text that matches as a whole
    #[arg(long, value_name = "R", help_heading = "Structured output")]
    regex: Option<String>,
    /// Answer by a grammar in GBNF, llama.cpp's notation
    #[arg(long, value_name = "FILE", help_heading = "Structured output")]
    grammar: Option<PathBuf>,
    /// Answer by a grammar in llguidance's Lark
    #[arg(long, value_name = "FILE", help_heading = "Structured output")]
    lark: Option<PathBuf>,
}

/// A grammar, and the flag and file that it is from.
pub struct GivenGrammar {
    grammar: Grammar,
    name: String,
}

impl GrammarArgs {
    /// The grammar that the flags name.
    ///
    /// # Errors
    /// A file cannot be read, or has no grammar.
    pub fn read(&self) -> Result<Option<GivenGrammar>, CliError> {
        let of_file = |flag: &str, path: &Path| {
            let text = read_text(path)?;
            Ok::<_, CliError>((text, format!("--{flag} {}", path.display())))
        };
        let given = if let Some(schema) = &self.json_schema {
            let is_inline =
                schema.trim_start().starts_with('{') || matches!(schema.trim(), "true" | "false");
            let path = Path::new(schema);
            let (text, name) = match is_inline {
                true => (schema.clone(), "--json-schema".into()),
                false if !schema.contains(['/', '\\', '.', '-']) && !path.exists() => {
                    let problem = "neither a file nor a schema, which is in braces";
                    return Err(CliError::usage(format!("--json-schema {schema:?}: {problem}")));
                }
                false => of_file("json-schema", path)?,
            };
            Some((Grammar::JsonSchema(text), name))
        } else if let Some(regex) = &self.regex {
            Some((Grammar::Regex(regex.clone()), "--regex".into()))
        } else if let Some(path) = &self.grammar {
            let (text, name) = of_file("grammar", path)?;
            Some((Grammar::Gbnf(text), name))
        } else if let Some(path) = &self.lark {
            let (text, name) = of_file("lark", path)?;
            Some((Grammar::Lark(text), name))
        } else {
            None
        };
        let given = given.map(|(grammar, name)| GivenGrammar { grammar, name });
        if let Some(given) = &given {
            given.grammar.check().map_err(|error| given.refusal(&error))?;
        }
        Ok(given)
    }
}

impl GivenGrammar {
    /// The filter for an answer.
    ///
    /// # Errors
    /// The grammar is refused.
    pub fn filter(&self, tokenizer: &Arc<Tokenizer>) -> Result<Box<dyn Filter>, CliError> {
        let grammars = Grammars::new(tokenizer).map_err(|error| self.refusal(&error))?;
        grammars.filter(&self.grammar).map_err(|error| self.refusal(&error))
    }

    fn refusal(&self, error: &GrammarError) -> CliError {
        CliError::failed(format!("{}: {error}", self.name))
    }
}

/// The text of a file; `-` is standard input.
fn read_text(path: &Path) -> Result<String, CliError> {
    let at = CliError::at(path);
    let mut text = String::new();
    let limit = GRAMMAR_BYTES_MAX as u64 + 1;
    let read = match input_file(Some(path)) {
        Some(path) => {
            std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
        }
        None => std::io::stdin().take(limit).read_to_string(&mut text),
    };
    read.map_err(at)?;
    Ok(text)
}

//! Jinja2 for chat templates: a lexer, a parser and a tree-walking interpreter that follow Python's
//! Jinja2 3.1 as the model hub sets it up (`trim_blocks`, `lstrip_blocks`, loop controls, immutable
//! sandbox, `tojson` without escapes, `raise_exception`, `strftime_now`, `generation` tags).
//!
//! Why an engine of its own: two properties that no engine for Rust has. It spells and computes as
//! Python does (`repr`, floats, methods of strings, `%`), since one other character is another
//! prompt. And its strings know which of their bytes came from outside the template ([`Text`]), through
//! every filter and method, so that a user's text cannot become a control token.
//!
//! Limits: templates are untrusted code, so work, depth, lengths and sizes are bounded (`eval.rs`,
//! `value.rs`); integers have 127 bits; `include`, `import`, `extends` and `block` have nothing to work
//! on. What is missing is an error that names the construct. Marks are kept for strings only: a number
//! or boolean from outside is spelled as the template's own.

mod args;
mod ast;
mod error;
mod eval;
mod filters;
mod format;
mod json;
mod lexer;
mod methods;
mod parser;
mod text;
mod time;
mod value;

pub use error::{JinjaError, JinjaErrorKind};
pub use text::{Marked, Text};
#[cfg(feature = "serve")]
pub use time::strftime;
pub use value::{Dict, Value};

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    body: Vec<ast::Stmt>,
}

impl Template {
    /// Parses `source`.
    ///
    /// # Errors
    /// Syntax that Jinja2 refuses too, and constructs that are missing here.
    pub fn new(source: &str) -> Result<Self, JinjaError> {
        Ok(Self { body: parser::parse(source)? })
    }

    /// The text that the template makes of a dictionary. `clock` gives seconds since 1970 (UTC).
    ///
    /// # Errors
    /// What Python refuses too, what is missing here, and bounds.
    pub fn render(&self, context: &Value, clock: &dyn Fn() -> u64) -> Result<Marked, JinjaError> {
        let Value::Dict(context) = context else {
            return Err(JinjaError::operation("a template's input must be an object"));
        };
        eval::Interpreter::new(context.clone(), clock).render(&self.body)
    }
}

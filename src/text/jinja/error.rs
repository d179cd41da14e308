//! Errors of templates.

use std::fmt;

/// Why a template does not parse or render.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JinjaError {
    /// Line of the template, from 1; 0 if none is at fault.
    pub line: u32,
    /// Description of what is wrong.
    pub kind: JinjaErrorKind,
}

/// Kinds of errors, with what is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JinjaErrorKind {
    /// The source is no template.
    Syntax(String),
    /// Python's Jinja2 has this construct and the engine does not.
    Unsupported(String),
    /// An operation that Python refuses too.
    Operation(String),
    /// The template itself refuses its input, by `raise_exception`.
    Raised(String),
    /// A bound on work, size or depth is reached.
    Limit(&'static str),
}

/// Result of this room.
pub type Result<T> = std::result::Result<T, JinjaError>;

impl JinjaError {
    /// An operation that Python refuses too.
    pub fn operation(message: impl Into<String>) -> Self {
        Self { line: 0, kind: JinjaErrorKind::Operation(message.into()) }
    }

    /// A construct that is missing here.
    pub fn unsupported(construct: impl Into<String>) -> Self {
        Self { line: 0, kind: JinjaErrorKind::Unsupported(construct.into()) }
    }

    /// No template.
    pub fn syntax(message: impl Into<String>) -> Self {
        Self { line: 0, kind: JinjaErrorKind::Syntax(message.into()) }
    }

    /// A bound.
    pub fn limit(what: &'static str) -> Self {
        Self { line: 0, kind: JinjaErrorKind::Limit(what) }
    }

    /// Names the line unless an inner place has.
    pub fn at(mut self, line: u32) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

impl fmt::Display for JinjaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            JinjaErrorKind::Syntax(message) => write!(f, "syntax error: {message}")?,
            JinjaErrorKind::Unsupported(construct) => write!(f, "{construct} is not supported")?,
            JinjaErrorKind::Operation(message) => f.write_str(message)?,
            JinjaErrorKind::Raised(message) => write!(f, "the template refuses: {message}")?,
            JinjaErrorKind::Limit(what) => write!(f, "more {what} than a template may take")?,
        }
        match self.line {
            0 => Ok(()),
            line => write!(f, " (line {line})"),
        }
    }
}

impl std::error::Error for JinjaError {}

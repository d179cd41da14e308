//! The seam between APIs and engine: what a client wishes, in no API's shape, and the events of its
//! answers.
//!
//! An API file makes a [`Wish`] of its request; [`prepare`] renders and tokenizes it on a thread that may
//! block; [`Running`] are its answers under way, event by event, which the API file writes down in its own
//! shape, whole or as a stream. When a [`Running`] is dropped, its answers are cancelled.

mod calls;
mod forced;
mod infill;
mod prepare;
mod reader;
mod running;
mod sampling;
mod teller;
mod tools;

pub use infill::infill;
pub use prepare::{Prepared, prepare, prepared, render};
pub use reader::Reader;
pub use running::{End, Event, Finish, Running, Whole};
pub use sampling::sampling;
pub use tools::tools;

use crate::engine::grammar::Grammar;
use crate::sample::SampleParams;
use serde_json::{Map, Value as Json};

/// Wish of a client, in no API's form.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What is to be answered or continued.
    pub input: Input,
    /// Grammar that the answer follows, and the field that it is from.
    pub grammar: Option<(Grammar, String)>,
    /// Parameters of the sampler.
    pub sampling: SampleParams,
    /// Tokens of an answer, most.
    pub max_tokens: Option<usize>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Likeliest tokens to tell with each token; `None`: no probabilities.
    pub logprobs: Option<usize>,
    /// Answers.
    pub n: usize,
    /// Whether prefixes are kept and found.
    pub cache_prompt: bool,
    /// Whether the answer goes on where the model would end.
    pub ignore_eos: bool,
}

/// What is to be answered or continued.
#[derive(Clone, Debug)]
pub enum Input {
    /// A conversation.
    Chat(Box<Conversation>),
    /// A text; nothing in it is a control token.
    Text(String),
    /// A text in which names of control tokens are such.
    Parsed(String),
    /// Tokens.
    Tokens(Vec<u32>),
}

/// A conversation as a template reads it.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// `role`, `content`, `tool_calls` (arguments as objects), `reasoning_content`, ..
    pub messages: Vec<Json>,
    /// Tools, as `{"type": "function", "function": {"name", "description", "parameters"}}`.
    pub tools: Vec<Json>,
    /// Which of them are to be called.
    pub choice: ToolChoice,
    /// Whether an answer may have several calls.
    pub parallel: bool,
    /// Variables of the template.
    pub variables: Map<String, Json>,
    /// Whether the model is to reason before it answers, where the template has a switch.
    pub thinking: Option<bool>,
    /// Whether the answer goes on with the last message.
    pub continues: bool,
}

/// Tools that an answer calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// None.
    None,
    /// As the model likes.
    #[default]
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

impl ToolChoice {
    /// Whether the answer is nothing but calls.
    pub fn is_forced(&self) -> bool {
        matches!(self, ToolChoice::Required | ToolChoice::Named(_))
    }
}

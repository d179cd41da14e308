//! Answers read back: reasoning, text and tool calls, told apart as the text comes.
//!
//! How a family of models marks them is one row of a table of formats ([`AnswerFormat`]). What holds
//! for all of them:
//!
//! - **Nothing is lost.** What does not parse to its end stays text, with its marks, in its order.
//! - **No call is invented.** A name that was not offered, or arguments that are no JSON object, make
//!   text; without tools there are no calls. Only literals are read, nothing is evaluated.
//! - **Cuts change nothing.** However the text comes in pieces, the deltas add up to the same answer.
//!   What may still become a mark is held back, and so is a call until it is whole.
//! - **Marks are tokens where the vocabulary has them as such**: then text that looks like one is
//!   text ([`AnswerParser::with_vocabulary`]).
//! - White space between reasoning, text and calls is dropped; within them it stays.
//! - **Reasoning that is never closed ends where a call begins.** Until that is known, a call in
//!   reasoning is held back; one that is mentioned, and not written to its end, is not.
//!
//! Cost: each byte is looked at a bounded number of times. What a broken call took is not read again,
//! so marks within it mean nothing; reading goes on where the call broke.

mod block;
mod bodies;
mod body;
mod format;
mod formats;
mod held;
mod ids;
mod json;
mod marks;
mod messages;
mod parser;
mod python;
mod reasoning;
#[cfg(test)]
mod tests;
mod tools;

pub use format::AnswerFormat;
pub use json::on_one_line;
pub use parser::AnswerParser;
pub use tools::Tools;

/// News of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerDelta {
    /// More of the reasoning.
    Reasoning(String),
    /// More of the text.
    Text(String),
    /// A call begins.
    CallStart {
        /// Number of the call, from 0.
        index: usize,
        /// Id, for the tool's result.
        id: String,
        /// Whether the model wrote the id.
        id_is_models: bool,
        /// Name of the tool.
        name: String,
    },
    /// More of a call's arguments, which are JSON.
    CallArgs {
        /// Number of the call.
        index: usize,
        /// JSON, to be added to what came before.
        json: String,
    },
    /// A call is whole.
    CallEnd {
        /// Number of the call.
        index: usize,
    },
}

/// An answer, put together from its deltas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Reasoning.
    pub reasoning: String,
    /// Text.
    pub content: String,
    /// Calls, in their order.
    pub tool_calls: Vec<ToolCall>,
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// Id, for the tool's result.
    pub id: String,
    /// Whether the model wrote the id.
    pub id_is_models: bool,
    /// Name of the tool.
    pub name: String,
    /// A JSON object, as the model wrote it where it writes JSON.
    pub arguments: String,
}

impl Answer {
    /// Adds what is new.
    pub fn add(&mut self, delta: AnswerDelta) {
        match delta {
            AnswerDelta::Reasoning(text) => self.reasoning.push_str(&text),
            AnswerDelta::Text(text) => self.content.push_str(&text),
            AnswerDelta::CallStart { id, id_is_models, name, .. } => {
                self.tool_calls.push(ToolCall { id, id_is_models, name, arguments: String::new() });
            }
            AnswerDelta::CallArgs { index, json } => {
                if let Some(call) = self.tool_calls.get_mut(index) {
                    call.arguments.push_str(&json);
                }
            }
            AnswerDelta::CallEnd { .. } => {}
        }
    }

    /// The answer of a whole text, of whose prompt nothing is known.
    ///
    /// ```
    /// use serde_json::json;
    /// use teff::text::{Answer, AnswerFormat, Tools};
    ///
    /// let tools = Tools::from_json(&json!([{ "function": { "name": "now" } }]));
    /// let format = AnswerFormat::by_name("hermes").expect("a known family");
    /// let raw = "I look.\n<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>";
    /// let answer = Answer::parse(format, tools, raw);
    /// assert_eq!(answer.content, "I look.");
    /// assert_eq!(answer.tool_calls[0].name, "now");
    /// ```
    pub fn parse(format: &'static AnswerFormat, tools: Tools, raw: &str) -> Answer {
        let mut parser = AnswerParser::new(format, tools).after_unknown_prompt();
        let mut answer = Answer::default();
        parser.push(raw).into_iter().for_each(|delta| answer.add(delta));
        parser.finish().into_iter().for_each(|delta| answer.add(delta));
        answer
    }
}

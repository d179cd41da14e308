//! Reader of one answer's text.

use super::forced::ForcedCall;
use crate::text::{AnswerDelta, AnswerParser, Tokenizer};

/// What makes deltas of the text of an answer.
#[derive(Clone)]
pub(super) enum Reader {
    /// All is text.
    Raw,
    /// As the model's family writes.
    Parsed(Box<AnswerParser>),
    /// A grammar makes it a call.
    Forced(ForcedCall),
}

impl Reader {
    pub fn in_reasoning(&self) -> bool {
        matches!(self, Reader::Parsed(parser) if parser.in_reasoning())
    }

    pub fn token(&mut self, tokenizer: &Tokenizer, id: u32, text: String) -> Vec<AnswerDelta> {
        match self {
            Reader::Parsed(parser) => parser.push_id(tokenizer, id, &text),
            _ => self.rest(text),
        }
    }

    pub fn rest(&mut self, text: String) -> Vec<AnswerDelta> {
        match self {
            Reader::Raw if text.is_empty() => Vec::new(),
            Reader::Raw => vec![AnswerDelta::Text(text)],
            Reader::Parsed(parser) => parser.push(&text),
            Reader::Forced(reader) => reader.push(&text),
        }
    }

    pub fn finish(&mut self) -> Vec<AnswerDelta> {
        match self {
            Reader::Parsed(parser) => parser.finish(),
            _ => Vec::new(),
        }
    }
}

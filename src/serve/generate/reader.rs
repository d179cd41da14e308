//! Reader of one answer's text.

use super::forced::ForcedCall;
use crate::text::{AnswerDelta, AnswerParser, Tokenizer};

/// Reader that makes deltas of the text of an answer.
#[derive(Clone)]
pub enum Reader {
    /// All is text.
    Raw,
    /// As the model's family writes.
    Parsed(Box<AnswerParser>),
    /// A grammar makes it a call.
    Forced(ForcedCall),
    /// A grammar makes it a call if it begins with a brace, and it is text if not.
    Undecided(String, ForcedCall),
}

impl Reader {
    /// Whether the answer is within its reasoning.
    pub fn in_reasoning(&self) -> bool {
        matches!(self, Reader::Parsed(parser) if parser.in_reasoning())
    }

    /// Takes a token and the text that it completes.
    pub fn token(&mut self, tokenizer: &Tokenizer, id: u32, text: String) -> Vec<AnswerDelta> {
        match self {
            Reader::Parsed(parser) => parser.push_id(tokenizer, id, &text),
            _ => self.rest(text),
        }
    }

    /// Takes more text.
    pub fn rest(&mut self, text: String) -> Vec<AnswerDelta> {
        match self {
            Reader::Raw if text.is_empty() => Vec::new(),
            Reader::Raw => vec![AnswerDelta::Text(text)],
            Reader::Parsed(parser) => parser.push(&text),
            Reader::Forced(reader) => reader.push(&text),
            Reader::Undecided(held, reader) => {
                held.push_str(&text);
                let Some(first) = held.trim_start().chars().next() else { return Vec::new() };
                let held = std::mem::take(held);
                *self = match first {
                    '{' => Reader::Forced(reader.clone()),
                    _ => Reader::Raw,
                };
                self.rest(held)
            }
        }
    }

    /// Deltas that the end completes.
    pub fn finish(&mut self) -> Vec<AnswerDelta> {
        match self {
            Reader::Parsed(parser) => parser.finish(),
            Reader::Undecided(held, _) => {
                let held = std::mem::take(held);
                *self = Reader::Raw;
                self.rest(held)
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Answer;

    fn read(pieces: &[&str]) -> Answer {
        let mut reader = Reader::Undecided(String::new(), ForcedCall::new(1));
        let mut answer = Answer::default();
        let deltas = pieces.iter().flat_map(|piece| reader.rest((*piece).to_owned()));
        deltas.collect::<Vec<_>>().into_iter().for_each(|delta| answer.add(delta));
        reader.finish().into_iter().for_each(|delta| answer.add(delta));
        answer
    }

    #[test]
    fn the_first_sign_tells_a_call_from_a_text() {
        assert_eq!(read(&[" ", "\n", "h{", "i"]).content, " \nh{i");
        assert_eq!(read(&[" ", "\n"]).content, " \n");
        let call = read(&["", " {", "\"tool_calls\": [{\"name\": \"f\", \"arguments\": {}", "}]}"]);
        assert_eq!((call.content.as_str(), call.tool_calls[0].name.as_str()), ("", "f"));
    }
}

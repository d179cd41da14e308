//! An answer as people see it: reasoning told apart from the answer itself.

use super::note;
use super::shown::Look;
use crate::model::describe::counted;
use crate::text::{AnswerDelta, AnswerFormat, AnswerParser, Tokenizer, Tools};
use std::sync::Arc;

/// Begins and ends dimmed text on a terminal.
const DIM: (&str, &str) = ("\x1b[2m", "\x1b[22m");

/// Treatment of reasoning in the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ReasoningShow {
    /// Show it before the answer, dimmed on a terminal
    #[default]
    Show,
    /// Leave it out, and tell how long it was
    Hide,
    /// Show all text as the model writes it, marks included
    Off,
}

/// Reads an answer as it comes, and leaves out what is not to be shown.
#[derive(Debug)]
pub struct AnswerReader {
    /// `None`: all is text.
    parser: Option<AnswerParser>,
    tokenizer: Arc<Tokenizer>,
    show: ReasoningShow,
    n_reasoning: usize,
}

impl AnswerReader {
    /// A reader of an answer in `format`; without a format, or with [`ReasoningShow::Off`], all of it is
    /// text.
    pub fn new(
        format: Option<&'static AnswerFormat>,
        tokenizer: Arc<Tokenizer>,
        show: ReasoningShow,
    ) -> AnswerReader {
        let format = format.filter(|_| show != ReasoningShow::Off);
        let parser = format
            .map(|format| AnswerParser::new(format, Tools::none()).with_vocabulary(&tokenizer));
        AnswerReader { parser, tokenizer, show, n_reasoning: 0 }
    }

    /// Looks at the prompt, before the first token: it may have opened reasoning.
    pub fn begin(&mut self, prompt: &str) {
        self.parser = self.parser.take().map(|parser| parser.after_prompt(prompt));
    }

    /// Parts of the answer that a token and its text complete.
    pub fn token(&mut self, id: u32, text: String) -> Vec<AnswerDelta> {
        let Some(parser) = &mut self.parser else { return vec![AnswerDelta::Text(text)] };
        self.n_reasoning += usize::from(parser.in_reasoning());
        parser.push_id(&self.tokenizer, id, &text)
    }

    /// Parts of the answer that text which was held back completes.
    pub fn rest(&mut self, text: String) -> Vec<AnswerDelta> {
        match &mut self.parser {
            Some(parser) => parser.push(&text),
            None => vec![AnswerDelta::Text(text)],
        }
    }

    /// Parts of the answer that its end completes.
    pub fn finish(&mut self) -> Vec<AnswerDelta> {
        self.parser.as_mut().map(AnswerParser::finish).unwrap_or_default()
    }

    /// Whether a part of the answer is for people to see.
    pub fn shows(&self, delta: &AnswerDelta) -> bool {
        match delta {
            AnswerDelta::Text(_) => true,
            AnswerDelta::Reasoning(_) => self.show == ReasoningShow::Show,
            _ => false,
        }
    }

    /// Tokens of reasoning that are not shown.
    pub fn n_hidden(&self) -> usize {
        if self.show == ReasoningShow::Hide { self.n_reasoning } else { 0 }
    }

    /// Says how much reasoning was not shown, if there was any.
    pub fn tell_hidden(&self) {
        if self.n_hidden() > 0 {
            note(format_args!("thinking: {}, not shown", counted(self.n_hidden(), "token")));
        }
    }
}

/// Turns tokens into the text to be written.
#[derive(Debug)]
pub struct AnswerView {
    reader: AnswerReader,
    look: Look,
    /// Kind of the text that was written last.
    last: Last,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Nothing,
    Reasoning,
    Text,
}

impl AnswerView {
    /// A view of an answer to `prompt`.
    pub fn new(mut reader: AnswerReader, prompt: &str, look: Look) -> AnswerView {
        reader.begin(prompt);
        AnswerView { reader, look, last: Last::Nothing }
    }

    fn dims(&self) -> bool {
        self.look == Look::Styled
    }

    /// The text to be written after a token with its text.
    pub fn token(&mut self, id: u32, text: String) -> String {
        let deltas = self.reader.token(id, text);
        self.write(deltas)
    }

    /// The text to be written after text that was held back.
    pub fn rest(&mut self, text: String) -> String {
        let deltas = self.reader.rest(text);
        self.write(deltas)
    }

    /// The text to be written at the end.
    pub fn finish(&mut self) -> String {
        let deltas = self.reader.finish();
        let mut text = self.write(deltas);
        if self.last == Last::Reasoning && self.dims() {
            text.push_str(DIM.1);
        }
        text
    }

    /// Says how much reasoning was not shown, if there was any.
    pub fn tell_hidden(&self) {
        self.reader.tell_hidden();
    }

    fn write(&mut self, deltas: Vec<AnswerDelta>) -> String {
        let mut out = String::new();
        for delta in deltas.into_iter().filter(|delta| self.reader.shows(delta)) {
            match delta {
                AnswerDelta::Reasoning(text) => {
                    if self.last != Last::Reasoning && self.dims() {
                        out.push_str(DIM.0);
                    }
                    out.push_str(&self.look.safe(&text));
                    self.last = Last::Reasoning;
                }
                AnswerDelta::Text(text) => {
                    if self.last == Last::Reasoning {
                        out.push_str(if self.dims() { DIM.1 } else { "" });
                        out.push_str("\n\n");
                    }
                    out.push_str(&self.look.safe(&text));
                    self.last = Last::Text;
                }
                _ => {}
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(show: ReasoningShow, look: Look) -> String {
        let deltas = || {
            ["Hm", "m.\x07"]
                .map(|text| AnswerDelta::Reasoning(text.into()))
                .into_iter()
                .chain([AnswerDelta::Text("Three\x1b.".into())])
        };
        let tokenizer = Arc::new(crate::text::Tokenizer::from_gguf(&file()).unwrap());
        let mut view = AnswerView::new(AnswerReader::new(None, tokenizer, show), "", look);
        deltas().map(|delta| view.write(vec![delta])).collect()
    }

    /// A file without a vocabulary.
    fn file() -> gguf_rs_lite::GgufFile {
        let mut writer = gguf_rs_lite::GgufWriter::new(Vec::new());
        writer.add("tokenizer.ggml.model", "none").unwrap();
        let bytes = writer.write_header().unwrap().finish().unwrap();
        gguf_rs_lite::GgufFile::from_bytes(bytes).unwrap()
    }

    #[test]
    fn reasoning_is_dimmed_hidden_or_plain() {
        let show = ReasoningShow::Show;
        assert_eq!(shown(show, Look::Styled), "\x1b[2mHmm.\u{2407}\x1b[22m\n\nThree\u{241b}.");
        assert_eq!(shown(show, Look::Terminal), "Hmm.\u{2407}\n\nThree\u{241b}.");
        assert_eq!(shown(show, Look::Plain), "Hmm.\x07\n\nThree\x1b.");
        assert_eq!(shown(ReasoningShow::Hide, Look::Styled), "Three\u{241b}.");
    }
}

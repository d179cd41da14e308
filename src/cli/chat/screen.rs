//! Answers on their way out: styled and made safe on a terminal, bytes as they are elsewhere.

use super::super::shown::Look;
use super::super::{CliError, interrupt, progress};
use super::markdown::Markdown;
use std::io::Write;

/// Begins and ends the dimmed text of reasoning.
const DIM: (&str, &str) = ("\x1b[2m", "\x1b[0m");

/// Standard output.
pub struct Screen<'o> {
    out: &'o mut dyn Write,
    look: Look,
    /// Whether answers alone are written, with a blank line between two: nobody types in between.
    is_list: bool,
    markdown: Markdown,
    n_answers: usize,
    /// Whether reasoning came and its answer did not.
    in_reasoning: bool,
    /// Whether the answer has text that does not end in a line break.
    is_line_open: bool,
}

impl<'o> Screen<'o> {
    /// A screen without an answer.
    pub fn new(out: &'o mut dyn Write, look: Look, is_list: bool) -> Screen<'o> {
        Screen {
            out,
            look,
            is_list,
            markdown: Markdown::default(),
            n_answers: 0,
            in_reasoning: false,
            is_line_open: false,
        }
    }

    /// Begins an answer.
    ///
    /// # Errors
    /// Those of the output, here as below.
    pub fn begin(&mut self) -> Result<(), CliError> {
        self.n_answers += 1;
        match self.is_list && self.n_answers > 1 {
            true => self.write("\n"),
            false => Ok(()),
        }
    }

    /// A piece of the answer.
    pub fn text(&mut self, text: &str) -> Result<(), CliError> {
        let Some(last) = text.chars().next_back() else { return Ok(()) };
        if std::mem::take(&mut self.in_reasoning) {
            self.write("\n\n")?;
        }
        self.is_line_open = last != '\n';
        let text = self.look.safe(text);
        match self.look {
            Look::Styled => {
                let styled = self.markdown.push(&text);
                self.write(&styled)
            }
            _ => self.write(&text),
        }
    }

    /// A piece of the reasoning before the answer.
    pub fn reasoning(&mut self, text: &str) -> Result<(), CliError> {
        if text.is_empty() {
            return Ok(());
        }
        (self.in_reasoning, self.is_line_open) = (true, !text.ends_with('\n'));
        let text = self.look.safe(text);
        match self.look {
            Look::Styled => self.write(&[DIM.0, &text, DIM.1].concat()),
            _ => self.write(&text),
        }
    }

    /// Ends the answer, and its line.
    pub fn end(&mut self) -> Result<(), CliError> {
        let mut rest = self.markdown.finish();
        // An empty answer is an empty line.
        if self.is_line_open || self.is_list {
            rest.push('\n');
        }
        (self.in_reasoning, self.is_line_open) = (false, false);
        self.write(&rest)
    }

    /// Writes and flushes.
    fn write(&mut self, text: &str) -> Result<(), CliError> {
        progress::clear_line();
        interrupt::whole(|| self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()))?;
        Ok(())
    }
}

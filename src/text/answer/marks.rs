//! Marks in text: what stands at a place, and what follows from it.

use super::block::Block;
use super::format::{AnswerFormat, CallForm, Reasoning};
use super::held::{Found, is_space};
use super::parser::{AnswerParser, Mode};

/// What a mark does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    Reasoning(&'static Reasoning),
    /// Closes reasoning that the prompt may have opened.
    Close,
    /// Opens reasoning where none can begin.
    Mention,
    Calls(&'static CallForm),
    Hidden,
    End,
}

impl AnswerParser {
    /// The longest mark at a place and its end; `Err`: more text tells. `first` is the first byte of the
    /// text that is no white space.
    pub(super) fn look(&self, at: usize, first: usize) -> Result<Option<(Mark, usize)>, ()> {
        let (mut best, mut part) = (None, false);
        let fresh = self.fresh && first >= at;
        for (mark, kind) in &self.marks {
            let (kind, counts) = match kind {
                Mark::Reasoning(reasoning) if !fresh && !reasoning.anywhere => {
                    (&Mark::Mention, self.undecided.is_some())
                }
                Mark::Close => (kind, self.undecided.is_some()),
                _ => (kind, true),
            };
            match self.held.find(at, mark) {
                Found::Yes(end) if counts => {
                    best =
                        Some((*kind, end)).filter(|_| best.is_none_or(|(_, e)| end > e)).or(best);
                }
                Found::Part if counts => part = true,
                _ => {}
            }
        }
        if part { Err(()) } else { Ok(best) }
    }

    /// Passes a mark from `start` to `end`.
    pub(super) fn pass(&mut self, mark: Mark, start: usize, end: usize) -> bool {
        match mark {
            Mark::End if self.held.ended && self.held.space_end(end) == self.held.text.len() => {
                self.release(start);
                self.skip_to(self.held.text.len());
            }
            Mark::End if self.held.space_end(end) == self.held.text.len() => {
                self.release(start);
                return self.held.ended;
            }
            Mark::End => {
                self.release(start);
                self.scan = start + 1;
            }
            Mark::Hidden => {
                self.release(start);
                self.skip_to(end);
                self.at_seam();
            }
            Mark::Reasoning(reasoning) => {
                self.release(start);
                self.skip_to(end);
                self.at_seam();
                self.decide();
                self.mode = Mode::Reasoning(reasoning);
            }
            Mark::Mention => {
                self.release(start);
                self.decide();
                self.scan = start + 1;
            }
            Mark::Close => {
                let undecided = self.undecided.take().unwrap_or_default();
                let before = &undecided.raw[..self.held.base() + start];
                let text = before.trim_matches(|c: char| c.is_ascii() && is_space(c as u8));
                self.out.clear();
                (self.n_calls, self.begun) = (0, None);
                self.tell_reasoning(text);
                self.skip_to(end);
                self.at_seam();
            }
            Mark::Calls(form) => {
                self.release(start);
                self.mode = Mode::Calls(Box::new(Block::new(form, start, end, self.early)));
            }
        }
        true
    }
}

/// The marks that mean something in text.
pub(super) fn marks(format: &'static AnswerFormat, has_tools: bool) -> Vec<(&'static str, Mark)> {
    let reasoning = format.reasoning.iter().map(|r| (r.open, Mark::Reasoning(r)));
    let calls = format.calls.iter().filter(|form| has_tools && !form.open.is_empty());
    let calls = calls.map(|form| (form.open, Mark::Calls(form)));
    let hidden = format.hidden.iter().map(|mark| (*mark, Mark::Hidden));
    let ends = format.ends.iter().map(|mark| (*mark, Mark::End));
    reasoning.chain(calls).chain(hidden).chain(ends).collect()
}

//! Reasoning, up to its end, and calls within it.
//!
//! Some models call tools without closing their reasoning first, others mention calls while they reason.
//! What decides is whether the reasoning is closed behind the call: if not, the call is one.

use super::block::{Act, Block};
use super::format::{CallForm, Reasoning};
use super::held::Found;
use super::marks::Mark;
use super::parser::{AnswerParser, Mode};

/// What may be a call, at the begin of the held text. Nothing is told until it is known.
#[derive(Clone, Debug)]
pub(super) enum Doubt {
    /// Its block, which may break.
    Block(Box<Block>),
    /// A call has been read.
    Whole,
}

impl AnswerParser {
    /// Reads reasoning up to its end.
    pub(super) fn reasoning(&mut self, reasoning: &'static Reasoning) -> bool {
        self.mode = Mode::Reasoning(reasoning);
        if self.seam && self.doubt.is_none() {
            // Some models open what their prompt has opened.
            self.skip_to(self.held.space_end(self.at));
            match self.held.find(self.at, reasoning.open) {
                Found::Yes(end) => self.skip_to(end),
                Found::Part => return false,
                Found::No => {}
            }
        }
        self.read_doubt();
        loop {
            let control = self.held.next_control(self.scan).filter(|_| self.doubt.is_none());
            let end = control.map_or(self.held.text.len(), |(start, _)| start);
            let first = reasoning.close.as_bytes()[0];
            let is_mark = |byte: &u8| *byte == first || self.starts[usize::from(*byte)];
            let mark = self.held.text.as_bytes()[self.scan..end].iter().position(is_mark);
            let Some(place) = mark.map(|n| self.scan + n).or(control.map(|(start, _)| start))
            else {
                if self.doubt.is_none() {
                    self.release_reasoning(self.held.text.len());
                    return false;
                }
                self.scan = self.held.text.len();
                if !self.held.ended || self.take_doubted() {
                    return false;
                }
                continue;
            };
            let close = self.held.find(place, reasoning.close);
            let call = self.call_at(place);
            match (close, call) {
                // It was reasoning.
                (Found::Yes(_), _) if self.doubt.is_some() => self.end_doubt(place),
                (Found::Yes(end), _) => {
                    self.release_reasoning(place);
                    self.skip_to(end);
                    self.at_seam();
                    self.mode = Mode::Text;
                    return true;
                }
                (Found::Part, _) | (_, Err(())) => {
                    if self.doubt.is_none() {
                        self.release_reasoning(place);
                    } else {
                        self.scan = place;
                    }
                    return false;
                }
                (Found::No, Ok(Some((form, end)))) => {
                    self.release_reasoning(place);
                    self.drain();
                    self.doubt =
                        Some(Doubt::Block(Box::new(Block::new(form, 0, end - place, false))));
                    self.scan = 1;
                    self.read_doubt();
                }
                (Found::No, Ok(None)) => match control {
                    Some((start, end)) if start == place => {
                        self.release_reasoning(start);
                        self.skip_to(end);
                    }
                    _ => self.scan = place + 1,
                },
            }
        }
    }

    /// The longest mark of a call at a place, with its end; `Err`: more text tells.
    fn call_at(&self, at: usize) -> Result<Option<(&'static CallForm, usize)>, ()> {
        if self.doubt.is_some() || at < self.calls_from {
            return Ok(None);
        }
        let (mut best, mut part) = (None, false);
        for (mark, kind) in &self.marks {
            let Mark::Calls(form) = kind else { continue };
            match self.held.find(at, mark) {
                Found::Yes(end) if best.is_none_or(|(_, other)| end > other) => {
                    best = Some((*form, end));
                }
                Found::Part => part = true,
                _ => {}
            }
        }
        if part { Err(()) } else { Ok(best) }
    }

    /// Reads on what may be a call.
    fn read_doubt(&mut self) {
        let Some(Doubt::Block(block)) = &mut self.doubt else { return };
        if self.held.ended {
            return;
        }
        match block.step(&self.held, &self.tools) {
            Act::Wait => {}
            Act::Calls(..) => self.doubt = Some(Doubt::Whole),
            Act::Broken(at) | Act::Rejected(at) | Act::Said(_, at) | Act::Left(at) => {
                self.end_doubt(at.max(1));
            }
        }
    }

    /// There is no call before this place.
    fn end_doubt(&mut self, place: usize) {
        (self.doubt, self.calls_from, self.scan) = (None, place, 1);
    }

    /// Takes what was in doubt for an answer's end without its reasoning's end, if a call is in it.
    fn take_doubted(&mut self) -> bool {
        let mut answer = self.clone();
        (answer.doubt, answer.mode) = (None, Mode::Text);
        answer.skip_to(0);
        answer.at_seam();
        let deltas = answer.run();
        let has_call = answer.n_calls > self.n_calls;
        if has_call {
            *self = answer;
            self.out = deltas;
        } else {
            self.end_doubt(self.held.text.len());
        }
        has_call
    }
}

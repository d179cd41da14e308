//! A block of calls as its text comes: what it turns out to be, and where.

use super::body::{RawCall, Read, Reader};
use super::format::{Body, CallForm};
use super::held::{Found, Held};
use super::tools::Tools;

/// What a block says next; places are in the held text.
#[derive(Debug)]
pub(super) enum Act {
    /// More text is needed.
    Wait,
    /// No block: the text up to this place is text, and so is what follows.
    Broken(usize),
    /// The text up to this place is text; the block goes on.
    Rejected(usize),
    /// Calls, the text up to this place.
    Calls(Vec<RawCall>, usize),
    /// Text that is written otherwise than it reads, up to this place.
    Said(String, usize),
    /// The block is over; what follows this place is none of its.
    Left(usize),
}

/// A block under way.
#[derive(Clone, Debug)]
pub(super) struct Block {
    form: &'static CallForm,
    /// First byte that is not told.
    pub start: usize,
    /// First byte that is not read.
    at: usize,
    state: State,
    /// Calls of items that stand when the block is closed; `None` if one of them is none.
    pending: Option<Vec<RawCall>>,
    /// Whether a call was told.
    made: bool,
    /// Whether an item was told as text.
    rejected: bool,
    /// Whether calls are told before the block is closed.
    early: bool,
}

#[derive(Clone, Debug)]
enum State {
    Between,
    /// Before an item, behind the mark that opens it.
    Begin,
    Item(Box<Reader>),
    ItemEnd(Option<Vec<RawCall>>),
    Over,
}

impl Block {
    /// A block whose mark stands at `start` and ends at `end`.
    pub fn new(form: &'static CallForm, start: usize, end: usize, early: bool) -> Self {
        let at = if form.keeps_open { start } else { end };
        let (state, pending) = (State::Between, Some(Vec::new()));
        Self { form, start, at, state, pending, made: false, rejected: false, early }
    }

    /// Reads on.
    pub fn step(&mut self, held: &Held, tools: &Tools) -> Act {
        loop {
            let act = match &mut self.state {
                State::Over => return Act::Left(self.start),
                State::Between => self.between(held),
                State::Begin => self.begin(held),
                State::ItemEnd(_) => self.item_end(held, tools),
                State::Item(reader) => {
                    let ends_itself = reader.ends_itself();
                    match reader.read(&mut self.at, held, tools, self.form.close) {
                        Read::Wait => Some(Act::Wait),
                        Read::Broken => Some(Act::Broken(self.at)),
                        Read::Said(text) => {
                            self.state = State::Over;
                            Some(Act::Said(text, self.at))
                        }
                        Read::Whole(calls) => self.whole(calls, ends_itself, tools),
                    }
                }
            };
            match act {
                Some(Act::Wait) if held.ended => return Act::Broken(held.text.len()),
                Some(act) => return self.told(act),
                None => {}
            }
        }
    }

    /// What is known of the call under way, if its name is one that was offered and its arguments have
    /// begun; of them what follows `n_sent` bytes.
    pub fn part(&mut self, held: &Held, tools: &Tools, n_sent: usize) -> Option<RawCall> {
        let part = match &mut self.state {
            State::Item(reader) => reader.part(held, self.at, tools, n_sent),
            State::ItemEnd(calls) => calls.as_ref()?.first().map(|call| {
                let arguments = call.arguments.get(n_sent..).unwrap_or_default().to_owned();
                RawCall { arguments, ..call.clone() }
            }),
            _ => None,
        };
        part.filter(|part| tools.has(&part.name))
    }

    /// Whether the call under way is JSON, or has been read.
    pub fn is_json(&self) -> bool {
        match &self.state {
            State::Item(reader) => matches!(**reader, Reader::Json(_)),
            _ => true,
        }
    }

    /// Keeps books of what is told.
    fn told(&mut self, act: Act) -> Act {
        match &act {
            Act::Calls(_, at) => (self.start, self.made) = (*at, true),
            Act::Rejected(at) => (self.start, self.rejected) = (*at, true),
            Act::Said(_, at) => self.start = *at,
            _ => {}
        }
        act
    }

    /// Takes a whole item.
    fn whole(
        &mut self,
        calls: Option<Vec<RawCall>>,
        ends_itself: bool,
        tools: &Tools,
    ) -> Option<Act> {
        if !self.form.item.1.is_empty() {
            self.state = State::ItemEnd(calls);
            return None;
        }
        self.state = State::Between;
        let calls = offered(calls, tools);
        if ends_itself || self.form.close.is_empty() || self.early {
            return Some(match calls {
                Some(calls) => Act::Calls(calls, self.at),
                None => Act::Rejected(self.at),
            });
        }
        self.pending = self.pending.take().zip(calls).map(|(mut pending, mut calls)| {
            pending.append(&mut calls);
            pending
        });
        None
    }

    fn item_end(&mut self, held: &Held, tools: &Tools) -> Option<Act> {
        let State::ItemEnd(calls) = &mut self.state else { return None };
        self.at = held.space_end(self.at);
        match held.find(self.at, self.form.item.1) {
            Found::Yes(end) => self.at = end,
            Found::Part => return Some(Act::Wait),
            Found::No if held.ends_within(self.at, self.form.item.1) => self.at = held.text.len(),
            // What may follow an item ends it, too.
            Found::No => {
                let next = [self.form.item.0, self.form.close].map(|mark| held.find(self.at, mark));
                if !next.iter().any(|found| matches!(found, Found::Yes(_))) {
                    let is_part = next.contains(&Found::Part);
                    return Some(if is_part { Act::Wait } else { Act::Broken(self.at) });
                }
            }
        }
        let calls = offered(calls.take(), tools);
        self.state = State::Between;
        Some(match calls {
            Some(calls) => Act::Calls(calls, self.at),
            None => Act::Rejected(self.at),
        })
    }

    /// Between two items, or before the first.
    fn between(&mut self, held: &Held) -> Option<Act> {
        self.at = held.space_end(self.at);
        let CallForm { open, close, item, keeps_open, .. } = *self.form;
        if held.ends_within(self.at, close) || (held.ended && self.at == held.text.len()) {
            self.at = held.text.len();
            return Some(self.closed(true));
        }
        if self.at == held.text.len() {
            return Some(Act::Wait);
        }
        let marks = [held.find(self.at, close), held.find(self.at, item.0)];
        match marks {
            [Found::Yes(end), _] => {
                self.at = end;
                return Some(self.closed(false));
            }
            [_, Found::Yes(end)] => {
                (self.at, self.state) = (end, State::Begin);
                return None;
            }
            [Found::Part, _] | [_, Found::Part] => return Some(Act::Wait),
            _ => {}
        }
        // The next block begins, so this one is over, although nothing closes it.
        let next = if keeps_open { Found::No } else { held.find(self.at, open) };
        let is_pending = self.pending.as_ref().is_some_and(|calls| !calls.is_empty());
        match next {
            Found::Yes(_) if is_pending => return Some(self.closed(true)),
            Found::Part if is_pending => return Some(Act::Wait),
            _ => {}
        }
        if !item.0.is_empty() {
            return Some(self.leave());
        }
        let is_first =
            !self.made && !self.rejected && self.pending.as_ref().is_some_and(Vec::is_empty);
        match if is_first { Found::Yes(self.at) } else { self.follows(held) } {
            Found::Yes(_) => {
                self.state = State::Begin;
                None
            }
            Found::Part => Some(Act::Wait),
            Found::No => Some(self.leave()),
        }
    }

    /// Whether one more item follows, or what separates them.
    fn follows(&mut self, held: &Held) -> Found {
        let is_json =
            self.form.bodies.iter().any(|body| matches!(body, Body::Json | Body::ShortJson));
        if is_json && matches!(held.byte(self.at), Some(b';' | b',')) {
            self.at = held.space_end(self.at + 1);
        }
        match held.byte(self.at) {
            None if !held.ended => return Found::Part,
            Some(b'{') if is_json => return Found::Yes(self.at),
            _ => {}
        }
        let name = |body: &Body| match body {
            Body::Tagged(form) => Some(form.name.0),
            Body::Elements(form) => Some(form.name.0),
            _ => None,
        };
        self.form.bodies.iter().find_map(name).map_or(Found::No, |mark| held.find(self.at, mark))
    }

    /// Begins an item.
    fn begin(&mut self, held: &Held) -> Option<Act> {
        self.at = held.space_end(self.at);
        if self.at == held.text.len() {
            return Some(Act::Wait);
        }
        match Reader::choose(self.form, held, self.at) {
            Ok(Some(reader)) => {
                self.state = State::Item(Box::new(reader));
                None
            }
            Ok(None) => Some(Act::Wait),
            Err(()) => Some(Act::Broken(self.at)),
        }
    }

    /// The block is closed: by its mark, or by the end of the text or another block.
    fn closed(&mut self, by_end: bool) -> Act {
        let calls = self.pending.take();
        match calls {
            Some(calls) if !calls.is_empty() => {
                self.state = State::Over;
                Act::Calls(calls, self.at)
            }
            _ if self.made && !self.rejected => Act::Left(self.at),
            None => {
                self.state = State::Over;
                Act::Rejected(self.at)
            }
            _ if self.rejected && !by_end => {
                self.state = State::Over;
                Act::Rejected(self.at)
            }
            _ if self.made || self.rejected => Act::Left(self.start),
            _ => Act::Broken(self.at),
        }
    }

    /// Something follows that is none of the block's.
    fn leave(&self) -> Act {
        match self.made || self.rejected {
            true => Act::Left(self.start),
            false => Act::Broken(self.at),
        }
    }
}

/// The calls if all are of tools that were offered, with objects for arguments.
fn offered(calls: Option<Vec<RawCall>>, tools: &Tools) -> Option<Vec<RawCall>> {
    let is_one = |call: &RawCall| {
        tools.has(&call.name)
            && call.arguments.starts_with('{')
            && serde_json::from_str::<serde_json::Value>(&call.arguments).is_ok()
    };
    calls.filter(|calls| !calls.is_empty() && calls.iter().all(is_one))
}

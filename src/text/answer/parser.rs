//! The incremental parser of one answer.

use super::AnswerDelta;
use super::block::{Act, Block};
use super::body::RawCall;
use super::format::{AnswerFormat, Reasoning};
use super::held::{Held, is_space};
use super::ids::{IdForm, Ids};
use super::marks::{Mark, marks};
use super::messages::{self, Message};
use super::reasoning::Doubt;
use super::tools::Tools;
use crate::text::Tokenizer;

/// Parser of one answer: text in, deltas out.
#[derive(Clone, Debug)]
pub struct AnswerParser {
    pub(super) format: &'static AnswerFormat,
    pub(super) tools: Tools,
    pub(super) held: Held,
    /// First byte of the held text that is not told.
    pub(super) at: usize,
    /// First byte that is not looked at.
    pub(super) scan: usize,
    pub(super) mode: Mode,
    pub(super) marks: Vec<(&'static str, Mark)>,
    /// Bytes that begin a mark.
    pub(super) starts: Box<[bool; 256]>,
    /// Whether white space that comes next is dropped.
    pub(super) seam: bool,
    /// Whether nothing but white space came since the start or the last seam.
    pub(super) fresh: bool,
    /// White space that is told if text follows, and dropped at a seam.
    space: String,
    /// What came so far, as long as it is not known whether the prompt opened reasoning before it.
    pub(super) undecided: Option<Undecided>,
    /// A call in reasoning, which begins where nothing is told yet.
    pub(super) doubt: Option<Doubt>,
    /// First byte where a call in reasoning can begin.
    pub(super) calls_from: usize,
    ids: Ids,
    pub(super) n_calls: usize,
    /// Whether calls are told as they come.
    pub(super) early: bool,
    /// The call of which a part has been told.
    pub(super) begun: Option<Begun>,
    pub(super) out: Vec<AnswerDelta>,
}

/// An answer that may have begun with reasoning.
#[derive(Clone, Debug, Default)]
pub(super) struct Undecided {
    pub raw: String,
    /// What is to be told if it did not.
    deltas: Vec<AnswerDelta>,
}

/// A call of which a part has been told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    index: usize,
    /// Bytes of its arguments that have been told.
    sent: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Mode {
    Text,
    Reasoning(&'static Reasoning),
    Calls(Box<Block>),
    Messages(Box<Message>),
}

impl AnswerParser {
    /// A parser for an answer in `format` to a request that offers `tools`, whose prompt opened no
    /// reasoning.
    pub fn new(format: &'static AnswerFormat, tools: Tools) -> Self {
        let marks = if format.messages { Vec::new() } else { marks(format, !tools.is_empty()) };
        let mut starts = Box::new([false; 256]);
        for (mark, _) in &marks {
            starts[usize::from(mark.as_bytes()[0])] = true;
        }
        let mode = match format.messages {
            true => Mode::Messages(Box::default()),
            false => Mode::Text,
        };
        Self {
            format,
            tools,
            held: Held::default(),
            at: 0,
            scan: 0,
            mode,
            marks,
            starts,
            seam: false,
            fresh: true,
            space: String::new(),
            undecided: None,
            doubt: None,
            calls_from: 0,
            ids: Ids::new(0),
            n_calls: 0,
            early: false,
            begun: None,
            out: Vec::new(),
        }
    }

    /// The format of the answer.
    pub fn format(&self) -> &'static AnswerFormat {
        self.format
    }

    /// Seeds the ids of calls.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { ids: Ids::new(seed), ..self }
    }

    /// Tells the name of a call when its arguments begin, and these as they come, not when it is whole: for
    /// answers whose calls a grammar sees to. What has been told of a call stands, and nothing of it
    /// becomes text, even if it turns out to be none. Calls whose form does not tell that early, as
    /// Python's, are held until they are whole.
    pub fn with_early_calls(self) -> Self {
        Self { early: true, ..self }
    }

    /// Has marks count only as tokens where the vocabulary has such tokens: control tokens and those
    /// that are user-defined. Then [`push_token`](Self::push_token) tells of tokens.
    pub fn with_vocabulary(mut self, tokenizer: &Tokenizer) -> Self {
        for mark in self.format.all_marks() {
            let is_token = |end: &usize| {
                let name = mark.get(..*end);
                name.and_then(|name| tokenizer.token_id(name))
                    .is_some_and(|id| tokenizer.is_special(id))
            };
            if let Some(len) = (1..=mark.len()).rev().find(is_token) {
                self.held.require_token(mark, len);
            }
        }
        self
    }

    /// Looks at the end of the prompt: whether it opened reasoning, and marks that the answer goes
    /// on from.
    pub fn after_prompt(mut self, prompt: &str) -> Self {
        if let Some(reasoning) = self.format.opened_by(prompt) {
            (self.mode, self.seam) = (Mode::Reasoning(reasoning), true);
        }
        if let Some(prefill) = self.format.prefills.iter().find(|mark| prompt.ends_with(**mark)) {
            self.held.text.push_str(prefill);
        }
        self
    }

    /// Knows nothing of the prompt: it may have opened reasoning, so all is held back until a mark that
    /// opens or closes reasoning, or the end of the answer.
    pub fn after_unknown_prompt(mut self) -> Self {
        if !self.format.messages && !self.format.reasoning.is_empty() {
            self.undecided = Some(Undecided::default());
            for reasoning in self.format.reasoning {
                // Before what the mark means elsewhere.
                self.marks.insert(0, (reasoning.close, Mark::Close));
                self.starts[usize::from(reasoning.close.as_bytes()[0])] = true;
            }
        }
        self
    }

    /// Takes text that came as ordinary tokens.
    pub fn push(&mut self, text: &str) -> Vec<AnswerDelta> {
        self.held.text.push_str(text);
        self.note(text);
        self.run()
    }

    /// Takes a special token. What is no mark of the format is shown if it is not a `control` token.
    pub fn push_token(&mut self, name: &str, control: bool) -> Vec<AnswerDelta> {
        self.held.push_token(name, control);
        self.note(name);
        self.run()
    }

    /// Takes a token with the text that may be shown since it, as a stream of tokens tells it.
    pub fn push_id(&mut self, tokenizer: &Tokenizer, id: u32, text: &str) -> Vec<AnswerDelta> {
        let name = tokenizer.token_str(id).filter(|_| tokenizer.is_special(id)).unwrap_or_default();
        let control = tokenizer.is_control(id);
        match text.strip_suffix(name) {
            Some(before) if !name.is_empty() => {
                let mut deltas = self.push(before);
                deltas.extend(self.push_token(name, control));
                deltas
            }
            _ => {
                let mut deltas = self.push(text);
                if control {
                    deltas.extend(self.push_token(name, true));
                }
                deltas
            }
        }
    }

    /// Keeps what came while it may be reasoning.
    fn note(&mut self, text: &str) {
        if let Some(undecided) = &mut self.undecided {
            undecided.raw.push_str(text);
        }
    }

    /// Ends the answer: what was held back is told.
    pub fn finish(&mut self) -> Vec<AnswerDelta> {
        self.held.ended = true;
        let mut deltas = self.run();
        if !self.in_reasoning() && !self.seam {
            let space = std::mem::take(&mut self.space);
            self.tell_text(&space);
        }
        self.decide();
        deltas.append(&mut self.out);
        deltas
    }

    /// Whether what comes next is reasoning, as far as is known.
    pub fn in_reasoning(&self) -> bool {
        match &self.mode {
            Mode::Messages(message) => message.is_reasoning(),
            mode => matches!(mode, Mode::Reasoning(_)),
        }
    }

    pub(super) fn run(&mut self) -> Vec<AnswerDelta> {
        loop {
            let goes_on = match std::mem::replace(&mut self.mode, Mode::Text) {
                Mode::Text => self.text(),
                Mode::Reasoning(reasoning) => self.reasoning(reasoning),
                Mode::Calls(block) => self.calls(block),
                Mode::Messages(mut message) => {
                    let goes_on = messages::step(self, &mut message);
                    self.mode = Mode::Messages(message);
                    goes_on
                }
            };
            if !goes_on {
                break;
            }
        }
        // A block's places are in the held text.
        if !matches!(self.mode, Mode::Calls(_)) {
            self.drain();
        }
        match &mut self.undecided {
            Some(undecided) => {
                undecided.deltas.append(&mut self.out);
                Vec::new()
            }
            None => std::mem::take(&mut self.out),
        }
    }

    /// Forgets what is told.
    pub(super) fn drain(&mut self) {
        self.held.drain(self.at);
        self.scan -= self.at;
        self.calls_from = self.calls_from.saturating_sub(self.at);
        self.at = 0;
    }

    /// Reads text up to a mark. Whether there is more to do; the mode is `Text` if not set here.
    fn text(&mut self) -> bool {
        if self.fresh && self.open_bare() {
            return true;
        }
        let mut first = self.held.space_end(self.at);
        loop {
            let control = self.held.next_control(self.scan);
            let end = control.map_or(self.held.text.len(), |(start, _)| start);
            let bytes = &self.held.text.as_bytes()[self.scan..end];
            let mark = bytes.iter().position(|byte| self.starts[usize::from(*byte)]);
            let Some(place) = mark.map(|n| self.scan + n).or(control.map(|(start, _)| start))
            else {
                self.release(self.held.text.len());
                return false;
            };
            match self.look(place, first) {
                Ok(Some((mark, end))) => return self.pass(mark, place, end),
                Err(()) => {
                    self.release(place);
                    return false;
                }
                Ok(None) => match control {
                    Some((start, end)) if start == place => {
                        self.release(start);
                        self.skip_to(end);
                        first = self.held.space_end(end);
                    }
                    _ => self.scan = place + 1,
                },
            }
        }
    }

    /// Begins a block without a mark where the answer begins with what may be one.
    fn open_bare(&mut self) -> bool {
        let first = self.held.space_end(self.at);
        let bare = self.format.calls.iter().find(|form| form.open.is_empty());
        let is_json = matches!(self.held.byte(first), Some(b'{' | b'['));
        match bare {
            Some(form) if is_json && !self.tools.is_empty() => {
                self.release(first);
                self.mode = Mode::Calls(Box::new(Block::new(form, first, first, self.early)));
                true
            }
            _ => false,
        }
    }

    fn calls(&mut self, mut block: Box<Block>) -> bool {
        let act = block.step(&self.held, &self.tools);
        match act {
            Act::Wait => {
                if self.early
                    && let Some(part) = block.part(&self.held, &self.tools, self.n_sent())
                    // Where models write ids, JSON may have one behind the arguments.
                    && (part.id.is_some() || self.format.ids == IdForm::Call24 || !block.is_json())
                {
                    self.tell_part(part);
                }
                self.mode = Mode::Calls(block);
                return false;
            }
            Act::Broken(at) => {
                let at = self.boundary(at.max(block.start + 1));
                self.release_broken(at);
            }
            Act::Rejected(at) => {
                self.release_broken(at);
                self.mode = Mode::Calls(block);
            }
            Act::Calls(calls, at) => {
                self.tell_calls(calls);
                self.skip_to(at);
                self.mode = Mode::Calls(block);
            }
            Act::Said(text, at) => {
                self.say(&text);
                self.skip_to(at);
                self.mode = Mode::Calls(block);
            }
            Act::Left(at) => self.skip_to(at),
        }
        true
    }

    /// The first border of characters from `at` on.
    pub(super) fn boundary(&self, at: usize) -> usize {
        (at..self.held.text.len())
            .find(|at| self.held.text.is_char_boundary(*at))
            .unwrap_or(self.held.text.len())
    }

    pub(super) fn skip_to(&mut self, at: usize) {
        (self.at, self.scan) = (at, at);
    }

    /// Tells calls.
    pub(super) fn tell_calls(&mut self, calls: Vec<RawCall>) {
        self.at_seam();
        for RawCall { name, arguments, id } in calls {
            if let Some(Begun { index, sent }) = self.begun.take() {
                self.tell_arguments(index, arguments.get(sent..).unwrap_or_default().to_owned());
                self.out.push(AnswerDelta::CallEnd { index });
                continue;
            }
            let index = self.n_calls;
            let id_is_models = id.is_some();
            let id = id.unwrap_or_else(|| self.ids.next(self.format.ids));
            self.n_calls += 1;
            self.out.push(AnswerDelta::CallStart { index, id, id_is_models, name });
            self.out.push(AnswerDelta::CallArgs { index, json: arguments });
            self.out.push(AnswerDelta::CallEnd { index });
        }
    }

    /// Bytes that have been told of the arguments of the call under way.
    pub(super) fn n_sent(&self) -> usize {
        self.begun.map_or(0, |begun| begun.sent)
    }

    /// Tells a part of a call: its name, if that has not been told yet, and what is new of its arguments.
    pub(super) fn tell_part(&mut self, part: RawCall) {
        let Begun { index, sent } = self.begun.unwrap_or_else(|| {
            self.at_seam();
            let index = self.n_calls;
            self.n_calls += 1;
            let (name, id_is_models) = (part.name, part.id.is_some());
            let id = part.id.unwrap_or_else(|| self.ids.next(self.format.ids));
            self.out.push(AnswerDelta::CallStart { index, id, id_is_models, name });
            Begun { index, sent: 0 }
        });
        self.begun = Some(Begun { index, sent: sent + part.arguments.len() });
        self.tell_arguments(index, part.arguments);
    }

    fn tell_arguments(&mut self, index: usize, json: String) {
        if !json.is_empty() {
            self.out.push(AnswerDelta::CallArgs { index, json });
        }
    }

    /// Tells the text up to `end`, which is no call after all, unless a part of it has been told as one.
    pub(super) fn release_broken(&mut self, end: usize) {
        match self.begun.take() {
            None => self.release(end),
            Some(_) => {
                self.skip_to(end);
                self.at_seam();
            }
        }
    }

    /// Drops white space around this place.
    pub(super) fn at_seam(&mut self) {
        self.space.clear();
        (self.seam, self.fresh) = (true, true);
    }

    /// What was undecided was no reasoning.
    pub(super) fn decide(&mut self) {
        if let Some(mut undecided) = self.undecided.take() {
            undecided.deltas.append(&mut self.out);
            self.out = undecided.deltas;
        }
    }

    /// Tells the held text up to `end` as text.
    pub(super) fn release(&mut self, end: usize) {
        let text = self.held.text[self.at..end].to_owned();
        self.skip_to(end);
        self.say(&text);
    }

    pub(super) fn release_reasoning(&mut self, end: usize) {
        let text = self.held.text[self.at..end].to_owned();
        self.skip_to(end);
        if let Some(text) = self.without_seams(&text) {
            self.tell_reasoning(&text);
        }
    }

    fn say(&mut self, text: &str) {
        if let Some(text) = self.without_seams(text) {
            self.fresh = false;
            self.tell_text(&text);
        }
    }

    /// The text that can be told, with white space that was kept from before; its own at the end
    /// is kept for later.
    fn without_seams(&mut self, text: &str) -> Option<String> {
        let space = |c: char| c.is_ascii() && is_space(c as u8);
        let text = if self.seam { text.trim_start_matches(space) } else { text };
        let shown = text.trim_end_matches(space).len();
        let told = (shown > 0).then(|| std::mem::take(&mut self.space) + &text[..shown]);
        self.space.push_str(&text[shown..]);
        self.seam &= told.is_none();
        told
    }

    fn tell_text(&mut self, text: &str) {
        match self.out.last_mut() {
            _ if text.is_empty() => {}
            Some(AnswerDelta::Text(last)) => last.push_str(text),
            _ => self.out.push(AnswerDelta::Text(text.to_owned())),
        }
    }

    pub(super) fn tell_reasoning(&mut self, text: &str) {
        match self.out.last_mut() {
            _ if text.is_empty() => {}
            Some(AnswerDelta::Reasoning(last)) => last.push_str(text),
            _ => self.out.push(AnswerDelta::Reasoning(text.to_owned())),
        }
    }
}

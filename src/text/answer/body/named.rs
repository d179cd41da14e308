//! A name, a mark, and arguments as JSON, which may stand in a code block.

use super::super::format::Named;
use super::super::held::{Found, Held};
use super::super::json::{JsonScanner, Step};
use super::{NAME_BYTES_MAX, RawCall, Read, is_name};

/// Reader of a name and its arguments.
#[derive(Clone, Debug)]
pub struct NamedBody {
    form: &'static Named,
    state: State,
    call: RawCall,
    fenced: bool,
}

#[derive(Clone, Debug)]
enum State {
    Kind,
    BehindKind,
    FirstId { from: usize },
    Name { from: usize },
    Id { from: usize },
    Arguments,
    Json { from: usize, scanner: JsonScanner },
    Fence,
}

impl NamedBody {
    pub fn new(form: &'static Named, at: usize) -> Self {
        let state = match (form.kind, form.id_first) {
            ("", "") => State::Name { from: at },
            ("", _) => State::FirstId { from: at },
            _ => State::Kind,
        };
        Self { form, state, call: RawCall::default(), fenced: false }
    }

    pub fn read(&mut self, at: &mut usize, held: &Held) -> Read {
        loop {
            let step = match &self.state {
                State::Kind | State::BehindKind => self.kind(at, held),
                State::FirstId { from } => self.first_id(*from, at, held),
                State::Name { from } | State::Id { from } => self.name(*from, at, held),
                State::Arguments => self.arguments(at, held),
                State::Json { .. } => self.json(at, held),
                State::Fence => return self.fence(at, held),
            };
            if let Some(read) = step {
                return read;
            }
        }
    }

    /// See [`Reader::part`](super::Reader::part).
    pub fn part(&self, held: &Held, at: usize, n_sent: usize) -> Option<RawCall> {
        let arguments = match &self.state {
            State::Json { from, .. } => held.text.get(*from..at)?,
            State::Fence => &self.call.arguments[..],
            _ => return None,
        };
        let new = arguments.get(n_sent..).unwrap_or_default().to_owned();
        let (name, id) = (self.call.name.clone(), self.call.id.clone());
        (!arguments.is_empty()).then_some(RawCall { name, arguments: new, id })
    }

    fn kind(&mut self, at: &mut usize, held: &Held) -> Option<Read> {
        let Named { kind, .. } = self.form;
        if matches!(self.state, State::Kind) {
            match held.find(*at, kind) {
                Found::Yes(end) => (*at, self.state) = (end, State::BehindKind),
                Found::No => self.state = State::Name { from: *at },
                Found::Part => return Some(Read::Wait),
            }
            return None;
        }
        // A tool may be called as its kind is.
        match held.byte(*at) {
            None => return Some(Read::Wait),
            Some(b'{') => {
                self.call.name = kind.split('<').next().unwrap_or_default().to_owned();
                self.state = State::Arguments;
            }
            Some(_) => self.state = State::Name { from: *at },
        }
        None
    }

    fn first_id(&mut self, from: usize, at: &mut usize, held: &Held) -> Option<Read> {
        loop {
            match (held.find(*at, self.form.id_first), held.byte(*at)) {
                (Found::Yes(end), _) => {
                    self.call.id = Some(held.text[from..*at].trim().to_owned());
                    (*at, self.state) = (end, State::Name { from: end });
                    return None;
                }
                (Found::Part, _) | (_, None) => return Some(Read::Wait),
                (_, Some(byte)) if is_name(byte) && *at - from < NAME_BYTES_MAX => *at += 1,
                _ => return Some(Read::Broken),
            }
        }
    }

    /// Reads a name or an id to its end.
    fn name(&mut self, from: usize, at: &mut usize, held: &Held) -> Option<Read> {
        loop {
            let is_begun = held.space_end(from) < *at;
            // White space may stand between the name and what ends it.
            let behind = if is_begun { held.space_end(*at) } else { *at };
            let text = |at: usize| held.text[from..at].trim();
            let ends = self.form.seps.iter().map(|sep| (*sep, false));
            let ends = ends.chain([(self.form.id_sep, true)]);
            let mut part = false;
            for (mark, before_id) in ends {
                for place in [*at, behind] {
                    match held.find(place, mark) {
                        Found::Yes(end) => {
                            self.named(text(*at), before_id, end);
                            *at = end;
                            return self.call.name.is_empty().then_some(Read::Broken);
                        }
                        Found::Part => part = true,
                        Found::No => {}
                    }
                }
            }
            match (held.byte(behind), held.byte(*at)) {
                _ if part => return Some(Read::Wait),
                (None, _) | (_, None) => return Some(Read::Wait),
                (Some(b'{'), _) => {
                    self.named(text(*at), false, behind);
                    *at = behind;
                    return self.call.name.is_empty().then_some(Read::Broken);
                }
                (_, Some(b' ')) if !is_begun => *at += 1,
                (_, Some(byte)) if is_name(byte) => *at += 1,
                _ => return Some(Read::Broken),
            }
            if *at - from > NAME_BYTES_MAX {
                return Some(Read::Broken);
            }
        }
    }

    fn named(&mut self, text: &str, before_id: bool, end: usize) {
        if matches!(self.state, State::Id { .. }) {
            self.call.id = Some(text.to_owned());
        } else if self.form.in_id {
            self.call.id = Some(text.to_owned());
            let name = text.strip_prefix("functions.").unwrap_or(text);
            let number = name.rsplit_once(':').filter(|(_, n)| n.parse::<u32>().is_ok());
            self.call.name = number.map_or(name, |(name, _)| name).to_owned();
        } else {
            self.call.name = text.to_owned();
        }
        self.state = if before_id { State::Id { from: end } } else { State::Arguments };
    }

    fn arguments(&mut self, at: &mut usize, held: &Held) -> Option<Read> {
        *at = held.space_end(*at);
        for fence in ["```json", "```"] {
            match held.find(*at, fence) {
                Found::Part if *at < held.text.len() => return Some(Read::Wait),
                Found::Yes(end) if !self.fenced => {
                    (*at, self.fenced) = (end, true);
                    return None;
                }
                _ => {}
            }
        }
        match held.byte(*at) {
            Some(b'{') => {
                self.state = State::Json { from: *at, scanner: JsonScanner::default() };
                None
            }
            Some(_) => Some(Read::Broken),
            None => Some(Read::Wait),
        }
    }

    fn json(&mut self, at: &mut usize, held: &Held) -> Option<Read> {
        let State::Json { from, scanner } = &mut self.state else { return Some(Read::Broken) };
        while let Some(byte) = held.byte(*at) {
            match scanner.push(byte) {
                Step::More => *at += 1,
                Step::Broken => return Some(Read::Broken),
                Step::Done => {
                    *at += 1;
                    self.call.arguments = held.text[*from..*at].to_owned();
                    if self.fenced {
                        self.state = State::Fence;
                        return None;
                    }
                    return Some(self.whole());
                }
            }
        }
        Some(Read::Wait)
    }

    fn fence(&mut self, at: &mut usize, held: &Held) -> Read {
        *at = held.space_end(*at);
        match held.find(*at, "```") {
            Found::Yes(end) => {
                *at = end;
                self.whole()
            }
            Found::No if held.ends_within(*at, "```") => {
                *at = held.text.len();
                self.whole()
            }
            Found::Part => Read::Wait,
            Found::No => Read::Broken,
        }
    }

    fn whole(&mut self) -> Read {
        Read::Whole(Some(vec![std::mem::take(&mut self.call)]))
    }
}

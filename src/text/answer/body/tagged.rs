//! A name, and parameters whose names and values stand in tags.

use std::collections::HashSet;

use super::super::format::{Reading, Tagged};
use super::super::held::{Found, Held};
use super::super::python;
use super::super::tools::{Tools, quoted};
use super::{NAME_BYTES_MAX, RawCall, Read, is_name, object};

/// Reader of a call in tags.
#[derive(Clone, Debug)]
pub struct TaggedBody {
    form: &'static Tagged,
    state: State,
    name: String,
    key: String,
    reading: Reading,
    /// Names and JSON.
    arguments: Vec<(String, String)>,
    keys: HashSet<String>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Open,
    Name {
        from: usize,
    },
    /// Behind the name, in its tag.
    NameRest {
        from: usize,
    },
    Next,
    Key {
        from: usize,
    },
    ValueOpen,
    Value {
        from: usize,
        verbatim: bool,
    },
    /// Behind a mark that ends the value if a mark of the call follows.
    BehindValue {
        from: usize,
        end: usize,
        verbatim: bool,
    },
}

impl TaggedBody {
    pub fn new(form: &'static Tagged) -> Self {
        Self {
            form,
            state: State::Open,
            name: String::new(),
            key: String::new(),
            reading: Reading::BySchema,
            arguments: Vec::new(),
            keys: HashSet::new(),
        }
    }

    pub fn has_end(&self) -> bool {
        !self.form.end.is_empty()
    }

    pub fn read(
        &mut self,
        at: &mut usize,
        held: &Held,
        tools: &Tools,
        close: &'static str,
    ) -> Read {
        loop {
            let step = match self.state {
                State::Open => self.open(at, held),
                State::Name { from } => self.read_name(from, at, held, close),
                State::NameRest { from } => self.rest_of_name(from, at, held),
                State::Next => self.next(at, held, close),
                State::Key { from } => self.read_key(from, at, held),
                State::ValueOpen => self.open_value(at, held),
                State::Value { from, verbatim } => self.value(from, verbatim, at, held),
                State::BehindValue { from, end, verbatim } => {
                    self.behind_value(from..end, verbatim, at, held, tools, close)
                }
            };
            if let Some(read) = step {
                return read;
            }
        }
    }

    /// See [`Reader::part`](super::Reader::part).
    pub fn part(&self, n_sent: usize) -> Option<RawCall> {
        if matches!(self.state, State::Open | State::Name { .. } | State::NameRest { .. }) {
            return None;
        }
        let so_far = object(self.arguments.iter().map(|(key, json)| (&key[..], &json[..])));
        let so_far = so_far.strip_suffix('}').unwrap_or(&so_far);
        let arguments = so_far.get(n_sent..).unwrap_or_default().to_owned();
        Some(RawCall { name: self.name.clone(), arguments, id: None })
    }

    fn open(&mut self, at: &mut usize, held: &Held) -> Option<Read> {
        let (open, _) = self.form.name;
        if open.is_empty() {
            self.state = State::Name { from: *at };
            return None;
        }
        self.expect(open, at, held, |from| State::Name { from })
    }

    /// Passes a mark, and goes on to what is behind it.
    fn expect(
        &mut self,
        mark: &'static str,
        at: &mut usize,
        held: &Held,
        next: fn(usize) -> State,
    ) -> Option<Read> {
        match held.find(*at, mark) {
            Found::Yes(end) => {
                *at = end;
                self.state = next(end);
                None
            }
            Found::Part => Some(Read::Wait),
            Found::No => Some(Read::Broken),
        }
    }

    fn read_name(
        &mut self,
        from: usize,
        at: &mut usize,
        held: &Held,
        close: &'static str,
    ) -> Option<Read> {
        let (_, end_mark) = self.form.name;
        loop {
            let end = match end_mark.is_empty() {
                false => held.find(*at, end_mark),
                // White space ends it, and what may follow does.
                true => match held.byte(*at) {
                    Some(b'\n' | b'\r' | b' ') => Found::Yes(*at),
                    _ => first_of(held, *at, &[self.form.key, close], false),
                },
            };
            match (end, held.byte(*at)) {
                (Found::Yes(end), _) => {
                    self.name = held.text[from..*at].trim().to_owned();
                    self.state = match self.form.name_rest {
                        "" => State::Next,
                        _ => State::NameRest { from: end },
                    };
                    *at = end;
                    return self.name.is_empty().then_some(Read::Broken);
                }
                (Found::Part, _) | (_, None) => return Some(Read::Wait),
                (_, Some(byte)) if is_name(byte) && *at - from < NAME_BYTES_MAX => *at += 1,
                _ => return Some(Read::Broken),
            }
        }
    }

    fn rest_of_name(&mut self, from: usize, at: &mut usize, held: &Held) -> Option<Read> {
        loop {
            match (held.find(*at, self.form.name_rest), held.byte(*at)) {
                (Found::Yes(end), _) => {
                    (*at, self.state) = (end, State::Next);
                    return None;
                }
                (Found::Part, _) | (_, None) => return Some(Read::Wait),
                _ if *at - from >= NAME_BYTES_MAX => return Some(Read::Broken),
                _ => *at += 1,
            }
        }
    }

    fn next(&mut self, at: &mut usize, held: &Held, close: &'static str) -> Option<Read> {
        *at = held.space_end(*at);
        if *at == held.text.len() {
            return Some(Read::Wait);
        }
        let key = held.find(*at, self.form.key);
        if let Found::Yes(from) = key {
            (*at, self.state) = (from, State::Key { from });
            return None;
        }
        let (end, keeps) = match self.form.end {
            "" => (held.find(*at, close), true),
            mark => (held.find(*at, mark), false),
        };
        match end {
            Found::Yes(end) => {
                *at = if keeps { *at } else { end };
                Some(Read::Whole(self.whole()))
            }
            _ if key == Found::Part || end == Found::Part => Some(Read::Wait),
            _ => Some(Read::Broken),
        }
    }

    fn read_key(&mut self, from: usize, at: &mut usize, held: &Held) -> Option<Read> {
        loop {
            let mut part = false;
            for (mark, reading) in self.form.key_ends {
                match held.find(*at, mark) {
                    Found::Yes(end) => {
                        self.key = held.text[from..*at].trim().to_owned();
                        self.reading = *reading;
                        (*at, self.state) = (end, State::ValueOpen);
                        return None;
                    }
                    Found::Part => part = true,
                    Found::No => {}
                }
            }
            match held.byte(*at) {
                _ if part => return Some(Read::Wait),
                None => return Some(Read::Wait),
                Some(b'\n' | b'<' | b'>') => return Some(Read::Broken),
                Some(_) if *at - from >= NAME_BYTES_MAX => return Some(Read::Broken),
                Some(_) => *at += 1,
            }
        }
    }

    fn open_value(&mut self, at: &mut usize, held: &Held) -> Option<Read> {
        match held.find(*at, self.form.verbatim.0) {
            Found::Yes(from) => {
                (*at, self.state) = (from, State::Value { from, verbatim: true });
                return None;
            }
            Found::Part => return Some(Read::Wait),
            Found::No => {}
        }
        let (open, _) = self.form.value;
        if open.is_empty() {
            self.state = State::Value { from: *at, verbatim: false };
            return None;
        }
        *at = held.space_end(*at);
        self.expect(open, at, held, |from| State::Value { from, verbatim: false })
    }

    fn value(&mut self, from: usize, verbatim: bool, at: &mut usize, held: &Held) -> Option<Read> {
        let (_, close) = if verbatim { self.form.verbatim } else { self.form.value };
        let first = close.as_bytes()[0];
        loop {
            let rest = &held.text.as_bytes()[*at..];
            let Some(next) = rest.iter().position(|byte| *byte == first) else {
                *at = held.text.len();
                return Some(Read::Wait);
            };
            *at += next;
            match held.find(*at, close) {
                Found::Yes(end) => {
                    self.state = State::BehindValue { from, end: *at, verbatim };
                    *at = end;
                    return None;
                }
                Found::Part => return Some(Read::Wait),
                Found::No => *at += 1,
            }
        }
    }

    fn behind_value(
        &mut self,
        value: std::ops::Range<usize>,
        verbatim: bool,
        at: &mut usize,
        held: &Held,
        tools: &Tools,
        close: &'static str,
    ) -> Option<Read> {
        *at = held.space_end(*at);
        match first_of(held, *at, &[self.form.key, self.form.end, close], true) {
            Found::Part => return Some(Read::Wait),
            // Part of the value, which mentions its own end.
            Found::No => self.state = State::Value { from: value.start, verbatim },
            Found::Yes(_) => {
                self.take(&held.text[value], tools);
                self.state = State::Next;
            }
        }
        None
    }

    fn take(&mut self, text: &str, tools: &Tools) {
        let mut text = text;
        if let Some(lines) = text.strip_prefix('\n').filter(|_| self.form.lines) {
            text = lines.strip_suffix('\n').unwrap_or(lines);
        }
        let key = std::mem::take(&mut self.key);
        let json = match self.reading {
            Reading::BySchema => tools.json_of_text(&self.name, &key, text),
            Reading::AsText => quoted(text),
            Reading::AsJson => {
                let json = serde_json::from_str::<serde_json::Value>(text.trim());
                json.ok()
                    .map(|_| text.trim().to_owned())
                    .or_else(|| python::literal(text))
                    .unwrap_or_else(|| quoted(text))
            }
        };
        self.keys.insert(key.clone());
        self.arguments.push((key, json));
    }

    fn whole(&mut self) -> Option<Vec<RawCall>> {
        let arguments = object(self.arguments.iter().map(|(key, json)| (&key[..], &json[..])));
        let call = RawCall { name: std::mem::take(&mut self.name), arguments, id: None };
        // A parameter that comes twice makes no object.
        (self.keys.len() == self.arguments.len()).then(|| vec![call])
    }
}

/// Whether one of the marks stands at `at`; `wait` where there is no text yet.
fn first_of(held: &Held, at: usize, marks: &[&'static str], wait: bool) -> Found {
    let mut part = wait && at == held.text.len() && !held.ended;
    for mark in marks {
        match held.find(at, mark) {
            Found::Yes(_) => return Found::Yes(at),
            Found::Part => part = true,
            Found::No => {}
        }
    }
    if part { Found::Part } else { Found::No }
}

//! `call:name{key:value}`, in which strings stand between marks of their own.

use std::collections::HashSet;

use super::super::held::{Found, Held};
use super::super::json::DEPTH_MAX;
use super::super::tools::{Tools, quoted};
use super::{NAME_BYTES_MAX, RawCall, Read, is_name, object};

/// Reader of a call in braces.
#[derive(Clone, Debug)]
pub struct BracesBody {
    quote: &'static str,
    state: State,
    name: String,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Open,
    Name { from: usize },
    Arguments { from: usize, depth: usize, quoted: bool },
}

impl BracesBody {
    pub fn new(quote: &'static str) -> Self {
        Self { quote, state: State::Open, name: String::new() }
    }

    pub fn read(&mut self, at: &mut usize, held: &Held, tools: &Tools) -> Read {
        loop {
            match self.state {
                State::Open => match held.find(*at, "call:") {
                    Found::Yes(end) => (*at, self.state) = (end, State::Name { from: end }),
                    Found::Part => return Read::Wait,
                    Found::No => return Read::Broken,
                },
                State::Name { from } => match held.byte(*at) {
                    None => return Read::Wait,
                    Some(b'{') => {
                        self.name = held.text[from..*at].trim().to_owned();
                        self.state = State::Arguments { from: *at, depth: 0, quoted: false };
                    }
                    Some(byte) if is_name(byte) && *at - from < NAME_BYTES_MAX => *at += 1,
                    Some(_) => return Read::Broken,
                },
                State::Arguments { from, depth, quoted } => {
                    match held.find(*at, self.quote) {
                        Found::Yes(end) => {
                            *at = end;
                            self.state = State::Arguments { from, depth, quoted: !quoted };
                            continue;
                        }
                        Found::Part => return Read::Wait,
                        Found::No => {}
                    }
                    let Some(byte) = held.byte(*at) else { return Read::Wait };
                    let depth = match byte {
                        _ if quoted => depth,
                        b'{' | b'[' if depth < DEPTH_MAX => depth + 1,
                        b'}' | b']' => depth - 1,
                        b'{' | b'[' | b'<' => return Read::Broken,
                        _ => depth,
                    };
                    *at += 1;
                    self.state = State::Arguments { from, depth, quoted };
                    if depth == 0 {
                        return self.whole(&held.text[from..*at], tools);
                    }
                }
            }
        }
    }

    fn whole(&self, text: &str, tools: &Tools) -> Read {
        let mut reader = Reader { text, at: 0, quote: self.quote };
        let members = reader.members(0).filter(|_| reader.at == text.len());
        let call = |members: Vec<(&str, String, &str)>| {
            let values: Vec<String> = members
                .iter()
                .map(|(key, json, source)| tools.json_of_literal(&self.name, key, json, source))
                .collect();
            let keys = members.iter().map(|(key, ..)| *key);
            let arguments = object(keys.zip(values.iter().map(String::as_str)));
            vec![RawCall { name: self.name.clone(), arguments, id: None }]
        };
        Read::Whole(members.map(call))
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    quote: &'static str,
}

impl<'t> Reader<'t> {
    fn skip(&mut self, what: &str) -> bool {
        self.at += self.text.len() - self.at - self.text[self.at..].trim_start().len();
        let found = self.text[self.at..].starts_with(what);
        self.at += if found { what.len() } else { 0 };
        found
    }

    /// Text up to one of `ends`, which stays.
    fn word(&mut self, ends: &[char]) -> Option<&'t str> {
        let rest = &self.text[self.at..];
        let n = rest.find(ends)?;
        self.at += n;
        Some(rest[..n].trim())
    }

    /// A string between marks.
    fn string(&mut self) -> Option<&'t str> {
        let rest = &self.text[self.at..];
        let n = rest.find(self.quote)?;
        self.at += n + self.quote.len();
        Some(&rest[..n])
    }

    /// Keys, JSON and source of an object's members; `None` for what is none, and for keys that come
    /// twice.
    fn members(&mut self, depth: usize) -> Option<Vec<(&'t str, String, &'t str)>> {
        let (mut members, mut keys) = (Vec::new(), HashSet::new());
        if depth > DEPTH_MAX || !self.skip("{") {
            return None;
        }
        while !self.skip("}") {
            let key =
                if self.skip(self.quote) { self.string()? } else { self.word(&[':', ',', '}'])? };
            if key.is_empty() || !self.skip(":") || !keys.insert(key) {
                return None;
            }
            let start = self.at;
            let json = self.value(depth + 1)?;
            members.push((key, json, self.text[start..self.at].trim()));
            if !self.skip(",") && !self.text[self.at..].starts_with('}') {
                return None;
            }
        }
        Some(members)
    }

    fn value(&mut self, depth: usize) -> Option<String> {
        if self.skip(self.quote) {
            return self.string().map(quoted);
        }
        if self.text[self.at..].starts_with('{') {
            let members = self.members(depth)?;
            return Some(object(members.iter().map(|(key, json, _)| (*key, &json[..]))));
        }
        if !self.skip("[") {
            let word = self.word(&[',', '}', ']'])?;
            let scalar = !word.starts_with(['"', '[', '{']);
            return serde_json::from_str::<serde_json::Value>(word)
                .ok()
                .filter(|_| scalar)
                .map(|_| word.to_owned());
        }
        let mut items = Vec::new();
        if depth > DEPTH_MAX {
            return None;
        }
        while !self.skip("]") {
            items.push(self.value(depth + 1)?);
            if !self.skip(",") && !self.text[self.at..].starts_with(']') {
                return None;
            }
        }
        Some(format!("[{}]", items.join(", ")))
    }
}

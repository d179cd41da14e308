//! Calls as JSON: an object, or an array of them.

use super::super::format::Body;
use super::super::held::Held;
use super::super::json::{JsonScanner, Step, elements, members};
use super::super::tools::Tools;
use super::{RawCall, Read};

/// Bytes within which the arguments of a call begin, if they are to be told as they come.
const HEAD_BYTES_MAX: usize = 2048;

/// Names of members, as families have them.
const IDS: [&str; 3] = ["id", "tool_call_id", "call_id"];
const NAMES: [&str; 3] = ["name", "tool_name", "function"];
const ARGUMENTS: [&str; 2] = ["arguments", "parameters"];

/// Reader of one JSON value.
#[derive(Clone, Debug)]
pub struct JsonBody {
    body: &'static Body,
    scanner: JsonScanner,
    from: usize,
    begun: Option<Begun>,
}

/// A call whose arguments have begun.
#[derive(Clone, Debug)]
struct Begun {
    name: String,
    id: Option<String>,
    /// Where the arguments begin, and up to where they are read.
    from: usize,
    to: usize,
    scanner: JsonScanner,
    is_whole: bool,
}

impl JsonBody {
    pub fn new(body: &'static Body, from: usize) -> Self {
        Self { body, scanner: JsonScanner::default(), from, begun: None }
    }

    pub fn read(&mut self, at: &mut usize, held: &Held, tools: &Tools) -> Read {
        while let Some(byte) = held.byte(*at) {
            match self.scanner.push(byte) {
                Step::More => *at += 1,
                Step::Broken => return Read::Broken,
                Step::Done => {
                    *at += 1;
                    return self.whole(&held.text[self.from..*at], tools);
                }
            }
        }
        Read::Wait
    }

    /// See [`Reader::part`](super::Reader::part). Of several calls in an array the first.
    pub fn part(
        &mut self,
        held: &Held,
        at: usize,
        tools: &Tools,
        n_sent: usize,
    ) -> Option<RawCall> {
        if self.begun.is_none() {
            self.begun = self.begin(&held.text[self.from..at], tools);
        }
        let begun = self.begun.as_mut()?;
        while !begun.is_whole && begun.to < at {
            let byte = held.byte(begun.to)?;
            begun.is_whole = begun.scanner.push(byte) != Step::More;
            begun.to += 1;
        }
        let so_far = held.text.get(begun.from..begun.to)?;
        let arguments = so_far.get(n_sent..).unwrap_or_default();
        let (name, id) = (begun.name.clone(), begun.id.clone());
        Some(RawCall { name, arguments: arguments.to_owned(), id })
    }

    /// The call that begins in the text so far.
    fn begin(&self, json: &str, tools: &Tools) -> Option<Begun> {
        if json.len() > HEAD_BYTES_MAX || matches!(self.body, Body::WrappedJson) {
            return None;
        }
        let head = match self.body {
            Body::ShortJson => short_head(json, tools).or_else(|| head(json)),
            _ => head(json),
        };
        let (name, id, at) = head?;
        let from = self.from + at;
        let scanner = JsonScanner::default();
        Some(Begun { name, id, from, to: from, scanner, is_whole: false })
    }

    fn whole(&self, json: &str, tools: &Tools) -> Read {
        let json = json.trim();
        let one = |json: &str| match self.body {
            Body::ShortJson => short_call(json, tools).or_else(|| call(json)),
            _ => call(json),
        };
        if matches!(self.body, Body::WrappedJson) && json.starts_with('{') {
            let Some(members) = members(json) else { return Read::Whole(None) };
            if let Some((name, at)) = members.first() {
                let value = &json[at.clone()];
                match name.as_str() {
                    "tool_calls" | "tool_call" => return Read::Whole(many(value, &call)),
                    "response" if members.len() == 1 => {
                        let text = serde_json::from_str(value);
                        return Read::Said(text.unwrap_or_else(|_| value.to_owned()));
                    }
                    _ => {}
                }
            }
        }
        Read::Whole(many(json, &one))
    }
}

/// The calls of an array or of one object.
fn many(json: &str, one: &dyn Fn(&str) -> Option<RawCall>) -> Option<Vec<RawCall>> {
    match json.starts_with('[') {
        true => elements(json)?.into_iter().map(|at| one(&json[at])).collect(),
        false => Some(vec![one(json)?]),
    }
}

/// `{"name", "arguments"}`, under the names that families give them.
fn call(json: &str) -> Option<RawCall> {
    if !json.starts_with('{') {
        return None;
    }
    let members = members(json)?;
    let value = |names: &[&str]| {
        let found = names.iter().find_map(|name| members.iter().find(|(key, _)| key == name));
        found.map(|(_, at)| &json[at.clone()])
    };
    let text = |names: &[&str]| value(names).and_then(|json| serde_json::from_str(json).ok());
    let id: Option<String> = text(&IDS);
    if let Some(function) = value(&["function"]).filter(|json| json.starts_with('{')) {
        let nested = call_in(function)?;
        return Some(RawCall { id: id.or(nested.id), ..nested });
    }
    let name = text(&NAMES)?;
    let arguments = value(&ARGUMENTS)?.to_owned();
    Some(RawCall { name, arguments, id })
}

/// The object within `"function"`, which has none of its own.
fn call_in(json: &str) -> Option<RawCall> {
    let members = members(json)?;
    let value =
        |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, at)| &json[at.clone()]);
    let name = serde_json::from_str(value("name")?).ok()?;
    let arguments = value("arguments").or_else(|| value("parameters"))?.to_owned();
    Some(RawCall { name, arguments, id: None })
}

/// `{"name": {arguments}}`.
fn short_call(json: &str, tools: &Tools) -> Option<RawCall> {
    if !json.starts_with('{') {
        return None;
    }
    match &members(json)?[..] {
        [(name, at)] if tools.has(name) => {
            Some(RawCall { name: name.clone(), arguments: json[at.clone()].to_owned(), id: None })
        }
        _ => None,
    }
}

/// Name, id and place of the arguments of a call of which this much is there; `None` as long as they
/// have not begun, or if they come before the name.
fn head(json: &str) -> Option<(String, Option<String>, usize)> {
    let (mut name, mut id) = (None, None);
    let mut at = first_object(json)?;
    loop {
        let (key, value) = key_at(json, at)?;
        let text = || string_at(json, value);
        at = match &key[..] {
            key if ARGUMENTS.contains(&key) && json[value..].starts_with('{') => {
                return Some((name?, id, value));
            }
            "function" if json[value..].starts_with('{') => {
                at = value + 1;
                continue;
            }
            key if NAMES.contains(&key) => {
                let (text, end) = text()?;
                name = Some(text);
                end
            }
            key if IDS.contains(&key) => {
                let (text, end) = text()?;
                id = Some(text);
                end
            }
            _ => text()?.1,
        };
        at = behind_comma(json, at)?;
    }
}

/// [`head`] of a call as `{"name": {arguments}}`.
fn short_head(json: &str, tools: &Tools) -> Option<(String, Option<String>, usize)> {
    let (name, value) = key_at(json, first_object(json)?)?;
    let is_one = tools.has(&name) && json[value..].starts_with('{');
    is_one.then_some((name, None, value))
}

/// Behind the brace that opens an object, or the first one of an array.
fn first_object(json: &str) -> Option<usize> {
    let at = space_end(json, 0);
    let at = if json[at..].starts_with('[') { space_end(json, at + 1) } else { at };
    json[at..].starts_with('{').then_some(at + 1)
}

/// A member's name and where its value begins, which is there.
fn key_at(json: &str, at: usize) -> Option<(String, usize)> {
    let (key, end) = string_at(json, space_end(json, at))?;
    let colon = space_end(json, end);
    let value = space_end(json, colon + json[colon..].strip_prefix(':').map(|_| 1)?);
    (value < json.len()).then_some((key, value))
}

/// Behind a comma.
fn behind_comma(json: &str, at: usize) -> Option<usize> {
    let at = space_end(json, at);
    json[at..].strip_prefix(',').map(|_| at + 1)
}

fn space_end(json: &str, at: usize) -> usize {
    json.len() - json[at..].trim_start_matches([' ', '\t', '\n', '\r']).len()
}

/// A whole string, and its end.
fn string_at(json: &str, at: usize) -> Option<(String, usize)> {
    let inner = json[at..].strip_prefix('"')?;
    let mut is_escaped = false;
    let end = inner.bytes().position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    })?;
    let end = at + 1 + end + 1;
    Some((serde_json::from_str(&json[at..end]).ok()?, end))
}

//! Calls as JSON: an object, or an array of them.

use super::super::format::Body;
use super::super::held::Held;
use super::super::json::{JsonScanner, Step, elements, members};
use super::super::tools::Tools;
use super::{RawCall, Read};

/// Reader of one JSON value.
#[derive(Clone, Debug)]
pub struct JsonBody {
    body: &'static Body,
    scanner: JsonScanner,
    from: usize,
}

impl JsonBody {
    pub fn new(body: &'static Body, from: usize) -> Self {
        Self { body, scanner: JsonScanner::default(), from }
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
    let id: Option<String> = text(&["id", "tool_call_id", "call_id"]);
    if let Some(function) = value(&["function"]).filter(|json| json.starts_with('{')) {
        let nested = call_in(function)?;
        return Some(RawCall { id: id.or(nested.id), ..nested });
    }
    let name = text(&["name", "tool_name", "function"])?;
    let arguments = value(&["arguments", "parameters"])?.to_owned();
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

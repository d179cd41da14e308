//! A name, and parameters as elements, which may hold elements themselves: `<key>value</key>`, with a mark
//! before each tag.

use std::collections::HashMap;

use super::super::format::Elements;
use super::super::held::{Found, Held};
use super::super::json::DEPTH_MAX;
use super::super::tools::Tools;
use super::{NAME_BYTES_MAX, RawCall, Read, is_name, object};

/// Name of the elements of an array.
const ITEM: &str = "item";

/// Reader of a call in elements.
#[derive(Clone, Debug)]
pub struct ElementsBody {
    form: &'static Elements,
    state: State,
    name: String,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Open,
    Name { from: usize },
    Elements { from: usize },
}

impl ElementsBody {
    pub fn new(form: &'static Elements) -> Self {
        Self { form, state: State::Open, name: String::new() }
    }

    pub fn read(&mut self, at: &mut usize, held: &Held, tools: &Tools) -> Read {
        let (open, open_end) = self.form.name;
        loop {
            match self.state {
                State::Open => match held.find(*at, open) {
                    Found::Yes(end) => (*at, self.state) = (end, State::Name { from: end }),
                    Found::Part => return Read::Wait,
                    Found::No => return Read::Broken,
                },
                State::Name { from } => match (held.find(*at, open_end), held.byte(*at)) {
                    (Found::Yes(end), _) => {
                        self.name = held.text[from..*at].to_owned();
                        (*at, self.state) = (end, State::Elements { from: end });
                    }
                    (Found::Part, _) | (_, None) => return Read::Wait,
                    (_, Some(byte)) if is_name(byte) && *at - from < NAME_BYTES_MAX => *at += 1,
                    _ => return Read::Broken,
                },
                State::Elements { from } => {
                    let first = self.form.end.as_bytes()[0];
                    let rest = &held.text.as_bytes()[*at..];
                    let Some(next) = rest.iter().position(|byte| *byte == first) else {
                        *at = held.text.len();
                        return Read::Wait;
                    };
                    *at += next;
                    match held.find(*at, self.form.end) {
                        Found::Yes(end) => {
                            let inside = &held.text[from..*at];
                            *at = end;
                            return Read::Whole(self.whole(inside, tools));
                        }
                        Found::Part => return Read::Wait,
                        Found::No => *at += 1,
                    }
                }
            }
        }
    }

    fn whole(&self, inside: &str, tools: &Tools) -> Option<Vec<RawCall>> {
        let Self { form, name, .. } = self;
        let mut reader = Reader { rest: inside, mark: form.mark, tool: name, tools };
        let members = reader.members(&mut Vec::new())?;
        let arguments = object(members.iter().map(|(key, json)| (*key, json.as_str())));
        let is_whole = reader.rest.trim().is_empty();
        is_whole.then(|| vec![RawCall { name: name.clone(), arguments, id: None }])
    }
}

struct Reader<'t> {
    rest: &'t str,
    mark: &'static str,
    tool: &'t str,
    tools: &'t Tools,
}

impl<'t> Reader<'t> {
    /// Elements up to what is none, with their JSON; those that have a name together are an array.
    fn members(&mut self, path: &mut Vec<&'t str>) -> Option<Vec<(&'t str, String)>> {
        if path.len() > DEPTH_MAX {
            return None;
        }
        let is_inner = !path.is_empty();
        let mut members: Vec<(&str, Vec<String>)> = Vec::new();
        let mut places = HashMap::new();
        while let Some(key) = self.open() {
            path.push(key);
            let json = self.value(key, path)?;
            path.pop();
            let place = *places.entry(key).or_insert(members.len());
            match members.get_mut(place) {
                Some((_, values)) => values.push(json),
                None => members.push((key, vec![json])),
            }
        }
        let array = |values: Vec<String>| format!("[{}]", values.join(", "));
        let one = |(key, mut values): (&'t str, Vec<String>)| match (values.len(), values.pop()) {
            (1, Some(json)) if !(is_inner && key == ITEM) => (key, json),
            (_, last) => (key, array(values.into_iter().chain(last).collect())),
        };
        Some(members.into_iter().map(one).collect())
    }

    /// Passes a tag that opens an element.
    fn open(&mut self) -> Option<&'t str> {
        let rest = self.rest.trim_start().strip_prefix(self.mark)?.strip_prefix('<')?;
        let (key, rest) = rest.split_once('>')?;
        let is_key = !key.is_empty() && !key.starts_with('/') && !key.contains(['<', '\n']);
        if is_key {
            self.rest = rest;
        }
        is_key.then_some(key)
    }

    /// The value of an element, whose closing tag is passed.
    fn value(&mut self, key: &str, path: &mut Vec<&'t str>) -> Option<String> {
        let start = self.rest;
        let members = self.members(path)?;
        let json = match &members[..] {
            [] => {
                let (text, _) = start.split_once(self.mark)?;
                self.rest = &start[text.len()..];
                self.tools.json_of_element(self.tool, path, text)
            }
            [(ITEM, array)] => array.clone(),
            members => object(members.iter().map(|(key, json)| (*key, json.as_str()))),
        };
        let rest = self.rest.trim_start().strip_prefix(self.mark)?;
        self.rest = rest.strip_prefix("</")?.strip_prefix(key)?.strip_prefix('>')?;
        Some(json)
    }
}

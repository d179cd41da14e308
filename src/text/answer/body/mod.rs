//! Ways in which calls are written, each read as its text comes.

mod braces;
mod elements;
mod json;
mod named;
mod python;
mod tagged;

use super::format::{Body, CallForm};
use super::held::{Held, is_space};
use super::tools::Tools;

/// Bytes of a name, at most; a longer one is none.
const NAME_BYTES_MAX: usize = 256;
/// White space before the first element of an array, at most, where it tells JSON from Python.
const SPACE_BYTES_MAX: usize = 64;

/// A call as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RawCall {
    pub name: String,
    /// JSON, mostly an object.
    pub arguments: String,
    /// Id that the model wrote.
    pub id: Option<String>,
}

/// Result of reading on.
#[derive(Debug)]
pub(super) enum Read {
    /// More text is needed.
    Wait,
    /// Nothing of the kind continues like this.
    Broken,
    /// The text is whole: calls, unless it holds something else.
    Whole(Option<Vec<RawCall>>),
    /// The text is whole and says this.
    Said(String),
}

/// Reader of one item.
#[derive(Clone, Debug)]
pub(super) enum Reader {
    Json(json::JsonBody),
    Named(named::NamedBody),
    Tagged(tagged::TaggedBody),
    Python(python::PythonBody),
    Braces(braces::BracesBody),
    Elements(elements::ElementsBody),
}

impl Reader {
    /// The reader of a body that begins at `at`.
    fn new(body: &'static Body, at: usize) -> Reader {
        match body {
            Body::Json | Body::ShortJson | Body::WrappedJson => {
                Reader::Json(json::JsonBody::new(body, at))
            }
            Body::Named(form) => Reader::Named(named::NamedBody::new(form, at)),
            Body::Tagged(form) => Reader::Tagged(tagged::TaggedBody::new(form)),
            Body::Python => Reader::Python(python::PythonBody::new(at)),
            Body::Braces { quote } => Reader::Braces(braces::BracesBody::new(quote)),
            Body::Elements(form) => Reader::Elements(elements::ElementsBody::new(form)),
        }
    }

    /// The reader of the first of a form's bodies that can begin with the byte at `at`, which is
    /// there. `Ok(None)`: more text tells.
    pub fn choose(form: &'static CallForm, held: &Held, at: usize) -> Result<Option<Reader>, ()> {
        let first = held.byte(at).ok_or(())?;
        let is_json =
            |body: &Body| matches!(body, Body::Json | Body::ShortJson | Body::WrappedJson);
        let python = form.bodies.iter().any(|body| matches!(body, Body::Python));
        let mut json = matches!(first, b'{' | b'[');
        if json && python && first == b'[' {
            let behind = &held.text.as_bytes()[at + 1..];
            let seen = &behind[..behind.len().min(SPACE_BYTES_MAX)];
            match seen.iter().find(|byte| !is_space(**byte)) {
                Some(second) => json = *second == b'{',
                None if seen.len() == SPACE_BYTES_MAX => json = false,
                None if held.ended => return Err(()),
                None => return Ok(None),
            }
        }
        let chosen = form.bodies.iter().find(|body| !is_json(body) || json);
        chosen.map(|body| Some(Reader::new(body, at))).ok_or(())
    }

    /// Reads on from `at`, which moves. `close` ends the block that the item is in.
    pub fn read(
        &mut self,
        at: &mut usize,
        held: &Held,
        tools: &Tools,
        close: &'static str,
    ) -> Read {
        match self {
            Reader::Json(body) => body.read(at, held, tools),
            Reader::Named(body) => body.read(at, held),
            Reader::Tagged(body) => body.read(at, held, tools, close),
            Reader::Python(body) => body.read(at, held, tools, close),
            Reader::Braces(body) => body.read(at, held, tools),
            Reader::Elements(body) => body.read(at, held, tools),
        }
    }

    /// The call under way, if it tells its name and the begin of its arguments; of them what follows
    /// `n_sent` bytes, up to `at`. What is told once is what the whole call will begin with.
    pub fn part(
        &mut self,
        held: &Held,
        at: usize,
        tools: &Tools,
        n_sent: usize,
    ) -> Option<RawCall> {
        match self {
            Reader::Json(body) => body.part(held, at, tools, n_sent),
            Reader::Named(body) => body.part(held, at, n_sent),
            Reader::Tagged(body) => body.part(n_sent),
            Reader::Python(_) | Reader::Braces(_) | Reader::Elements(_) => None,
        }
    }

    /// Whether the item says itself where it ends, so that its call stands before its block is over.
    pub fn ends_itself(&self) -> bool {
        matches!(self, Reader::Tagged(body) if body.has_end())
    }
}

/// Bytes of a tool's name.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':' | b'/') || byte >= 0x80
}

/// An object of members that are JSON.
fn object<'m>(members: impl Iterator<Item = (&'m str, &'m str)>) -> String {
    let mut json = String::from("{");
    for (i, (name, value)) in members.enumerate() {
        json.push_str(if i == 0 { "" } else { ", " });
        json.push_str(&super::tools::quoted(name));
        json.push_str(": ");
        json.push_str(value);
    }
    json + "}"
}

//! Formats of answers, as data: how reasoning and calls are marked, and how arguments are written.

use super::formats::FORMATS;
use super::ids::IdForm;

/// How a family of models writes answers: one row of the table of formats.
#[derive(Debug)]
pub struct AnswerFormat {
    /// Name of the family.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// Models that write like this.
    pub about: &'static str,
    /// Marks of the template's source: the format is its if all marks of one group are there.
    pub(super) signs: &'static [&'static [&'static str]],
    /// Architectures that have it where the template tells nothing.
    pub(super) architectures: &'static [&'static str],
    /// Pairs of marks around reasoning.
    pub(super) reasoning: &'static [Reasoning],
    /// Forms of calls.
    pub(super) calls: &'static [CallForm],
    /// Marks around text that mean nothing else.
    pub(super) hidden: &'static [&'static str],
    /// Marks that end a turn, dropped where nothing follows.
    pub(super) ends: &'static [&'static str],
    /// Marks that the prompt may end with and the answer goes on from.
    pub(super) prefills: &'static [&'static str],
    /// Whether answers are messages with headers (harmony).
    pub(super) messages: bool,
    /// Ids of calls that the model gives none.
    pub(super) ids: IdForm,
}

/// Marks around reasoning.
#[derive(Debug)]
pub(super) struct Reasoning {
    pub open: &'static str,
    pub close: &'static str,
    /// Whether it may also begin behind text.
    pub anywhere: bool,
}

/// A form of calls: a block `open close` of items.
#[derive(Debug)]
pub(super) struct CallForm {
    /// Mark that opens a block; empty: only what an answer begins with can be one.
    pub open: &'static str,
    /// Whether the mark is part of the first item.
    pub keeps_open: bool,
    /// Marks around an item; may be empty.
    pub item: (&'static str, &'static str),
    /// Ways in which an item is written; the first that can begin like the text is tried.
    pub bodies: &'static [Body],
    /// Mark that closes the block; empty: it ends with its items.
    pub close: &'static str,
}

/// How a call is written.
#[derive(Debug)]
pub(super) enum Body {
    /// `{"name", "arguments"}`, an array of such, or several behind one another.
    Json,
    /// `{"name": {arguments}}`, alone or in an array.
    ShortJson,
    /// `{"tool_calls": [..]}` or `{"response": ".."}`.
    WrappedJson,
    /// A name, a mark, and the arguments as JSON.
    Named(Named),
    /// A name, and parameters each in tags.
    Tagged(Tagged),
    /// Python calls.
    Python,
    /// `call:name{key:value}`, strings between marks.
    Braces { quote: &'static str },
    /// A name, and parameters as elements that may be nested.
    Elements(Elements),
}

/// A name and arguments as JSON.
#[derive(Debug)]
pub(super) struct Named {
    /// What may stand before the name and says nothing.
    pub kind: &'static str,
    /// Marks that end the name. A brace, which begins the arguments, does too.
    pub seps: &'static [&'static str],
    /// Mark between the name and the call's id, if there may be one.
    pub id_sep: &'static str,
    /// Whether the name is an id at the same time: `functions.name:0`.
    pub in_id: bool,
    /// Mark between the call's id and the name, where the id comes first.
    pub id_first: &'static str,
}

/// Names and values of parameters in tags.
#[derive(Debug)]
pub(super) struct Tagged {
    /// Marks around the name; an empty end: it ends at a line break, at a parameter or the block.
    pub name: (&'static str, &'static str),
    /// Mark up to which what follows the name says nothing; empty: there is no such thing.
    pub name_rest: &'static str,
    /// Mark before a parameter's name.
    pub key: &'static str,
    /// Marks behind it, and how the value is to be read.
    pub key_ends: &'static [(&'static str, Reading)],
    /// Marks around the value; the first may be empty.
    pub value: (&'static str, &'static str),
    /// Mark that a value may open with, and the one that then closes it in the place of the other; may be
    /// empty.
    pub verbatim: (&'static str, &'static str),
    /// Mark that ends the call; empty: the block's end does.
    pub end: &'static str,
    /// Whether values may stand on lines of their own.
    pub lines: bool,
}

/// A name and parameters as elements.
#[derive(Debug)]
pub(super) struct Elements {
    /// Marks around the name.
    pub name: (&'static str, &'static str),
    /// Mark before each tag.
    pub mark: &'static str,
    /// Mark that ends the call.
    pub end: &'static str,
}

/// How the text of a parameter is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    BySchema,
    AsText,
    AsJson,
}

impl AnswerFormat {
    /// The format of a family's name.
    pub fn by_name(name: &str) -> Option<&'static AnswerFormat> {
        FORMATS.iter().find(|format| format.name == name || format.aliases.contains(&name))
    }

    /// The format that a chat template asks its model for, by the marks in its source; where it
    /// has none, that of the architecture; else the generic one.
    pub fn of_template(source: Option<&str>, architecture: &str) -> &'static AnswerFormat {
        let source = source.unwrap_or_default();
        let has = |signs: &[&str]| signs.iter().all(|sign| source.contains(sign));
        let by_sign = || FORMATS.iter().find(|format| format.signs.iter().any(|signs| has(signs)));
        let by_architecture =
            || FORMATS.iter().find(|format| format.architectures.contains(&architecture));
        by_sign().or_else(by_architecture).unwrap_or_else(AnswerFormat::generic)
    }

    /// The format for models whose templates know no tools.
    pub fn generic() -> &'static AnswerFormat {
        FORMATS.last().expect("the table has rows")
    }

    /// All formats.
    pub fn all() -> &'static [AnswerFormat] {
        FORMATS
    }

    /// Marks that begin calls: where a grammar takes over.
    pub fn triggers(&self) -> impl Iterator<Item = &'static str> {
        self.calls.iter().map(|form| form.open).filter(|open| !open.is_empty())
    }

    /// Whether a prompt ends in reasoning that it has opened for the model.
    pub fn opens_reasoning(&self, prompt: &str) -> bool {
        self.opened_by(prompt).is_some()
    }

    /// The reasoning that a prompt has opened.
    pub(super) fn opened_by(&self, prompt: &str) -> Option<&'static Reasoning> {
        let end = prompt.trim_end();
        self.reasoning.iter().find(|reasoning| end.ends_with(reasoning.open.trim_end()))
    }

    /// The marks around a call, where calls are JSON objects with a name and arguments between two marks.
    pub fn json_calls(&self) -> Option<(&'static str, &'static str)> {
        let form = self.calls.first()?;
        let is_json = matches!(form.bodies, [Body::Json]) && form.item == ("", "");
        (is_json && !form.open.is_empty() && !form.close.is_empty() && !form.keeps_open)
            .then_some((form.open, form.close))
    }

    /// Pairs of marks that open and close reasoning.
    pub fn reasoning_marks(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.reasoning.iter().map(|marks| (marks.open, marks.close))
    }

    /// Every mark of the format.
    pub(super) fn all_marks(&self) -> Vec<&'static str> {
        let mut marks: Vec<&str> = [self.hidden, self.ends, self.prefills].concat();
        marks.extend(self.reasoning.iter().flat_map(|r| [r.open, r.close]));
        marks.extend(if self.messages { &super::messages::MARKS[..] } else { &[] });
        for form in self.calls {
            marks.extend([form.open, form.item.0, form.item.1, form.close]);
            for body in form.bodies {
                match body {
                    Body::Json | Body::ShortJson | Body::WrappedJson | Body::Python => {}
                    Body::Named(named) => {
                        marks.extend([named.kind, named.id_sep, named.id_first]);
                        marks.extend(named.seps);
                    }
                    Body::Tagged(tagged) => {
                        let Tagged { name, name_rest, key, key_ends, value, end, .. } = tagged;
                        marks.extend([name.0, name.1, name_rest, key, value.0, value.1, end]);
                        marks.extend(key_ends.iter().map(|(mark, _)| *mark));
                    }
                    Body::Braces { quote } => marks.push(quote),
                    Body::Elements(Elements { name, end, .. }) => {
                        marks.extend([name.0, name.1, end]);
                    }
                }
            }
        }
        marks.retain(|mark| !mark.is_empty());
        marks.sort_unstable();
        marks.dedup();
        marks
    }
}

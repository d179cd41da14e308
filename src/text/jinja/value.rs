//! Values of templates, with Python's truth, equality, order and spelling.
//!
//! Values cannot change, as in Jinja2's immutable sandbox; namespaces, which can, go into no
//! container. So values have no cycles, and two counts kept with each container bound how deep it is
//! and how much it spells, whatever is shared.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::ast::{ForLoop, MacroDef};
use super::error::{JinjaError, Result};
use super::eval::Frame;
use super::text::{Marked, Text};

/// Nesting of containers: deeper values are no data of a conversation, and each level costs stack.
pub const DEPTH_MAX: u32 = 160;
/// Values within a container, those in containers inside counted; 16 bytes of a string are one.
const SIZE_MAX: u64 = 4 << 20;
/// Items of a range, as in Jinja2's sandbox.
pub const RANGE_MAX: i64 = 100_000;

/// A value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing, with what it would have been.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    /// A string that is not to be escaped (`safe`).
    Safe(Text),
    Seq(Rc<Seq>),
    /// Start, stop and step.
    Range(i64, i64, i64),
    Dict(Rc<Dict>),
    Object(Rc<Object>),
}

/// Items in order.
#[derive(Debug)]
pub struct Seq {
    pub kind: SeqKind,
    pub items: Vec<Value>,
    bound: Bound,
}

/// Kinds of sequences, which differ in spelling and in what can be done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeqKind {
    List,
    Tuple,
    /// Result of `map`, `select` and their kin: no length, no index, no JSON.
    Generator,
    /// Result of `dict.items()` and its kin.
    View(&'static str),
}

/// Keys and values in order of insertion.
#[derive(Debug)]
pub struct Dict {
    pub entries: Vec<(Value, Value)>,
    bound: Bound,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bound {
    depth: u32,
    size: u64,
}

/// Values that are neither data nor can be spelled.
#[derive(Debug)]
pub enum Object {
    Namespace(RefCell<Vec<(String, Value)>>),
    Macro {
        def: Arc<MacroDef>,
        frame: Weak<Frame>,
    },
    Function(&'static str),
    /// A method of a value that is not called yet.
    Method(Value, String),
    Loop(LoopState),
    Joiner {
        separator: Value,
        used: Cell<bool>,
    },
    Cycler {
        items: Vec<Value>,
        at: Cell<usize>,
    },
}

/// The `loop` of a loop.
#[derive(Debug)]
pub struct LoopState {
    pub items: Rc<Vec<Value>>,
    pub index: Cell<usize>,
    pub depth: usize,
    pub changed: RefCell<Option<Vec<Value>>>,
    /// The loop and its frame if it is recursive.
    pub recursion: Option<(Arc<ForLoop>, Weak<Frame>)>,
}

impl Bound {
    fn of(value: &Value) -> Result<Bound> {
        Ok(match value {
            Value::Str(text) | Value::Safe(text) => {
                Bound { depth: 0, size: 1 + text.len() as u64 / 16 }
            }
            Value::Seq(seq) => seq.bound,
            Value::Dict(dict) => dict.bound,
            Value::Object(object) => match &**object {
                Object::Namespace(_) | Object::Loop(_) => {
                    return Err(JinjaError::unsupported(
                        "a namespace or loop inside of a container",
                    ));
                }
                Object::Method(value, _) => Bound::of(value)?.around()?,
                Object::Cycler { items, .. } => Bound::sum(items)?,
                _ => Bound { depth: 0, size: 1 },
            },
            _ => Bound { depth: 0, size: 1 },
        })
    }

    fn sum<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<Bound> {
        let mut all = Bound::default();
        for value in values {
            let bound = Bound::of(value)?;
            all.depth = all.depth.max(bound.depth);
            all.size += bound.size;
        }
        all.around()
    }

    fn around(self) -> Result<Bound> {
        let bound = Bound { depth: self.depth + 1, size: self.size + 1 };
        if bound.depth > DEPTH_MAX {
            return Err(JinjaError::limit("nesting of values"));
        }
        if bound.size > SIZE_MAX {
            return Err(JinjaError::limit("values in a container"));
        }
        Ok(bound)
    }
}

impl Seq {
    /// A sequence; an error if it is too deep or too large.
    pub fn value(kind: SeqKind, items: Vec<Value>) -> Result<Value> {
        let bound = Bound::sum(&items)?;
        Ok(Value::Seq(Rc::new(Seq { kind, items, bound })))
    }
}

impl Dict {
    /// A dictionary; of entries with equal keys the first key and the last value count.
    pub fn value(entries: Vec<(Value, Value)>) -> Result<Value> {
        let mut unique: Vec<(Value, Value)> = Vec::with_capacity(entries.len());
        let mut seen = std::collections::HashMap::with_capacity(entries.len());
        for (key, value) in entries {
            match seen.entry(key.hash_key()?) {
                std::collections::hash_map::Entry::Occupied(at) => {
                    let at: usize = *at.get();
                    unique[at].1 = value;
                }
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(unique.len());
                    unique.push((key, value));
                }
            }
        }
        let bound = Bound::sum(unique.iter().flat_map(|(key, value)| [key, value]))?;
        Ok(Value::Dict(Rc::new(Dict { entries: unique, bound })))
    }

    /// The value of a key.
    pub fn get(&self, key: &Value) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k.equals(key)).map(|(_, value)| value)
    }

    /// The value of a key that is a string.
    pub fn get_str(&self, key: &str) -> Option<&Value> {
        let is_it = |k: &Value| k.as_str().is_some_and(|k| k == key);
        self.entries.iter().find(|(k, _)| is_it(k)).map(|(_, value)| value)
    }
}

/// Equal for keys that are equal.
#[derive(PartialEq, Eq, Hash)]
enum HashKey {
    None,
    Int(i128),
    Float(u64),
    Str(String),
    Tuple(Vec<HashKey>),
}

impl Value {
    /// A string of the template's own.
    pub fn str(text: impl Into<String>) -> Value {
        Value::Str(Text::from(text.into()))
    }

    /// A list.
    pub fn list(items: Vec<Value>) -> Result<Value> {
        Seq::value(SeqKind::List, items)
    }

    /// Nothing where something was looked for.
    pub fn undefined(what: impl Into<String>) -> Value {
        Value::Undefined(what.into().into())
    }

    /// An error if a namespace may not hold this.
    pub fn check_storable(&self) -> Result<()> {
        Bound::of(self).map(|_| ())
    }

    fn hash_key(&self) -> Result<HashKey> {
        Ok(match self {
            Value::None => HashKey::None,
            Value::Bool(b) => HashKey::Int(i128::from(*b)),
            Value::Int(n) => HashKey::Int(*n),
            Value::Float(x) if x.fract() == 0.0 && x.abs() < 1e30 => HashKey::Int(*x as i128),
            Value::Float(x) => HashKey::Float(x.to_bits()),
            Value::Str(text) | Value::Safe(text) => HashKey::Str(text.to_string()),
            Value::Seq(seq) if seq.kind == SeqKind::Tuple => {
                HashKey::Tuple(seq.items.iter().map(Value::hash_key).collect::<Result<_>>()?)
            }
            other => {
                let message = format!("a {} cannot be a key", other.type_name());
                return Err(JinjaError::operation(message));
            }
        })
    }

    /// Python's name of the type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "undefined value",
            Value::None => "none",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) | Value::Safe(_) => "str",
            Value::Seq(seq) => match seq.kind {
                SeqKind::List => "list",
                SeqKind::Tuple => "tuple",
                SeqKind::Generator => "generator",
                SeqKind::View(name) => name,
            },
            Value::Range(..) => "range",
            Value::Dict(_) => "dict",
            Value::Object(object) => match &**object {
                Object::Namespace(_) => "namespace",
                Object::Macro { .. } => "macro",
                Object::Function(_) | Object::Method(..) => "function",
                Object::Loop(_) => "loop",
                Object::Joiner { .. } => "joiner",
                Object::Cycler { .. } => "cycler",
            },
        }
    }

    /// The string, of strings only.
    pub fn as_text(&self) -> Option<&Text> {
        match self {
            Value::Str(text) | Value::Safe(text) => Some(text),
            _ => None,
        }
    }

    /// [`as_text`](Self::as_text) without marks.
    pub fn as_str(&self) -> Option<&str> {
        self.as_text().map(|text| &**text)
    }

    /// The whole number of integers and booleans.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(n) => Some(*n),
            Value::Bool(b) => Some(i128::from(*b)),
            _ => None,
        }
    }

    /// The number of numbers and booleans.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(x) => Some(*x),
            other => other.as_int().map(|n| n as f64),
        }
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub fn is_none(&self) -> bool {
        matches!(self, Value::None)
    }

    /// Python's truth.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(n) => *n != 0,
            Value::Float(x) => *x != 0.0,
            Value::Str(text) | Value::Safe(text) => !text.is_empty(),
            Value::Seq(seq) => seq.kind == SeqKind::Generator || !seq.items.is_empty(),
            Value::Range(..) => self.len().is_ok_and(|n| n > 0),
            Value::Dict(dict) => !dict.entries.is_empty(),
            Value::Object(_) => true,
        }
    }

    /// Python's `len`.
    pub fn len(&self) -> Result<usize> {
        Ok(match self {
            Value::Undefined(_) => 0,
            Value::Str(text) | Value::Safe(text) => text.chars().count(),
            Value::Seq(seq) if seq.kind != SeqKind::Generator => seq.items.len(),
            Value::Range(start, stop, step) => {
                let (span, step) = match *step > 0 {
                    true => (stop - start, *step),
                    false => (start - stop, -step),
                };
                usize::try_from((span + step - 1).max(0) / step).unwrap_or(0)
            }
            Value::Dict(dict) => dict.entries.len(),
            other => {
                let message = format!("a {} has no length", other.type_name());
                return Err(JinjaError::operation(message));
            }
        })
    }

    /// Values that a loop over this one visits.
    pub fn items(&self) -> Result<Vec<Value>> {
        Ok(match self {
            Value::Undefined(_) => Vec::new(),
            Value::Str(text) | Value::Safe(text) => {
                let each = |(at, c): (usize, char)| Value::Str(text.slice(at..at + c.len_utf8()));
                text.char_indices().map(each).collect()
            }
            Value::Seq(seq) => seq.items.clone(),
            Value::Range(start, _, step) => {
                let n = self.len()? as i64;
                (0..n).map(|i| Value::Int(i128::from(start + i * step))).collect()
            }
            Value::Dict(dict) => dict.entries.iter().map(|(key, _)| key.clone()).collect(),
            other => {
                let message = format!("a {} cannot be iterated over", other.type_name());
                return Err(JinjaError::operation(message));
            }
        })
    }

    /// Python's `==`.
    pub fn equals(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Seq(a), Value::Seq(b)) => {
                let same = |(a, b): (&Value, &Value)| a.equals(b);
                Rc::ptr_eq(a, b)
                    || (a.kind == b.kind
                        && a.kind != SeqKind::Generator
                        && a.items.len() == b.items.len()
                        && a.items.iter().zip(&b.items).all(same))
            }
            (Value::Range(a, b, c), Value::Range(d, e, f)) => (a, b, c) == (d, e, f),
            (Value::Dict(a), Value::Dict(b)) => {
                let same =
                    |(key, value): &(Value, Value)| b.get(key).is_some_and(|v| v.equals(value));
                Rc::ptr_eq(a, b)
                    || (a.entries.len() == b.entries.len() && a.entries.iter().all(same))
            }
            (Value::Object(a), Value::Object(b)) => Rc::ptr_eq(a, b),
            _ => match (self.as_text(), other.as_text()) {
                (Some(a), Some(b)) => a == b,
                (None, None) => match (self.as_int(), other.as_int()) {
                    (Some(a), Some(b)) => a == b,
                    _ => match (self.as_float(), other.as_float()) {
                        (Some(a), Some(b)) => a == b,
                        _ => false,
                    },
                },
                _ => false,
            },
        }
    }

    /// Python's order.
    pub fn compare(&self, other: &Value) -> Result<Ordering> {
        let order = match (self, other) {
            (Value::Seq(a), Value::Seq(b)) if a.kind == b.kind && a.kind != SeqKind::Generator => {
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b) {
                        return a.compare(b);
                    }
                }
                Some(a.items.len().cmp(&b.items.len()))
            }
            _ => match (self.as_text(), other.as_text()) {
                (Some(a), Some(b)) => Some((**a).cmp(&**b)),
                _ => match (self.as_int(), other.as_int()) {
                    (Some(a), Some(b)) => Some(a.cmp(&b)),
                    _ => match (self.as_float(), other.as_float()) {
                        (Some(a), Some(b)) => Some(a.partial_cmp(&b).unwrap_or(Ordering::Greater)),
                        _ => None,
                    },
                },
            },
        };
        order.ok_or_else(|| {
            let (a, b) = (self.type_name(), other.type_name());
            JinjaError::operation(format!("a {a} and a {b} have no order"))
        })
    }

    /// Python's `item in self`.
    pub fn contains(&self, item: &Value) -> Result<bool> {
        match self {
            Value::Str(text) | Value::Safe(text) => match item.as_str() {
                Some(part) => Ok(text.contains(part)),
                None => Err(JinjaError::operation(format!(
                    "`in` a string needs a string before it, not a {}",
                    item.type_name()
                ))),
            },
            Value::Dict(dict) => Ok(dict.get(item).is_some()),
            Value::Seq(seq) => Ok(seq.items.iter().any(|i| i.equals(item))),
            Value::Undefined(_) => Ok(false),
            Value::Range(..) => Ok(self.items()?.iter().any(|i| i.equals(item))),
            other => Err(JinjaError::operation(format!("nothing is `in` a {}", other.type_name()))),
        }
    }

    /// Python's `str`.
    pub fn to_text(&self) -> Text {
        match self {
            Value::Undefined(_) => Text::default(),
            Value::Str(text) | Value::Safe(text) => text.clone(),
            other => other.repr(),
        }
    }

    /// Python's `repr`.
    pub fn repr(&self) -> Text {
        let mut out = Marked::default();
        self.write_repr(&mut out);
        out.into()
    }

    fn write_repr(&self, out: &mut Marked) {
        match self {
            Value::Undefined(_) => out.push_str("Undefined", false),
            Value::None => out.push_str("None", false),
            Value::Bool(true) => out.push_str("True", false),
            Value::Bool(false) => out.push_str("False", false),
            Value::Int(n) => out.push_str(&n.to_string(), false),
            Value::Float(x) => out.push_str(&float_repr(*x), false),
            Value::Str(text) => write_str_repr(text, out),
            Value::Safe(text) => {
                out.push_str("Markup(", false);
                write_str_repr(text, out);
                out.push_str(")", false);
            }
            Value::Seq(seq) => {
                let (open, close) = match seq.kind {
                    SeqKind::List => ("[".to_owned(), "]"),
                    SeqKind::Tuple => {
                        ("(".to_owned(), if seq.items.len() == 1 { ",)" } else { ")" })
                    }
                    SeqKind::Generator => ("<generator object>".to_owned(), ""),
                    SeqKind::View(name) => (format!("{name}(["), "])"),
                };
                out.push_str(&open, false);
                for (i, item) in seq.items.iter().enumerate() {
                    if seq.kind == SeqKind::Generator {
                        break;
                    }
                    out.push_str(if i == 0 { "" } else { ", " }, false);
                    item.write_repr(out);
                }
                out.push_str(close, false);
            }
            Value::Range(start, stop, step) => {
                let step = if *step == 1 { String::new() } else { format!(", {step}") };
                out.push_str(&format!("range({start}, {stop}{step})"), false);
            }
            Value::Dict(dict) => {
                out.push_str("{", false);
                for (i, (key, value)) in dict.entries.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { ", " }, false);
                    key.write_repr(out);
                    out.push_str(": ", false);
                    value.write_repr(out);
                }
                out.push_str("}", false);
            }
            Value::Object(_) => out.push_str(&format!("<{}>", self.type_name()), false),
        }
    }
}

fn write_str_repr(text: &Text, out: &mut Marked) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote, false);
    for (c, marked) in text.marked_chars() {
        let code = c as u32;
        match c {
            '\n' => out.push_str("\\n", marked),
            '\r' => out.push_str("\\r", marked),
            '\t' => out.push_str("\\t", marked),
            '\\' => out.push_str("\\\\", marked),
            c if c == quote => out.push_str(&format!("\\{c}"), marked),
            ' ' => out.push(c, marked),
            c if is_printable(c) => out.push(c, marked),
            _ if code < 0x100 => out.push_str(&format!("\\x{code:02x}"), marked),
            _ if code < 0x1_0000 => out.push_str(&format!("\\u{code:04x}"), marked),
            _ => out.push_str(&format!("\\U{code:08x}"), marked),
        }
    }
    out.push(quote, false);
}

/// Python's `str.isprintable` of one character, but for those that Unicode has not assigned.
pub fn is_printable(c: char) -> bool {
    let is_format = matches!(
        c as u32,
        0xad | 0x600..=0x605
            | 0x61c
            | 0x6dd
            | 0x70f
            | 0x180e
            | 0x200b..=0x200f
            | 0x202a..=0x202e
            | 0x2060..=0x206f
            | 0xe000..=0xf8ff
            | 0xfeff
            | 0xfff9..=0xfffb
            | 0xe_0000..
    );
    c == ' ' || !(c.is_control() || c.is_whitespace() || is_format)
}

/// Python's `repr` of a float: the shortest digits that give it back.
pub fn float_repr(x: f64) -> String {
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{x:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{x}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_spelled_as_python_spells_them() {
        for (x, text) in [
            (1e-7, "1e-07"),
            (1e20, "1e+20"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1e-5, "1e-05"),
            (1e-4, "0.0001"),
            (1e15, "1000000000000000.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (-0.0, "-0.0"),
            (1.5e300, "1.5e+300"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(float_repr(x), text);
        }
    }

    #[test]
    fn containers_are_bounded_whatever_they_share() {
        let mut value = Value::list(Vec::new()).unwrap();
        let mut error = None;
        for _ in 0..200 {
            match Value::list(vec![value.clone(), value.clone()]) {
                Ok(next) => value = next,
                Err(e) => error = error.or(Some(e)),
            }
        }
        assert_eq!(error.unwrap(), JinjaError::limit("values in a container"));
        let mut value = Value::list(Vec::new()).unwrap();
        let deep = (0..200).find_map(|_| match Value::list(vec![value.clone()]) {
            Ok(next) => {
                value = next;
                None
            }
            Err(error) => Some(error),
        });
        assert_eq!(deep.unwrap(), JinjaError::limit("nesting of values"));
    }
}

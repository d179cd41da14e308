//! `tojson` as the model hub defines it: Python's `json.dumps`.

use super::error::{JinjaError, Result};
use super::text::{Marked, Text};
use super::value::{SeqKind, Value, float_repr};

/// Wider indents are no formatting but an attack on memory.
const INDENT_MAX: usize = 16;

/// Layout of the text.
pub struct JsonStyle {
    pub ascii: bool,
    pub item: Text,
    pub key: Text,
    pub indent: Option<String>,
    pub sort_keys: bool,
}

impl JsonStyle {
    /// The style that arguments ask for.
    pub fn new(ascii: bool, indent: &Value, separators: &Value, sort_keys: bool) -> Result<Self> {
        let indent = match indent {
            Value::None => None,
            Value::Str(text) | Value::Safe(text) if text.len() <= INDENT_MAX => {
                Some(text.to_string())
            }
            other => match other.as_int().map(usize::try_from) {
                Some(Ok(n)) if n <= INDENT_MAX => Some(" ".repeat(n)),
                Some(Err(_)) => Some(String::new()),
                _ => return Err(JinjaError::limit("indent")),
            },
        };
        let (item, key) = match separators {
            Value::None => (if indent.is_some() { "," } else { ", " }.into(), ": ".into()),
            other => match &other.items()?[..] {
                [item, key] => (item.to_text(), key.to_text()),
                _ => return Err(JinjaError::operation("tojson: separators must be two strings")),
            },
        };
        Ok(Self { ascii, item, key, indent, sort_keys })
    }

    /// The value in JSON.
    pub fn spell(&self, value: &Value) -> Result<Text> {
        let mut out = Marked::default();
        self.write(value, 0, &mut out)?;
        Ok(out.into())
    }

    fn write(&self, value: &Value, depth: usize, out: &mut Marked) -> Result<()> {
        match value {
            Value::None => out.push_str("null", false),
            Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }, false),
            Value::Int(n) => out.push_str(&n.to_string(), false),
            Value::Float(x) => out.push_str(&json_float(*x), false),
            Value::Str(text) | Value::Safe(text) => self.string(text, out),
            Value::Seq(seq) if matches!(seq.kind, SeqKind::List | SeqKind::Tuple) => {
                out.push_str("[", false);
                for (i, item) in seq.items.iter().enumerate() {
                    self.separate(i, depth + 1, out);
                    self.write(item, depth + 1, out)?;
                }
                self.close(seq.items.is_empty(), depth, "]", out);
            }
            Value::Dict(dict) => {
                let mut entries: Vec<_> = dict.entries.iter().collect();
                if self.sort_keys {
                    let mut failed = None;
                    entries.sort_by(|a, b| {
                        a.0.compare(&b.0).unwrap_or_else(|error| {
                            failed = Some(error);
                            std::cmp::Ordering::Equal
                        })
                    });
                    if let Some(error) = failed {
                        return Err(error);
                    }
                }
                out.push_str("{", false);
                for (i, (key, value)) in entries.iter().enumerate() {
                    self.separate(i, depth + 1, out);
                    self.string(&json_key(key)?, out);
                    out.push_text(&self.key);
                    self.write(value, depth + 1, out)?;
                }
                self.close(entries.is_empty(), depth, "}", out);
            }
            other => {
                let message = format!("tojson: a {} is not JSON serializable", other.type_name());
                return Err(JinjaError::operation(message));
            }
        }
        Ok(())
    }

    fn separate(&self, i: usize, depth: usize, out: &mut Marked) {
        if i > 0 {
            out.push_text(&self.item);
        }
        self.new_line(depth, out);
    }

    fn close(&self, is_empty: bool, depth: usize, bracket: &str, out: &mut Marked) {
        if !is_empty {
            self.new_line(depth, out);
        }
        out.push_str(bracket, false);
    }

    fn new_line(&self, depth: usize, out: &mut Marked) {
        if let Some(indent) = &self.indent {
            out.push('\n', false);
            out.push_str(&indent.repeat(depth), false);
        }
    }

    fn string(&self, text: &Text, out: &mut Marked) {
        out.push('"', false);
        for (c, marked) in text.marked_chars() {
            match c {
                '"' => out.push_str("\\\"", marked),
                '\\' => out.push_str("\\\\", marked),
                '\n' => out.push_str("\\n", marked),
                '\r' => out.push_str("\\r", marked),
                '\t' => out.push_str("\\t", marked),
                '\u{8}' => out.push_str("\\b", marked),
                '\u{c}' => out.push_str("\\f", marked),
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"), marked);
                    }
                }
                c => out.push(c, marked),
            }
        }
        out.push('"', false);
    }
}

fn json_float(x: f64) -> String {
    match () {
        () if x.is_nan() => "NaN".to_owned(),
        () if x.is_infinite() => if x > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        () => float_repr(x),
    }
}

fn json_key(key: &Value) -> Result<Text> {
    Ok(match key {
        Value::Str(text) | Value::Safe(text) => text.clone(),
        Value::None => "null".into(),
        Value::Bool(b) => if *b { "true" } else { "false" }.into(),
        Value::Int(n) => n.to_string().into(),
        Value::Float(x) => json_float(*x).into(),
        other => {
            let message = format!("tojson: a {} cannot be a key", other.type_name());
            return Err(JinjaError::operation(message));
        }
    })
}

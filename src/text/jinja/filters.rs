//! Jinja2's filters and tests.

use std::cmp::Ordering;

use super::args::{Bound, CallArgs};
use super::error::{JinjaError, Result};
use super::eval::Interpreter;
use super::format;
use super::json::JsonStyle;
use super::methods::{self, is_space};
use super::text::{Marked, Text};
use super::value::{Object, Seq, SeqKind, Value};

const FILTERS: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];
const TESTS: &[&str] = &[
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

impl Interpreter<'_> {
    /// `value | name(args)`
    pub(super) fn filter(&self, name: &str, value: &Value, args: CallArgs) -> Result<Value> {
        let parameters: &[&str] = match name {
            "attr" => &["name"],
            "batch" => &["linecount", "fill_with"],
            "center" => &["width"],
            "d" | "default" => &["default_value", "boolean"],
            "dictsort" => &["case_sensitive", "by", "reverse"],
            "filesizeformat" => &["binary"],
            "float" => &["default"],
            "groupby" => &["attribute", "default", "case_sensitive"],
            "indent" => &["width", "first", "blank"],
            "int" => &["default", "base"],
            "join" => &["d", "attribute"],
            "max" | "min" | "unique" => &["case_sensitive", "attribute"],
            "replace" => &["old", "new", "count"],
            "round" => &["precision", "method"],
            "slice" => &["slices", "fill_with"],
            "sort" => &["reverse", "case_sensitive", "attribute"],
            "sum" => &["attribute", "start"],
            "tojson" => &["ensure_ascii", "indent", "separators", "sort_keys"],
            "trim" => &["chars"],
            "truncate" => &["length", "killwords", "end", "leeway"],
            "map" => return self.map(value, args),
            "select" | "reject" => return self.select(value, args, name == "select", false),
            "selectattr" | "rejectattr" => {
                return self.select(value, args, name == "selectattr", true);
            }
            "format" => {
                let args = match args.keyword.is_empty() {
                    true => Seq::value(SeqKind::Tuple, args.positional)?,
                    false => self.dict_of(args.keyword)?,
                };
                return format::percent(&value.to_text(), &args).map(Value::Str);
            }
            "random" | "urlize" | "xmlattr" | "wordwrap" => {
                return Err(JinjaError::unsupported(format!("the filter `{name}`")));
            }
            _ if FILTERS.contains(&name) => &[],
            _ => return Err(JinjaError::operation(format!("there is no filter `{name}`"))),
        };
        let args = args.bind(name, parameters)?;
        for kind in [Self::text_filter, Self::number_filter, Self::items_filter] {
            if let Some(value) = kind(self, name, value, &args)? {
                return Ok(value);
            }
        }
        Err(JinjaError::unsupported(format!("the filter `{name}`")))
    }

    /// Filters that give texts, and `default` and `length`; `None` for others.
    fn text_filter(&self, name: &str, value: &Value, args: &Bound) -> Result<Option<Value>> {
        let text = || value.to_text();
        Ok(Some(match name {
            "d" | "default" => {
                let missing = value.is_undefined() || (args.is_true(1) && !value.is_true());
                match missing {
                    true => args.get(0).cloned().unwrap_or_else(|| Value::str("")),
                    false => value.clone(),
                }
            }
            "length" | "count" => Value::Int(value.len()? as i128),
            "trim" => {
                Value::Str(methods::strip(&text(), args.opt_text(0)?.map(|t| &**t), [true; 2]))
            }
            "string" => match value {
                Value::Safe(_) => value.clone(),
                _ => Value::Str(text()),
            },
            "safe" => Value::Safe(text()),
            "e" | "escape" => match value {
                Value::Safe(_) => value.clone(),
                _ => Value::Safe(escape(&text())),
            },
            "forceescape" => Value::Safe(escape(&text())),
            "upper" => Value::Str(methods::change_case(&text(), true)),
            "lower" => Value::Str(methods::change_case(&text(), false)),
            "capitalize" => Value::Str(methods::capitalize(&text())),
            "title" => Value::Str(title(&text())),
            "center" => {
                let pad = CallArgs {
                    positional: vec![Value::Int(args.size(0, 80)? as i128)],
                    ..CallArgs::default()
                };
                methods::call(&Value::Str(text()), "center", pad, &|_, _, _| Ok(Value::None))?
            }
            "replace" => {
                let (old, new) = (args.need(0)?.to_text(), args.need(1)?.to_text());
                let count = args.opt_int(2)?.unwrap_or(-1);
                Value::Str(methods::replace(&text(), &old, &new, count)?)
            }
            "indent" => {
                Value::Str(indent(&text(), &args.or_none(0), args.is_true(1), args.is_true(2))?)
            }
            "truncate" => {
                let end = args.opt_text(2)?.cloned().unwrap_or_else(|| "...".into());
                Value::Str(truncate(
                    &text(),
                    args.size(0, 255)?,
                    args.is_true(1),
                    &end,
                    args.size(3, 5)?,
                )?)
            }
            "wordcount" => {
                let is_word = |c: char| c.is_alphanumeric() || c == '_';
                let n = text().split(|c| !is_word(c)).filter(|word| !word.is_empty()).count();
                Value::Int(n as i128)
            }
            "striptags" => Value::Str(strip_tags(&text())?),
            "pprint" => {
                let repr = value.repr();
                if repr.chars().count() > 80 {
                    return Err(JinjaError::unsupported("`pprint` of more than one line"));
                }
                Value::Str(repr)
            }
            "filesizeformat" => Value::str(file_size(&self.to_float(value)?, args.is_true(0))),
            "urlencode" => Value::Str(url_encode(value)?),
            "tojson" => {
                let style = JsonStyle::new(
                    args.is_true(0),
                    &args.or_none(1),
                    &args.or_none(2),
                    args.is_true(3),
                )?;
                Value::Str(style.spell(value)?)
            }
            _ => return Ok(None),
        }))
    }

    /// Filters that give numbers; `None` for others.
    fn number_filter(&self, name: &str, value: &Value, args: &Bound) -> Result<Option<Value>> {
        Ok(Some(match name {
            "int" => to_int(
                value,
                &args.get(0).cloned().unwrap_or(Value::Int(0)),
                args.opt_int(1)?.unwrap_or(10),
            )?,
            "float" => match self.to_float(value) {
                Ok(x) => Value::Float(x),
                Err(_) => args.get(0).cloned().unwrap_or(Value::Float(0.0)),
            },
            "abs" => match (value.as_int(), value) {
                (Some(n), _) => Value::Int(n.checked_abs().ok_or_else(super::eval::too_big)?),
                (None, Value::Float(x)) => Value::Float(x.abs()),
                _ => return Err(bad("abs", value)),
            },
            "round" => round(value, args.opt_int(0)?.unwrap_or(0), args.opt_text(1)?)?,
            _ => return Ok(None),
        }))
    }

    /// Filters of all items of a value; `None` for others.
    fn items_filter(&self, name: &str, value: &Value, args: &Bound) -> Result<Option<Value>> {
        Ok(Some(match name {
            "list" => Value::list(value.items()?)?,
            "first" => match value.items()?.into_iter().next() {
                Some(item) => item,
                None => Value::undefined("the first item of nothing"),
            },
            "last" => match value.items()?.pop() {
                Some(item) if !matches!(value, Value::Seq(s) if s.kind == SeqKind::Generator) => {
                    item
                }
                None => Value::undefined("the last item of nothing"),
                Some(_) => return Err(bad("last", value)),
            },
            "reverse" => match value {
                Value::Str(text) | Value::Safe(text) => {
                    let mut out = Marked::default();
                    let chars: Vec<_> = text.marked_chars().collect();
                    chars.iter().rev().for_each(|&(c, marked)| out.push(c, marked));
                    Value::Str(out.into())
                }
                _ => {
                    let mut items = value.items()?;
                    items.reverse();
                    Seq::value(SeqKind::Generator, items)?
                }
            },
            "items" => match value {
                Value::Undefined(_) => Seq::value(SeqKind::Generator, Vec::new())?,
                Value::Dict(dict) => methods::items(dict, SeqKind::Generator)?,
                _ => return Err(bad("items", value)),
            },
            "join" => {
                let separator = args.get(0).map(Value::to_text).unwrap_or_default();
                let items = self.attributes(value.items()?, args.get(1))?;
                Value::Str(methods::join(&separator, &items, false)?)
            }
            "attr" => self.attribute(value, args.text(0)?)?,
            "sum" => {
                let items = self.attributes(value.items()?, args.get(0))?;
                let start = args.get(1).cloned().unwrap_or(Value::Int(0));
                items.iter().try_fold(start, |sum, item| self.add(&sum, item))?
            }
            _ => return self.chosen_items(name, value, args),
        }))
    }

    /// Filters that choose, order or group the items of a value; `None` for others.
    fn chosen_items(&self, name: &str, value: &Value, args: &Bound) -> Result<Option<Value>> {
        Ok(Some(match name {
            "min" | "max" => {
                let items = value.items()?;
                let keys = self.sort_keys(&items, args.is_true(0), args.get(1))?;
                let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
                let mut best: Option<usize> = None;
                for at in 0..items.len() {
                    let better = match best {
                        Some(best) => keys[at].compare(&keys[best])? == wanted,
                        None => true,
                    };
                    best = if better { Some(at) } else { best };
                }
                match best {
                    Some(at) => items[at].clone(),
                    None => Value::undefined("the best of nothing"),
                }
            }
            "unique" => {
                let items = value.items()?;
                let keys = self.sort_keys(&items, args.is_true(0), args.get(1))?;
                let mut kept: Vec<usize> = Vec::new();
                for at in 0..items.len() {
                    self.spend(kept.len() as u64)?;
                    if !kept.iter().any(|&k| keys[k].equals(&keys[at])) {
                        kept.push(at);
                    }
                }
                Seq::value(
                    SeqKind::Generator,
                    kept.into_iter().map(|at| items[at].clone()).collect(),
                )?
            }
            "sort" => {
                let items = value.items()?;
                let keys = self.sort_keys(&items, args.is_true(1), args.get(2))?;
                Value::list(sorted(items, &keys, args.is_true(0))?)?
            }
            "dictsort" => {
                let Value::Dict(dict) = value else { return Err(bad("dictsort", value)) };
                let by_value = match args.opt_text(1)?.map_or("key", |by| by) {
                    "key" => false,
                    "value" => true,
                    _ => return Err(JinjaError::operation("`dictsort` is by key or by value")),
                };
                let Value::Seq(pairs) = methods::items(dict, SeqKind::List)? else {
                    unreachable!("items are a sequence")
                };
                let key = Value::Int(i128::from(by_value));
                let keys = self.sort_keys(&pairs.items, args.is_true(0), Some(&key))?;
                Value::list(sorted(pairs.items.clone(), &keys, args.is_true(2))?)?
            }
            "groupby" => self.group_by(value, args.need(0)?, args.get(1), args.is_true(2))?,
            "batch" => {
                let n = args.size(0, 0)?.max(1);
                let fill = args.get(1).filter(|fill| !fill.is_none());
                let items = value.items()?;
                let rows = items.chunks(n).map(|row| {
                    let mut row = row.to_vec();
                    if let Some(fill) = fill {
                        row.resize(n, fill.clone());
                    }
                    Value::list(row)
                });
                Seq::value(SeqKind::Generator, rows.collect::<Result<_>>()?)?
            }
            "slice" => slices(&value.items()?, args.size(0, 1)?.max(1), args.get(1))?,
            _ => return Ok(None),
        }))
    }

    /// `value is name(args)`
    pub(super) fn test(&self, name: &str, value: &Value, args: CallArgs) -> Result<bool> {
        let takes_one = matches!(
            name,
            "!=" | "<"
                | "<="
                | "=="
                | ">"
                | ">="
                | "divisibleby"
                | "eq"
                | "equalto"
                | "ge"
                | "greaterthan"
                | "gt"
                | "in"
                | "le"
                | "lessthan"
                | "lt"
                | "ne"
                | "sameas"
        );
        let args = args.bind(name, if takes_one { &["other"] } else { &[] })?;
        let integer = || value.as_int().ok_or_else(|| bad(name, value));
        Ok(match name {
            "defined" => !value.is_undefined(),
            "undefined" => value.is_undefined(),
            "none" => value.is_none(),
            "true" => matches!(value, Value::Bool(true)),
            "false" => matches!(value, Value::Bool(false)),
            "boolean" => matches!(value, Value::Bool(_)),
            "integer" => matches!(value, Value::Int(_)),
            "float" => matches!(value, Value::Float(_)),
            "number" => value.as_float().is_some(),
            "string" => value.as_text().is_some(),
            "mapping" => matches!(value, Value::Dict(_)),
            "iterable" => value.items().is_ok(),
            "sequence" => match value {
                Value::Seq(seq) => matches!(seq.kind, SeqKind::List | SeqKind::Tuple),
                other => other.len().is_ok(),
            },
            "callable" => {
                matches!(value, Value::Object(object) if !matches!(**object, Object::Namespace(_)))
            }
            "escaped" => matches!(value, Value::Safe(_)),
            "lower" => methods::is_kind(&value.to_text(), "islower"),
            "upper" => methods::is_kind(&value.to_text(), "isupper"),
            "odd" => integer()? % 2 != 0,
            "even" => integer()? % 2 == 0,
            "divisibleby" => {
                let by = args.need(0)?.as_int().filter(|by| *by != 0);
                let by = by.ok_or_else(|| bad(name, value))?;
                integer()?.checked_rem(by).is_none_or(|rest| rest == 0)
            }
            "eq" | "equalto" | "==" => value.equals(args.need(0)?),
            "ne" | "!=" => !value.equals(args.need(0)?),
            "lt" | "lessthan" | "<" => value.compare(args.need(0)?)?.is_lt(),
            "le" | "<=" => value.compare(args.need(0)?)?.is_le(),
            "gt" | "greaterthan" | ">" => value.compare(args.need(0)?)?.is_gt(),
            "ge" | ">=" => value.compare(args.need(0)?)?.is_ge(),
            "in" => args.need(0)?.contains(value)?,
            "sameas" => {
                let other = args.need(0)?;
                value.type_name() == other.type_name() && value.equals(other)
            }
            "filter" => value.as_str().is_some_and(|name| FILTERS.contains(&name)),
            "test" => value.as_str().is_some_and(|name| TESTS.contains(&name)),
            _ => return Err(JinjaError::operation(format!("there is no test `{name}`"))),
        })
    }

    fn map(&self, value: &Value, args: CallArgs) -> Result<Value> {
        let items = items_if_true(value)?;
        self.spend(items.len() as u64)?;
        let CallArgs { mut positional, mut keyword } = args;
        let attribute = keyword.iter().position(|(name, _)| name == "attribute");
        let mapped: Vec<Value> = match attribute {
            Some(at) if positional.is_empty() => {
                let (_, attribute) = keyword.remove(at);
                let rest = CallArgs { positional, keyword }.bind("map", &["default"])?;
                let one = |item: &Value| -> Result<Value> {
                    let found = self.path(item, &attribute)?;
                    Ok(match (found.is_undefined(), rest.get(0)) {
                        (true, Some(default)) => default.clone(),
                        _ => found,
                    })
                };
                items.iter().map(one).collect::<Result<_>>()?
            }
            _ => {
                if positional.is_empty() {
                    return Err(JinjaError::operation("`map` wants a filter"));
                }
                let name = positional.remove(0).to_text();
                let args = CallArgs { positional, keyword };
                let one = |item: &Value| self.filter(&name, item, args.clone());
                items.iter().map(one).collect::<Result<_>>()?
            }
        };
        Seq::value(SeqKind::Generator, mapped)
    }

    fn select(
        &self,
        value: &Value,
        args: CallArgs,
        keep: bool,
        by_attribute: bool,
    ) -> Result<Value> {
        let items = items_if_true(value)?;
        self.spend(items.len() as u64)?;
        let CallArgs { mut positional, keyword } = args;
        let attribute = match by_attribute {
            true if positional.is_empty() => {
                return Err(JinjaError::operation("`selectattr` wants an attribute"));
            }
            true => Some(positional.remove(0)),
            false => None,
        };
        let test = if positional.is_empty() { None } else { Some(positional.remove(0).to_text()) };
        let args = CallArgs { positional, keyword };
        let mut kept = Vec::new();
        for item in items {
            let tested = match &attribute {
                Some(attribute) => self.path(&item, attribute)?,
                None => item.clone(),
            };
            let passes = match &test {
                Some(name) => self.test(name, &tested, args.clone())?,
                None => tested.is_true(),
            };
            if passes == keep {
                kept.push(item);
            }
        }
        Seq::value(SeqKind::Generator, kept)
    }

    /// A member of a member .., as in `a.b.0`.
    fn path(&self, value: &Value, path: &Value) -> Result<Value> {
        let Some(text) = path.as_text() else { return self.item(value, path) };
        let mut value = value.clone();
        for part in text.split('.') {
            value = match part.parse::<i128>() {
                Ok(index) => self.item(&value, &Value::Int(index))?,
                Err(_) => self.item(&value, &Value::Str(text.part(part)))?,
            };
        }
        Ok(value)
    }

    fn attributes(&self, items: Vec<Value>, attribute: Option<&Value>) -> Result<Vec<Value>> {
        match attribute {
            None | Some(Value::None) => Ok(items),
            Some(attribute) => items.iter().map(|item| self.path(item, attribute)).collect(),
        }
    }

    /// Keys that items are ordered by.
    fn sort_keys(
        &self,
        items: &[Value],
        case_sensitive: bool,
        attribute: Option<&Value>,
    ) -> Result<Vec<Value>> {
        self.spend(items.len() as u64 * 4)?;
        let keys = self.attributes(items.to_vec(), attribute)?;
        let folded = |key: Value| match &key {
            Value::Str(text) | Value::Safe(text) if !case_sensitive => {
                Value::Str(methods::change_case(text, false))
            }
            _ => key,
        };
        Ok(keys.into_iter().map(folded).collect())
    }

    fn group_by(
        &self,
        value: &Value,
        attribute: &Value,
        default: Option<&Value>,
        case_sensitive: bool,
    ) -> Result<Value> {
        let items = value.items()?;
        let or_default = |key: Value| match default {
            Some(default) if key.is_undefined() => default.clone(),
            _ => key,
        };
        let keys: Vec<_> =
            self.attributes(items.clone(), Some(attribute))?.into_iter().map(or_default).collect();
        let folded = self.sort_keys(&keys, case_sensitive, None)?;
        let order: Vec<Value> = (0..items.len()).map(|i| Value::Int(i as i128)).collect();
        let mut groups: Vec<(usize, Vec<Value>)> = Vec::new();
        for at in sorted(order, &folded, false)? {
            let at = at.as_int().unwrap_or(0) as usize;
            match groups.last_mut() {
                Some((first, group)) if folded[*first].equals(&folded[at]) => {
                    group.push(items[at].clone())
                }
                _ => groups.push((at, vec![items[at].clone()])),
            }
        }
        let pair = |(first, group): (usize, Vec<Value>)| {
            Seq::value(SeqKind::Tuple, vec![keys[first].clone(), Value::list(group)?])
        };
        Value::list(groups.into_iter().map(pair).collect::<Result<_>>()?)
    }

    fn to_float(&self, value: &Value) -> Result<f64> {
        let parsed = match value {
            Value::Str(text) | Value::Safe(text) => {
                text.trim_matches(is_space).replace('_', "").parse().ok()
            }
            other => other.as_float(),
        };
        parsed.ok_or_else(|| bad("float", value))
    }
}

/// The items of a value; of what is not true, such as none, no items, as Jinja2 has it.
fn items_if_true(value: &Value) -> Result<Vec<Value>> {
    if value.is_true() { value.items() } else { Ok(Vec::new()) }
}

fn bad(name: &str, value: &Value) -> JinjaError {
    JinjaError::operation(format!("`{name}` does not take a {}", value.type_name()))
}

/// `items` in the order of `keys`, equal ones as they were.
fn sorted(items: Vec<Value>, keys: &[Value], reverse: bool) -> Result<Vec<Value>> {
    let mut failed = None;
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|&a, &b| {
        let order = keys[a].compare(&keys[b]).unwrap_or_else(|error| {
            failed = Some(error);
            Ordering::Equal
        });
        if reverse { order.reverse() } else { order }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(order.into_iter().map(|at| items[at].clone()).collect()),
    }
}

/// `markupsafe.escape`
pub fn escape(text: &Text) -> Text {
    text.map(|c, out| match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '"' => out.push_str("&#34;"),
        '\'' => out.push_str("&#39;"),
        c => out.push(c),
    })
}

/// The filter `title`, which starts words behind fewer characters than `str.title` does.
fn title(text: &Text) -> Text {
    let mut start = true;
    text.map(|c, out| {
        match start {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        start = is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    })
}

fn indent(text: &Text, width: &Value, first: bool, blank: bool) -> Result<Text> {
    const WIDTH_MAX: i128 = 1000;
    let indention: Text = match width {
        Value::None => "    ".into(),
        Value::Str(text) | Value::Safe(text) => text.clone(),
        other => match other.as_int() {
            Some(n) if n <= WIDTH_MAX => " ".repeat(usize::try_from(n).unwrap_or(0)).into(),
            _ => return Err(JinjaError::limit("indent")),
        },
    };
    let mut lines = methods::split_lines(text, false);
    // Jinja2 adds a line break before it splits.
    if lines.is_empty()
        || methods::split_lines(text, true)
            .last()
            .is_some_and(|l| methods::split_lines(l, false)[0].len() < l.len())
    {
        lines.push(Text::default());
    }
    super::eval::check_len(text.len().saturating_add(lines.len().saturating_mul(indention.len())))?;
    let mut out = Marked::default();
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            out.push('\n', false);
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_text(&indention);
        }
        out.push_text(line);
    }
    Ok(out.into())
}

fn truncate(text: &Text, length: usize, kill: bool, end: &Text, leeway: usize) -> Result<Text> {
    let n_end = end.chars().count();
    if length < n_end {
        return Err(JinjaError::operation("truncate: the length is below that of the end"));
    }
    if text.chars().count() <= length + leeway {
        return Ok(text.clone());
    }
    let cut = text.char_indices().nth(length - n_end).map_or(text.len(), |(at, _)| at);
    let mut kept = &text[..cut];
    if !kill {
        kept = kept.rsplit_once(' ').map_or(kept, |(words, _)| words);
    }
    Ok(Text::concat([&text.part(kept), end]))
}

fn strip_tags(text: &Text) -> Result<Text> {
    if text.contains('&') {
        return Err(JinjaError::unsupported("`striptags` of text with entities"));
    }
    let (mut out, mut at) = (Marked::default(), 0);
    while let Some(found) = text[at..].find('<') {
        let start = at + found;
        let end = match text[start..].starts_with("<!--") {
            true => text[start..].find("-->").map(|n| n + 3),
            false => text[start..].find('>').map(|n| n + 1),
        };
        let Some(end) = end else { break };
        out.push_slice(text, at..start);
        at = start + end;
    }
    out.push_slice(text, at..text.len());
    let words: Vec<Value> =
        methods::split(&out.into(), None, -1, false)?.into_iter().map(Value::Str).collect();
    methods::join(&" ".into(), &words, true)
}

fn file_size(bytes: &f64, binary: bool) -> String {
    let (base, infix) = if binary { (1024.0f64, "i") } else { (1000.0, "") };
    if *bytes == 1.0 {
        return "1 Byte".to_owned();
    }
    if *bytes < base {
        return format!("{} Bytes", *bytes as i64);
    }
    let prefixes = if binary { "KMGTPEZY" } else { "kMGTPEZY" };
    let last = prefixes.len() - 1;
    for (i, prefix) in prefixes.chars().enumerate() {
        let unit = base.powi(i as i32 + 2);
        if *bytes < unit || i == last {
            return format!("{:.1} {prefix}{infix}B", base * bytes / unit);
        }
    }
    String::new()
}

fn url_encode(value: &Value) -> Result<Text> {
    if matches!(value, Value::Dict(_) | Value::Seq(_)) {
        return Err(JinjaError::unsupported("`urlencode` of a container"));
    }
    Ok(value.to_text().map(|c, out| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '-' | '~' | '/' => out.push(c),
        c => {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }))
}

fn to_int(value: &Value, default: &Value, base: i128) -> Result<Value> {
    let in_range = |x: f64| (x.is_finite() && x.abs() < 1e38).then_some(x as i128);
    let parsed = match value {
        Value::Str(text) | Value::Safe(text) => {
            let text = text.trim_matches(is_space).replace('_', "");
            let digits = match base {
                16 => text.trim_start_matches("0x").trim_start_matches("0X"),
                8 => text.trim_start_matches("0o"),
                2 => text.trim_start_matches("0b"),
                _ => &text,
            };
            let radix = u32::try_from(base).ok().filter(|r| (2..=36).contains(r));
            let radix =
                radix.ok_or_else(|| JinjaError::operation("int: the base is from 2 to 36"))?;
            let parsed = i128::from_str_radix(digits, radix).ok();
            parsed.or_else(|| text.parse().ok().and_then(in_range))
        }
        Value::Float(x) => in_range(*x),
        other => other.as_int(),
    };
    Ok(parsed.map_or_else(|| default.clone(), Value::Int))
}

fn round(value: &Value, precision: i128, method: Option<&Text>) -> Result<Value> {
    let x = value.as_float().ok_or_else(|| bad("round", value))?;
    let precision = i32::try_from(precision).ok().filter(|p| p.abs() <= 300);
    let precision = precision.ok_or_else(|| JinjaError::limit("precision"))?;
    let scale = 10f64.powi(precision);
    Ok(match method.map_or("common", |method| method) {
        "common" => match value.as_int() {
            Some(n) if precision >= 0 => Value::Int(n),
            _ if precision >= 0 => {
                Value::Float(format!("{x:.*}", precision as usize).parse().unwrap_or(x))
            }
            _ => Value::Float((x * scale).round_ties_even() / scale),
        },
        "ceil" => Value::Float((x * scale).ceil() / scale),
        "floor" => Value::Float((x * scale).floor() / scale),
        _ => return Err(JinjaError::operation("round: the method is common, ceil or floor")),
    })
}

/// The filter `slice`: columns of items.
fn slices(items: &[Value], n: usize, fill: Option<&Value>) -> Result<Value> {
    let (each, longer) = (items.len() / n, items.len() % n);
    let (mut columns, mut at) = (Vec::new(), 0);
    for column in 0..n {
        let length = each + usize::from(column < longer);
        let mut part = items[at..at + length].to_vec();
        at += length;
        if let Some(fill) = fill.filter(|fill| !fill.is_none() && longer > 0 && column >= longer) {
            part.push(fill.clone());
        }
        columns.push(Value::list(part)?);
    }
    Seq::value(SeqKind::Generator, columns)
}

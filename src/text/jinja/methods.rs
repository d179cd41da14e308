//! Python's methods of strings, dictionaries and sequences.

use super::args::{Bound, CallArgs};
use super::error::{JinjaError, Result};
use super::format;
use super::text::{Marked, Text};
use super::value::{Dict, Seq, SeqKind, Value};

const STR: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const DICT: &[&str] = &[
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
];
const LIST: &[&str] = &[
    "append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse",
    "sort",
];
const TUPLE: &[&str] = &["count", "index"];

/// Whether a value's type has a method.
pub fn has_method(value: &Value, name: &str) -> bool {
    let names = match value {
        Value::Str(_) | Value::Safe(_) => STR,
        Value::Dict(_) => DICT,
        Value::Seq(seq) if seq.kind == SeqKind::List => LIST,
        Value::Seq(seq) if seq.kind == SeqKind::Tuple => TUPLE,
        Value::Range(..) => TUPLE,
        _ => &[],
    };
    names.contains(&name)
}

/// Calls a method that the value's type has.
pub fn call(value: &Value, name: &str, args: CallArgs, member: Member<'_>) -> Result<Value> {
    match value {
        Value::Str(text) | Value::Safe(text) => str_method(text, name, args, member),
        Value::Dict(dict) => dict_method(dict, name, args),
        Value::Seq(seq) => seq_method(&seq.items, name, args),
        Value::Range(..) => seq_method(&value.items()?, name, args),
        other => {
            let message = format!("a {} has no method `{name}`", other.type_name());
            Err(JinjaError::operation(message))
        }
    }
}

/// Reads a member for `str.format`: an attribute or an item.
pub type Member<'a> = &'a dyn Fn(&Value, &str, bool) -> Result<Value>;

/// Python's `str.isspace` of one character.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `text.strip(chars)` at either end.
pub fn strip(text: &Text, chars: Option<&str>, [start, end]: [bool; 2]) -> Text {
    let matches = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let mut part = &**text;
    if start {
        part = part.trim_start_matches(matches);
    }
    if end {
        part = part.trim_end_matches(matches);
    }
    text.part(part)
}

/// `text.replace(old, new, count)`; a negative count is no bound.
pub fn replace(text: &Text, old: &str, new: &Text, count: i128) -> Result<Text> {
    let n = usize::try_from(count).unwrap_or(usize::MAX);
    let found: Vec<usize> = match old.is_empty() {
        // Before each character and at the end.
        true => text.char_indices().map(|(at, _)| at).chain([text.len()]).take(n).collect(),
        false => text.match_indices(old).map(|(at, _)| at).take(n).collect(),
    };
    super::eval::check_len(text.len().saturating_add(found.len().saturating_mul(new.len())))?;
    let (mut out, mut done) = (Marked::default(), 0);
    for at in found {
        out.push_slice(text, done..at);
        out.push_text(new);
        done = at + old.len();
    }
    out.push_slice(text, done..text.len());
    Ok(out.into())
}

/// `text.splitlines(keep_ends)`
pub fn split_lines(text: &Text, keep_ends: bool) -> Vec<Text> {
    let (mut lines, mut start) = (Vec::new(), 0);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let breaks = matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        );
        if !breaks {
            continue;
        }
        let mut end = at + c.len_utf8();
        if c == '\r' && chars.next_if(|&(_, c)| c == '\n').is_some() {
            end += 1;
        }
        lines.push(text.slice(start..if keep_ends { end } else { at }));
        start = end;
    }
    if start < text.len() {
        lines.push(text.slice(start..text.len()));
    }
    lines
}

/// The first character in upper case, the others in lower case.
pub fn capitalize(text: &Text) -> Text {
    let mut first = true;
    text.map(|c, out| match std::mem::take(&mut first) {
        true => out.extend(titlecase(c)),
        false => out.extend(c.to_lowercase()),
    })
}

/// Python's `str.upper` or `str.lower`.
pub fn change_case(text: &Text, upper: bool) -> Text {
    if upper {
        return text.map(|c, out| out.extend(c.to_uppercase()));
    }
    // Only the capital sigma depends on what is around it.
    let final_sigma = |at: usize| {
        let before = text[..at].chars().next_back().is_some_and(char::is_alphabetic);
        before && !text[at + 'Σ'.len_utf8()..].chars().next().is_some_and(char::is_alphabetic)
    };
    let mut at = 0;
    text.map(|c, out| {
        match c {
            'Σ' if final_sigma(at) => out.push('ς'),
            c => out.extend(c.to_lowercase()),
        }
        at += c.len_utf8();
    })
}

fn titlecase(c: char) -> impl Iterator<Item = char> {
    // Ligatures such as ﬂ have a title case that the standard library does not know.
    c.to_uppercase()
}

/// `text` within `width` characters; `before` says how many of the missing ones come first.
fn pad(text: &Text, args: &Bound, before: fn(usize, usize) -> usize) -> Result<Text> {
    let width = args.size(0, 0)?;
    let fill = args.opt_text(1)?.cloned().unwrap_or_else(|| " ".into());
    if fill.chars().count() != 1 {
        return Err(JinjaError::operation("the fill must be one character"));
    }
    let missing = width.saturating_sub(text.chars().count());
    let left = before(missing, width);
    let mut out = Marked::default();
    out.push_text(&fill.repeat(left));
    out.push_text(text);
    out.push_text(&fill.repeat(missing - left));
    Ok(out.into())
}

/// Python's `str.center`: which side gets the odd one.
pub fn center_before(missing: usize, width: usize) -> usize {
    missing / 2 + (missing & width & 1)
}

/// The part of a text between two optional indices of characters, and the byte where it begins.
fn window<'a>(text: &'a Text, args: &Bound, at: usize) -> Result<Option<(usize, &'a str)>> {
    let n = text.chars().count() as i128;
    let clamp = |i: i128| if i < 0 { (i + n).max(0) } else { i };
    let start = clamp(args.opt_int(at)?.unwrap_or(0));
    let end = clamp(args.opt_int(at + 1)?.unwrap_or(n)).min(n);
    if start > end {
        return Ok(None);
    }
    let byte = |i: i128| text.char_indices().nth(i as usize).map_or(text.len(), |(at, _)| at);
    Ok(Some((byte(start), &text[byte(start)..byte(end)])))
}

/// Position of `part`, in characters.
fn find(text: &Text, args: &Bound, last: bool) -> Result<Option<i128>> {
    let part = args.text(0)?;
    let Some((start, inside)) = window(text, args, 1)? else { return Ok(None) };
    let found = if last { inside.rfind(&**part) } else { inside.find(&**part) };
    Ok(found.map(|at| text[..start + at].chars().count() as i128))
}

/// Whether a text begins or ends with a string or one of a tuple of strings.
fn fits(text: &Text, args: &Bound, ends: bool) -> Result<bool> {
    let Some((_, inside)) = window(text, args, 1)? else { return Ok(false) };
    let one = |part: &str| if ends { inside.ends_with(part) } else { inside.starts_with(part) };
    match args.need(0)? {
        Value::Seq(seq) if seq.kind == SeqKind::Tuple => {
            Ok(seq.items.iter().filter_map(Value::as_str).any(one))
        }
        _ => Ok(one(args.text(0)?)),
    }
}

/// `text.split(sep, maxsplit)` or `text.rsplit(..)`
pub fn split(text: &Text, sep: Option<&str>, max: i128, from_end: bool) -> Result<Vec<Text>> {
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let string = &**text;
    let parts: Vec<&str> = match sep {
        Some("") => return Err(JinjaError::operation("split: the separator is empty")),
        Some(sep) if from_end => {
            let mut parts: Vec<&str> = match max {
                usize::MAX => string.rsplit(sep).collect(),
                max => string.rsplitn(max + 1, sep).collect(),
            };
            parts.reverse();
            parts
        }
        Some(sep) => match max {
            usize::MAX => string.split(sep).collect(),
            max => string.splitn(max + 1, sep).collect(),
        },
        None => split_space(string, max, from_end),
    };
    Ok(parts.into_iter().map(|part| text.part(part)).collect())
}

fn split_space(mut rest: &str, max: usize, from_end: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    loop {
        rest = if from_end {
            rest.trim_end_matches(is_space)
        } else {
            rest.trim_start_matches(is_space)
        };
        if rest.is_empty() {
            break;
        }
        if parts.len() == max {
            // The rest keeps the white space at its far end, but for the side that was split.
            parts.push(rest);
            break;
        }
        let word = if from_end {
            let start = rest
                .rfind(is_space)
                .map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
            let word = &rest[start..];
            rest = &rest[..start];
            word
        } else {
            let end = rest.find(is_space).unwrap_or(rest.len());
            let word = &rest[..end];
            rest = &rest[end..];
            word
        };
        parts.push(word);
    }
    if from_end {
        parts.reverse();
    }
    parts
}

fn texts(parts: Vec<Text>, kind: SeqKind) -> Result<Value> {
    Seq::value(kind, parts.into_iter().map(Value::Str).collect())
}

/// `separator.join(items)`
pub fn join(separator: &Text, items: &[Value], strict: bool) -> Result<Text> {
    let mut out = Marked::default();
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_text(separator);
        }
        if strict && item.as_text().is_none() {
            let message = format!("join: item {i} is a {}, not a string", item.type_name());
            return Err(JinjaError::operation(message));
        }
        out.push_text(&item.to_text());
        super::eval::check_len(out.string.len())?;
    }
    Ok(out.into())
}

fn str_method(text: &Text, name: &str, args: CallArgs, member: Member<'_>) -> Result<Value> {
    if name == "format" {
        return format::braces(text, &args.positional, &args.keyword, member).map(Value::Str);
    }
    let parameters: &[&str] = match name {
        "center" | "ljust" | "rjust" => &["width", "fillchar"],
        "count" | "find" | "index" | "rfind" | "rindex" => &["sub", "start", "end"],
        "startswith" | "endswith" => &["prefix", "start", "end"],
        "join" => &["iterable"],
        "strip" | "lstrip" | "rstrip" => &["chars"],
        "partition" | "rpartition" => &["sep"],
        "removeprefix" | "removesuffix" => &["prefix"],
        "replace" => &["old", "new", "count"],
        "split" | "rsplit" => &["sep", "maxsplit"],
        "splitlines" => &["keepends"],
        "expandtabs" => &["tabsize"],
        "zfill" => &["width"],
        "encode" | "translate" | "maketrans" | "format_map" => {
            return Err(JinjaError::unsupported(format!("the method `str.{name}`")));
        }
        _ => &[],
    };
    let args = args.bind(name, parameters)?;
    let found = |at: Option<i128>| at.ok_or_else(|| JinjaError::operation("substring not found"));
    Ok(Value::Str(match name {
        "capitalize" => capitalize(text),
        "casefold" | "lower" => {
            let sharp = |c: char| name == "casefold" && matches!(c, 'ß' | 'ẞ');
            let lower = change_case(text, false);
            lower.map(|c, out| if sharp(c) { out.push_str("ss") } else { out.push(c) })
        }
        "upper" => change_case(text, true),
        "swapcase" => text.map(|c, out| match c.is_uppercase() {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }),
        "title" => {
            let mut inside = false;
            text.map(|c, out| {
                match inside {
                    true => out.extend(c.to_lowercase()),
                    false => out.extend(titlecase(c)),
                }
                inside = c.is_lowercase() || c.is_uppercase();
            })
        }
        "center" => pad(text, &args, center_before)?,
        "ljust" => pad(text, &args, |_, _| 0)?,
        "rjust" => pad(text, &args, |missing, _| missing)?,
        "zfill" => {
            let missing = args.size(0, 0)?.saturating_sub(text.chars().count());
            let sign = usize::from(text.starts_with(['+', '-']));
            let mut out = Marked::default();
            out.push_slice(text, 0..sign);
            out.push_str(&"0".repeat(missing), false);
            out.push_slice(text, sign..text.len());
            out.into()
        }
        "expandtabs" => expand_tabs(text, args.size(0, 8)?)?,
        "strip" => strip(text, args.opt_text(0)?.map(|t| &**t), [true, true]),
        "lstrip" => strip(text, args.opt_text(0)?.map(|t| &**t), [true, false]),
        "rstrip" => strip(text, args.opt_text(0)?.map(|t| &**t), [false, true]),
        "removeprefix" => text.part(text.strip_prefix(&**args.text(0)?).unwrap_or(text)),
        "removesuffix" => text.part(text.strip_suffix(&**args.text(0)?).unwrap_or(text)),
        "replace" => {
            let count = args.opt_int(2)?.unwrap_or(-1);
            replace(text, args.text(0)?, args.text(1)?, count)?
        }
        "join" => join(text, &args.need(0)?.items()?, true)?,
        "partition" | "rpartition" => return partition(text, args.text(0)?, name == "rpartition"),
        "split" | "rsplit" => {
            let (sep, max) = (args.opt_text(0)?.map(|t| &**t), args.opt_int(1)?.unwrap_or(-1));
            return texts(split(text, sep, max, name == "rsplit")?, SeqKind::List);
        }
        "splitlines" => return texts(split_lines(text, args.is_true(0)), SeqKind::List),
        "find" | "rfind" => {
            return Ok(Value::Int(find(text, &args, name == "rfind")?.unwrap_or(-1)));
        }
        "index" | "rindex" => return Ok(Value::Int(found(find(text, &args, name == "rindex")?)?)),
        "count" => {
            let part = args.text(0)?;
            let Some((_, inside)) = window(text, &args, 1)? else { return Ok(Value::Int(0)) };
            let n = match part.is_empty() {
                true => inside.chars().count() + 1,
                false => inside.matches(&**part).count(),
            };
            return Ok(Value::Int(n as i128));
        }
        "startswith" => return Ok(Value::Bool(fits(text, &args, false)?)),
        "endswith" => return Ok(Value::Bool(fits(text, &args, true)?)),
        _ => return Ok(Value::Bool(is_kind(text, name))),
    }))
}

fn partition(text: &Text, sep: &str, from_end: bool) -> Result<Value> {
    if sep.is_empty() {
        return Err(JinjaError::operation("partition: the separator is empty"));
    }
    let found = if from_end { text.rfind(sep) } else { text.find(sep) };
    let (empty, n) = (Text::default(), text.len());
    let parts = match found {
        Some(at) => {
            let end = at + sep.len();
            vec![text.slice(0..at), text.slice(at..end), text.slice(end..n)]
        }
        None if from_end => vec![empty.clone(), empty, text.clone()],
        None => vec![text.clone(), empty.clone(), empty],
    };
    texts(parts, SeqKind::Tuple)
}

fn expand_tabs(text: &Text, size: usize) -> Result<Text> {
    super::eval::check_len(
        text.len().saturating_add(text.matches('\t').count().saturating_mul(size)),
    )?;
    let mut column = 0;
    Ok(text.map(|c, out| match c {
        '\t' if size > 0 => {
            let n = size - column % size;
            out.extend(std::iter::repeat_n(' ', n));
            column += n;
        }
        '\t' => {}
        '\n' | '\r' => {
            out.push(c);
            column = 0;
        }
        c => {
            out.push(c);
            column += 1;
        }
    }))
}

/// `str.isalpha` and its kin.
pub fn is_kind(text: &str, name: &str) -> bool {
    let all = |f: fn(char) -> bool| !text.is_empty() && text.chars().all(f);
    let is_cased = |c: char| c.is_lowercase() || c.is_uppercase();
    match name {
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(|c| is_decimal(c) || is_raised_digit(c)),
        "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_space),
        "isprintable" => text.chars().all(super::value::is_printable),
        "islower" => text.chars().any(is_cased) && !text.chars().any(char::is_uppercase),
        "isupper" => text.chars().any(is_cased) && !text.chars().any(char::is_lowercase),
        "isidentifier" => {
            let first = text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
            first && text.chars().all(|c| c.is_alphanumeric() || c == '_')
        }
        "istitle" => {
            let (mut inside, mut any) = (false, false);
            for c in text.chars() {
                if (c.is_uppercase() && inside) || (c.is_lowercase() && !inside) {
                    return false;
                }
                inside = is_cased(c);
                any |= inside;
            }
            any
        }
        _ => false,
    }
}

/// Whether a character is a decimal digit (Unicode 15, general category Nd, but for those of
/// mathematics and of scripts beyond the basic plane).
fn is_decimal(c: char) -> bool {
    const ZEROS: [u32; 37] = [
        0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66,
        0xde6, 0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90,
        0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0,
        0xff10,
    ];
    ZEROS.iter().any(|&zero| (zero..zero + 10).contains(&(c as u32)))
}

/// Superscripts and subscripts, which Python counts among the digits.
fn is_raised_digit(c: char) -> bool {
    matches!(c, '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{2070}' | '\u{2074}'..='\u{2079}' | '\u{2080}'..='\u{2089}')
}

fn immutable(kind: &str, name: &str) -> JinjaError {
    JinjaError::operation(format!("`{kind}.{name}` would change a value, which templates may not"))
}

fn dict_method(dict: &std::rc::Rc<Dict>, name: &str, args: CallArgs) -> Result<Value> {
    let entries = &dict.entries;
    match name {
        "get" => {
            let args = args.bind(name, &["key", "default"])?;
            Ok(dict.get(args.need(0)?).cloned().unwrap_or_else(|| args.or_none(1)))
        }
        "items" => {
            args.bind(name, &[])?;
            items(dict, SeqKind::View("dict_items"))
        }
        "keys" => {
            let keys = entries.iter().map(|(key, _)| key.clone()).collect();
            Seq::value(SeqKind::View("dict_keys"), keys)
        }
        "values" => {
            let values = entries.iter().map(|(_, value)| value.clone()).collect();
            Seq::value(SeqKind::View("dict_values"), values)
        }
        "copy" => Ok(Value::Dict(dict.clone())),
        "fromkeys" => Err(JinjaError::unsupported("the method `dict.fromkeys`")),
        _ => Err(immutable("dict", name)),
    }
}

/// The entries of a dictionary as pairs.
pub fn items(dict: &Dict, kind: SeqKind) -> Result<Value> {
    let pair = |(key, value): &(Value, Value)| {
        Seq::value(SeqKind::Tuple, vec![key.clone(), value.clone()])
    };
    Seq::value(kind, dict.entries.iter().map(pair).collect::<Result<_>>()?)
}

fn seq_method(items: &[Value], name: &str, args: CallArgs) -> Result<Value> {
    match name {
        "count" => {
            let args = args.bind(name, &["value"])?;
            let wanted = args.need(0)?;
            Ok(Value::Int(items.iter().filter(|item| item.equals(wanted)).count() as i128))
        }
        "index" => {
            let args = args.bind(name, &["value", "start", "stop"])?;
            let wanted = args.need(0)?;
            let n = items.len() as i128;
            let clamp = |i: i128| if i < 0 { (i + n).max(0) } else { i.min(n) } as usize;
            let start = clamp(args.opt_int(1)?.unwrap_or(0));
            let stop = clamp(args.opt_int(2)?.unwrap_or(n)).max(start);
            let found = items[start..stop].iter().position(|item| item.equals(wanted));
            let message = || JinjaError::operation("index: the value is not in the list");
            found.map(|at| Value::Int((start + at) as i128)).ok_or_else(message)
        }
        "copy" => Value::list(items.to_vec()),
        _ => Err(immutable("list", name)),
    }
}

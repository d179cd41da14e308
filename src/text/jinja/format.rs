//! Python's two ways to format: `'%s' % x` and `'{}'.format(x)`.

use super::error::{JinjaError, Result};
use super::text::{Marked, Text};
use super::value::{Value, float_repr};

/// Widths and precisions beyond this are no formatting but an attack on memory.
const WIDTH_MAX: usize = 10_000;

/// Layout of one value.
#[derive(Clone, Debug)]
struct Spec {
    fill: char,
    align: Option<char>,
    sign: char,
    alternate: bool,
    width: usize,
    separator: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Spec {
    const PLAIN: Spec = Spec {
        fill: ' ',
        align: None,
        sign: '-',
        alternate: false,
        width: 0,
        separator: None,
        precision: None,
        kind: None,
    };

    fn bounded(self) -> Result<Spec> {
        if self.width > WIDTH_MAX || self.precision.is_some_and(|p| p > WIDTH_MAX) {
            return Err(JinjaError::limit("width"));
        }
        Ok(self)
    }

    /// `text` within the width; `align` if the spec has none.
    fn pad(&self, text: &Text, align: char) -> Text {
        let missing = self.width.saturating_sub(text.chars().count());
        if missing == 0 {
            return text.clone();
        }
        let fill = |n: usize| std::iter::repeat_n(self.fill, n).collect::<String>();
        let (left, right) = match self.align.unwrap_or(align) {
            '<' => (0, missing),
            '^' => (missing / 2, missing - missing / 2),
            _ => (missing, 0),
        };
        let mut out = Marked::default();
        // Behind the sign.
        let sign = if self.align.unwrap_or(align) == '=' {
            text.bytes().take_while(|b| matches!(b, b'-' | b'+' | b' ')).count()
        } else {
            0
        };
        out.push_slice(text, 0..sign);
        out.push_str(&fill(left), false);
        out.push_slice(text, sign..text.len());
        out.push_str(&fill(right), false);
        out.into()
    }

    fn signed(&self, negative: bool, digits: &str) -> String {
        let sign = match self.sign {
            _ if negative => "-",
            '+' => "+",
            ' ' => " ",
            _ => "",
        };
        format!("{sign}{digits}")
    }

    fn int(&self, n: i128, kind: char) -> Result<Text> {
        let size = n.unsigned_abs();
        let (prefix, digits) = match kind {
            'x' => ("0x", format!("{size:x}")),
            'X' => ("0X", format!("{size:X}")),
            'o' => ("0o", format!("{size:o}")),
            'b' => ("0b", format!("{size:b}")),
            _ => ("", size.to_string()),
        };
        let prefix = if self.alternate { prefix } else { "" };
        let digits = self.grouped(&digits, if prefix.is_empty() { 3 } else { 4 });
        let text = self.signed(n < 0, &format!("{prefix}{digits}"));
        Ok(self.pad(&text.into(), '>'))
    }

    fn float(&self, x: f64, kind: Option<char>) -> Result<Text> {
        let precision = self.precision.unwrap_or(6);
        let size = x.abs();
        let lower = kind.map(|k| k.to_ascii_lowercase());
        let digits = if size.is_nan() {
            "nan".to_owned()
        } else if size.is_infinite() {
            "inf".to_owned()
        } else {
            match lower {
                Some('e') => scientific(size, precision),
                Some('g') | None if lower.is_some() || self.precision.is_some() => {
                    general(size, precision.max(1), self.alternate)
                }
                Some('%') => format!("{:.precision$}%", size * 100.0),
                None => float_repr(size),
                _ => format!("{size:.precision$}"),
            }
        };
        let digits = match kind {
            Some('E' | 'G' | 'F') => digits.to_uppercase(),
            _ => digits,
        };
        let (whole, rest) =
            digits.split_at(digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len()));
        let digits = self.grouped(whole, 3) + rest;
        let text = self.signed(x.is_sign_negative() && !x.is_nan(), &digits);
        Ok(self.pad(&text.into(), '>'))
    }

    fn grouped(&self, digits: &str, every: usize) -> String {
        let Some(separator) = self.separator else { return digits.to_owned() };
        let mut out = String::new();
        for (i, c) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(every) {
                out.push(separator);
            }
            out.push(c);
        }
        out
    }

    fn text(&self, text: &Text) -> Text {
        let n = self.precision.unwrap_or(usize::MAX);
        let end = text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
        self.pad(&text.slice(0..end), '<')
    }
}

/// `d.ddde+xx`
fn scientific(x: f64, precision: usize) -> String {
    let text = format!("{x:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// C's `%g`.
fn general(x: f64, precision: usize, keep_zeros: bool) -> String {
    let text = format!("{x:.*e}", precision - 1);
    let exponent: i32 = text.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let strip = |text: String| match text.contains('.') && !keep_zeros {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    if exponent < -4 || exponent >= precision as i32 {
        let text = scientific(x, precision - 1);
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{exponent}", strip(mantissa.to_owned()));
    }
    let digits = usize::try_from(precision as i32 - 1 - exponent).unwrap_or(0);
    strip(format!("{x:.digits$}"))
}

fn wrong(message: String) -> JinjaError {
    JinjaError::operation(message)
}

/// `format % args`
pub fn percent(format: &Text, args: &Value) -> Result<Text> {
    let mut out = Marked::default();
    let mut positional = match args {
        Value::Seq(seq) if seq.kind == super::value::SeqKind::Tuple => seq.items.clone(),
        other => vec![other.clone()],
    }
    .into_iter();
    let (text, mut at, mut named) = (&**format, 0, false);
    while let Some(found) = text[at..].find('%') {
        out.push_slice(format, at..at + found);
        at += found + 1;
        let mut rest = text[at..].chars();
        let mut value = None;
        if rest.clone().next() == Some('(') {
            let end = text[at..].find(')').ok_or_else(|| wrong("incomplete format".into()))?;
            let key = &text[at + 1..at + end];
            let Value::Dict(dict) = args else {
                return Err(wrong("a format with names needs a dict".into()));
            };
            let found = dict.get_str(key).cloned();
            value =
                Some(found.ok_or_else(|| wrong(format!("the format's key {key:?} is missing")))?);
            named = true;
            rest = text[at + end + 1..].chars();
        }
        let mut spec = Spec::PLAIN;
        let (mut zero, mut left) = (false, false);
        let mut next = rest.next();
        loop {
            match next {
                Some('-') => left = true,
                Some('0') => zero = true,
                Some('+') => spec.sign = '+',
                Some(' ') => spec.sign = if spec.sign == '+' { '+' } else { ' ' },
                Some('#') => spec.alternate = true,
                _ => break,
            }
            next = rest.next();
        }
        let star = |value: Option<Value>| -> Result<usize> {
            let n = value.and_then(|v| v.as_int()).and_then(|n| usize::try_from(n).ok());
            n.ok_or_else(|| wrong("`*` wants a whole number".into()))
        };
        if next == Some('*') {
            spec.width = star(positional.next())?;
            next = rest.next();
        }
        while let Some(digit) = next.and_then(|c| c.to_digit(10)) {
            spec.width = (spec.width * 10 + digit as usize).min(WIDTH_MAX + 1);
            next = rest.next();
        }
        if next == Some('.') {
            let mut precision = 0;
            next = rest.next();
            if next == Some('*') {
                precision = star(positional.next())?;
                next = rest.next();
            }
            while let Some(digit) = next.and_then(|c| c.to_digit(10)) {
                precision = (precision * 10 + digit as usize).min(WIDTH_MAX + 1);
                next = rest.next();
            }
            spec.precision = Some(precision);
        }
        let kind = next.ok_or_else(|| wrong("incomplete format".into()))?;
        at = text.len() - rest.as_str().len();
        if kind == '%' {
            out.push('%', false);
            continue;
        }
        let spec = spec.bounded()?;
        let spec = match (left, zero && kind != 's' && kind != 'r') {
            (true, _) => Spec { align: Some('<'), ..spec },
            (false, true) => Spec { align: Some('='), fill: '0', ..spec },
            (false, false) => Spec { align: Some('>'), ..spec },
        };
        let value = value.or_else(|| positional.next());
        let value = value.ok_or_else(|| wrong("not enough arguments for the format".into()))?;
        out.push_text(&percent_one(&spec, kind, &value)?);
    }
    out.push_slice(format, at..text.len());
    if !named && positional.next().is_some() && !matches!(args, Value::Dict(_)) {
        return Err(wrong("not all arguments were used by the format".into()));
    }
    Ok(out.into())
}

fn percent_one(spec: &Spec, kind: char, value: &Value) -> Result<Text> {
    let number = || wrong(format!("%{kind} needs a number, not a {}", value.type_name()));
    Ok(match kind {
        's' => spec.text(&value.to_text()),
        'r' | 'a' => spec.text(&value.repr()),
        'd' | 'i' | 'u' => {
            let n = value.as_int().or(value.as_float().map(|x| x as i128)).ok_or_else(number)?;
            // A precision is a least number of digits.
            let digits = spec.precision.unwrap_or(0);
            let text = spec.signed(n < 0, &format!("{:0digits$}", n.unsigned_abs()));
            spec.pad(&text.into(), '>')
        }
        'x' | 'X' | 'o' => spec.int(value.as_int().ok_or_else(number)?, kind)?,
        'f' | 'F' | 'e' | 'E' | 'g' | 'G' => {
            spec.float(value.as_float().ok_or_else(number)?, Some(kind))?
        }
        'c' => match (value.as_text(), value.as_int()) {
            (Some(text), _) if text.chars().count() == 1 => spec.text(text),
            (_, Some(n)) => {
                let c = u32::try_from(n).ok().and_then(char::from_u32).ok_or_else(number)?;
                spec.text(&c.to_string().into())
            }
            _ => return Err(wrong("%c needs one character".into())),
        },
        _ => return Err(wrong(format!("unknown format %{kind}"))),
    })
}

/// `format.format(*args, **kwargs)`; `member` reads an attribute or item (`by_name` says which).
pub fn braces(
    format: &Text,
    args: &[Value],
    kwargs: &[(String, Value)],
    member: &dyn Fn(&Value, &str, bool) -> Result<Value>,
) -> Result<Text> {
    let mut out = Marked::default();
    let (text, mut at, mut automatic) = (&**format, 0, 0usize);
    while let Some(found) = text[at..].find(['{', '}']) {
        out.push_slice(format, at..at + found);
        at += found;
        let brace = &text[at..=at];
        if text[at + 1..].starts_with(brace) {
            out.push_slice(format, at..at + 1);
            at += 2;
            continue;
        }
        if brace == "}" {
            return Err(wrong("single '}' in a format".into()));
        }
        let end =
            closing(&text[at..]).ok_or_else(|| wrong("a field of a format has no end".into()))?;
        let field = &text[at + 1..at + end];
        at += end + 1;
        let (field, spec) = split_spec(field);
        let (name, conversion) = match field.rsplit_once('!') {
            Some((name, conversion)) => (name, Some(conversion)),
            None => (field, None),
        };
        let lookup = |name: &str, automatic: &mut usize| -> Result<Value> {
            let first_end = name.find(['.', '[']).unwrap_or(name.len());
            let first = &name[..first_end];
            let missing = || wrong(format!("the format's field {first:?} has no argument"));
            let mut value = if first.is_empty() {
                *automatic += 1;
                args.get(*automatic - 1).cloned().ok_or_else(missing)?
            } else if let Ok(index) = first.parse::<usize>() {
                args.get(index).cloned().ok_or_else(missing)?
            } else {
                let found = kwargs.iter().find(|(key, _)| key == first);
                found.map(|(_, value)| value.clone()).ok_or_else(missing)?
            };
            let mut path = &name[first_end..];
            while !path.is_empty() {
                if let Some(rest) = path.strip_prefix('.') {
                    let end = rest.find(['.', '[']).unwrap_or(rest.len());
                    value = member(&value, &rest[..end], true)?;
                    path = &rest[end..];
                } else {
                    let end =
                        path.find(']').ok_or_else(|| wrong("`]` is missing in a format".into()))?;
                    value = member(&value, &path[1..end], false)?;
                    path = &path[end + 1..];
                }
            }
            Ok(value)
        };
        let value = lookup(name, &mut automatic)?;
        let value = match conversion {
            None => value,
            Some("r" | "a") => Value::Str(value.repr()),
            Some("s") => Value::Str(value.to_text()),
            Some(other) => return Err(wrong(format!("unknown conversion !{other}"))),
        };
        // A spec may hold fields itself.
        let spec = match spec.contains('{') {
            false => spec.to_owned(),
            true => braces(&spec.into(), args, kwargs, member)?.to_string(),
        };
        out.push_text(&format_one(&value, &spec)?);
    }
    out.push_slice(format, at..text.len());
    Ok(out.into())
}

/// Position of the brace that closes the one which opens `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
        // Python allows for two.
        if depth > 2 {
            return None;
        }
    }
    None
}

/// The field's name and what is behind its colon, which brackets may hold.
fn split_spec(field: &str) -> (&str, &str) {
    let mut in_brackets = false;
    for (at, c) in field.char_indices() {
        match c {
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            ':' if !in_brackets => return (&field[..at], &field[at + 1..]),
            _ => {}
        }
    }
    (field, "")
}

fn format_one(value: &Value, spec: &str) -> Result<Text> {
    if spec.is_empty() {
        return Ok(value.to_text());
    }
    let mut parsed = Spec::PLAIN;
    let chars: Vec<char> = spec.chars().collect();
    let mut at = 0;
    let is_align = |c: Option<&char>| matches!(c, Some('<' | '>' | '^' | '='));
    if is_align(chars.get(1)) {
        (parsed.fill, parsed.align, at) = (chars[0], Some(chars[1]), 2);
    } else if is_align(chars.first()) {
        (parsed.align, at) = (Some(chars[0]), 1);
    }
    if let Some(&sign @ ('+' | '-' | ' ')) = chars.get(at) {
        (parsed.sign, at) = (sign, at + 1);
    }
    if chars.get(at) == Some(&'#') {
        (parsed.alternate, at) = (true, at + 1);
    }
    if chars.get(at) == Some(&'0') {
        if parsed.align.is_none() && value.as_float().is_some() {
            (parsed.fill, parsed.align) = ('0', Some('='));
        }
        at += 1;
    }
    while let Some(digit) = chars.get(at).and_then(|c| c.to_digit(10)) {
        parsed.width = (parsed.width * 10 + digit as usize).min(WIDTH_MAX + 1);
        at += 1;
    }
    if let Some(&separator @ (',' | '_')) = chars.get(at) {
        (parsed.separator, at) = (Some(separator), at + 1);
    }
    if chars.get(at) == Some(&'.') {
        at += 1;
        let mut precision = 0;
        while let Some(digit) = chars.get(at).and_then(|c| c.to_digit(10)) {
            precision = (precision * 10 + digit as usize).min(WIDTH_MAX + 1);
            at += 1;
        }
        parsed.precision = Some(precision);
    }
    parsed.kind = chars.get(at).copied();
    let unknown = || wrong(format!("unknown format {spec:?} for a {}", value.type_name()));
    if chars.len() > at + usize::from(parsed.kind.is_some()) {
        return Err(unknown());
    }
    let parsed = parsed.bounded()?;
    match (value, parsed.kind) {
        (Value::Str(text) | Value::Safe(text), None | Some('s')) => Ok(parsed.text(text)),
        (Value::Int(_) | Value::Bool(_), None | Some('d' | 'n' | 'x' | 'X' | 'o' | 'b')) => {
            parsed.int(value.as_int().unwrap_or(0), parsed.kind.unwrap_or('d'))
        }
        (Value::Int(_) | Value::Float(_), Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%'))
        | (Value::Float(_), None) => parsed.float(value.as_float().unwrap_or(0.0), parsed.kind),
        _ => Err(unknown()),
    }
}

//! Chat templates: the Jinja programs that model files carry, rendered as Python's Jinja2 renders
//! them for the model hub (trim_blocks, lstrip_blocks, loop controls, Python's string methods and
//! spelling of values, `tojson` without ASCII escapes, `raise_exception`, `strftime_now`).
//!
//! A template is untrusted code: it has fuel, a recursion limit, and a bound on its output. What
//! one single instruction may allocate is the engine's bound (100 MB for a repeated string).
//! `strftime_now` is UTC, since a file should not learn the user's time zone.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, context};

use super::TextError;

/// Largest template source; the longest published ones are under 20 kB.
pub const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// Instructions one rendering may execute: thousands of messages in the heaviest template, and
/// about a second.
const FUEL: u64 = 10_000_000;
/// Nesting of macros, calls and blocks.
const RECURSION_MAX: usize = 100;
/// Largest prompt: what the tokenizer takes.
const OUTPUT_BYTES_MAX: usize = super::TEXT_BYTES_MAX;

const NAME: &str = "chat";

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, ..
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles `source`; `strftime_now` will read the system's clock.
    pub fn new(source: &str) -> Result<Self, TextError> {
        Self::with_clock(source, || {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
        })
    }

    /// Compiles `source` with a clock of seconds since 1970 (UTC).
    pub fn with_clock(
        source: &str,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Self, TextError> {
        if source.len() > TEMPLATE_BYTES_MAX {
            let bytes = source.len();
            let message = format!("{bytes} bytes of source: at most {TEMPLATE_BYTES_MAX}");
            return Err(TextError::Template(message));
        }
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(template_error)?);
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_formatter(format_value);
        env.set_fuel(Some(FUEL));
        env.set_recursion_limit(RECURSION_MAX);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_filter("tojson", to_json);
        env.add_filter("string", |value: &Value| python_str(value));
        env.add_filter("length", length);
        env.add_filter("count", length);
        env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        env.add_function("strftime_now", move |format: &str| strftime(format, clock()));
        env.add_template_owned(NAME, without_generation_tags(source)).map_err(template_error)?;
        Ok(Self { environment: env })
    }

    /// The prompt for a conversation.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        bos_token: &str,
        eos_token: &str,
    ) -> Result<String, TextError> {
        let turn = |m: &Message| context! { role => &*m.role, content => &*m.content };
        let messages: Vec<_> = messages.iter().map(turn).collect();
        self.render_value(context! { messages, add_generation_prompt, bos_token, eos_token })
    }

    /// The prompt for an object with any of `messages`, `tools`, `add_generation_prompt`,
    /// `bos_token`, `eos_token` and what else the template reads.
    pub fn render_json(&self, input: &serde_json::Value) -> Result<String, TextError> {
        self.render_value(Value::from(Serde(input)))
    }

    fn render_value(&self, context: Value) -> Result<String, TextError> {
        let template = self.environment.get_template(NAME).map_err(template_error)?;
        let mut output = Bounded(Vec::new());
        template.render_captured_to(context, &mut output).map_err(template_error)?;
        String::from_utf8(output.0).map_err(|error| TextError::Template(error.to_string()))
    }
}

fn template_error(error: Error) -> TextError {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    TextError::Template(message.replace('\n', " "))
}

/// Output that refuses to grow beyond [`OUTPUT_BYTES_MAX`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(io::Error::other(format!("more than {OUTPUT_BYTES_MAX} bytes of output")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `{% generation %}` marks what training learns from and renders nothing: it becomes
/// `{% if true %}`, which the engine knows.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let end = tag.find("%}").unwrap_or(tag.len());
        let (inside, after) = tag.split_at(end);
        let name = inside.trim_matches(['-', '+']).trim();
        let replaced = match name {
            "generation" => inside.replace(name, "if true"),
            "endgeneration" => inside.replace(name, "endif"),
            _ => inside.to_owned(),
        };
        out.push_str(&replaced);
        rest = after;
    }
    out + rest
}

fn format_value(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    out.write_str(&python_str(value)).map_err(Error::from)
}

/// `length` as in Jinja2, where an undefined value is empty.
fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() { Ok(0) } else { minijinja::filters::length(value) }
}

/// Python's `str(value)`.
fn python_str(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.to_string(),
        _ => {
            let mut out = String::new();
            python_repr(value, &mut out);
            out
        }
    }
}

/// Python's `repr(value)`.
fn python_repr(value: &Value, out: &mut String) {
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => {
            let text = value.to_string();
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            out.push(quote);
            for character in text.chars() {
                match character {
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    '\\' => out.push_str("\\\\"),
                    c if c == quote => out.extend(['\\', c]),
                    c => out.push(c),
                }
            }
            out.push(quote);
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            join(value, out, python_repr);
            out.push(']');
        }
        ValueKind::Map if value.as_object().is_none_or(|object| object.is_true()) => {
            out.push('{');
            join(value, out, |key, out| {
                python_repr(key, out);
                out.push_str(": ");
                python_repr(&value.get_item(key).unwrap_or_default(), out);
            });
            out.push('}');
        }
        ValueKind::Map => out.push_str("{}"),
        _ => out.push_str(&value.to_string()),
    }
}

fn join(value: &Value, out: &mut String, each: impl Fn(&Value, &mut String)) {
    for (i, item) in value.try_iter().into_iter().flatten().enumerate() {
        out.push_str(if i == 0 { "" } else { ", " });
        each(&item, out);
    }
}

/// `tojson` as the hub defines it: Python's `json.dumps(value, ensure_ascii=False, ..)`.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let _: Option<bool> = options.get("ensure_ascii")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let indent: Option<usize> = options.get("indent")?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    if indent.is_some_and(|indent| indent > JSON_INDENT_MAX) {
        let message = format!("tojson: indent above {JSON_INDENT_MAX}");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let default_item = if indent.is_some() { "," } else { ", " };
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ => (default_item.to_owned(), ": ".to_owned()),
    };
    let style = JsonStyle { item, key, indent, sort_keys };
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(out)
}

/// Wider indents are no formatting but an attack on memory.
const JSON_INDENT_MAX: usize = 16;
/// Deeper values are no data of a conversation, and each level costs stack.
const JSON_DEPTH_MAX: usize = 128;

struct JsonStyle {
    item: String,
    key: String,
    indent: Option<usize>,
    sort_keys: bool,
}

impl JsonStyle {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > JSON_DEPTH_MAX {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&value.to_string()),
            ValueKind::String => json_string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<_> = value.try_iter()?.collect();
                self.write_items(['[', ']'], &items, depth, out, |item, out| {
                    self.write(item, depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<_> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.write_items(['{', '}'], &keys, depth, out, |key, out| {
                    json_string(&key.to_string(), out);
                    out.push_str(&self.key);
                    self.write(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            kind => {
                let message = format!("tojson: {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        }
        Ok(())
    }

    fn write_items(
        &self,
        [open, close]: [char; 2],
        items: &[Value],
        depth: usize,
        out: &mut String,
        each: impl Fn(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        for (i, item) in items.iter().enumerate() {
            out.push_str(if i == 0 { "" } else { &self.item });
            self.new_line(depth + 1, out);
            each(item, out)?;
        }
        if !items.is_empty() {
            self.new_line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', depth * indent));
        }
    }
}

fn json_string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// C's strftime for the directives that dates in prompts use; an unknown one stays as it is.
fn strftime(format: &str, unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let weekday = DAYS[((days + 4) % 7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let hour12 = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(character) = rest.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let directive = rest.next();
        // "%-d" is "%d" without padding.
        let (bare, directive) = match directive {
            Some('-') => (true, rest.next()),
            other => (false, other),
        };
        let pad = |n: u64| if bare { n.to_string() } else { format!("{n:02}") };
        out += &match directive {
            Some('Y') => year.to_string(),
            Some('y') => pad(year % 100),
            Some('m') => pad(month),
            Some('d') => pad(day),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('H') => pad(hour),
            Some('I') => pad(hour12),
            Some('M') => pad(minute),
            Some('S') => pad(second),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('j') => format!("{:03}", days - days_before(year) + 1),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') => "%".to_owned(),
            other => ['%'].into_iter().chain(bare.then_some('-')).chain(other).collect(),
        };
    }
    out
}

/// Days from 1970-01-01 to the first day of `year` (1970 and later).
fn days_before(year: u64) -> u64 {
    let leap_days = |y: u64| y / 4 - y / 100 + y / 400;
    (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
}

/// Year, month and day of a day since 1970-01-01 (Hinnant, "chrono-compatible date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21 12:00:00 UTC.
    const NOON: u64 = 1_795_262_400;

    fn rendered(source: &str, input: serde_json::Value) -> Result<String, TextError> {
        ChatTemplate::with_clock(source, || NOON)?.render_json(&input)
    }

    fn ok(source: &str, input: serde_json::Value) -> String {
        rendered(source, input).unwrap()
    }

    #[test]
    fn chatml() {
        let source = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
                      message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let template = ChatTemplate::new(source).unwrap();
        let messages = [Message::new("user", "Hi"), Message::new("assistant", "<b>&'\"")];
        assert_eq!(
            template.render(&messages, true, "", "").unwrap(),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<b>&'\"<|im_end|>\n\
             <|im_start|>assistant\n"
        );
    }

    #[test]
    fn values_are_spelled_as_python_spells_them() {
        let input = serde_json::json!({ "x": { "b": [1, 2.5, true, null, "it's"], "a": {} } });
        assert_eq!(ok("{{ x }}", input.clone()), r#"{'b': [1, 2.5, True, None, "it's"], 'a': {}}"#);
        assert_eq!(
            ok("{{ x | tojson }}", input.clone()),
            r#"{"b": [1, 2.5, true, null, "it's"], "a": {}}"#
        );
        assert_eq!(
            ok("{{ x.b[:2] | tojson(indent=2) }} {{ '<é\u{1}>' | tojson }}", input),
            "[\n  1,\n  2.5\n] \"<é\\u0001>\""
        );
        let source = "{{ none }}|{{ missing }}|{{ missing | length }}|{{ 1 == 1 }}";
        assert_eq!(ok(source, serde_json::json!({})), "None||0|True");
    }

    #[test]
    fn dates() {
        let now = "{{ strftime_now('%Y-%m-%d %H:%M:%S %A %d %B %b %-d %j %I%p %%|%q') }}";
        let expected = "2026-11-21 12:00:00 Saturday 21 November Nov 21 325 12PM %|%q";
        assert_eq!(ok(now, serde_json::json!({})), expected);
        assert_eq!(strftime("%F %T %a", 0), "1970-01-01 00:00:00 Thu");
        assert_eq!(strftime("%F %j %e", 951_782_400), "2000-02-29 060 29");
        assert_eq!(strftime("%F", 951_782_400 + 86_400), "2000-03-01");
    }

    #[test]
    fn generation_tags_render_nothing() {
        let source = "a\n  {%- generation -%}\n  b{% endgeneration %}\nc";
        assert_eq!(ok(source, serde_json::json!({})), "abc");
    }

    #[test]
    fn templates_raise_and_cannot_run_away() {
        let fails = |source: &str| rendered(source, serde_json::json!({})).unwrap_err().to_string();
        assert!(fails("{{ raise_exception('no tools') }}").contains("no tools"));
        assert!(fails("{% if %}").starts_with("chat template: "));
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}\
                       {% endfor %}";
        assert!(fails(endless).contains("fuel"), "{}", fails(endless));
        let deep = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        assert!(fails(deep).contains("recursion"), "{}", fails(deep));
        let large = "{% for a in range(100) %}{{ 'x' * 1000000 }}{% endfor %}";
        assert!(fails(large).contains("bytes of output"), "{}", fails(large));
        assert!(fails(&" ".repeat(TEMPLATE_BYTES_MAX + 1)).contains("source"));
    }
}

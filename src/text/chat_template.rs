//! Chat templates: the Jinja programs that model files carry, rendered as Python's Jinja2 renders
//! them for the model hub (see [`jinja`](super::jinja)).
//!
//! What is rendered says which of its bytes came from outside the template: the texts of messages,
//! names, tools and their results, through whatever the template does to them. Trusted are the
//! template's own text, the names of BOS and EOS, and roles that are plain names.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};

use super::TextError;
use super::jinja::{Dict, JinjaError, Template, Text, Value};

/// Largest template source; the longest published ones are under 20 kB.
pub const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// Nesting of the input: deeper values are no data of a conversation, and each level costs stack.
const INPUT_DEPTH_MAX: usize = 128;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// `system`, `user`, `assistant`, ..
    pub role: String,
    /// Text of the message.
    pub content: String,
    /// Reasoning before the text of an answer; most templates leave that of earlier turns out.
    pub reasoning: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), reasoning: String::new() }
    }

    /// An answer with the reasoning before it.
    pub fn answer(reasoning: impl Into<String>, content: impl Into<String>) -> Self {
        Self { reasoning: reasoning.into(), ..Self::new("assistant", content) }
    }

    /// The turn as templates read it.
    pub fn to_json(&self) -> Json {
        let mut turn = json!({ "role": self.role, "content": self.content });
        if !self.reasoning.is_empty() {
            turn["reasoning_content"] = self.reasoning.as_str().into();
        }
        turn
    }
}

/// A rendered template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text, byte for byte as Python renders it.
    pub text: String,
    /// Ranges of its bytes that came from outside the template: ascending, apart, none empty.
    pub untrusted: Vec<Range<usize>>,
}

/// A compiled template.
///
/// ```
/// use serde_json::json;
/// use teff::text::ChatTemplate;
///
/// let source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}";
/// let messages = json!([{ "role": "user", "content": " Why is the sky blue? " }]);
/// let text = ChatTemplate::new(source)?.render_json(&json!({ "messages": messages }))?;
/// assert_eq!(text, "<user>Why is the sky blue?");
/// # Ok::<(), teff::text::TextError>(())
/// ```
pub struct ChatTemplate {
    template: Template,
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles `source`; `strftime_now` will read the system's clock.
    ///
    /// # Errors
    /// [`TextError::Template`] for what Jinja2 refuses, what is missing here, and for length.
    pub fn new(source: &str) -> Result<Self, TextError> {
        Self::with_clock(source, || {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
        })
    }

    /// Compiles `source` with a clock of seconds since 1970 (UTC).
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn with_clock(
        source: &str,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Self, TextError> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(TextError::Template(JinjaError::limit("bytes of source")));
        }
        let template = Template::new(source).map_err(TextError::Template)?;
        Ok(Self { template, clock: Box::new(clock) })
    }

    /// The text for an object with any of `messages`, `tools`, `add_generation_prompt`,
    /// `bos_token`, `eos_token` and what else the template reads.
    ///
    /// # Errors
    /// [`TextError::Template`].
    pub fn render_json(&self, input: &Json) -> Result<String, TextError> {
        Ok(self.render_marked(input)?.text)
    }

    /// [`render_json`](Self::render_json) with the ranges that came from outside.
    ///
    /// # Errors
    /// [`TextError::Template`].
    pub fn render_marked(&self, input: &Json) -> Result<Rendered, TextError> {
        self.render_where(input, &|_| true)
    }

    /// [`render_marked`](Self::render_marked) in which strings count as from outside only within
    /// the messages for whose index `marked` holds, and nowhere else if it does not hold for all.
    pub(super) fn render_where(
        &self,
        input: &Json,
        marked: &dyn Fn(usize) -> bool,
    ) -> Result<Rendered, TextError> {
        let value = input_value(input, marked).map_err(TextError::Template)?;
        let rendered = self.template.render(&value, &self.clock).map_err(TextError::Template)?;
        Ok(Rendered { text: rendered.string, untrusted: rendered.marks })
    }
}

/// The input as the engine sees it.
fn input_value(input: &Json, marked: &dyn Fn(usize) -> bool) -> Result<Value, JinjaError> {
    let Json::Object(fields) = input else {
        return Err(JinjaError::operation("the input must be an object"));
    };
    let mut entries = Vec::with_capacity(fields.len());
    for (key, field) in fields {
        let value = match (&**key, field) {
            ("bos_token" | "eos_token", Json::String(name)) => Value::str(name.as_str()),
            ("messages", Json::Array(messages)) => {
                let message = |(i, message)| value_of(message, marked(i), 1);
                Value::list(messages.iter().enumerate().map(message).collect::<Result<_, _>>()?)?
            }
            (_, field) => value_of(field, marked(usize::MAX), 1)?,
        };
        entries.push((Value::str(key.as_str()), value));
    }
    Dict::value(entries)
}

fn value_of(json: &Json, marked: bool, depth: usize) -> Result<Value, JinjaError> {
    if depth > INPUT_DEPTH_MAX {
        return Err(JinjaError::limit("nesting of the input"));
    }
    let text = |text: &str| match marked {
        true => Value::Str(Text::outside(text)),
        false => Value::str(text),
    };
    Ok(match json {
        Json::Null => Value::None,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::Int(i128::from(n)),
            (_, Some(n)) => Value::Int(i128::from(n)),
            _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(string) => text(string),
        Json::Array(items) => {
            let item = |item| value_of(item, marked, depth + 1);
            Value::list(items.iter().map(item).collect::<Result<_, _>>()?)?
        }
        Json::Object(fields) => {
            let mut entries = Vec::with_capacity(fields.len());
            for (key, field) in fields {
                let value = match field {
                    // Templates make control tokens of roles (`<|user|>`), which callers choose.
                    Json::String(role) if depth == 1 && key == "role" && is_name(role) => {
                        Value::str(role.as_str())
                    }
                    field => value_of(field, marked, depth + 1)?,
                };
                entries.push((text(key), value));
            }
            Dict::value(entries)?
        }
    })
}

fn is_name(role: &str) -> bool {
    role.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21 12:00:00 UTC.
    const NOON: u64 = 1_795_262_400;

    fn rendered(source: &str, input: Json) -> Result<String, TextError> {
        ChatTemplate::with_clock(source, || NOON)?.render_json(&input)
    }

    fn ok(source: &str, input: Json) -> String {
        rendered(source, input).unwrap()
    }

    #[test]
    fn chatml() {
        let source = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
                      message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let template = ChatTemplate::new(source).unwrap();
        let messages = json!([
            { "role": "user", "content": "Hi" }, { "role": "assistant", "content": "<b>&'\"" }
        ]);
        let input = json!({ "messages": messages, "add_generation_prompt": true });
        let rendered = template.render_marked(&input).unwrap();
        assert_eq!(
            rendered.text,
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<b>&'\"<|im_end|>\n\
             <|im_start|>assistant\n"
        );
        let outside: Vec<&str> =
            rendered.untrusted.iter().map(|r| &rendered.text[r.clone()]).collect();
        assert_eq!(outside, ["Hi", "<b>&'\""]);
    }

    #[test]
    fn values_are_spelled_as_python_spells_them() {
        let input = json!({ "x": { "b": [1, 2.5, true, null, "it's"], "a": {} } });
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
        assert_eq!(ok(source, json!({})), "None||0|True");
    }

    #[test]
    fn dates() {
        let now = "{{ strftime_now('%Y-%m-%d %H:%M:%S %A %d %B %b %-d %j %I%p %%|%q') }}";
        let expected = "2026-11-21 12:00:00 Saturday 21 November Nov 21 325 12PM %|%q";
        assert_eq!(ok(now, json!({})), expected);
    }

    #[test]
    fn generation_tags_render_nothing() {
        let source = "a\n  {%- generation -%}\n  b{% endgeneration %}\nc";
        assert_eq!(ok(source, json!({})), "abc");
    }

    #[test]
    fn templates_raise_and_cannot_run_away() {
        let fails = |source: &str| rendered(source, json!({})).unwrap_err().to_string();
        assert!(fails("{{ raise_exception('no tools') }}").contains("no tools"));
        assert!(fails("{% if %}").starts_with("chat template: syntax error: "));
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}\
                       {% endfor %}";
        assert!(fails(endless).contains("fuel"), "{}", fails(endless));
        let deep = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        assert!(fails(deep).contains("recursion"), "{}", fails(deep));
        let large = "{% for a in range(100) %}{{ 'x' * 1000000 }}{% endfor %}";
        assert!(fails(large).contains("bytes of output"), "{}", fails(large));
        let doubled = "{% set ns = namespace(x='x') %}{% for a in range(99) %}\
                       {% set ns.x = ns.x ~ ns.x %}{% endfor %}";
        assert!(fails(doubled).contains("bytes of output"), "{}", fails(doubled));
        let nested = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
        assert!(fails(&nested).contains("nesting"), "{}", fails(&nested));
        let chained = format!("{{{{ 1{} }}}}", " + 1".repeat(5000));
        assert!(fails(&chained).contains("operators"), "{}", fails(&chained));
        let cyclic = "{% set a = namespace() %}{% set a.a = a %}";
        assert!(fails(cyclic).contains("namespace"), "{}", fails(cyclic));
        assert!(fails(&" ".repeat(TEMPLATE_BYTES_MAX + 1)).contains("source"));
    }

    #[test]
    fn marks_follow_what_templates_do_to_strings() {
        let input = json!({ "s": "<|a|>", "list": ["<|b|>", "<|c|>"], "o": { "<|k|>": "<|v|>" } });
        for (source, outside) in [
            ("x{{ s }}y", vec!["<|a|>"]),
            ("{{ ' ' ~ s ~ '<|own|>' }}", vec!["<|a|>"]),
            ("{{ ('  ' + s + ' ') | trim | upper }}", vec!["<|A|>"]),
            ("{{ s[1:-1] }}{{ s[::-1] }}", vec!["|a|>|a|<"]),
            ("{{ list | join('<|own|>') }}", vec!["<|b|>", "<|c|>"]),
            ("{{ o | tojson }}", vec!["<|k|>", "<|v|>"]),
            ("{{ o }}{{ list }}", vec!["<|k|>", "<|v|>", "<|b|>", "<|c|>"]),
            ("{% for c in s %}{{ c }}.{% endfor %}", vec!["<", "|", "a", "|", ">"]),
            ("{% for k, v in o.items() %}<{{ k }}={{ v }}>{% endfor %}", vec!["<|k|>", "<|v|>"]),
            ("{{ '<|own|> %s' % s }}{{ '{}'.format(s) }}", vec!["<|a|><|a|>"]),
            (
                "{{ 'x'.replace('x', s) }}-{{ s.replace('a', '<|own|>') }}",
                vec!["<|a|>", "<|", "|>"],
            ),
            ("{{ s.split('|')[1] }}{{ s.partition('a')[0] }}", vec!["a<|"]),
            ("{% set t %}{{ s }}{% endset %}{{ t | replace('|', '') }}", vec!["<a>"]),
            ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(s) | lower }}", vec!["<|a|>"]),
            ("{% filter upper %}x{{ s }}{% endfilter %}", vec!["<|A|>"]),
            (
                "{{ list | map('upper') | join }}{{ s | indent }}{{ s | e }}",
                vec!["<|B|><|C|><|a|>&lt;|a|&gt;"],
            ),
            ("{{ s | tojson | tojson }}{{ s | string | list | first }}", vec!["<|a|>", "<"]),
            (
                "{{ s.title() }}{{ s.center(9) }}{{ s | truncate(3, true, '', 0) }}",
                vec!["<|A|>", "<|a|>", "<|a"],
            ),
            ("{{ 'own' if '|a|' in s and s == '<|a|>' and s.startswith('<') else s }}", vec![]),
        ] {
            let template = ChatTemplate::new(source).unwrap();
            let rendered = template.render_marked(&input).unwrap();
            let found: Vec<&str> =
                rendered.untrusted.iter().map(|r| &rendered.text[r.clone()]).collect();
            assert_eq!(found, outside, "{source}: {}", rendered.text);
        }
    }

    #[test]
    fn roles_that_are_names_may_be_part_of_control_tokens() {
        let source = "{% for m in messages %}<|{{ m.role }}|>{% endfor %}";
        let template = ChatTemplate::new(source).unwrap();
        let untrusted = |role: &str| {
            let input = json!({ "messages": [{ "role": role, "content": "" }] });
            template.render_marked(&input).unwrap().untrusted
        };
        assert!(untrusted("user").is_empty());
        assert_eq!(untrusted("user|><|x"), std::slice::from_ref(&(2..11)));
    }
}

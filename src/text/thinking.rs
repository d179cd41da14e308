//! The switch for reasoning that a chat template has, under the names that families give it.

use serde_json::{Map, Value as Json, json};

use super::{Prompter, TextError};

/// A variable of templates, with its value for on and off.
type Switch = (&'static str, fn(bool) -> Json);

const SWITCHES: &[Switch] = &[
    ("enable_thinking", |on| json!(on)),
    ("thinking", |on| json!(on)),
    ("thinking_option", |on| json!(if on { "on" } else { "off" })),
    ("thinking_budget", |on| json!(if on { -1 } else { 0 })),
];

/// The variables that turn reasoning on or off in the template's prompt for `input`; `None` if it
/// has no such switch: then no variable makes a difference.
///
/// # Errors
/// As [`Prompter::render`] for the plain input.
pub fn thinking_variables(
    prompter: &Prompter<'_>,
    input: &Json,
    on: bool,
) -> Result<Option<Map<String, Json>>, TextError> {
    prompter.render(input)?;
    let rendered = |name: &str, value: Json| {
        let mut fields = input.as_object().cloned().unwrap_or_default();
        fields.insert(name.to_owned(), value);
        prompter.render(&Json::Object(fields)).ok().map(|rendered| rendered.text)
    };
    let found = SWITCHES.iter().find(|(name, value)| {
        rendered(name, value(true)).zip(rendered(name, value(false))).is_some_and(|(a, b)| a != b)
    });
    Ok(found.map(|(name, value)| Map::from_iter([((*name).to_owned(), value(on))])))
}

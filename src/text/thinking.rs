//! Switches for reasoning that a chat template has, under the names that families give them.

use serde_json::{Map, Value as Json, json};

use super::{Prompter, TextError};

/// A variable of templates, with its value for on and off.
type Switch = (&'static str, fn(bool) -> Json);

const SWITCHES: &[Switch] = &[
    ("enable_thinking", |on| json!(on)),
    ("thinking", |on| json!(on)),
    ("thinking_option", |on| json!(if on { "on" } else { "off" })),
    ("thinking_budget", |on| json!(if on { -1 } else { 0 })),
    ("reasoning", |on| json!(on)),
];

/// The variable that says how much a model is to reason.
const EFFORT: &str = "reasoning_effort";

/// Amounts of reasoning that templates know, each only some of them.
pub const EFFORTS: [&str; 5] = ["minimal", "low", "medium", "high", "max"];

/// The text for `input` with more variables; `None` if the template refuses them.
fn rendered(prompter: &Prompter<'_>, input: &Json, more: &Map<String, Json>) -> Option<String> {
    let mut fields = input.as_object().cloned().unwrap_or_default();
    fields.extend(more.clone());
    prompter.render(&Json::Object(fields)).ok().map(|rendered| rendered.text)
}

fn variable(name: &str, value: Json) -> Map<String, Json> {
    Map::from_iter([(name.to_owned(), value)])
}

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
    let found = SWITCHES.iter().find(|(name, value)| {
        let [on, off] =
            [true, false].map(|on| rendered(prompter, input, &variable(name, value(on))));
        on.zip(off).is_some_and(|(on, off)| on != off)
    });
    Ok(found.map(|(name, value)| variable(name, value(on))))
}

/// The variables that have a model reason with so much effort, one of [`EFFORTS`], in the template's
/// prompt for `input`; `None` if the template tells no efforts apart. Reasoning is turned on where there
/// is a switch for it.
///
/// # Errors
/// As [`Prompter::render`] for the plain input, and if the template refuses this effort.
pub fn effort_variables(
    prompter: &Prompter<'_>,
    input: &Json,
    effort: &str,
) -> Result<Option<Map<String, Json>>, TextError> {
    let mut variables = thinking_variables(prompter, input, true)?.unwrap_or_default();
    let with = |effort: &str| {
        let mut variables = variables.clone();
        variables.insert(EFFORT.to_owned(), effort.into());
        variables
    };
    let texts: Vec<String> =
        EFFORTS.iter().filter_map(|effort| rendered(prompter, input, &with(effort))).collect();
    if texts.windows(2).all(|pair| pair[0] == pair[1]) {
        return Ok(None);
    }
    let mut fields = input.as_object().cloned().unwrap_or_default();
    fields.extend(with(effort));
    prompter.render(&Json::Object(fields))?;
    variables.insert(EFFORT.to_owned(), effort.into());
    Ok(Some(variables))
}

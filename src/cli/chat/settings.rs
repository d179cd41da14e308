//! `/set`: what can be changed within a chat. Each setting says its value and its default.

use super::super::answer_view::ReasoningShow;
use super::OnFull;
use super::input::Input;
use super::talk::Talk;
use crate::sample::{self, SampleParams};
use clap::ValueEnum;

/// A setting that is no parameter of the sampler.
struct Setting {
    name: &'static str,
    default: &'static str,
    help: &'static str,
    get: fn(&Talk, &dyn Input) -> String,
    set: fn(&mut Talk, &mut dyn Input, &str) -> Result<(), String>,
}

const SETTINGS: &[Setting] = &[
    Setting {
        name: "seed",
        default: "random",
        help: "The same seed gives the same text",
        get: |talk, _| talk.params.seed.to_string(),
        set: |talk, _, value| {
            talk.params.seed = value.parse().map_err(|_| "must be a whole number".to_owned())?;
            Ok(())
        },
    },
    Setting {
        name: "n-predict",
        default: "none",
        help: "Tokens of an answer, most; none: until the model ends",
        get: |talk, _| talk.n_predict.map_or("none".into(), |n| n.to_string()),
        set: |talk, _, value| {
            let needed = || "must be none or a whole number from 1".to_owned();
            talk.n_predict = match value {
                "none" => None,
                value => Some(value.parse().ok().filter(|&n| n > 0).ok_or_else(needed)?),
            };
            Ok(())
        },
    },
    Setting {
        name: "context-full",
        default: "stop",
        help: "stop: the answer ends; shift: the oldest turns are left out",
        get: |talk, _| name_of(talk.on_full),
        set: |talk, _, value| {
            let wrong = |_| "must be stop or shift".to_owned();
            talk.on_full = OnFull::from_str(value, true).map_err(wrong)?;
            Ok(())
        },
    },
    Setting {
        name: "reasoning",
        default: "show",
        help: "show: reasoning comes before its answer; hide: it is counted; off: all is text",
        get: |talk, _| name_of(talk.reasoning),
        set: |talk, _, value| {
            let wrong = |_| "must be show, hide or off".to_owned();
            talk.reasoning = ReasoningShow::from_str(value, true).map_err(wrong)?;
            Ok(())
        },
    },
    Setting {
        name: "save-history",
        default: "on",
        help: "Whether what you type is remembered for later starts",
        get: |_, input| if input.remembers() { "on" } else { "off" }.into(),
        set: |_, input, value| match value {
            "on" => input.remember(true),
            "off" => input.remember(false),
            _ => Err("must be on or off".into()),
        },
    },
];

/// Name of a choice.
fn name_of(choice: impl ValueEnum) -> String {
    choice.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
}

/// Names of all settings.
pub fn names() -> impl Iterator<Item = String> {
    let params = sample::params().map(|param| param.flag);
    params.chain(SETTINGS.iter().map(|setting| setting.name)).map(str::to_owned)
}

/// One line for each setting: name, value, default.
pub fn table(talk: &Talk, input: &dyn Input) -> String {
    let defaults = SampleParams::default();
    let params = sample::params().map(|param| {
        let (value, default) = (param.get(&talk.params), param.get(&defaults));
        (param.flag, value.to_string(), default.to_string(), param.help)
    });
    let own = SETTINGS
        .iter()
        .map(|row| (row.name, (row.get)(talk, input), row.default.to_owned(), row.help));
    let rows: Vec<_> = params.chain(own).collect();
    let width = |cell: fn(&(&str, String, String, &str)) -> usize| {
        rows.iter().map(cell).max().unwrap_or_default()
    };
    let (name, value) = (width(|row| row.0.len()), width(|row| row.1.len().min(24)));
    let line = |(row, is, default, help): &(&str, String, String, &str)| {
        format!("{row:name$}  {is:value$}  [default: {default}] {help}")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Changes a setting, or shows it where there is no value. Returns what to say.
///
/// # Errors
/// An unknown name, with the nearest, or a value that is not allowed, with those that are.
pub fn set(
    talk: &mut Talk,
    input: &mut dyn Input,
    name: &str,
    value: Option<&str>,
) -> Result<String, String> {
    let name = name.trim_start_matches('-');
    let plain = |name: &str| name.replace('_', "-").to_lowercase();
    let same = |other: &str| plain(other) == plain(name);
    let param = sample::params().find(|param| same(param.flag) || same(param.name));
    let own = SETTINGS.iter().find(|row| same(row.name));
    let refused = |need: &str| format!("{name} {}: {need}", value.unwrap_or_default());
    match (param, own, value) {
        (Some(param), _, Some(text)) => {
            let mut changed = talk.params.clone();
            let value =
                param.parse(text).map_err(|_| refused(&format!("must be {}", param.need())))?;
            param.assign(&mut changed, value).map_err(|error| error.to_string())?;
            changed.validate().map_err(|error| error.to_string())?;
            talk.params = changed;
        }
        (None, Some(row), Some(text)) => {
            (row.set)(talk, input, text).map_err(|need| refused(&need))?;
        }
        (None, None, _) => {
            let names: Vec<String> = names().collect();
            let near = super::commands::nearest(&plain(name), names.iter().map(String::as_str));
            let near = near.map_or(String::new(), |near| format!(": did you mean `{near}`?"));
            return Err(format!("there is no setting `{name}`{near} (/set shows all)"));
        }
        (_, _, None) => {}
    }
    Ok(match (param, own) {
        (Some(param), _) => {
            let default = param.get(&SampleParams::default());
            format!("{} {} [default: {default}]", param.flag, param.get(&talk.params))
        }
        (_, Some(row)) => {
            format!("{} {} [default: {}]", row.name, (row.get)(talk, input), row.default)
        }
        (None, None) => String::new(),
    })
}

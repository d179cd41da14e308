//! Formats and patterns of strings.
//!
//! The engine has expressions for some of draft 2020-12's formats. Those that let through what is none (30 February,
//! leap seconds at any minute) or that it lacks are written here. A format that the draft does not have is an
//! annotation, as are `int32` and `password` of OpenAPI.

use super::pattern;
use serde_json::{Map, Value, json};

/// Formats that the engine enforces.
const OF_ENGINE: &[&str] = &["duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"];

/// Formats of the draft that nobody enforces.
const REFUSED: &[&str] =
    &["idn-email", "idn-hostname", "iri", "iri-reference", "regex", "uri-template"];

/// A year with four digits that is not 0000, which many readers do not know.
const YEAR: &str = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)";
const LEAP_YEAR: &str = concat!(
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|",
    "(?:0[48]|[2468][048]|[13579][26])00)"
);
/// A month and a day of it, but for 29 February.
const DAY: &str = concat!(
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|",
    "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
);
/// A time with its zone. No second is the 60th: whether one is depends on the day.
const TIME: &str = concat!(
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?",
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
);
/// Parts of a JSON pointer.
const POINTER: &str = "(?:/(?:[^/~]|~[01])*)*";
/// A character of a path of a URI (RFC 3986).
const PATH_CHAR: &str = "(?:[a-zA-Z0-9\\-._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})";
const PATH_CHAR_NO_COLON: &str = "(?:[a-zA-Z0-9\\-._~!$&'()*+,;=@]|%[0-9a-fA-F]{2})";
/// A host by its name or IPv4 address, with what may stand around it.
const AUTHORITY: &str = concat!(
    "//(?:(?:[a-zA-Z0-9\\-._~!$&'()*+,;=:]|%[0-9a-fA-F]{2})*@)?",
    "(?:[a-zA-Z0-9\\-._~!$&'()*+,;=]|%[0-9a-fA-F]{2})*(?::[0-9]*)?"
);

/// The expression of a format that is written here.
fn expression(format: &str) -> Option<String> {
    let date = || format!("(?:{YEAR}-{DAY}|{LEAP_YEAR}-02-29)");
    Some(match format {
        "date" => date(),
        "time" => TIME.to_owned(),
        "date-time" => format!("{}T{TIME}", date()),
        "json-pointer" => POINTER.to_owned(),
        "relative-json-pointer" => format!("(?:0|[1-9][0-9]*)(?:#|{POINTER})"),
        "uri-reference" => {
            let path = |first: &str| {
                let more = format!("(?:/{PATH_CHAR}*)*");
                format!("(?:{AUTHORITY}{more}|/(?:{PATH_CHAR}+{more})?|{first}+{more}|)")
            };
            let (absolute, relative) = (path(PATH_CHAR), path(PATH_CHAR_NO_COLON));
            let rest = format!("(?:{PATH_CHAR}|[/?])*");
            format!("(?:[a-zA-Z][a-zA-Z0-9+\\-.]*:{absolute}|{relative})(?:\\?{rest})?(?:#{rest})?")
        }
        _ => return None,
    })
}

/// Writes patterns as the engine reads them, and formats that it does not know well as patterns.
pub(super) fn rewrite(keys: &mut Map<String, Value>) -> Result<(), (&'static str, &'static str)> {
    if let Some(Value::String(text)) = keys.get_mut("pattern") {
        *text = pattern::as_meant(text).map_err(|reason| ("pattern", reason))?;
    }
    let Some(format) = keys.get("format").and_then(Value::as_str) else { return Ok(()) };
    if OF_ENGINE.contains(&format) {
        return Ok(());
    }
    if REFUSED.contains(&format) {
        return Err(("format", "this one is not supported"));
    }
    let expression = expression(format);
    keys.shift_remove("format");
    let Some(expression) = expression else { return Ok(()) };
    let expression = format!("^(?:{expression})$");
    if !keys.contains_key("pattern") {
        keys.insert("pattern".into(), expression.into());
    } else if let Value::Array(all) = keys.entry("allOf").or_insert_with(|| json!([])) {
        all.push(json!({ "pattern": expression }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What of the draft's formats is told apart is enforced, by the engine or here, or refused.
    #[test]
    fn every_format_of_the_draft_has_one_treatment() {
        let formats = [
            "date",
            "date-time",
            "duration",
            "email",
            "hostname",
            "idn-email",
            "idn-hostname",
            "ipv4",
            "ipv6",
            "iri",
            "iri-reference",
            "json-pointer",
            "regex",
            "relative-json-pointer",
            "time",
            "uri",
            "uri-reference",
            "uri-template",
            "uuid",
        ];
        for format in formats {
            let treatments = [
                OF_ENGINE.contains(&format),
                REFUSED.contains(&format),
                expression(format).is_some(),
            ];
            assert_eq!(treatments.iter().filter(|is| **is).count(), 1, "{format}: {treatments:?}");
        }
        let mut other = json!({ "format": "int32", "type": "integer" });
        rewrite(other.as_object_mut().unwrap()).unwrap();
        assert_eq!(other, json!({ "type": "integer" }));
    }
}

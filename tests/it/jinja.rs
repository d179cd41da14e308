//! Rare constructs of templates against the texts that Python's Jinja2 3.1.6 makes of them in the
//! immutable sandbox of the model hub; `tests/golden/jinja/cases.json` has pairs of a template and its
//! text, null where Python refuses; `scripts/make_jinja_cases.py` writes it.

use serde_json::{Value, json};
use teff::text::ChatTemplate;

/// What Python has and the engine does not, with the construct that its error names.
const MISSING: [(&str, &str); 3] = [
    ("{{ 'a b' | wordwrap(1) }}", "the filter `wordwrap` is not supported"),
    ("{{ [1,2,3] | random is number }}", "the filter `random` is not supported"),
    ("{{ 'a'.encode('utf-8') is defined }}", "the method `str.encode` is not supported"),
];

#[test]
fn rare_constructs_render_as_in_python_or_are_named() {
    let cases: Vec<(String, Option<String>)> =
        serde_json::from_str(include_str!("../golden/jinja/cases.json")).unwrap();
    let messages = json!([
        { "role": "user", "content": "Ué <b>" }, { "role": "assistant", "content": "ok" }
    ]);
    let input: Value = json!({ "messages": messages, "add_generation_prompt": true });
    let mut missing = 0;
    for (source, expected) in &cases {
        let rendered = ChatTemplate::new(source).and_then(|template| template.render_json(&input));
        if let Some((_, named)) = MISSING.iter().find(|(known, _)| known == source) {
            let error = rendered.unwrap_err().to_string();
            assert!(error.contains(named), "{source}: {error}");
            missing += 1;
            continue;
        }
        match (rendered, expected) {
            (Ok(text), Some(expected)) => assert_eq!(&text, expected, "{source}"),
            (Err(_), None) => {}
            (Err(error), Some(expected)) => panic!("{source}: {error}, not {expected:?}"),
            (Ok(text), None) => panic!("{source}: {text:?}, which Python refuses"),
        }
    }
    assert_eq!((cases.len(), missing), (212, MISSING.len()));
}

#[test]
fn what_is_missing_is_named_with_its_line() {
    for (source, named) in [
        ("\n{% include 'x' %}", "the tag `{% include %}` is not supported (line 2)"),
        ("{% extends 'x' %}", "the tag `{% extends %}` is not supported (line 1)"),
        ("{{ 2 ** 200 }}", "an integer of more than 127 bits is not supported (line 1)"),
        ("{{ [1] | urlize }}", "the filter `urlize` is not supported (line 1)"),
        ("\n\n{{ lipsum() }}", "the function `lipsum` is not supported (line 3)"),
        ("{{ 'a' | nonsense }}", "there is no filter `nonsense` (line 1)"),
        ("{{ missing.x }}", "`missing` is undefined (line 1)"),
    ] {
        let rendered = ChatTemplate::new(source).and_then(|t| t.render_json(&json!({})));
        assert_eq!(
            rendered.unwrap_err().to_string(),
            format!("chat template: {named}"),
            "{source}"
        );
    }
}

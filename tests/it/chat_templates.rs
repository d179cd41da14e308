//! Published chat templates against what Python's Jinja2 makes of them: those of
//! `tests/golden/chat_templates.json.xz`, and all of a larger folder where there is one (see
//! `require.rs`).

use std::fs;
use std::path::Path;

use serde_json::Value;
use teff::text::ChatTemplate;

use crate::require::fixtures;
use crate::tokenizers::unpacked;

/// 2026-11-21 12:00:00 UTC, the clock of the fixtures.
const NOON: u64 = 1_795_262_400;

/// Templates whose cases do not all match yet. A test fails when one is missing here, and when
/// one is here that passes.
const NOT_YET: &[&str] = &[];

/// A template with cases: `input`, and the `expected` text unless it is an error.
pub struct Published {
    pub name: String,
    pub source: String,
    pub cases: Vec<Value>,
}

/// Renders all cases; prints those that differ. Returns the names of the templates that have such.
fn failing(templates: &[Published]) -> Vec<&str> {
    let passes = |published: &Published| {
        let template = ChatTemplate::with_clock(&published.source, || NOON);
        let wrong = published.cases.iter().filter(|case| {
            let rendered = template.as_ref().map(|t| t.render_json(&case["input"]));
            let ok = match (&rendered, case["expected"].as_str()) {
                (Ok(Ok(text)), Some(expected)) => text == expected,
                (Ok(Err(_)) | Err(_), None) => true,
                _ => false,
            };
            if !ok {
                let (name, expected) = (&published.name, &case["expected"]);
                eprintln!("{name} {}: {rendered:?}\n  {expected}", case["case"]);
            }
            !ok
        });
        wrong.count() == 0
    };
    let failing = templates.iter().filter(|published| !passes(published));
    failing.map(|published| published.name.as_str()).collect()
}

/// The templates in the repository.
pub fn committed() -> Vec<Published> {
    let packed: Value = serde_json::from_slice(&unpacked("chat_templates.json.xz")).unwrap();
    let packed = packed.as_object().unwrap().iter();
    let published = packed.map(|(name, published)| Published {
        name: name.clone(),
        source: published["template"].as_str().unwrap().to_owned(),
        cases: published["cases"].as_array().unwrap().clone(),
    });
    published.collect()
}

#[test]
fn published_templates_render_as_in_python() {
    let templates = committed();
    let n_cases: usize = templates.iter().map(|published| published.cases.len()).sum();
    assert!(
        templates.len() >= 20 && n_cases >= 100,
        "{} templates, {n_cases} cases",
        templates.len()
    );
    assert_eq!(failing(&templates), NOT_YET);
}

/// A larger folder, where there is one: `NAME.jinja` and `NAME.json`.
pub fn more() -> Option<Vec<Published>> {
    let folder = fixtures("chat_templates")?;
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "jinja"));
    paths.sort();
    let read = |path: &Path| Published {
        name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
        source: fs::read_to_string(path).unwrap(),
        cases: serde_json::from_slice(&fs::read(path.with_extension("json")).unwrap()).unwrap(),
    };
    Some(paths.iter().map(|path| read(path)).collect())
}

#[test]
fn more_templates_render_as_in_python() {
    let Some(templates) = more() else { return };
    assert!(templates.len() > committed().len(), "{} templates", templates.len());
    assert_eq!(failing(&templates), NOT_YET);
}

#[test]
fn committed_templates_are_those_with_a_licence() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/NOTICE.md");
    let notice = fs::read_to_string(path).unwrap();
    let licensed = |name: &str| {
        ["MIT", "Apache-2.0"].iter().any(|of| notice.contains(&format!("\n| {name} | {of} |\n")))
    };
    for published in committed() {
        assert!(licensed(&published.name), "NOTICE.md has no licence of {}", published.name);
    }
}

/// Built-in templates beside the published ones of their families, on conversations without tools that
/// the published ones accept.
#[test]
fn built_in_templates_write_what_published_ones_do() {
    let published: Vec<Published> =
        committed().into_iter().chain(more().into_iter().flatten()).collect();
    for (family, name, cases) in [
        ("chatml", "Qwen-Qwen2.5-7B-Instruct", &["system_and_turns"][..]),
        ("phi3", "microsoft-Phi-3.5-mini-instruct", &["one_user", "system_and_turns"]),
        ("mistral", "unsloth-mistral-Devstral-Small-2507", &["system_and_turns"]),
        ("deepseek", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", &["no_generation_prompt"]),
        ("gemma", "google-gemma-2-2b-it", &["one_user", "no_generation_prompt"]),
    ] {
        let source = teff::text::builtin_template(family).unwrap().source;
        let template = ChatTemplate::new(source).unwrap();
        let Some(published) = published.iter().find(|published| published.name == name) else {
            assert_eq!(family, "gemma", "{name} is not among the goldens");
            continue;
        };
        for case in cases {
            let case = published.cases.iter().find(|c| c["case"] == *case).unwrap();
            let rendered = template.render_json(&case["input"]).unwrap();
            assert_eq!(rendered, case["expected"].as_str().unwrap(), "{family} {}", case["case"]);
        }
    }
}

//! The JSON-Schema-Test-Suite turned around: what a schema rejects cannot be written under it, what it
//! accepts can, and a schema that cannot be enforced is refused. `scripts/schema_suite.sh` fetches the
//! suite and runs this.

use crate::grammar::Rig;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use teff::engine::grammar::Grammar;

/// Environment variable: the suite's folder `tests/draft2020-12`.
const FOLDER: &str = "TEFF_SCHEMA_SUITE";

/// A value as grammars write it: members in the order of the schema's properties, others behind them.
fn written(value: &Value, schema: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<String> =
                items.iter().map(|item| written(item, &schema["items"])).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(members) => {
            let properties = schema["properties"].as_object();
            let place = |name: &str| {
                let at = properties.and_then(|p| p.keys().position(|key| key == name));
                at.unwrap_or(usize::MAX)
            };
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| place(name));
            let members: Vec<String> = members
                .into_iter()
                .map(|(name, value)| {
                    let schema = &schema["properties"][name.as_str()];
                    format!("{}: {}", Value::from(name.as_str()), written(value, schema))
                })
                .collect();
            format!("{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}

/// Figures of the suite.
#[derive(Default)]
struct Figures {
    n_refused: usize,
    n_schemas: usize,
    n_right: usize,
    /// Accepted by the schema, but there is no way to write it.
    missing: Vec<String>,
    /// Rejected by the schema, but can be written.
    wrong: Vec<String>,
    /// Reasons of refusals.
    reasons: BTreeMap<String, usize>,
}

impl Figures {
    fn group(&mut self, rig: &Rig, file: &str, group: &Value) {
        let schema = &group["schema"];
        let grammar = Grammar::JsonSchema(schema.to_string());
        self.n_schemas += 1;
        if let Err(error) = rig.grammars.filter(&grammar) {
            self.n_refused += 1;
            *self.reasons.entry(format!("{file}: {error}")).or_default() += 1;
            return;
        }
        for test in group["tests"].as_array().unwrap() {
            let text = written(&test["data"], schema);
            let name = format!("{file}: {}: {}: {text}", group["description"], test["description"]);
            match (rig.accepts(&grammar, &text), test["valid"].as_bool().unwrap()) {
                (true, false) => self.wrong.push(name),
                (false, true) => self.missing.push(name),
                _ => self.n_right += 1,
            }
        }
    }
}

#[test]
#[ignore = "needs the suite, see scripts/schema_suite.sh"]
fn what_a_schema_rejects_cannot_be_written() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("TEFF_SCHEMA_SUITE names a folder"));
    let rig = Rig::new();
    let mut figures = Figures::default();
    // The drafts have formats as annotations; grammars enforce them.
    let folders = [folder.clone(), folder.join("optional/format")];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    for path in &files {
        let file = path.file_stem().unwrap().to_str().unwrap();
        let groups: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        groups.as_array().unwrap().iter().for_each(|group| figures.group(&rig, file, group));
    }
    let Figures { n_refused, n_schemas, n_right, missing, wrong, reasons } = figures;
    reasons.iter().for_each(|(reason, n)| println!("refused {n}: {reason}"));
    missing.iter().for_each(|name| println!("missing: {name}"));
    println!(
        "{n_schemas} schemas, {n_refused} refused; of the others' instances {n_right} right, {} \
         missing, {} wrong",
        missing.len(),
        wrong.len()
    );
    assert!(n_right > 300, "the suite was read");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

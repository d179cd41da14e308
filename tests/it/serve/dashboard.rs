//! The dashboard in `scripts/deploy` asks for figures that the server has.

use super::Serving;
use serde_json::Value;
use std::collections::BTreeSet;

/// Prefixes of the server's figures.
const OWN: [&str; 3] = ["vllm:", "teff_", "process_"];

/// Names of figures in a query.
fn names(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| OWN.iter().any(|own| word.starts_with(own)))
}

/// Collects the queries in a panel, and what stands in variables.
fn queries<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            let texts = ["expr", "query"].iter().filter_map(|name| fields.get(*name)?.as_str());
            found.extend(texts);
            fields.values().for_each(|field| queries(field, found));
        }
        Value::Array(list) => list.iter().for_each(|one| queries(one, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_figures_that_exist() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/deploy/grafana.json");
    let dashboard: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut found = Vec::new();
    queries(&dashboard, &mut found);
    let wanted: BTreeSet<&str> = found.iter().flat_map(|query| names(query)).collect();
    assert!(wanted.len() >= 15, "{wanted:?}");
    let serving = Serving::start("dashboard", &[]);
    // A request is counted when its answer has been told.
    assert_eq!(serving.chat(serde_json::json!({})).status, 200);
    serving.wait_idle();
    let metrics = serving.get("/metrics").text();
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    let told: BTreeSet<&str> = samples.map(|line| line.split(['{', ' ']).next().unwrap()).collect();
    for name in wanted {
        let is_linux_only = name.starts_with("process_") && !cfg!(target_os = "linux");
        assert!(told.contains(name) || is_linux_only, "{name} is not in /metrics");
    }
    // Labels by which the dashboard chooses and sums.
    for labels in
        ["model_name=\"", "endpoint=\"", "status=\"", "finished_reason=\"", "phase=\"", "le=\""]
    {
        assert!(metrics.contains(labels), "{labels}");
    }
}

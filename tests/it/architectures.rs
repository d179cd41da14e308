//! The list of architectures in the documentation, which says what the tests check.

use crate::fixture_model;
use std::collections::BTreeMap;
use std::path::Path;

/// Set to anything, it has the test write the table instead of comparing it.
const WRITE: &str = "TEFF_WRITE_TABLE";
const BEGIN: &str = "<!-- table: TEFF_WRITE_TABLE=1 cargo test --test it architectures -->\n";
const END: &str = "<!-- end of the table -->\n";

/// Each architecture with the fixtures that `decoder.rs` and `embeddings.rs` compare with the
/// reference.
fn table() -> String {
    let mut fixtures: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in [fixture_model::names(), fixture_model::embedding_names()].concat() {
        fixtures.entry(fixture_model::architecture(&name)).or_default().push(name);
    }
    let rows = teff::model::arch::names().map(|arch| {
        let fixtures = fixtures.get(arch).map_or(String::new(), |names| names.join(", "));
        format!("| `{arch}` | {fixtures} |\n")
    });
    let rows: String = rows.collect();
    let n: usize = fixtures.values().map(Vec::len).sum();
    let counts = format!("{} architectures, {n} models.\n\n", teff::model::arch::names().count());
    format!(
        "{counts}| `general.architecture` | models in `tests/golden/archs` and `embeddings` |\n|---|---|\n{rows}"
    )
}

#[test]
fn the_documentation_lists_every_architecture_and_its_fixtures() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/arch/README.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("the table's beginning");
    let (found, tail) = rest.split_once(END).expect("the table's end");
    let table = table();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, [head, BEGIN, &table, END, tail].concat()).unwrap();
        return;
    }
    assert!(found == table, "{} is stale; {WRITE}=1 writes it", path.display());
}

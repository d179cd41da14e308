//! Chores of the repository that are easier in Rust than in shell: `cargo xtask CHORE`.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

const USAGE: &str = "\
usage: cargo xtask golden-archs FOLDER NAME...

  golden-archs   takes NAME.json and NAME.f32 (a tiny seeded model and its logits, see
                 tests/it/fixture_model.rs) from FOLDER into tests/golden/archs: checks that they
                 belong together and writes the JSON without white space";

/// Most bytes all of tests/golden may have, so that a clone stays small.
const GOLDEN_BYTES_MAX: u64 = 12 << 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["golden-archs", from, ref names @ ..] if !names.is_empty() => golden_archs(from, names),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn golden_archs(from: &str, names: &[&str]) -> Result<(), Box<dyn Error>> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let to = golden.join("archs");
    fs::create_dir_all(&to)?;
    for name in names {
        let source = Path::new(from).join(name);
        let read = |extension| {
            let path = source.with_added_extension(extension);
            fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
        };
        let (spec, logits) = (read("json")?, read("f32")?);
        let spec: Value = serde_json::from_slice(&spec).map_err(|e| format!("{name}.json: {e}"))?;
        let n_tokens = spec["tokens"].as_array().map_or(0, Vec::len);
        let expected = n_tokens * spec["n_vocab"].as_u64().unwrap_or(0) as usize * 4;
        if expected == 0 || logits.len() != expected {
            return Err(format!("{name}.f32: {} bytes instead of {expected}", logits.len()).into());
        }
        fs::write(to.join(name).with_added_extension("json"), spec.to_string())?;
        fs::write(to.join(name).with_added_extension("f32"), logits)?;
    }
    let bytes = bytes_below(&golden)?;
    println!("{} written; tests/golden has {} KiB now", names.len(), bytes >> 10);
    if bytes > GOLDEN_BYTES_MAX {
        return Err(format!("tests/golden is over {} MiB", GOLDEN_BYTES_MAX >> 20).into());
    }
    Ok(())
}

fn bytes_below(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { bytes_below(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}

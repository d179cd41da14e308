//! `teff list`: the models that have a short name and those in the cache.

use std::error::Error;
use std::io::Write;

use serde_json::{Value, json};

use crate::cache::{Cache, Entry};
use crate::model::describe::bytes;

/// List the models that have a short name and those in the cache
#[derive(clap::Args, Debug)]
pub struct ListArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Writes a table, or `{"dir","models":[{"model","bytes","cached_bytes","cached","path",..}]}`.
///
/// # Errors
/// No cache folder, or `out` cannot be written.
pub fn list(args: &ListArgs, out: &mut dyn Write) -> Result<(), Box<dyn Error + Send + Sync>> {
    let cache = Cache::from_env()?;
    let entries = cache.list();
    if args.json {
        let models = Value::from_iter(entries.iter().map(to_json));
        writeln!(out, "{}", json!({"dir": cache.dir().to_string_lossy(), "models": models}))?;
        return Ok(());
    }
    let width = entries.iter().map(|entry| entry.model.len()).max().unwrap_or(0);
    for entry in &entries {
        writeln!(out, "{:width$}  {:>9}  {}", entry.model, bytes(entry.bytes), state(entry))?;
        if let Some(alias) = entry.alias {
            writeln!(out, "{:width$}  {:>9}  {} ({})", "", "", alias.about, alias.licence)?;
        }
    }
    Ok(())
}

fn state(entry: &Entry) -> String {
    if entry.is_cached {
        return entry.path.display().to_string();
    }
    match entry.cached_bytes * 100 / entry.bytes.max(1) {
        _ if entry.cached_bytes == 0 => "not here yet".to_owned(),
        percent => format!("{percent} % here, `teff pull {}` goes on", entry.model),
    }
}

fn to_json(entry: &Entry) -> Value {
    json!({
        "model": entry.model,
        "bytes": entry.bytes,
        "cached": entry.is_cached,
        "cached_bytes": entry.cached_bytes,
        "path": entry.path.to_string_lossy(),
        "about": entry.alias.map(|alias| alias.about),
        "licence": entry.alias.map(|alias| alias.licence),
        "sha256": entry.alias.map(|alias| alias.sha256),
    })
}

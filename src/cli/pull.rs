//! `teff pull`: fetches a model into the cache, or checks the one that is there.

use std::io::Write;

use serde_json::json;

use super::options::{ModelName, cache_of};
use super::progress::StderrProgress;
use super::{CliError, interrupt};
use crate::model::describe::bytes;

/// Fetch a model into the cache, or check every byte of the one that is there
#[derive(clap::Args, Debug)]
pub struct PullArgs {
    /// The model; the default one if none is named.
    #[command(flatten)]
    pub model: ModelName,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Fetches `args.model`, or checks every byte of it if it is there, and writes its path to `out`.
///
/// # Errors
/// What [`Cache::pull`](crate::cache::Cache::pull) says, or that `out` cannot be written.
pub fn pull(args: &PullArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let model = args.model.or_default();
    let cache = cache_of(&model)?;
    let mut progress = StderrProgress::new();
    let pulled = interrupt::orderly(|cancel| cache.pull(&model, &mut progress, cancel))?;
    if args.json {
        let line = json!({
            "model": model.to_string(),
            "path": pulled.path.to_string_lossy(),
            "bytes": pulled.bytes,
            "source": pulled.source,
        });
        writeln!(out, "{line}")?;
    } else {
        let from =
            pulled.source.map_or("checked".to_owned(), |source| format!("from the {source}"));
        writeln!(out, "{} ({}, {from})", pulled.path.display(), bytes(pulled.bytes))?;
    }
    Ok(())
}

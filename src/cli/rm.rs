//! `teff rm`: removes a model from the cache.

use std::io::Write;

use serde_json::json;

use super::CliError;
use super::options::{ModelName, cache_of};
use crate::model::describe::bytes;

/// Remove a model from the cache
#[derive(clap::Args, Debug)]
pub struct RmArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelName,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Removes `args.model`, finished or half fetched, and says what that freed.
///
/// # Errors
/// No model is named, what [`Cache::remove`](crate::cache::Cache::remove) says, or that `out`
/// cannot be written.
pub fn rm(args: &RmArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let Some(model) = args.model.given() else {
        let help = "an alias, hf:owner/repo:file, or hf:owner/repo for all of a repository";
        return Err(CliError::usage(format!("which MODEL to remove is not said: {help}")));
    };
    let removed = cache_of(model)?.remove(model)?;
    let model = model.to_string();
    if args.json {
        let line = json!({"model": model, "files": removed.files, "bytes": removed.bytes});
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "removed {model}, {}", bytes(removed.bytes))?;
    }
    Ok(())
}

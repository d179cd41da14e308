//! `teff rm`: removes a model from the cache.

use std::error::Error;
use std::io::Write;

use serde_json::json;

use super::progress::bytes;
use crate::cache::{Cache, ModelRef};

/// Remove a model from the cache
#[derive(clap::Args, Debug)]
pub struct RmArgs {
    /// An alias, hf:owner/repo:file, or hf:owner/repo for all of a repository
    #[arg(value_name = "MODEL")]
    pub model: ModelRef,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Removes `args.model`, finished or half fetched, and says what that freed.
///
/// # Errors
/// What [`Cache::remove`] says, or that `out` cannot be written.
pub fn rm(args: &RmArgs, out: &mut dyn Write) -> Result<(), Box<dyn Error + Send + Sync>> {
    let removed = Cache::from_env()?.remove(&args.model)?;
    let model = args.model.to_string();
    if args.json {
        let line = json!({"model": model, "files": removed.files, "bytes": removed.bytes});
        writeln!(out, "{line}")?;
    } else {
        writeln!(out, "removed {model}, {}", bytes(removed.bytes))?;
    }
    Ok(())
}

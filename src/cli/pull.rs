//! `teff pull`: fetches a model into the cache, or checks the one that is there.

use std::error::Error;
use std::io::Write;
use std::sync::atomic::AtomicBool;

use serde_json::json;

use super::progress::{StderrProgress, bytes};
use crate::cache::{Cache, ModelRef};

/// Fetch a model into the cache, or check every byte of the one that is there
#[derive(clap::Args, Debug)]
pub struct PullArgs {
    /// An alias from `teff list`, or hf:owner/repo[:file or quant]
    #[arg(value_name = "MODEL", default_value_t)]
    pub model: ModelRef,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Fetches `args.model`, or checks every byte of it if it is there, and writes its path to `out`.
///
/// # Errors
/// What [`Cache::pull`] says, or that `out` cannot be written.
pub fn pull(
    args: &PullArgs,
    out: &mut dyn Write,
    cancel: &AtomicBool,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut progress = StderrProgress::new();
    let pulled = Cache::from_env()?.pull(&args.model, &mut progress, cancel)?;
    if args.json {
        let line = json!({
            "model": args.model.to_string(),
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

//! Options that several verbs share.

use super::progress::StderrProgress;
use super::{CliError, interrupt};
use crate::backend::cpu::pool::MAX_THREADS;
use crate::backend::cpu::topology::CpuSet;
use crate::backend::pages::KvType;
use crate::cache::{Cache, ModelRef};
use crate::engine::{Engine, EngineOptions, Model};
use std::io::{Write, stderr};
use std::path::PathBuf;
use teff_kernels::KernelTable;

/// Which model.
#[derive(clap::Args, Debug)]
pub struct ModelArgs {
    /// A GGUF file, an alias from `teff list`, or hf:owner/repo[:file or quant]
    #[arg(short, long, default_value_t)]
    model: ModelRef,
}

impl ModelArgs {
    /// The model that an argument without a flag names.
    pub fn of(model: ModelRef) -> ModelArgs {
        ModelArgs { model }
    }

    /// The model's file, fetched if need be.
    pub fn path(&self) -> Result<PathBuf, CliError> {
        let cancel = interrupt::flag()?;
        Ok(Cache::from_env()?.resolve(&self.model, &mut StderrProgress::new(), cancel)?)
    }

    /// The model, opened.
    pub fn open(&self) -> Result<Model, CliError> {
        Ok(Model::open(&self.path()?)?)
    }
}

/// How to run it.
#[derive(clap::Args, Debug)]
pub struct EngineArgs {
    /// Worker threads [default: the big physical cores this process may use]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS as i64))]
    threads: Option<u16>,
    /// One worker on each of these CPUs, as in 0-3,6, which stays there (Linux and Android)
    #[arg(long, value_name = "LIST", conflicts_with = "threads")]
    cpu_list: Option<CpuSet>,
    /// How keys and values are cached: f32, f16, q8_0 or q4_0
    #[arg(long, value_name = "TYPE")]
    kv_type: Option<KvType>,
    /// Decode from the weights as they lie in the file: slower, and without memory of their own
    #[arg(long)]
    no_repack: bool,
    /// Keep the weights in memory, so that they are never swapped out: twice their size, once with
    /// --no-repack; needs the right to lock as much (`ulimit -l`)
    #[arg(long)]
    mlock: bool,
}

impl EngineArgs {
    /// Locks memory if the user wants that; a warning tells if it cannot be done.
    pub fn lock(&self, model: &Model, engine: &Engine) -> Result<(), CliError> {
        if self.mlock
            && let Err(error) = engine.lock_weights(model)
        {
            writeln!(stderr(), "warning: the weights are not locked in memory: {error}")?;
        }
        Ok(())
    }

    /// The options, with `kv_type` where the user gave none.
    pub fn options(&self, kv_type: KvType) -> Result<EngineOptions, CliError> {
        Ok(EngineOptions {
            threads: self.threads.map(usize::from),
            cpus: self.cpu_list,
            kv_type: self.kv_type.unwrap_or(kv_type),
            repack: !self.no_repack,
            kernels: KernelTable::from_env().map_err(|e| CliError::usage(e.to_string()))?,
            ..EngineOptions::default()
        })
    }
}

/// The context's length.
#[derive(clap::Args, Debug)]
pub struct ContextArgs {
    /// Context in tokens [default: the model's, at most 4096]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
}

/// Parses `a,b,c` or `[a, b, c]`.
pub fn parse_ids(text: &str) -> Result<Vec<u32>, String> {
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let ids = inner.split(|c: char| c == ',' || c.is_whitespace()).filter(|part| !part.is_empty());
    ids.map(|id| id.parse().map_err(|_| format!("`{id}` is not a token id"))).collect()
}

//! Options of verbs that run a model: threads, the cache, adapters.

use super::gpu_args::GpuArgs;
#[cfg(feature = "serve")]
use super::options::MetadataArgs;
use super::options::{ModelArgs, TOKENS_MAX, parse_bytes, tokenizer_of, whole_number};
use super::{CliError, threads};
use crate::backend::pages::KvType;
use crate::backend::{CpuSet, MAX_THREADS};
use crate::engine::report::ContextMemory;
use crate::engine::{Engine, EngineError, EngineOptions, Model};
use crate::text::Tokenizer;
use std::ffi::{OsStr, OsString};
#[cfg(feature = "serve")]
use std::path::Path;
use std::path::PathBuf;
use teff_kernels::KernelTable;

/// Options of the engine that every verb which runs a model has.
#[derive(clap::Args, Clone, Debug)]
pub struct EngineArgs {
    /// Worker threads [default: the big physical cores this process may use]
    #[arg(short, long, value_name = "N", value_parser = whole_number(1..=MAX_THREADS as u16))]
    threads: Option<u16>,
    /// One worker on each of these CPUs, as in 0-3,6, which stays there (Linux and Android)
    #[arg(long, value_name = "LIST", conflicts_with = "threads")]
    cpu_list: Option<CpuSet>,
    /// Type of cached keys and values: f32, f16, q8_0 or q4_0
    #[arg(long, value_name = "TYPE")]
    kv_type: Option<KvType>,
    /// Memory that the cache of keys and values may take, as in 500M or 2G
    #[arg(long, value_name = "N[K|M|G]", value_parser = parse_bytes)]
    kv_bytes: Option<u64>,
    /// Do not repack the weights for decoding: slower, but saves the repacked copy
    #[arg(long)]
    no_repack: bool,
    /// A LoRA adapter in GGUF, and how strongly it counts; may be given several times
    #[arg(long, value_name = "FILE[:SCALE]")]
    lora: Vec<OsString>,
    /// Keep the weights in memory, so that they are never swapped out: twice their size, once with
    /// --no-repack; needs the right to lock as much (`ulimit -l`)
    #[arg(long)]
    mlock: bool,
}

impl EngineArgs {
    /// The model, opened, with its adapters.
    pub fn open(&self, model: &ModelArgs) -> Result<Model, CliError> {
        let mut model = model.open()?;
        self.add_adapters(&mut model, &self.lora)?;
        Ok(model)
    }

    /// The model of a file, opened, with the adapters of all models and more.
    #[cfg(feature = "serve")]
    pub fn open_with(
        &self,
        metadata: &MetadataArgs,
        path: &Path,
        more: &[OsString],
    ) -> Result<Model, CliError> {
        let mut model = metadata.open(path)?;
        self.add_adapters(&mut model, &self.lora)?;
        self.add_adapters(&mut model, more)?;
        Ok(model)
    }

    fn add_adapters(&self, model: &mut Model, adapters: &[OsString]) -> Result<(), CliError> {
        for text in adapters {
            let (path, scale) = adapter_of(text);
            let added = model.add_adapter(super::header::open(&path)?, &path, scale);
            added.map_err(CliError::of_model(&path))?;
        }
        Ok(())
    }

    /// Whether decoding may make a copy of the weights.
    #[cfg(feature = "serve")]
    pub fn repacks(&self) -> bool {
        !self.no_repack
    }

    /// [`EngineArgs::open`] for verbs that continue texts.
    pub fn open_generator(&self, model: &ModelArgs) -> Result<Model, CliError> {
        let model = self.open(model)?;
        match model.spec().generates() {
            true => Ok(model),
            false => Err(CliError::of_model(model.path())(EngineError::NoLogits)),
        }
    }

    /// Vocabulary and engine of a model that continues texts, with as many rows of logits.
    pub fn ready(
        &self,
        model: &Model,
        context: &ContextArgs,
        kv_type: KvType,
        max_outputs: usize,
        gpu: &GpuArgs,
    ) -> Result<(Tokenizer, Engine), CliError> {
        context.check(model, self, kv_type)?;
        let n_ctx = context.ctx.map(|n| n as usize);
        let options = EngineOptions { n_ctx, max_outputs, ..self.options(kv_type)? };
        // Building the vocabulary takes as long as binding the weights: both are done at once.
        let (tokenizer, engine) = std::thread::scope(|scope| {
            let tokenizer = threads::spawn(scope, || tokenizer_of(model))?;
            let engine = gpu.engine(model, &options);
            Ok::<_, CliError>((tokenizer.join(), engine))
        })?;
        let died = |_| CliError::failed("the vocabulary's thread died");
        let tokenizer = tokenizer.map_err(died)??;
        let engine = engine?;
        self.lock(model, &engine)?;
        for warning in tokenizer.warnings() {
            super::note(format_args!("warning: {warning}"));
        }
        Ok((tokenizer, engine))
    }

    /// A model that reads texts and gives vectors or scores, with what that takes.
    pub fn open_encoder(
        &self,
        model: &ModelArgs,
        context: &ContextArgs,
    ) -> Result<(Model, Tokenizer, Engine), CliError> {
        let options = EngineOptions {
            n_ctx: context.ctx.map(|n| n as usize),
            // Repacking only pays off in token-by-token decoding.
            repack: false,
            ..self.options(KvType::F32)?
        };
        let mut model = self.open(model)?;
        model.output_embeddings();
        context.check(&model, self, KvType::F32)?;
        let tokenizer = tokenizer_of(&model)?;
        let engine = Engine::new(&model, &options).map_err(CliError::of_model(model.path()))?;
        self.lock(&model, &engine)?;
        for warning in tokenizer.warnings() {
            super::note(format_args!("warning: {warning}"));
        }
        Ok((model, tokenizer, engine))
    }

    /// Memory that keys and values may take, if the user says.
    pub fn kv_bytes(&self) -> Option<usize> {
        // More than there can be addresses is as good as all of them.
        self.kv_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Locks memory if the user wants that; a warning tells if it cannot be done.
    pub fn lock(&self, model: &Model, engine: &Engine) -> Result<(), CliError> {
        if self.mlock
            && let Err(error) = engine.lock_weights(model)
        {
            super::note(format_args!("warning: the weights are not locked in memory: {error}"));
        }
        Ok(())
    }

    /// The options, with `kv_type` where the user gave none.
    pub fn options(&self, kv_type: KvType) -> Result<EngineOptions, CliError> {
        Ok(EngineOptions {
            threads: self.threads.map(usize::from),
            cpus: self.cpu_list,
            kv_type: self.kv_type.unwrap_or(kv_type),
            kv_bytes_max: self.kv_bytes(),
            repack: !self.no_repack,
            kernels: kernels()?,
            ..EngineOptions::default()
        })
    }
}

/// The context's length.
#[derive(clap::Args, Clone, Debug)]
pub struct ContextArgs {
    /// Context in tokens [default: the model's, at most 4096]
    #[arg(long, value_name = "TOKENS", value_parser = whole_number(1..=TOKENS_MAX))]
    pub ctx: Option<u32>,
}

impl ContextArgs {
    /// [`check_context`] for the context that the user wants, if any.
    pub fn check(&self, model: &Model, engine: &EngineArgs, kv: KvType) -> Result<(), CliError> {
        let Some(n_ctx) = self.ctx else { return Ok(()) };
        check_context(model, n_ctx as usize, engine.kv_type.unwrap_or(kv), engine.kv_bytes())
    }
}

/// Warns of a context that is longer than those that the model was trained with.
///
/// # Errors
/// The context's keys and values are more than the memory has room for, and nothing else says how
/// much they may take.
pub fn check_context(
    model: &Model,
    n_ctx: usize,
    kv_type: KvType,
    kv_bytes: Option<usize>,
) -> Result<(), CliError> {
    let (path, n_ctx_train) = (model.path().display(), model.spec().n_ctx_train);
    // The engine refuses it, whatever the memory.
    if model.spec().n_ctx_max.is_some_and(|max| n_ctx > max) {
        return Ok(());
    }
    if let Some(shortage) = ContextMemory::shortage(model.spec(), n_ctx, kv_type)
        && kv_bytes.is_none()
    {
        return Err(CliError::of_model(model.path())(shortage));
    }
    if n_ctx > n_ctx_train {
        super::note(format_args!(
            "warning: {path}: a context of {n_ctx} tokens, but the model was trained with \
             {n_ctx_train}: what lies behind them may be nonsense"
        ));
    }
    Ok(())
}

/// Kernels of the best level, or of the lower one that `TEFF_ISA` names.
///
/// # Errors
/// `TEFF_ISA` names no level.
pub fn kernels() -> Result<&'static KernelTable, CliError> {
    KernelTable::from_env().map_err(|error| CliError::usage(error.to_string()))
}

/// The file and the scale of `FILE[:SCALE]`; what follows the last colon and is no number belongs
/// to the file's name, and so does everything in a name that is not UTF-8.
pub fn adapter_of(given: &OsStr) -> (PathBuf, f32) {
    let scaled = given.to_str().and_then(|text| text.rsplit_once(':')).and_then(|(path, scale)| {
        Some((OsStr::new(path), scale.parse().ok().filter(|scale: &f32| scale.is_finite())?))
    });
    let (path, scale) = scaled.unwrap_or((given, 1.0));
    (path.into(), scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_have_scales() {
        for (text, path, scale) in [
            ("a.gguf", "a.gguf", 1.0),
            ("a.gguf:0.5", "a.gguf", 0.5),
            ("C:\\a.gguf", "C:\\a.gguf", 1.0),
            ("b:c:-2", "b:c", -2.0),
            ("a:nan", "a:nan", 1.0),
        ] {
            assert_eq!(adapter_of(text.as_ref()), (path.into(), scale), "{text}");
        }
    }
}

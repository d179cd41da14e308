//! Options that several verbs share.

use super::progress::StderrProgress;
use super::{CliError, interrupt};
use crate::backend::cpu::pool::MAX_THREADS;
use crate::backend::cpu::topology::CpuSet;
use crate::backend::pages::KvType;
use crate::cache::{Cache, ModelRef};
use crate::engine::{Engine, EngineError, EngineOptions, Model};
use crate::text::Tokenizer;
use gguf_rs_lite::{GgufFile, Scalar};
use std::io::{Write, stderr};
use std::path::PathBuf;
use std::sync::Arc;
use teff_kernels::KernelTable;

/// Which model.
#[derive(clap::Args, Debug)]
pub struct ModelArgs {
    /// A GGUF file, an alias from `teff list`, or hf:owner/repo[:file or quant]
    #[arg(short, long, default_value_t)]
    model: ModelRef,
    /// Metadata that replaces the file's or is added to it; TYPE is int, float, bool or str. May be
    /// given several times
    #[arg(long, value_name = "KEY=TYPE:VALUE", value_parser = parse_override)]
    override_kv: Vec<Override>,
}

/// A key and the value that stands in for the file's.
#[derive(Clone, Debug, PartialEq)]
struct Override {
    key: String,
    value: Scalar,
}

/// Parses `key=type:value`.
fn parse_override(text: &str) -> Result<Override, String> {
    let parts = text.split_once('=').and_then(|(key, typed)| Some((key, typed.split_once(':')?)));
    let (key, (ty, value)) = parts.ok_or("must be KEY=TYPE:VALUE")?;
    if key.is_empty() {
        return Err("the key is empty".into());
    }
    let wrong = || format!("key `{key}`: `{value}` is no {ty}");
    let value = match ty {
        "int" => Scalar::Int(value.parse().map_err(|_| wrong())?),
        "float" => Scalar::Float(value.parse().map_err(|_| wrong())?),
        "bool" => Scalar::Bool(value.parse().map_err(|_| wrong())?),
        "str" => Scalar::Str(value.into()),
        _ => return Err(format!("key `{key}`: type `{ty}` is none of int, float, bool, str")),
    };
    Ok(Override { key: key.into(), value })
}

impl ModelArgs {
    /// The same for another model, which an argument without a flag names.
    pub fn of(&self, model: ModelRef) -> ModelArgs {
        ModelArgs { model, override_kv: self.override_kv.clone() }
    }

    /// The model's file, fetched if need be, and where it is.
    pub fn file(&self) -> Result<(GgufFile, PathBuf), CliError> {
        let cancel = interrupt::flag()?;
        let path = Cache::from_env()?.resolve(&self.model, &mut StderrProgress::new(), cancel)?;
        let mut file = GgufFile::open(&path)?;
        for Override { key, value } in &self.override_kv {
            let named = |error| CliError::failed(format!("{}: {error}", path.display()));
            if !file.set(key, value.clone()).map_err(named)? {
                writeln!(stderr(), "warning: --override-kv adds key `{key}`, which is not there")?;
            }
        }
        Ok((file, path))
    }

    fn open(&self) -> Result<Model, CliError> {
        let (mut file, path) = self.file()?;
        file.make_little_endian()?;
        Ok(Model::from_file(Arc::new(file), &path)?)
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
    /// A LoRA adapter in GGUF, and how strongly it counts; may be given several times
    #[arg(long, value_name = "FILE[:SCALE]")]
    lora: Vec<String>,
    /// Keep the weights in memory, so that they are never swapped out: twice their size, once with
    /// --no-repack; needs the right to lock as much (`ulimit -l`)
    #[arg(long)]
    mlock: bool,
}

impl EngineArgs {
    /// The model, opened, with its adapters.
    pub fn open(&self, model: &ModelArgs) -> Result<Model, CliError> {
        let mut model = model.open()?;
        for text in &self.lora {
            let (path, scale) = adapter_of(text);
            model.add_adapter(GgufFile::open(&path)?, &path, scale)?;
        }
        Ok(model)
    }

    /// As [`EngineArgs::open`], for verbs that continue texts.
    pub fn open_generator(&self, model: &ModelArgs) -> Result<Model, CliError> {
        let model = self.open(model)?;
        match model.spec().generates() {
            true => Ok(model),
            false => {
                let (path, error) = (model.path().display(), EngineError::NoLogits);
                Err(CliError::failed(format!("{path}: {error}")))
            }
        }
    }

    /// A model that reads texts and gives vectors or scores, with what that takes.
    pub fn open_encoder(
        &self,
        model: &ModelArgs,
        context: &ContextArgs,
    ) -> Result<(Model, Tokenizer, Engine), CliError> {
        let options = EngineOptions {
            n_ctx: context.ctx.map(|n| n as usize),
            // Which pays for tokens one by one.
            repack: false,
            ..self.options(KvType::F32)?
        };
        let mut model = self.open(model)?;
        model.give_vectors();
        let tokenizer = model.tokenizer()?;
        let engine = Engine::new(&model, &options)?;
        self.lock(&model, &engine)?;
        for warning in tokenizer.warnings() {
            writeln!(stderr(), "warning: {warning}")?;
        }
        Ok((model, tokenizer, engine))
    }

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

/// The file and the scale of `FILE[:SCALE]`; what follows the last colon and is no number belongs
/// to the file's name.
fn adapter_of(text: &str) -> (PathBuf, f32) {
    let scaled = text.rsplit_once(':').and_then(|(path, scale)| {
        Some((path, scale.parse().ok().filter(|scale: &f32| scale.is_finite())?))
    });
    let (path, scale) = scaled.unwrap_or((text, 1.0));
    (path.into(), scale)
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
            assert_eq!(adapter_of(text), (path.into(), scale), "{text}");
        }
    }

    #[test]
    fn overrides_are_typed() {
        let value = |text| parse_override(text).map(|o| (o.key, o.value));
        let key = || "llama.rope.freq_base".to_string();
        assert_eq!(value("llama.rope.freq_base=float:1e4"), Ok((key(), Scalar::Float(1e4))));
        assert_eq!(value("a=int:-7"), Ok(("a".into(), Scalar::Int(-7))));
        assert_eq!(value("a=bool:true"), Ok(("a".into(), Scalar::Bool(true))));
        assert_eq!(value("a=str:b=c:d"), Ok(("a".into(), Scalar::Str("b=c:d".into()))));
        for (text, problem) in [
            ("a", "must be KEY=TYPE:VALUE"),
            ("=int:1", "the key is empty"),
            ("a=int:x", "key `a`: `x` is no int"),
            ("a=bool:1", "key `a`: `1` is no bool"),
            ("a=u8:1", "key `a`: type `u8` is none of int, float, bool, str"),
        ] {
            assert_eq!(value(text), Err(problem.into()), "{text}");
        }
    }
}

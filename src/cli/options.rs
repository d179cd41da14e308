//! Options that several verbs share.

use super::gpu_args::GpuArgs;
use super::progress::StderrProgress;
use super::{CliError, interrupt, threads};
use crate::backend::CpuSet;
use crate::backend::MAX_THREADS;
use crate::backend::pages::KvType;
use crate::cache::{self, Cache, ModelRef};
use crate::engine::report::{ContextMemory, VocabularyMismatch};
use crate::engine::{Engine, EngineError, EngineOptions, Model};
use crate::model::unused_parts;
use crate::text::Tokenizer;
use gguf_rs_lite::{GgufFile, Scalar};
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use teff_kernels::KernelTable;

/// Tokens that an option may count, most: positions are 32 bits wide.
pub const TOKENS_MAX: u32 = u32::MAX;

/// Standard input, where a file is named.
const STDIN: &str = "-";

/// The parser of a whole number within a range, which its message names.
pub fn whole_number<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| match text.trim().parse::<T>() {
        Ok(n) if range.contains(&n) => Ok(n),
        _ => Err(format!("must be a whole number from {} to {}", range.start(), range.end())),
    }
}

/// A file, or `None` for standard input, which is what `-` names.
pub fn input_file(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| path.as_os_str() != STDIN)
}

/// Parses models: as [`ModelRef`]'s own parser does, but a path need not be UTF-8.
#[derive(Clone, Debug)]
pub struct ModelParser;

impl clap::builder::TypedValueParser for ModelParser {
    type Value = ModelRef;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<ModelRef, clap::Error> {
        let parse = |text: &str| match text {
            STDIN => Err("a model is a file, it cannot be read from standard input".to_string()),
            text => ModelRef::from_str(text).map_err(|error| error.to_string()),
        };
        match value.to_str() {
            Some(_) => clap::builder::TypedValueParser::parse_ref(&parse, command, arg, value),
            None => Ok(ModelRef::Path(value.into())),
        }
    }
}

impl clap::builder::ValueParserFactory for ModelRef {
    type Parser = ModelParser;

    fn value_parser() -> ModelParser {
        ModelParser
    }
}

/// The name of a model, with or without the flag.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelName {
    /// A GGUF file, an alias from `teff list`, or hf:owner/repo[:file or quant]
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<ModelRef>,
    /// The model, as MODEL; without either the default model
    #[arg(short, long, value_name = "MODEL")]
    model: Option<ModelRef>,
}

impl ModelName {
    /// The model that was named.
    pub fn given(&self) -> Option<&ModelRef> {
        self.positional.as_ref().or(self.model.as_ref())
    }

    /// The model that was named, or the default one.
    pub fn or_default(&self) -> ModelRef {
        self.given().cloned().unwrap_or_default()
    }
}

/// The cache that a model may be in. A file of the user's needs none, so that it is found where
/// nothing says where caches are kept.
///
/// # Errors
/// Nothing says where caches are kept, and the model is no file.
pub fn cache_of(model: &ModelRef) -> Result<Cache, CliError> {
    match model {
        ModelRef::Path(_) => Ok(Cache::new(cache::Settings::in_dir(PathBuf::new()))),
        ModelRef::Alias(_) | ModelRef::Hub { .. } => Ok(Cache::from_env()?),
    }
}

/// The model, and changes to its metadata.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    #[command(flatten)]
    name: ModelName,
    #[command(flatten)]
    metadata: MetadataArgs,
}

/// Changes to the metadata of models.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct MetadataArgs {
    /// Metadata that replaces the file's or is added to it; TYPE is int, float, bool or str. May be
    /// given several times
    #[arg(long, value_name = "KEY=TYPE:VALUE", value_parser = parse_override)]
    override_kv: Vec<Override>,
    /// Read the file as if it did not have this key, such as one that teff does not understand and
    /// you know to be harmless. May be given several times
    #[arg(long, value_name = "KEY")]
    ignore_key: Vec<String>,
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
    /// Whether a model was named.
    pub fn is_given(&self) -> bool {
        self.name.given().is_some()
    }

    /// The model's file, fetched if need be, and where it is.
    pub fn file(&self) -> Result<(GgufFile, PathBuf), CliError> {
        let path = resolve(&self.name.or_default())?;
        Ok((self.metadata.file(&path)?, path))
    }

    /// Arguments that name a model and change nothing of it.
    pub fn named(model: ModelRef) -> ModelArgs {
        let name = ModelName { positional: None, model: Some(model) };
        ModelArgs { name, metadata: MetadataArgs::default() }
    }

    /// The model, opened, without adapters.
    pub fn open(&self) -> Result<Model, CliError> {
        self.metadata.open(&resolve(&self.name.or_default())?)
    }
}

/// Where a model's file is, fetched if need be.
pub fn resolve(model: &ModelRef) -> Result<PathBuf, CliError> {
    let cache = cache_of(model)?;
    interrupt::orderly(|cancel| cache.resolve(model, &mut StderrProgress::new(), cancel))
}

impl MetadataArgs {
    /// A file with its metadata changed.
    fn file(&self, path: &Path) -> Result<GgufFile, CliError> {
        let mut file = super::header::open(path)?;
        for key in &self.ignore_key {
            if !file.ignore(key).map_err(CliError::of_model(path))? {
                super::note(format_args!(
                    "warning: --ignore-key names key `{key}`, which is not there"
                ));
            }
        }
        for Override { key, value } in &self.override_kv {
            if !file.set(key, value.clone()).map_err(CliError::of_model(path))? {
                super::note(format_args!(
                    "warning: --override-kv adds key `{key}`, which is not there"
                ));
            }
        }
        for (key, _) in file.entries().filter(|(_, value)| !value.is_clean_text()) {
            let problem = "has text that is not UTF-8 or ends in zero bytes: it is read as bytes";
            super::note(format_args!("warning: {}: key `{key}` {problem}", path.display()));
        }
        Ok(file)
    }

    /// The model of a file, opened, without adapters.
    pub fn open(&self, path: &Path) -> Result<Model, CliError> {
        let mut file = self.file(path)?;
        file.make_little_endian().map_err(CliError::of_model(path))?;
        for part in unused_parts(&file) {
            super::note(format_args!("note: {part}"));
        }
        Ok(Model::from_file(Arc::new(file), path)?)
    }
}

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

/// Kernels of the best level, or of the lower one that `TEFF_ISA` names.
///
/// # Errors
/// It names no level.
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

/// Most bytes that an option may name: beyond them, fractions are no whole bytes any more.
const BYTES_MAX: f64 = (1_u64 << 53) as f64;

/// Parses a number of bytes, in units of 1024 with K, of 1024^2 with M, of 1024^3 with G, which may be
/// fractions.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (number, unit) = match text.char_indices().next_back() {
        Some((at, 'K' | 'k')) => (&text[..at], 1_u64 << 10),
        Some((at, 'M' | 'm')) => (&text[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let bytes = number.parse().ok().filter(|_| is_plain).map(|n: f64| n * unit as f64);
    match bytes.filter(|bytes| (1.0..BYTES_MAX).contains(bytes)) {
        Some(bytes) => Ok(bytes as u64),
        None => Err(format!("must be a number of bytes from 1 to {BYTES_MAX}, as in 500M or 2.5G")),
    }
}

/// The context's length.
#[derive(clap::Args, Clone, Debug)]
pub struct ContextArgs {
    /// Context in tokens [default: the model's, at most 4096]
    #[arg(long, value_name = "TOKENS", value_parser = whole_number(1..=TOKENS_MAX))]
    pub ctx: Option<u32>,
}

/// The vocabulary of a model.
///
/// # Errors
/// It cannot be used, or the model has no embeddings for some of its tokens.
pub fn tokenizer_of(model: &Model) -> Result<Tokenizer, CliError> {
    let tokenizer = model.tokenizer()?;
    match VocabularyMismatch::find(model.file(), &tokenizer) {
        Some(mismatch) => Err(CliError::of_model(model.path())(mismatch)),
        None => Ok(tokenizer),
    }
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
            assert_eq!(adapter_of(text.as_ref()), (path.into(), scale), "{text}");
        }
    }

    #[test]
    fn bytes_have_units() {
        for (text, bytes) in
            [("1", 1), ("2K", 2 << 10), ("500m", 500 << 20), (" 3G", 3 << 30), ("2.5K", 2560)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "0", "-1", "2T", "1e3", "inf", "99999999999999999999", "9999999999G"]
        {
            assert!(parse_bytes(text).unwrap_err().starts_with("must be"), "{text}");
        }
    }

    #[test]
    fn whole_numbers_name_their_range() {
        let parse = whole_number(1..=9u16);
        assert_eq!(parse("7"), Ok(7));
        for text in ["0", "10", "-1", "x", "", "99999"] {
            assert_eq!(parse(text), Err("must be a whole number from 1 to 9".into()), "{text}");
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

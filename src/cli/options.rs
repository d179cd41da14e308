//! Options that several verbs share: which model it is, and values of common forms.

use super::progress::StderrProgress;
use super::{CliError, interrupt};
use crate::cache::{self, Cache, ModelRef};
use crate::engine::Model;
use crate::engine::report::VocabularyMismatch;
use crate::model::unused_parts;
use crate::text::Tokenizer;
use gguf_rs_lite::{GgufFile, Scalar};
use std::ffi::OsStr;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

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

/// Path of a model's file, fetched if need be.
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

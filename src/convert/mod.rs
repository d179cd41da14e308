//! Hugging Face checkpoints to GGUF: a folder with `config.json`, weights in safetensors and a
//! vocabulary becomes one file that runs.
//!
//! Families are described in [`crate::model::arch`], beside what they compute: names of classes and
//! tensors, and rules for metadata ([`crate::model::checkpoint`]). Here is what reads them.
//! Every tensor of a folder gets a place or the conversion fails; the result is loaded as a model
//! is before weights are written, and again before it gets its name. Memory does not grow with the model: weights are read, changed and
//! written some megabytes at a time.
//!
//! A folder may also hold an adapter of PEFT, which becomes an adapter in GGUF.
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::atomic::AtomicBool;
//! use teff::convert::{Conversion, ConvertOptions};
//!
//! let conversion = Conversion::plan(Path::new("SmolLM2-135M"), &ConvertOptions::default())?;
//! println!("{} tensors, {} bytes", conversion.tensors().len(), conversion.bytes());
//! conversion.write(Path::new("smollm2.gguf"), &mut |_| {}, &AtomicBool::new(false))?;
//! # Ok::<(), teff::convert::ConvertError>(())
//! ```

mod agree;
mod config;
mod dtype;
mod error;
mod files;
mod keys;
mod layer_rules;
mod lora;
mod modules;
mod numbers;
mod outline;
mod packed;
mod plan;
mod pre;
mod qat;
mod rules;
mod safetensors;
mod selfcheck;
mod sentencepiece;
mod shards;
mod stream;
mod templates;
mod ternary;
mod vocab;
mod write;

pub use error::ConvertError;
pub use outline::{Place, outline};
pub use plan::Output;
pub use selfcheck::TEXTS as SELF_CHECK_TEXTS;

pub use crate::grid::Qat;
use crate::model::arch;
use crate::model::checkpoint::{Checkpoint, When};
use config::Config;
use dtype::Dtype;
use gguf_rs_lite::{GgmlType, OwnedValue};
use keys::Keys;
use packed::Repack;
use safetensors::Tensors;
use std::fs;
use std::path::{Path, PathBuf};

/// Type of the large matrices of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetType {
    /// 32 bits: exact for every checkpoint.
    F32,
    /// 16 bits with 11 of precision.
    F16,
    /// 16 bits with the range of 32.
    Bf16,
    /// 8.5 bits, in blocks of 32; f16 where rows are no multiple of that.
    Q8_0,
}

impl TargetType {
    /// The type for values that eight bits do not hold.
    fn floats(self) -> GgmlType {
        match self {
            TargetType::F32 => GgmlType::F32,
            TargetType::Bf16 => GgmlType::BF16,
            TargetType::F16 | TargetType::Q8_0 => GgmlType::F16,
        }
    }

    /// Value of `general.file_type`.
    fn file_type(self) -> u32 {
        match self {
            TargetType::F32 => 0,
            TargetType::F16 => 1,
            TargetType::Q8_0 => 7,
            TargetType::Bf16 => 32,
        }
    }
}

/// Choices of a conversion.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// Type of the large matrices; `None`: the one that most of the checkpoint is stored in.
    pub ty: Option<TargetType>,
    /// Name of the pre-tokenizer, where `tokenizer.json` has one that is not known.
    pub pre: Option<String>,
    /// Value of `general.name`; `None`: the folder's name.
    pub name: Option<String>,
    /// Folder with the `config.json` of the model that an adapter is for; `None`: the adapter's.
    pub base: Option<PathBuf>,
    /// Whether matrices of floats that lie on a grid get a type that has their codes.
    pub qat: Qat,
}

/// A conversion that is planned: everything but the weights has been read.
pub struct Conversion {
    tensors: Tensors,
    /// Of a model; an adapter is none.
    config: Option<Config>,
    keys: Keys,
    outputs: Vec<Output>,
    left_out: Vec<String>,
    tokens_left_out: Vec<String>,
    target: TargetType,
    arch: &'static str,
    folder: PathBuf,
}

impl Conversion {
    /// Reads a folder and decides about every tensor and key of the result.
    ///
    /// # Errors
    /// A file is missing or malformed, the class is unknown, a tensor has no place, the vocabulary
    /// has no form in GGUF, or that form cuts a text in another way than `tokenizer.json` does.
    pub fn plan(folder: &Path, options: &ConvertOptions) -> Result<Conversion, ConvertError> {
        lora::check_base(folder, options)?;
        if lora::is_adapter(folder) {
            return Conversion::plan_adapter(folder, options);
        }
        let config = Config::open(folder)?;
        let checkpoint = find_checkpoint(&config)?;
        let mut tensors = Tensors::open(folder, &|name| plan::join(checkpoint, name))?;
        for name in modules::products(folder)? {
            tensors.add_under(folder.join(&name).join("model.safetensors"), &name)?;
        }
        packed::unpack(&mut tensors, &config)?;
        let planned = plan::plan(tensors.all(), &config, checkpoint)?;
        let (mut outputs, left_out) = (planned.outputs, planned.left_out);
        ternary::settle(&tensors, &mut outputs, &config)?;
        add_rotation(&mut outputs, &config)?;
        check_head(&outputs, &config)?;
        let target = options.ty.unwrap_or_else(|| stored_type(&tensors));
        plan::choose_types(&mut outputs, target);
        if options.ty.is_none() {
            keep_codes(&tensors, &mut outputs, target)?;
        }
        if options.qat == Qat::Auto {
            qat::find(&tensors, &mut outputs, options.ty)?;
        }
        in_order(&mut outputs);
        let mut keys = general(checkpoint, folder, options, file_type(&outputs, target));
        keys::hyperparameters(&mut keys, &config, checkpoint, folder)?;
        if let Some((.., Some(factor))) = keys::long_rope(&config)? {
            keys.set(format!("{}.rope.scaling.attn_factor", checkpoint.arch), factor);
        }
        numbers::arrays(&mut keys, &tensors, planned.metadata)?;
        if let Some((key, place)) = planned.slopes {
            let exponent = numbers::alibi_exponent(&tensors, place)?;
            keys.set(format!("{}.{key}", checkpoint.arch), exponent);
        }
        if let Some((key, place)) = planned.number {
            let number = stream::number(&tensors, &tensors.all()[place])?;
            keys.set(format!("{}.{key}", checkpoint.arch), number);
        }
        keys::sampling(&mut keys, folder)?;
        let embedding = outputs.iter().find(|output| output.name == "token_embd.weight");
        let n_rows = embedding.and_then(|output| output.shape.first()).copied();
        let n_rows = n_rows.ok_or_else(|| ConvertError::MissingEntry("the embedding".into()))?;
        agree::with_tensors(&config, &outputs, n_rows)?;
        let tokens_left_out =
            vocab::vocabulary(&mut keys, &config, folder, n_rows as usize, options)?;
        selfcheck::check(&keys, folder)?;
        Ok(Conversion {
            tensors,
            config: Some(config),
            keys,
            outputs,
            left_out,
            tokens_left_out,
            target,
            arch: checkpoint.arch,
            folder: folder.to_owned(),
        })
    }

    /// [`Conversion::plan`] of an adapter of PEFT.
    fn plan_adapter(folder: &Path, options: &ConvertOptions) -> Result<Conversion, ConvertError> {
        let adapter = lora::Adapter::open(folder)?;
        let config = adapter.base(folder, options.base.as_deref())?;
        let checkpoint = find_checkpoint(&config)?;
        let tensors = lora::tensors(folder)?;
        let mut outputs = adapter.plan(&tensors, &config, checkpoint)?;
        let target = options.ty.unwrap_or_else(|| stored_type(&tensors));
        lora::choose_types(&mut outputs, target);
        in_order(&mut outputs);
        let mut keys = general(checkpoint, folder, options, target.file_type());
        lora::describe(&mut keys, &adapter);
        Ok(Conversion {
            tensors,
            config: None,
            keys,
            outputs,
            left_out: Vec::new(),
            tokens_left_out: Vec::new(),
            target,
            arch: checkpoint.arch,
            folder: folder.to_owned(),
        })
    }

    /// Tensors of the result, in its order.
    pub fn tensors(&self) -> &[Output] {
        &self.outputs
    }

    /// Tensors of the checkpoint that have no counterpart: masks, copies of tied weights, parts
    /// that see or hear or draft.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Tokens of the vocabulary whose ids lie beyond the embedding's rows, as "id text": nothing stands
    /// for them in the result.
    pub fn tokens_left_out(&self) -> &[String] {
        &self.tokens_left_out
    }

    /// Metadata of the result.
    pub fn entries(&self) -> &[(String, OwnedValue)] {
        &self.keys.entries
    }

    /// Architecture of the result.
    pub fn arch(&self) -> &'static str {
        self.arch
    }

    /// Type of its large matrices.
    pub fn target(&self) -> TargetType {
        self.target
    }

    /// Bytes of all tensors of the result.
    pub fn bytes(&self) -> u64 {
        self.tensor_bytes().fold(0, u64::saturating_add)
    }

    fn tensor_bytes(&self) -> impl Iterator<Item = u64> {
        let of_one = |output: &Output| output.ty.bytes_of(output.elements()).unwrap_or(u64::MAX);
        self.outputs.iter().map(of_one)
    }
}

/// Has matrices whose codes are in the checkpoint keep them, where a type has their grid.
fn keep_codes(
    tensors: &Tensors,
    outputs: &mut [Output],
    target: TargetType,
) -> Result<(), ConvertError> {
    for output in outputs {
        output.repack = packed::repack(tensors, output, target.floats())?;
        if let Some(Repack::Codes(ty) | Repack::Rounded(ty)) = output.repack {
            output.ty = ty;
        }
    }
    Ok(())
}

/// Value of `general.file_type`: of the type that most bytes have.
fn file_type(outputs: &[Output], target: TargetType) -> u32 {
    const QUANTIZED: &[(GgmlType, u32)] = &[
        (GgmlType::Q4_0, 2),
        (GgmlType::Q4_1, 3),
        (GgmlType::Q8_0, 7),
        (GgmlType::Q5_0, 8),
        (GgmlType::Q5_1, 9),
        (GgmlType::TQ2_0, 37),
        (GgmlType::MXFP4, 38),
    ];
    let codes = |(ty, _): &&(GgmlType, u32)| -> u64 {
        let has_codes = |output: &&Output| output.repack.is_some() || output.grid.is_some();
        let own = outputs.iter().filter(|output| has_codes(output) && output.ty == *ty);
        own.map(Output::elements).sum()
    };
    let all: u64 = outputs.iter().map(Output::elements).sum();
    let most = QUANTIZED.iter().max_by_key(codes).filter(|row| codes(row) > all / 2);
    most.map_or_else(|| target.file_type(), |&(_, number)| number)
}

fn find_checkpoint(config: &Config) -> Result<&'static Checkpoint, ConvertError> {
    let class = &config.class;
    let mut all = arch::checkpoints();
    let holds = |when: When| -> Result<bool, ConvertError> {
        Ok(match when {
            When::Always => true,
            When::Zero(entry) => config.int(&[entry])?.unwrap_or(0) == 0,
            When::Named(name) => config.is_named(name),
            When::Is(entry, text) => config.text(entry) == Some(text),
            When::Without(list, texts) => {
                let words = config.words(list).unwrap_or_default();
                !words.iter().any(|word| texts.contains(&word.as_str()))
            }
        })
    };
    all.find(|checkpoint| {
        checkpoint.classes.contains(&class.as_str()) && holds(checkpoint.when).unwrap_or(false)
    })
    .ok_or_else(|| match arch::UNCONVERTED.iter().find(|row| row.0 == class) {
        Some(&(_, reason)) => ConvertError::Unconverted { class: class.clone(), reason },
        None => ConvertError::UnknownClass(class.clone()),
    })
}

/// Factors of rotation's frequencies are tensors.
fn add_rotation(outputs: &mut Vec<Output>, config: &Config) -> Result<(), ConvertError> {
    if let Some(factors) = keys::rope_factors(config)? {
        outputs.push(Output::computed("rope_freqs.weight", factors));
    }
    if let Some((long, short, _)) = keys::long_rope(config)? {
        outputs.push(Output::computed("rope_factors_long.weight", long));
        outputs.push(Output::computed("rope_factors_short.weight", short));
    }
    Ok(())
}

/// A head of its own must be there if the configuration says that it is not the embedding.
fn check_head(outputs: &[Output], config: &Config) -> Result<(), ConvertError> {
    const HEADS: &[&str] = &["output.weight", "cls.output.weight"];
    let has_head = outputs.iter().any(|output| HEADS.contains(&&*output.name));
    let is_generator =
        config.class.ends_with("ForCausalLM") || config.class.ends_with("LMHeadModel");
    let untied = config.flag(&["tie_word_embeddings"])? == Some(false);
    match is_generator && untied && !has_head {
        true => Err(ConvertError::BadEntry {
            entry: "tie_word_embeddings".into(),
            problem: "is false, but there is no head".into(),
        }),
        false => Ok(()),
    }
}

/// The type that most matrices are stored in.
fn stored_type(tensors: &Tensors) -> TargetType {
    let bytes_of = |dtype: Dtype| -> u64 {
        let all = tensors.all().iter();
        let matrices = all.filter(|tensor| tensor.shape.len() > 1 && tensor.dtype == dtype);
        matrices.map(|tensor| tensor.bytes / dtype.bytes() as u64).sum()
    };
    let types = [
        (Dtype::BF16, TargetType::Bf16),
        (Dtype::F16, TargetType::F16),
        (Dtype::F32, TargetType::F32),
        (Dtype::F64, TargetType::F32),
        (Dtype::I8, TargetType::F16),
        (Dtype::F8E4M3, TargetType::Bf16),
        (Dtype::F8E5M2, TargetType::Bf16),
    ];
    let most = types.into_iter().max_by_key(|&(dtype, _)| bytes_of(dtype));
    most.map_or(TargetType::F32, |row| row.1)
}

/// Embeddings first, then layers by their numbers, then the head; alphabetically within each.
fn in_order(outputs: &mut [Output]) {
    outputs.sort_by_cached_key(|output| {
        let name = &output.name;
        let layer = name.strip_prefix("blk.").and_then(|name| name.split('.').next()?.parse().ok());
        let part = match layer {
            Some(layer) => (1, layer),
            None if name.starts_with("output") => (2, 0usize),
            None => (0, 0),
        };
        (part, name.clone())
    });
}

/// Keys about the file as a whole.
fn general(
    checkpoint: &Checkpoint,
    folder: &Path,
    options: &ConvertOptions,
    file_type: u32,
) -> Keys {
    let mut keys = Keys::default();
    keys.set("general.architecture", checkpoint.arch);
    keys.set("general.type", "model");
    let folder_name = || {
        let path = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        path.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
    };
    keys.set("general.name", options.name.clone().unwrap_or_else(folder_name));
    keys.set("general.file_type", file_type);
    keys.set("general.quantization_version", 2u32);
    keys
}

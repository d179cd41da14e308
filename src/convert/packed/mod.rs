//! Matrices of quantized checkpoints: GPTQ, AWQ, HQQ, compressed-tensors, MXFP4 and ternary ones.
//!
//! A tool keeps such a matrix in several tensors: codes, packed in its own way, and what they stand
//! for. Here they become one tensor that reads like any other ([`Packed`]), and whose codes go into the
//! file as they are where a type of GGUF has their grid ([`repack`]); nothing is rounded twice.
//!
//! A way of packing is a file that implements [`Codes`], and a row in [`METHODS`].

mod awq;
mod compressed;
mod fields;
mod fp4;
mod gptq;
mod grid;
mod hqq;
mod repack;
pub(super) mod said;
mod ternary;

pub(super) use grid::Grid;
pub(super) use repack::{Repack, repack, stream};

use super::ConvertError;
use super::config::Config;
use super::safetensors::{Tensor, Tensors};
use grid::Groups;
use serde_json::Value;
use std::collections::HashSet;

/// Codes of a matrix, or of a stack of them, and what they stand for.
pub(super) trait Codes: Send + Sync {
    /// Rows of all matrices, and columns.
    fn size(&self) -> [usize; 2];

    /// Scales and zero points, which are few.
    ///
    /// # Errors
    /// A file cannot be read, or a number is none.
    fn groups(&self, tensors: &Tensors) -> Result<Groups, ConvertError>;

    /// A code for each element, row by row.
    ///
    /// # Errors
    /// A file cannot be read.
    fn codes(&self, tensors: &Tensors) -> Result<Vec<u8>, ConvertError>;
}

/// A quantized matrix in the place of the tensors that it is kept in.
pub(super) struct Packed {
    /// Name of the weight, as an unquantized checkpoint has it.
    pub name: String,
    /// Its shape, likewise.
    pub shape: Vec<u64>,
    /// Whether that shape has rows where the codes have columns.
    pub turned: bool,
    codes: Box<dyn Codes>,
}

impl Packed {
    /// A matrix whose weight has its own shape.
    fn matrix(base: &str, codes: impl Codes + 'static) -> Packed {
        let shape = codes.size().map(|n| n as u64).to_vec();
        Packed { name: format!("{base}.weight"), shape, turned: false, codes: Box::new(codes) }
    }

    /// Name of the module that all its tensors belong to.
    pub fn module(&self) -> &str {
        self.name.strip_suffix(".weight").unwrap_or(&self.name)
    }

    /// Groups that say what its codes stand for.
    ///
    /// # Errors
    /// A file cannot be read, or a number is none.
    pub fn groups(&self, tensors: &Tensors) -> Result<Groups, ConvertError> {
        self.codes.groups(tensors)
    }

    /// The whole matrix in memory.
    ///
    /// # Errors
    /// As [`Packed::groups`].
    pub fn grid(&self, tensors: &Tensors) -> Result<Grid, ConvertError> {
        let [rows, cols] = self.codes.size();
        let (groups, codes) = (self.groups(tensors)?, self.codes.codes(tensors)?);
        Ok(Grid { rows, cols, groups, codes })
    }
}

/// Finds the matrices of a method among the tensors.
type Find = fn(&Parts<'_>) -> Result<Vec<Packed>, ConvertError>;

/// `quant_method` of ternary weights.
pub(super) const TERNARY: &str = "bitnet";

/// `quant_method`, and who knows it.
const METHODS: &[(&str, Find)] = &[
    ("gptq", gptq::find),
    ("awq", awq::find),
    ("hqq", hqq::find),
    (TERNARY, ternary::find),
    ("mxfp4", fp4::find_experts),
    ("compressed-tensors", compressed::find),
    ("modelopt", fp4::find_modelopt),
    // Floats with factors beside them, which are read as such.
    ("fp8", |_| Ok(Vec::new())),
    ("fbgemm_fp8", |_| Ok(Vec::new())),
];

/// Puts quantized matrices in the places of the tensors that they are kept in.
///
/// # Errors
/// The method is not known, or tensors are missing or of other shapes than it says.
pub(super) fn unpack(tensors: &mut Tensors, config: &Config) -> Result<(), ConvertError> {
    let Some(quantization) = config.get("quantization_config").filter(|q| q.is_object()) else {
        return Ok(());
    };
    let method = quantization.get("quant_method").and_then(Value::as_str);
    let method = method.unwrap_or("an unknown method");
    let find = METHODS.iter().find(|(name, _)| *name == method);
    let (_, find) = find.ok_or_else(|| ConvertError::Quantized(method.into()))?;
    let packed = find(&Parts { tensors, quantization })?;
    let no_biases = no_biases(tensors, config, &packed)?;
    tensors.replace(packed, &no_biases)
}

/// Names of biases of zeros where the configuration says that there are none: older releases of Optimum gave
/// every quantized module one.
fn no_biases(
    tensors: &Tensors,
    config: &Config,
    packed: &[Packed],
) -> Result<HashSet<String>, ConvertError> {
    let mut names = HashSet::new();
    let said = ["attention_bias", "mlp_bias"].map(|entry| config.get(entry));
    if !said.contains(&Some(&Value::Bool(false))) {
        return Ok(names);
    }
    for packed in packed {
        let bias = tensors.named(&format!("{}.bias", packed.module()));
        let Some(bias) = bias.filter(|bias| bias.dtype.is_float()) else { continue };
        if tensors.floats(bias)?.iter().all(|x| *x == 0.0) {
            names.insert(bias.name.clone());
        }
    }
    Ok(names)
}

/// The tensors of a checkpoint, and what its configuration says of how they are quantized.
struct Parts<'t> {
    tensors: &'t Tensors,
    quantization: &'t Value,
}

impl Parts<'_> {
    /// Names of modules that have a tensor of this name.
    fn bases(&self, part: &str) -> impl Iterator<Item = &str> {
        let end = format!(".{part}");
        let all = self.tensors.all().iter();
        all.filter_map(move |tensor| tensor.name.strip_suffix(&*end))
    }

    /// A tensor of a module.
    fn part(&self, base: &str, part: &str) -> Option<Tensor> {
        self.tensors.named(&format!("{base}.{part}")).cloned()
    }

    /// A tensor that a module must have.
    fn need(&self, base: &str, part: &str) -> Result<Tensor, ConvertError> {
        let missing = || ConvertError::Unpackable {
            tensor: base.into(),
            problem: format!("`{part}` is missing"),
        };
        self.part(base, part).ok_or_else(missing)
    }

    /// An integer of the configuration.
    fn int(&self, names: &[&str]) -> Option<usize> {
        let found = names.iter().find_map(|name| self.quantization.get(name)?.as_u64());
        found.and_then(|n| usize::try_from(n).ok())
    }

    /// Whether groups of a matrix are of the size that the configuration says, if it says one for all.
    fn agrees(&self, cols: usize, n_groups: usize) -> bool {
        let said = self
            .int(&["group_size", "q_group_size"])
            .filter(|_| self.quantization.get("dynamic").is_none());
        said.is_none_or(|len| len > 0 && cols.div_ceil(len) == n_groups)
    }

    /// Refuses words that are no numbers of 32 bits, by what the configuration says.
    fn check_words(&self, method: &str) -> Result<(), ConvertError> {
        match self.text(&["pack_dtype"]).filter(|&dtype| dtype != "int32") {
            None => Ok(()),
            Some(dtype) => {
                Err(ConvertError::Quantized(format!("{method} (`pack_dtype` is {dtype})")))
            }
        }
    }

    /// A text of the configuration.
    fn text(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.quantization.get(name)?.as_str())
    }
}

/// Refuses a tensor.
fn refuse(tensor: &Tensor, problem: impl Into<String>) -> ConvertError {
    let problem = format!("{} (its shape is {:?})", problem.into(), tensor.shape);
    ConvertError::Unpackable { tensor: tensor.name.clone(), problem }
}

/// Two dimensions of a tensor.
fn two(tensor: &Tensor) -> Result<[usize; 2], ConvertError> {
    match tensor.shape[..] {
        [rows, cols] if rows > 0 && cols > 0 => Ok([rows as usize, cols as usize]),
        _ => Err(refuse(tensor, "no matrix")),
    }
}

/// Refuses a tensor of another shape.
fn must_be(tensor: &Tensor, shape: &[usize]) -> Result<(), ConvertError> {
    let is = tensor.shape.iter().copied().eq(shape.iter().map(|&n| n as u64));
    if is { Ok(()) } else { Err(refuse(tensor, format!("{shape:?} is expected"))) }
}

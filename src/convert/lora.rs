//! LoRA adapters of PEFT (`adapter_config.json`, `adapter_model.safetensors`) to adapters in GGUF.
//!
//! A weight that is adapted gets its name and the order of its rows and columns as in a conversion
//! of the model ([`super::plan`]): what happens to rows happens to those of `B`, what happens to
//! columns to those of `A`. So queries and keys that are permuted, and matrices that are split, are
//! no cases of their own. Where a matrix becomes something else (a stack that is cut apart, latents
//! that change places), or is more than two matrices (DoRA, biases, whole weights), the adapter is
//! refused by name.

use super::config::Config;
use super::files::{json, malformed};
use super::keys::Keys;
use super::plan::{self, Output, Piece};
use super::safetensors::{Tensor, Tensors};
use super::{ConvertError, ConvertOptions, TargetType};
use crate::model::checkpoint::{Checkpoint, Op};
use crate::model::{EMBEDDING, RANK_MAX};
use regex_automata::meta::Regex;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// What the adapter is.
const CONFIG: &str = "adapter_config.json";
/// Its matrices.
const WEIGHTS: &str = "adapter_model.safetensors";
/// Roots of names that PEFT puts before those of the model.
const ROOT: &str = "base_model.model.";
/// Ends of names: whether they are of an embedding, and of `B`.
const ENDS: &[(&str, bool, bool)] = &[
    (".lora_A.weight", false, false),
    (".lora_B.weight", false, true),
    (".lora_embedding_A", true, false),
    (".lora_embedding_B", true, true),
    // As adapters were saved by their name.
    (".lora_A.default.weight", false, false),
    (".lora_B.default.weight", false, true),
];
/// Bytes that the states of an expression may take.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Beginnings of ways to start that change the model's weights, which the adapter then belongs to.
const CHANGED_BASES: &[&str] = &["pissa", "olora", "corda", "loftq"];
/// Entries that say that there is more than two matrices for a weight, or something else.
const REFUSED: &[&str] = &[
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_qalora",
];

/// An adapter as its folder describes it.
pub(super) struct Adapter {
    config_path: PathBuf,
    alpha: f64,
    /// Expressions of names and their alphas.
    alphas: Vec<(Regex, f64)>,
    /// Rank that is not said otherwise.
    rank: f64,
    /// Whether alpha is divided by the root of the rank.
    by_root: bool,
    /// Name of the model that it is for.
    base: Option<String>,
}

/// The two matrices of a weight.
struct Pair {
    /// Name of the module in the model.
    module: String,
    is_embedding: bool,
    a: usize,
    b: usize,
}

/// Whether a folder holds an adapter, and no model beside its description.
pub(super) fn is_adapter(folder: &Path) -> bool {
    let is_there = |name: &str| folder.join(name).exists();
    let is_model = is_there("model.safetensors") || is_there("model.safetensors.index.json");
    is_there(CONFIG) && (is_there(WEIGHTS) || !is_model)
}

impl Adapter {
    /// Reads the description.
    ///
    /// # Errors
    /// It is malformed, or of an adapter that has no form in GGUF.
    pub fn open(folder: &Path) -> Result<Adapter, ConvertError> {
        let config_path = folder.join(CONFIG);
        let value = json(&config_path)?.ok_or_else(|| malformed(&config_path, "missing"))?;
        let bad = |problem: String| malformed(&config_path, problem);
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        match text("peft_type") {
            Some("LORA") => {}
            other => {
                let other = other.unwrap_or("missing");
                return Err(bad(format!("`peft_type` is {other}, which is no LoRA adapter")));
            }
        }
        let is_off = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if let Some(key) = REFUSED.iter().find(|key| value.get(**key).is_some_and(|v| !is_off(v))) {
            let what = value.get(*key).map(Value::to_string).unwrap_or_default();
            let what: String = what.chars().take(80).collect();
            return Err(bad(format!("`{key}` is {what}: adapters in GGUF have no such thing")));
        }
        if let Some(bias) = text("bias").filter(|bias| *bias != "none") {
            return Err(bad(format!("`bias` is {bias}: adapters in GGUF have no biases")));
        }
        if let Some(start) = text("init_lora_weights")
            && CHANGED_BASES.iter().any(|begin| start.to_ascii_lowercase().starts_with(begin))
        {
            let problem = "it belongs to a model whose weights were changed when it was begun";
            return Err(bad(format!("`init_lora_weights` is {start}: {problem}")));
        }
        let number = |value: Option<&Value>, key: &str| -> Result<f64, ConvertError> {
            let x = value.and_then(Value::as_f64).filter(|x| x.is_finite() && *x != 0.0);
            x.ok_or_else(|| bad(format!("`{key}` is not a number other than 0")))
        };
        let alpha = number(value.get("lora_alpha"), "lora_alpha")?;
        let rank = number(value.get("r"), "r")?;
        let patterns = value.get("alpha_pattern").and_then(Value::as_object);
        let mut alphas = Vec::new();
        for (pattern, alpha) in patterns.into_iter().flatten() {
            let regex = Regex::builder()
                .configure(Regex::config().nfa_size_limit(Some(REGEX_BYTES_MAX)))
                .build(&format!("^(?:.*\\.)?(?:{pattern})$"))
                .map_err(|error| bad(format!("`alpha_pattern`: `{pattern}`: {error}")))?;
            alphas.push((regex, number(Some(alpha), "alpha_pattern")?));
        }
        let by_root = value.get("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        let base = text("base_model_name_or_path").map(str::to_owned);
        Ok(Adapter { config_path, alpha, alphas, rank, by_root, base })
    }

    /// The configuration of the model: of a folder, or beside the adapter.
    ///
    /// # Errors
    /// There is none, or it is malformed.
    pub fn base(&self, folder: &Path, base: Option<&Path>) -> Result<Config, ConvertError> {
        match base {
            Some(base) => Config::open(base),
            None if folder.join("config.json").exists() => Config::open(folder),
            None => Err(ConvertError::NoBase {
                path: self.config_path.clone(),
                base: self.base.clone().unwrap_or_else(|| "not said".into()),
            }),
        }
    }

    /// Alpha by which GGUF scales all pairs, divided by their ranks.
    pub fn alpha(&self) -> f32 {
        let root = if self.by_root { self.rank.sqrt() } else { 1.0 };
        (self.alpha * root) as f32
    }

    /// What `B` is multiplied by, so that [`Adapter::alpha`] scales it as PEFT does.
    fn factor(&self, module: &str, rank: u64) -> f32 {
        let own = self.alphas.iter().find(|(pattern, _)| pattern.is_match(module));
        let alpha = own.map_or(self.alpha, |row| row.1);
        let root = if self.by_root { (rank as f64 / self.rank).sqrt() } else { 1.0 };
        (alpha / self.alpha * root) as f32
    }

    /// Plans the tensors of the result.
    ///
    /// # Errors
    /// A tensor is not one of a pair, has no place in the model, or is of a weight that is no such
    /// product in GGUF.
    pub fn plan(
        &self,
        tensors: &Tensors,
        config: &Config,
        checkpoint: &Checkpoint,
    ) -> Result<Vec<Output>, ConvertError> {
        let pairs = pairs(tensors)?;
        let weight = |pair: &Pair| -> Result<Tensor, ConvertError> {
            let [rank_of_a, columns] = matrix(&tensors.all()[pair.a])?;
            let [rows, rank] = matrix(&tensors.all()[pair.b])?;
            if rank_of_a != rank || rank > RANK_MAX {
                let tensor = &tensors.all()[pair.b];
                return Err(ConvertError::Shape {
                    tensor: tensor.name.clone(),
                    shape: tensor.shape.clone(),
                    problem: format!("no rank up to {RANK_MAX}, and that of its other matrix"),
                });
            }
            let name = format!("{}.weight", pair.module);
            // An embedding is a table: `A` has its rows, `B` its columns.
            let shape = match plan::is_stored_transposed(checkpoint, &name) ^ pair.is_embedding {
                true => vec![columns, rows],
                false => vec![rows, columns],
            };
            Ok(Tensor::shaped(name, shape))
        };
        let weights: Vec<Tensor> = pairs.iter().map(weight).collect::<Result<_, _>>()?;
        let planned = plan::plan(&weights, config, checkpoint)?;
        let none = |module: &str| ConvertError::NotLowRank {
            tensor: module.to_owned(),
            problem: "its weight has no counterpart in GGUF",
        };
        if let Some(name) = planned.left_out.first() {
            return Err(none(name));
        }
        if let Some((_, _, place)) = planned.metadata.first() {
            return Err(none(&weights[*place].name));
        }
        let mut all = Vec::new();
        for output in &planned.outputs {
            all.extend(self.laid(tensors, &pairs, output, config, checkpoint)?);
        }
        Ok(all)
    }

    /// The two matrices of a weight in GGUF.
    fn laid(
        &self,
        tensors: &Tensors,
        pairs: &[Pair],
        output: &Output,
        config: &Config,
        checkpoint: &Checkpoint,
    ) -> Result<[Output; 2], ConvertError> {
        let first = &pairs[output.pieces[0].tensor];
        let refused = |problem| ConvertError::NotLowRank { tensor: first.module.clone(), problem };
        let name = format!("{}.weight", first.module);
        let is_turned = plan::is_stored_transposed(checkpoint, &name);
        let is_one = |piece: &Piece| piece.view[0] == 1 && piece.transposed == is_turned;
        if output.op != Op::Same || !output.pieces.iter().all(is_one) {
            return Err(refused("its weight is laid anew in GGUF, and no product of two matrices"));
        }
        if first.is_embedding != (output.name == EMBEDDING) {
            return Err(refused("it is of a table that is no product in GGUF"));
        }
        let stack = match output.shape[..] {
            [n, _, _] => Some(n),
            _ => None,
        };
        if stack.is_some() && stack != config.int(plan::EXPERT_COUNTS)? {
            return Err(refused("not all experts of its layer are adapted"));
        }
        let rank = tensors.all()[first.b].shape[1];
        let mut parts = [Vec::new(), Vec::new()];
        for piece in &output.pieces {
            let pair = &pairs[piece.tensor];
            if tensors.all()[pair.b].shape[1] != rank {
                return Err(refused("its rank is not that of the layer's other experts"));
            }
            let [a, b] = self.pieces(tensors, pair, piece);
            // Runs of one weight's rows share `A`.
            if stack.is_some() || parts[0].is_empty() {
                parts[0].push(a);
            }
            parts[1].push(b);
        }
        let [a, b] = parts;
        let rows = |pieces: &[Piece]| -> u64 {
            let of_one = |p: &Piece| p.pick.as_ref().map_or(p.rows(), |pick| pick.len() as u64);
            pieces.iter().map(of_one).sum()
        };
        let columns = |piece: &Piece| {
            piece.columns.as_ref().map_or(piece.cols(), |columns| columns.len() as u64)
        };
        let tensor = |end: &str, pieces: Vec<Piece>| {
            let n = stack.unwrap_or(1);
            let shape = [rows(&pieces) / n, columns(&pieces[0])];
            let shape = stack.into_iter().chain(shape).collect();
            Output::laid(format!("{}.{end}", output.name), shape, pieces)
        };
        Ok([tensor("lora_a", a), tensor("lora_b", b)])
    }

    /// Pieces of `A` and `B` by that of their weight.
    fn pieces(&self, tensors: &Tensors, pair: &Pair, piece: &Piece) -> [Piece; 2] {
        let whole = |tensor: usize| {
            let shape = &tensors.all()[tensor].shape;
            Piece::whole(tensor, [1, shape[0], shape[1]])
        };
        let rank = tensors.all()[pair.b].shape[1];
        let scale = piece.scale * self.factor(&pair.module, rank);
        let (a, b) = (whole(pair.a), whole(pair.b));
        let (pick, columns) = (piece.pick.clone(), piece.columns.clone());
        match pair.is_embedding {
            true => [Piece { transposed: true, pick, ..a }, Piece { pick: columns, scale, ..b }],
            false => [Piece { columns, ..a }, Piece { pick, scale, ..b }],
        }
    }
}

/// The matrices of a folder.
pub(super) fn tensors(folder: &Path) -> Result<Tensors, ConvertError> {
    let path = folder.join(WEIGHTS);
    match path.exists() {
        true => Tensors::of_file(path),
        false => {
            let found = Some("adapter_model.bin".to_owned());
            let found = found.filter(|name| folder.join(name).exists());
            Err(ConvertError::NoWeights { path: folder.to_owned(), found })
        }
    }
}

/// Adds what an adapter says of itself.
pub(super) fn describe(keys: &mut Keys, adapter: &Adapter) {
    keys.set("general.type", "adapter");
    keys.set("adapter.type", "lora");
    keys.set("adapter.lora.alpha", adapter.alpha());
}

/// Gives tensors their types: rows that blocks do not divide, such as those of a small rank, stay
/// in f16.
pub(super) fn choose_types(outputs: &mut [Output], target: TargetType) {
    for output in outputs {
        let columns = output.shape.last().copied().unwrap_or(1);
        output.ty = plan::type_of_rows(target, columns);
    }
}

/// Whether the choices fit what the folder holds.
///
/// # Errors
/// A base is named for what is no adapter.
pub(super) fn check_base(folder: &Path, options: &ConvertOptions) -> Result<(), ConvertError> {
    match options.base.is_some() && !is_adapter(folder) {
        true => Err(malformed(&folder.join(CONFIG), "missing, though a base is named")),
        false => Ok(()),
    }
}

fn pairs(tensors: &Tensors) -> Result<Vec<Pair>, ConvertError> {
    let mut found: Vec<(String, bool, [Option<usize>; 2])> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (number, tensor) in tensors.all().iter().enumerate() {
        let name = &tensor.name;
        let end =
            ENDS.iter().find_map(|&(end, table, b)| Some((name.strip_suffix(end)?, table, b)));
        let named = end.and_then(|(name, table, b)| Some((name.strip_prefix(ROOT)?, table, b)));
        let Some((module, is_embedding, is_b)) = named else {
            let problem = match name {
                name if name.ends_with("lora_magnitude_vector") => "DoRA has no form in GGUF",
                name if name.contains("lora_") => "an unknown part of an adapter",
                _ => "a whole tensor, and adapters in GGUF hold pairs of matrices only",
            };
            return Err(ConvertError::NotLowRank { tensor: name.clone(), problem });
        };
        let place = *places.entry(module.to_owned()).or_insert(found.len());
        if place == found.len() {
            found.push((module.to_owned(), is_embedding, [None; 2]));
        }
        let (_, was_embedding, both) = &mut found[place];
        if both[usize::from(is_b)].replace(number).is_some() || *was_embedding != is_embedding {
            let problem = "there is another one of its place";
            return Err(ConvertError::NotLowRank { tensor: name.clone(), problem });
        }
    }
    if found.is_empty() {
        let problem = "the adapter has none";
        return Err(ConvertError::NotLowRank { tensor: "lora_A".into(), problem });
    }
    let whole = |(module, is_embedding, both): (String, bool, [Option<usize>; 2])| match both {
        [Some(a), Some(b)] => Ok(Pair { module, is_embedding, a, b }),
        _ => Err(ConvertError::NotLowRank {
            tensor: module,
            problem: "one of its two matrices is missing",
        }),
    };
    found.into_iter().map(whole).collect()
}

/// Rows and columns of a matrix that has some.
fn matrix(tensor: &Tensor) -> Result<[u64; 2], ConvertError> {
    match tensor.shape[..] {
        [rows, columns] if rows > 0 && columns > 0 && tensor.dtype.is_float() => {
            Ok([rows, columns])
        }
        _ => Err(ConvertError::Shape {
            tensor: tensor.name.clone(),
            shape: tensor.shape.clone(),
            problem: "not a matrix of floats".into(),
        }),
    }
}

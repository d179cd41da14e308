//! LoRA adapters in GGUF (Hu et al., arXiv:2106.09685): to a weight `W` belong two low-rank
//! matrices, and the model computes with `W + scale * B A`. The weights stay as they are.
//!
//! `NAME.lora_a` is `A`, `[rank][cols]`, `NAME.lora_b` is `B`, `[rows][rank]`; of the token
//! embedding `A` is `[vocabulary][rank]`, a table. Of the experts of a mixture there are stacks. The keys are `general.type` = `adapter`,
//! `adapter.type` = `lora`, the model's `general.architecture` and `adapter.lora.alpha`: `scale` is
//! what the user says times `alpha / rank`.

use super::ModelError;
use gguf_rs_lite::{ByteOrder, GgufFile, TensorInfo};
use std::collections::BTreeMap;
use std::sync::Arc;
use teff_kernels::KernelTable;

/// Largest rank: eight times what any published adapter has. Inputs and outputs of a product that
/// is adapted take memory per token and rank.
pub(crate) const RANK_MAX: u64 = 4096;

/// The tensor whose matrix `A` is a table.
pub(crate) const EMBEDDING: &str = "token_embd.weight";

/// A file of low-rank matrices.
#[derive(Debug)]
pub struct Adapter {
    file: Arc<GgufFile>,
    /// Alpha times what the user says, or just that if there is no alpha; the first is still to be
    /// divided by the rank.
    scale: f32,
    has_alpha: bool,
    /// By the name of the tensor that they belong to.
    pairs: BTreeMap<String, Pair>,
}

/// Numbers of the two tensors of a pair.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    a: Option<usize>,
    b: Option<usize>,
}

/// The matrices of one tensor of the model.
#[derive(Debug)]
pub struct LowRank {
    /// Columns of `B`.
    pub rank: usize,
    /// `[rank][cols]`, of each matrix of a stack, or `[vocabulary][rank]`.
    pub a: Vec<f32>,
    /// `[rows][rank]`, of each matrix of a stack, times the scale.
    pub b: Vec<f32>,
}

impl Adapter {
    /// Reads the file of an adapter for models of this architecture.
    ///
    /// # Errors
    /// The file is no adapter, one for another architecture, or has tensors that are no pairs of
    /// low rank.
    pub fn new(file: Arc<GgufFile>, architecture: &str, scale: f32) -> Result<Adapter, ModelError> {
        for (key, expected) in [
            ("general.type", "adapter"),
            ("adapter.type", "lora"),
            ("general.architecture", architecture),
        ] {
            let value = file.get(key).ok_or_else(|| ModelError::MissingKey(key.into()))?;
            match value.as_str() {
                Some(value) if value == expected => {}
                Some(value) => {
                    return Err(ModelError::bad_key(
                        key,
                        format!("is `{value}`, not `{expected}`"),
                    ));
                }
                None => return Err(ModelError::bad_key(key, "is not a string")),
            }
        }
        const ALPHA: &str = "adapter.lora.alpha";
        const HARMLESS: [&str; 3] = ["adapter.type", "adapter.lora.task_name", ALPHA];
        // Such as `adapter.alora.invocation_tokens`, which adapts from some place on.
        let mut keys = file.entries().map(|(key, _)| key).filter(|k| k.starts_with("adapter."));
        if let Some(key) = keys.find(|key| !HARMLESS.contains(key)) {
            return Err(ModelError::UnknownKey(key.into()));
        }
        drop(keys);
        let alpha = match file.get(ALPHA) {
            None => 0.0,
            Some(value) => value
                .as_f32()
                .filter(|alpha| alpha.is_finite())
                .ok_or_else(|| ModelError::bad_key(ALPHA, "is not a finite float"))?,
        };
        if file.data_order() == ByteOrder::Big {
            return Err(ModelError::BigEndian);
        }
        let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
        for (number, tensor) in file.tensors().iter().enumerate() {
            if let Some(name) = tensor.name.strip_suffix(".lora_a") {
                pairs.entry(name.into()).or_default().a = Some(number);
            } else if let Some(name) = tensor.name.strip_suffix(".lora_b") {
                pairs.entry(name.into()).or_default().b = Some(number);
            } else {
                return Err(ModelError::UnusedTensor(tensor.name.clone()));
            }
        }
        let has_alpha = alpha != 0.0;
        let scale = if has_alpha { alpha * scale } else { scale };
        Ok(Adapter { file, scale, has_alpha, pairs })
    }

    /// The file.
    pub fn file(&self) -> &Arc<GgufFile> {
        &self.file
    }

    /// Factor of its products, but for the rank.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The tensors of the model that are adapted.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.pairs.keys().map(String::as_str)
    }

    /// The matrices for the tensor `name`, a stack of `n` of `rows` and `cols`, if it is adapted.
    ///
    /// # Errors
    /// The pair has another shape than the tensor, or a rank that no adapter has.
    pub fn low_rank(
        &self,
        name: &str,
        [n, rows, cols]: [usize; 3],
        kernels: &KernelTable,
    ) -> Result<Option<LowRank>, ModelError> {
        let Some(pair) = self.pairs.get(name) else { return Ok(None) };
        let tensor = |number: Option<usize>, suffix: &str| {
            let missing = || ModelError::MissingTensor(format!("{name}{suffix}"));
            number.map(|number| &self.file.tensors()[number]).ok_or_else(missing)
        };
        let (a, b) = (tensor(pair.a, ".lora_a")?, tensor(pair.b, ".lora_b")?);
        let (n, rows, cols) = (n as u64, rows as u64, cols as u64);
        let rank = b.dims[0];
        let a_dims = if name == EMBEDDING { [rank, rows] } else { [cols, rank] };
        let b_dims = if name == EMBEDDING { [rank, cols] } else { [rank, rows] };
        let stack = (n > 1).then_some(n);
        for (tensor, expected) in [(b, b_dims), (a, a_dims)] {
            let (name, found) = (tensor.name.clone(), &tensor.dims);
            let expected: Vec<u64> = expected.into_iter().chain(stack).collect();
            // A rank of 1 may leave out the last dimension.
            let whole = [&found[..], &[1]].concat();
            if *found != expected && whole != expected {
                let found = found.clone();
                return Err(ModelError::TensorShape { name, found, expected });
            }
            if rank > RANK_MAX {
                return Err(ModelError::Rank { name, rank, max: RANK_MAX });
            }
        }
        let scale = if self.has_alpha { self.scale / rank as f32 } else { self.scale };
        let (a, mut b) = (self.values(a, kernels)?, self.values(b, kernels)?);
        b.iter_mut().for_each(|b| *b *= scale);
        Ok(Some(LowRank { rank: rank as usize, a, b }))
    }

    fn values(&self, tensor: &TensorInfo, kernels: &KernelTable) -> Result<Vec<f32>, ModelError> {
        let (name, ty) = (&tensor.name, tensor.ty);
        let unsupported = || ModelError::TensorType { name: name.clone(), ty };
        let kernels = kernels.types(ty).ok_or_else(unsupported)?;
        let mut values = vec![0.0; tensor.dims.iter().product::<u64>() as usize];
        kernels.dequantize(self.file.data(tensor), &mut values);
        Ok(values)
    }
}

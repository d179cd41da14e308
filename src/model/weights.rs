//! Tensors by name: each is claimed by the part of the model that uses it, with the shape that it
//! must have. What nobody claims has no known meaning, and loading fails.

use super::ModelError;
use crate::tensor::{Weight, memory};
use gguf_rs_lite::{ByteOrder, GgmlType, GgufFile, TensorInfo};
use std::collections::HashSet;
use std::sync::Arc;
use teff_kernels::KernelTable;

/// Tensors of the head of a reranker.
const CLASSIFIER: &[&str] =
    &["cls.weight", "cls.bias", "cls.norm.weight", "cls.output.weight", "cls.output.bias"];

/// Beginnings of the names of tensors that belong to other parts than the one that makes text, and
/// what those do.
const OTHER_PARTS: &[(&str, &str)] = &[
    ("v.", "sees"),
    ("vision_tower.", "sees"),
    ("a.", "hears"),
    ("audio_tower.", "hears"),
    ("mm.", "brings pictures and sounds into the text"),
    ("multi_modal_projector.", "brings pictures and sounds into the text"),
    ("mtp.", "drafts tokens"),
];

/// Tensors of a file that belong to another part than the one that makes text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnusedPart {
    /// Beginning of their names.
    pub prefix: &'static str,
    /// Purpose of the part, as a verb.
    pub does: &'static str,
    /// Number of tensors.
    pub n_tensors: usize,
    /// Bytes of them.
    pub bytes: u64,
}

/// The parts of a file's model that are not run: those that see, hear or draft.
pub fn unused_parts(file: &GgufFile) -> Vec<UnusedPart> {
    let part = |&(prefix, does): &(&'static str, &'static str)| {
        let tensors = file.tensors().iter().filter(|info| info.name.starts_with(prefix));
        let (n_tensors, bytes) = tensors.fold((0, 0), |(n, sum), info| (n + 1, sum + info.bytes));
        UnusedPart { prefix, does, n_tensors, bytes }
    };
    OTHER_PARTS.iter().map(part).filter(|part| part.n_tensors > 0).collect()
}

/// Names that converters give a tensor in place of the one that it has elsewhere: ends of both.
const OTHER_NAMES: &[(&str, &str)] = &[("ssm_dt.bias", "ssm_dt")];

/// Hands out the tensors of a file and keeps count.
pub struct Binder<'a> {
    file: &'a Arc<GgufFile>,
    kernels: &'static KernelTable,
    /// Weights in place of the file's tensors of their names.
    replaced: &'a [Weight],
    claimed: HashSet<&'a str>,
}

impl<'a> Binder<'a> {
    /// For the tensors of `file`; types must have a kernel in `kernels`.
    ///
    /// # Errors
    /// The tensors are big-endian.
    pub fn new(
        file: &'a Arc<GgufFile>,
        kernels: &'static KernelTable,
    ) -> Result<Binder<'a>, ModelError> {
        if file.data_order() == ByteOrder::Big {
            return Err(ModelError::BigEndian);
        }
        Ok(Binder { file, kernels, replaced: &[], claimed: HashSet::new() })
    }

    /// Hands out these weights in place of the file's tensors of their names, whose shapes they
    /// have.
    pub fn replace(&mut self, weights: &'a [Weight]) {
        self.replaced = weights;
    }

    /// Whether the file has the tensor.
    pub fn has(&self, name: &str) -> bool {
        self.file.tensor(name).is_some()
    }

    /// The dimensions of a tensor in GGUF order, without claiming it.
    pub fn dims(&self, name: &str) -> Option<&'a [u64]> {
        self.file.tensor(name).map(|info| &info.dims[..])
    }

    /// Claims a tensor that carries nothing for the computation.
    pub fn ignore(&mut self, name: &str) {
        if let Some(info) = self.file.tensor(name) {
            self.claimed.insert(&info.name);
        }
    }

    /// Claims the tensors of layers whose names, behind `blk.N.`, begin with `prefix`.
    pub fn ignore_layers(&mut self, prefix: &str) {
        for info in self.file.tensors() {
            let in_layer = info.name.strip_prefix("blk.").and_then(|name| name.split_once('.'));
            if in_layer.is_some_and(|(_, name)| name.starts_with(prefix)) {
                self.claimed.insert(&info.name);
            }
        }
    }

    /// Claims the tensors of a [`ClassifierSpec`](super::ClassifierSpec), which are no part of the
    /// program.
    pub fn ignore_classifier(&mut self) {
        CLASSIFIER.iter().for_each(|name| self.ignore(name));
    }

    /// Claims all tensors of a layer.
    pub fn ignore_layer(&mut self, layer: usize) {
        let prefix = format!("blk.{layer}.");
        let of_layer = self.file.tensors().iter().filter(|info| info.name.starts_with(&prefix));
        self.claimed.extend(of_layer.map(|info| &info.name[..]));
    }

    /// The tensor of a name, or of the name that some converters give it.
    fn find(&self, name: &str) -> Option<&'a TensorInfo> {
        let other = |(usual, other): &(&str, &str)| {
            self.file.tensor(&format!("{}{other}", name.strip_suffix(usual)?))
        };
        self.file.tensor(name).or_else(|| OTHER_NAMES.iter().find_map(other))
    }

    fn claim(&mut self, name: &str, dims: &[usize]) -> Result<&'a TensorInfo, ModelError> {
        let info = self.find(name).ok_or_else(|| ModelError::MissingTensor(name.to_string()))?;
        let expected: Vec<u64> = dims.iter().map(|&d| d as u64).collect();
        // Trailing dimensions of 1 may be left out.
        let trim = |dims: &[u64]| {
            let n = dims.iter().rposition(|&d| d != 1).map_or(1, |i| i + 1);
            dims.get(..n).map(<[u64]>::to_vec)
        };
        if trim(&info.dims) != trim(&expected) {
            let found = info.dims.clone();
            return Err(ModelError::TensorShape { name: name.to_string(), found, expected });
        }
        if self.kernels.types(info.ty).is_none() && plain_number(info.ty).is_none() {
            return Err(ModelError::TensorType { name: name.to_string(), ty: info.ty });
        }
        self.claimed.insert(&info.name);
        Ok(info)
    }

    /// Claims the matrix `[rows][cols]`.
    ///
    /// # Errors
    /// The tensor is missing, or of another shape, or its type has no kernel.
    pub fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight, ModelError> {
        let info = self.claim(name, &[cols, rows])?;
        self.weight(info)
    }

    /// The tensor as it lies in the file or what stands in for it; converted to f32 if its elements
    /// are plain numbers that have no kernels.
    fn weight(&self, info: &TensorInfo) -> Result<Weight, ModelError> {
        if let Some(weight) = self.replaced.iter().find(|weight| weight.name == info.name) {
            return Ok(weight.clone());
        }
        let weight = Weight::mapped(self.file, info);
        let Some((size, number)) = plain_number(info.ty) else { return Ok(weight) };
        let numbers = self.file.data(info).chunks_exact(size).map(number);
        let mut bytes = room_for(&weight.name, numbers.len().saturating_mul(size_of::<f32>()))?;
        bytes.extend(numbers.flat_map(f32::to_le_bytes));
        let shape = [weight.n, weight.rows, weight.cols];
        Ok(Weight::owned(&weight.name, GgmlType::F32, shape, bytes))
    }

    /// Claims a stack of `n` matrices `[rows][cols]`. Where files before April 2024 have one tensor
    /// per expert (`ffn_up.3.weight` for `ffn_up_exps.weight`), they are copied into one.
    ///
    /// # Errors
    /// A tensor is missing, or of another shape, or its type has no kernel; or there is no memory
    /// for a copy.
    pub fn stack(&mut self, name: &str, [n, rows, cols]: [usize; 3]) -> Result<Weight, ModelError> {
        let own = name.strip_suffix("_exps.weight").map(|part| format!("{part}.0.weight"));
        if !self.has(name) && own.is_some_and(|first| self.has(&first)) {
            return self.separate_experts(name, [n, rows, cols]);
        }
        let info = self.claim(name, &[cols, rows, n])?;
        self.weight(info)
    }

    fn separate_experts(
        &mut self,
        name: &str,
        [n, rows, cols]: [usize; 3],
    ) -> Result<Weight, ModelError> {
        let part = name.strip_suffix("_exps.weight").unwrap_or(name);
        let (mut bytes, mut ty): (Vec<u8>, _) = (Vec::new(), None);
        for expert in 0..n {
            let weight = self.matrix(&format!("{part}.{expert}.weight"), rows, cols)?;
            if *ty.get_or_insert(weight.ty) != weight.ty {
                return Err(ModelError::TensorType { name: weight.name.clone(), ty: weight.ty });
            }
            if bytes.is_empty() {
                bytes = room_for(name, weight.bytes().len().saturating_mul(n))?;
            }
            bytes.extend_from_slice(weight.bytes());
        }
        let ty = ty.ok_or_else(|| ModelError::MissingTensor(name.to_string()))?;
        Ok(Weight::owned(name, ty, [n, rows, cols], bytes))
    }

    /// All elements of a claimed tensor, in f32.
    pub fn values(&self, weight: &Weight) -> Vec<f32> {
        let mut values = vec![0.0; weight.n * weight.rows * weight.cols];
        let kernels = self.kernels.types(weight.ty).expect("`claim` asked for the kernel");
        kernels.dequantize(weight.bytes(), &mut values);
        values
    }

    /// Claims a tensor of `len` elements in any shape, in f32.
    ///
    /// # Errors
    /// The tensor is missing, or of another length, or its type has no kernel.
    pub fn elements(&mut self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let dims = self.dims(name).unwrap_or_default();
        let dims: Vec<usize> = dims.iter().map(|&d| d as usize).collect();
        match dims.iter().product::<usize>() == len {
            true => {
                let info = self.claim(name, &dims)?;
                Ok(self.values(&self.weight(info)?))
            }
            false => self.vector(name, len),
        }
    }

    /// Claims a vector, in f32.
    ///
    /// # Errors
    /// The tensor is missing, or of another shape, or its type has no kernel.
    pub fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let info = self.claim(name, &[len])?;
        Ok(self.values(&self.weight(info)?))
    }

    /// Claims a vector if the file has it.
    ///
    /// # Errors
    /// The tensor is of another shape, or its type has no kernel.
    pub fn optional_vector(
        &mut self,
        name: &str,
        len: usize,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        self.has(name).then(|| self.vector(name, len)).transpose()
    }

    /// Fails if a tensor is left that does not belong to one of the [`unused_parts`].
    ///
    /// # Errors
    /// The first such tensor.
    pub fn finish(self) -> Result<(), ModelError> {
        let of_other_part =
            |info: &TensorInfo| OTHER_PARTS.iter().any(|(prefix, _)| info.name.starts_with(prefix));
        let is_left =
            |info: &&TensorInfo| !self.claimed.contains(&info.name[..]) && !of_other_part(info);
        match self.file.tensors().iter().find(is_left) {
            Some(info) => Err(ModelError::UnusedTensor(info.name.clone())),
            None => Ok(()),
        }
    }
}

/// Room for the copy of a tensor.
fn room_for(name: &str, bytes: usize) -> Result<Vec<u8>, ModelError> {
    let mut room = Vec::new();
    let reserved = memory::ask(|| room.try_reserve_exact(bytes));
    reserved.map_err(|_| ModelError::Memory { name: name.to_string(), bytes })?;
    Ok(room)
}

/// Conversion of an element's bytes to f32.
type Number = fn(&[u8]) -> f32;

/// Bytes of an element and what it is in f32, for types whose elements are plain numbers and that
/// have no kernels: converters leave them where the trained weights are of such types.
pub fn plain_number(ty: GgmlType) -> Option<(usize, Number)> {
    fn bytes<const N: usize>(element: &[u8]) -> [u8; N] {
        element.try_into().expect("chunks of the size beside the function")
    }
    Some(match ty {
        GgmlType::F64 => (8, |x| f64::from_le_bytes(bytes(x)) as f32),
        GgmlType::I8 => (1, |x| f32::from(i8::from_le_bytes(bytes(x)))),
        GgmlType::I16 => (2, |x| f32::from(i16::from_le_bytes(bytes(x)))),
        GgmlType::I32 => (4, |x| i32::from_le_bytes(bytes(x)) as f32),
        GgmlType::I64 => (8, |x| i64::from_le_bytes(bytes(x)) as f32),
        _ => return None,
    })
}

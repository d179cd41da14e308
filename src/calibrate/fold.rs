//! Folds: factors of the columns that products read, which what comes before takes back (arXiv:2306.00978,
//! arXiv:2211.10438).
//!
//! They are read off a [`Program`]. A norm's weight can be divided by factors if products alone read that
//! norm: then each of them, routers included, has its columns multiplied. The rows of a product can be
//! divided if one other product reads what they give, with nothing between that does more than multiply by
//! something else: the up projection of a gated feed-forward part before the down projection, and values
//! before the output projection, where the heads that share a value's head share factors.

use crate::backend::program::{
    AccessKind, Attention, BoundWeight, Buf, Columns, Epilogue, Linear, Moe, Norm, Op, Output,
    Program, RopeKv, Router,
};
use crate::tensor::Weight;
use crate::tensor::memory::{OutOfMemory, reserve};
use gguf_rs_lite::{GgmlType, GgufFile};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use teff_kernels::KernelTable;

/// Factors that can be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// Tensor that is divided by them.
    pub source: FoldSource,
    /// Number of factors.
    pub channels: usize,
    /// Tensors whose columns are multiplied by them.
    pub readers: Vec<Reader>,
    /// The factor of each column of the readers.
    pub channel_of: Vec<usize>,
}

/// Tensor that is divided by factors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoldSource {
    /// The tensor of a norm's weight, and its bias.
    Norm(String),
    /// Rows of a matrix of a weight, and its bias.
    Rows {
        /// The weight.
        weight: String,
        /// Number of the matrix in a stack.
        matrix: usize,
        /// The first row.
        first: usize,
    },
}

/// A weight whose columns are multiplied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Its name.
    pub weight: String,
    /// The only matrix of a stack; `None`: all.
    pub matrix: Option<usize>,
}

/// The folds of a program. `may_change` says of a tensor whether it can be multiplied.
pub fn folds(program: &Program, file: &GgufFile, may_change: &dyn Fn(&str) -> bool) -> Vec<Fold> {
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for weight in program.products() {
        *uses.entry(&weight.name).or_default() += 1;
    }
    let is_free = |name: &str| {
        let bias = bias_of(name);
        name.starts_with("blk.")
            && may_change(name)
            && file.tensor(&bias).is_none_or(|_| may_change(&bias))
    };
    let finder = Finder { program, file, uses, is_free: &is_free };
    let mut found = finder.norms();
    for at in 0..program.ops.len() {
        match &program.ops[at] {
            Op::Linear(op) => found.extend(finder.gated(at, op)),
            Op::Moe(op) => found.extend(finder.experts(op)),
            Op::Attention(op) => found.extend(finder.values(at, op)),
            _ => {}
        }
    }
    found
}

struct Finder<'a> {
    program: &'a Program,
    file: &'a GgufFile,
    /// Products with each weight.
    uses: HashMap<&'a str, usize>,
    /// Whether a weight and its bias can be multiplied.
    is_free: &'a dyn Fn(&str) -> bool,
}

/// What reads a norm.
#[derive(Default)]
struct NormReaders<'a> {
    /// Products, each as often as it is made.
    weights: Vec<&'a str>,
    len: usize,
    /// Whether something else reads it, or it is not as in the file.
    has_others: bool,
}

impl<'a> Finder<'a> {
    fn norms(&self) -> Vec<Fold> {
        let mut norms: BTreeMap<&str, NormReaders<'_>> = BTreeMap::new();
        for op in &self.program.ops {
            let (first, weights) = prologue(op);
            for norm in first.into_iter().chain(other_norms(op)) {
                let Some(name) = &norm.name else { continue };
                let readers = norms.entry(name).or_default();
                let is_first = first.is_some_and(|first| std::ptr::eq(first, norm));
                readers.has_others |= !is_first || !self.is_as_in_file(norm, name);
                readers.len = norm.weight.as_ref().map_or(0, Vec::len);
                if is_first {
                    readers.has_others |= weights.iter().any(|w| w.cols != readers.len);
                    readers.weights.extend(weights.iter().map(|weight| &weight.name[..]));
                }
            }
        }
        norms.into_iter().filter_map(|(name, readers)| self.norm(name, readers)).collect()
    }

    /// The fold of a norm, if all of its readers are products that read nothing else.
    fn norm(&self, name: &str, readers: NormReaders<'_>) -> Option<Fold> {
        let NormReaders { mut weights, len, has_others } = readers;
        let all = weights.clone();
        weights.sort_unstable();
        weights.dedup();
        let is_whole = |weight: &&str| {
            let uses = all.iter().filter(|other| *other == weight).count();
            self.uses.get(weight) == Some(&uses) && (self.is_free)(weight)
        };
        let is_fold = !has_others && (self.is_free)(name) && weights.iter().all(is_whole);
        let reader = |weight: &&str| Reader { weight: (*weight).to_owned(), matrix: None };
        (is_fold && !weights.is_empty()).then(|| Fold {
            source: FoldSource::Norm(name.to_owned()),
            channels: len,
            readers: weights.iter().map(reader).collect(),
            channel_of: (0..len).collect(),
        })
    }

    /// Whether a norm's weight is the tensor of its name.
    fn is_as_in_file(&self, norm: &Norm, name: &str) -> bool {
        let Some(weight) = &norm.weight else { return false };
        let Some(info) = self.file.tensor(name) else { return false };
        let bytes = self.file.data(info).as_chunks().0;
        let has_bias = self.file.tensor(&bias_of(name)).is_some();
        info.ty == GgmlType::F32
            && has_bias == norm.bias.is_some()
            && bytes.iter().map(|b| f32::from_le_bytes(*b)).eq(weight.iter().copied())
    }

    /// Whether a weight is multiplied once and can be changed, with its bias if the program has one.
    fn is_single(&self, weight: &BoundWeight, has_bias: bool) -> bool {
        let name = &weight.name[..];
        let bias_is_there = !has_bias || self.file.tensor(&bias_of(name)).is_some();
        self.uses.get(name) == Some(&1) && (self.is_free)(name) && bias_is_there
    }

    /// The rows of the up projection, and the down projection.
    fn gated(&self, at: usize, op: &Linear) -> Option<Fold> {
        let (Epilogue::Glu(_, None), Output::Store(buf)) = (op.epilogue, op.out) else {
            return None;
        };
        let (part, first) = match &op.parts[..] {
            [_, up] => (up, 0),
            [both] => (both, both.weight.rows / 2),
            _ => return None,
        };
        let width = op.n_rows();
        let down = self.only_reader(at, buf, width)?;
        let is_fold = op.addend.is_none() && self.is_single(&part.weight, part.bias.is_some());
        is_fold.then(|| Fold {
            source: rows_of(&part.weight, 0, first),
            channels: width,
            readers: vec![Reader { weight: down.name.clone(), matrix: Some(0) }],
            channel_of: (0..width).collect(),
        })
    }

    /// The same for each expert.
    fn experts(&self, op: &Moe) -> Vec<Fold> {
        let (up, down) = (&op.up, &op.down);
        let width = down.weight.cols;
        let first = if op.gate.is_some() { 0 } else { width };
        let is_gated = up.weight.rows == first + width;
        let has_more = !up.low_rank.is_empty() || !down.low_rank.is_empty() || op.clamp.is_some();
        let is_free = self.is_single(&up.weight, up.biases.is_some())
            && self.is_single(&down.weight, down.biases.is_some());
        if !is_gated || has_more || !is_free {
            return Vec::new();
        }
        let fold = |expert: usize| Fold {
            source: rows_of(&up.weight, expert, first),
            channels: width,
            readers: vec![Reader { weight: down.weight.name.clone(), matrix: Some(expert) }],
            channel_of: (0..width).collect(),
        };
        (0..op.n_experts).map(fold).collect()
    }

    /// The rows of values, and the output projection.
    fn values(&self, at: usize, op: &Attention) -> Option<Fold> {
        let kv = self.program.kv.get(op.layer)?;
        let (rope_at, rope) =
            self.program.ops[..at].iter().enumerate().rev().find_map(|(number, op)| match op {
                Op::RopeKv(rope) => Some((number, rope)),
                _ => None,
            })?;
        let is_plain = rope.layer == op.layer
            && rope.qkv == op.qkv
            && rope.stores
            && rope.v_norm.is_none()
            && rope.clamp.is_none();
        let stores = self.program.ops.iter().filter(|other| match other {
            Op::RopeKv(other) => other.stores && other.layer == op.layer,
            Op::Attention(other) => other.layer == op.layer && !std::ptr::eq(other, op),
            _ => false,
        });
        if !is_plain || stores.count() != 1 {
            return None;
        }
        let (weight, first, has_bias) = self.value_rows(rope_at, rope, kv.n_kv_heads, kv.k_dim)?;
        let channels = kv.n_kv_heads * kv.v_dim;
        let out = self.only_reader(at, op.out, op.n_heads * kv.v_dim)?;
        let is_fold = first + channels <= weight.rows && self.is_single(weight, has_bias);
        let shared = op.n_heads / kv.n_kv_heads;
        let channel = |head: usize| {
            let first = head / shared * kv.v_dim;
            first..first + kv.v_dim
        };
        is_fold.then(|| Fold {
            source: rows_of(weight, 0, first),
            channels,
            readers: vec![Reader { weight: out.name.clone(), matrix: Some(0) }],
            channel_of: (0..op.n_heads).flat_map(channel).collect(),
        })
    }

    /// The weight whose rows become values, and the first of them: of the product that writes queries, keys
    /// and values.
    fn value_rows(
        &self,
        at: usize,
        rope: &RopeKv,
        n_kv_heads: usize,
        k_dim: usize,
    ) -> Option<(&'a BoundWeight, usize, bool)> {
        let touches = |op: &&Op| op.buffers().iter().any(|access| access.buf == rope.qkv);
        let Op::Linear(op) = self.program.ops[..at].iter().rev().find(touches)? else {
            return None;
        };
        let is_plain = op.out == Output::Store(rope.qkv)
            && op.epilogue == Epilogue::None
            && op.addend.is_none();
        let mut column = (rope.n_heads + n_kv_heads) * k_dim;
        for part in op.parts.iter().filter(|_| is_plain) {
            if column < part.weight.rows {
                return Some((&part.weight, column, part.bias.is_some()));
            }
            column -= part.weight.rows;
        }
        None
    }

    /// The weight of the only product, and the only operation, that reads what an operation has written to
    /// `width` columns of a buffer.
    fn only_reader(&self, at: usize, buf: Buf, width: usize) -> Option<&'a BoundWeight> {
        let mut found = None;
        for op in &self.program.ops[at + 1..] {
            let accesses = op.buffers();
            let mut own = accesses.iter().filter(|access| access.buf == buf);
            let Some(access) = own.next() else { continue };
            if access.kind == AccessKind::Write {
                let covers = match access.columns {
                    Columns::From(first) => first == 0,
                    Columns::Runs { from, len, n, .. } => from == 0 && n == 1 && len >= width,
                };
                return found.filter(|_| covers);
            }
            let Op::Linear(Linear { norm: None, parts, input, .. }) = op else { return None };
            let [part] = &parts[..] else { return None };
            let is_whole = *input == buf && part.weight.cols == width;
            if found.is_some() || own.next().is_some() || !is_whole {
                return None;
            }
            found = Some(&part.weight).filter(|weight| self.is_single(weight, false));
            found?;
        }
        found
    }
}

fn rows_of(weight: &BoundWeight, matrix: usize, first: usize) -> FoldSource {
    FoldSource::Rows { weight: weight.name.clone(), matrix, first }
}

/// The norm of an operation's input, and the weights that read it.
fn prologue(op: &Op) -> (Option<&Norm>, Vec<&BoundWeight>) {
    match op {
        Op::Linear(op) => (op.norm.as_ref(), op.parts.iter().map(|part| &part.weight).collect()),
        Op::Moe(op) => {
            let router = match &op.router {
                Router::Input(part) => Some(&part.weight),
                Router::Scores(_) => None,
            };
            let gate = op.gate.as_ref();
            let has_more = gate.into_iter().chain([&op.up]).any(|part| !part.low_rank.is_empty());
            let weights = router.into_iter().chain(gate.map(|gate| &gate.weight));
            let weights = weights.chain([&op.up.weight]).collect();
            (op.norm.as_ref().filter(|_| !has_more), weights)
        }
        _ => (None, Vec::new()),
    }
}

/// The norms that an operation applies elsewhere.
fn other_norms(op: &Op) -> Vec<&Norm> {
    match op {
        Op::Normalize { norm, .. } | Op::AddNorm { norm, .. } => vec![norm],
        Op::Result { norm, .. } => norm.iter().collect(),
        Op::CopyPieces(op) => op.pieces.iter().filter_map(|piece| piece.norm.as_ref()).collect(),
        Op::RopeKv(op) => {
            let norms = [&op.q_norm, &op.k_norm, &op.v_norm];
            norms.into_iter().flatten().map(|norm| &norm.norm).collect()
        }
        Op::Scan(op) => op.norm.iter().collect(),
        Op::MixStreams(op) => vec![&op.norm],
        // One that is not the prologue of products alone.
        Op::Moe(op) => op.norm.iter().filter(|_| prologue_is_none(op)).collect(),
        Op::Linear(_)
        | Op::Embed { .. }
        | Op::Scale { .. }
        | Op::Xielu { .. }
        | Op::MulBroadcast { .. }
        | Op::HeadLinear(_)
        | Op::Conv(_)
        | Op::Attention(_)
        | Op::Sparsify { .. }
        | Op::MatchLength { .. }
        | Op::Add { .. } => Vec::new(),
    }
}

fn prologue_is_none(op: &Moe) -> bool {
    op.gate.iter().chain([&op.up]).any(|part| !part.low_rank.is_empty())
}

/// The name of the bias that belongs to a weight.
fn bias_of(weight: &str) -> String {
    format!("{}.bias", weight.strip_suffix(".weight").unwrap_or(weight))
}

/// Factors of all elements that folds change.
#[derive(Debug, Default)]
pub struct Scaling {
    /// Of the columns of weights, `[matrices][columns]`.
    cols: HashMap<String, Vec<f32>>,
    /// Of the rows of weights, `[matrices][rows]`.
    rows: HashMap<String, Vec<f32>>,
    /// Of the elements of norms and biases.
    vectors: HashMap<String, Vec<f32>>,
}

impl Scaling {
    /// Adds the factors of a fold.
    ///
    /// # Panics
    /// If there are not as many factors as channels, or the file lacks a tensor of the fold.
    pub fn add(&mut self, file: &GgufFile, fold: &Fold, factors: &[f32]) {
        assert!(factors.len() == fold.channels, "a factor for each channel");
        let shape = |name: &str| {
            let info = file.tensor(name).expect("a tensor of the file");
            let dim = |i: usize| info.dims.get(i).map_or(1, |&d| d as usize);
            [dim(2), dim(1), dim(0)]
        };
        for Reader { weight, matrix } in &fold.readers {
            let [n, _, cols] = shape(weight);
            let all = self.cols.entry(weight.clone()).or_insert_with(|| vec![1.0; n * cols]);
            let wanted = |number: usize| matrix.is_none_or(|matrix| matrix == number);
            let matrices = all.chunks_exact_mut(cols).enumerate().filter(|(m, _)| wanted(*m));
            for (_, all) in matrices {
                all.iter_mut().zip(&fold.channel_of).for_each(|(all, &c)| *all *= factors[c]);
            }
        }
        let mut divide = |vector: String, len: usize, first: usize| {
            let all = self.vectors.entry(vector).or_insert_with(|| vec![1.0; len]);
            all[first..].iter_mut().zip(factors).for_each(|(all, factor)| *all /= factor);
        };
        let has = |name: &String| file.tensor(name).is_some();
        match &fold.source {
            FoldSource::Norm(name) => {
                for vector in [name.clone(), bias_of(name)].into_iter().filter(has) {
                    divide(vector, factors.len(), 0);
                }
            }
            FoldSource::Rows { weight, matrix, first } => {
                let [n, rows, _] = shape(weight);
                let first = matrix * rows + first;
                if let Some(bias) = Some(bias_of(weight)).filter(has) {
                    divide(bias, n * rows, first);
                }
                let all = self.rows.entry(weight.clone()).or_insert_with(|| vec![1.0; n * rows]);
                all[first..].iter_mut().zip(factors).for_each(|(all, factor)| *all /= factor);
            }
        }
    }

    /// The factors of the columns of a matrix, and of its rows, if it has any.
    pub(super) fn of_matrix(&self, weight: &Weight, matrix: usize) -> Option<(Vec<f32>, Vec<f32>)> {
        let (cols, rows) = (self.cols.get(&weight.name), self.rows.get(&weight.name));
        if cols.is_none() && rows.is_none() {
            return None;
        }
        let part = |all: Option<&Vec<f32>>, len: usize| {
            all.map_or_else(|| vec![1.0; len], |all| all[matrix * len..][..len].to_vec())
        };
        Some((part(cols, weight.cols), part(rows, weight.rows)))
    }

    /// Whether a weight has factors.
    pub(super) fn has(&self, weight: &str) -> bool {
        self.cols.contains_key(weight) || self.rows.contains_key(weight)
    }

    /// The factors of the columns of a matrix.
    pub(super) fn cols(&self, weight: &str, matrix: usize, cols: usize) -> Option<&[f32]> {
        self.cols.get(weight).map(|all| &all[matrix * cols..][..cols])
    }

    /// Names of all tensors that change, sorted.
    pub fn names(&self) -> Vec<&str> {
        let all = [&self.cols, &self.rows, &self.vectors].into_iter().flat_map(HashMap::keys);
        let mut names: Vec<&str> = all.map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// A tensor of a file times its factors, in F32.
    ///
    /// # Errors
    /// There is no memory.
    ///
    /// # Panics
    /// If the file lacks the tensor, or its type has no kernels.
    pub fn apply(
        &self,
        file: &Arc<GgufFile>,
        kernels: &KernelTable,
        name: &str,
    ) -> Result<Weight, OutOfMemory> {
        let source = Weight::mapped(file, file.tensor(name).expect("a tensor of the file"));
        let types = kernels.types(source.ty).expect("kernels of a model's tensor");
        let mut bytes = Vec::new();
        let elements = source.n * source.rows * source.cols;
        reserve(&mut bytes, elements * size_of::<f32>(), "scaled weights")?;
        let mut x = vec![0.0; source.cols];
        let by_element = self.vectors.get(name);
        for matrix in 0..source.n {
            let factors = self.of_matrix(&source, matrix);
            for row in 0..source.rows {
                types.dequantize(source.rows_of(matrix, row..row + 1), &mut x);
                if let Some((cols, rows)) = &factors {
                    x.iter_mut().zip(cols).for_each(|(x, col)| *x *= col * rows[row]);
                }
                if let Some(all) = by_element {
                    let first = (matrix * source.rows + row) * source.cols;
                    x.iter_mut().zip(&all[first..]).for_each(|(x, factor)| *x *= factor);
                }
                bytes.extend(x.iter().flat_map(|x| x.to_le_bytes()));
            }
        }
        let shape = [source.n, source.rows, source.cols];
        Ok(Weight::owned(name, GgmlType::F32, shape, bytes))
    }
}

//! A model lowered to a flat list of operations on numbered buffers, made once at load.
//!
//! Every buffer is `[tokens][width]` in f32. Norms are the prologue of the product that reads
//! them, biases, activations and residual sums its epilogue: each operation is one phase of the
//! CPU, and will be one dispatch of a GPU.

mod access;
mod attention;
mod check;
mod copy;
mod linear;
mod moe;
mod recurrent;
mod reuse;
mod streams;

pub use access::{Access, AccessKind, Columns, WeightUse};
pub use attention::{Attention, HeadNorm, KvShape, Rope, RopeKv, Temperature};
pub use check::{Fault, ProgramError};
pub use copy::{CopyPieces, Piece};
pub use linear::{Epilogue, GluClamp, HeadLinear, Linear, Output, Part};
pub use moe::{ExpertGroups, ExpertLowRank, ExpertPart, Gating, Moe, Router};
pub use recurrent::{Conv, Scan, ScanKind, StateId};
pub use streams::{MixStreams, STREAMS_MAX};

use crate::tensor::Weight;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Number of a buffer in [`Program::widths`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buf(pub usize);

/// Number of a rotary table in [`Program::ropes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RopeId(pub usize);

/// Number of a weight in [`Program::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub usize);

/// A weight of a program beside its number, by which backends keep what they make of it.
///
/// [`Program::bind`] makes them; clones are of the same weight.
#[derive(Clone)]
pub struct BoundWeight {
    id: WeightId,
    weight: Arc<Weight>,
}

impl BoundWeight {
    /// Number of the weight in [`Program::weights`].
    pub fn id(&self) -> WeightId {
        self.id
    }

    /// True if this is the weight that the program has under the number.
    fn is(&self, weight: &Arc<Weight>) -> bool {
        Arc::ptr_eq(&self.weight, weight)
    }

    /// Shape of the stack: matrices, rows and columns.
    pub fn shape(&self) -> [usize; 3] {
        [self.n, self.rows, self.cols]
    }
}

impl Deref for BoundWeight {
    type Target = Weight;

    fn deref(&self) -> &Weight {
        &self.weight
    }
}

impl std::fmt::Debug for BoundWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{} {:?}", self.id.0, self.weight)
    }
}

/// Everything a backend needs to compute logits from token ids.
#[derive(Debug, Default)]
pub struct Program {
    /// Elements per token of each buffer.
    pub widths: Vec<usize>,
    /// Rotary tables, filled at the start of each step.
    pub ropes: Vec<Rope>,
    /// Keys and values that each layer of attention keeps per token.
    pub kv: Vec<KvShape>,
    /// Elements of each state that a sequence has.
    pub states: Vec<usize>,
    /// Weights by [`WeightId`]: every tensor once, however many operations read it.
    pub weights: Vec<Arc<Weight>>,
    /// Operations in the order of execution.
    pub ops: Vec<Op>,
    /// Operations of each layer; before and behind them are those of the model.
    pub layers: Vec<Range<usize>>,
    /// Number of token ids.
    pub n_vocab: usize,
    /// Length of a row of results: logits, or the embedding of a token.
    pub n_out: usize,
    /// True if tokens see later ones too; a sequence then takes its tokens in one step.
    pub bidirectional: bool,
}

impl Program {
    /// True if the results are logits, false if they are embeddings of tokens.
    pub fn gives_logits(&self) -> bool {
        !matches!(self.ops.last(), Some(Op::Result { .. }))
    }

    /// A new buffer of `width` elements per token.
    pub fn buffer(&mut self, width: usize) -> Buf {
        self.widths.push(width);
        Buf(self.widths.len() - 1)
    }

    /// Takes a weight into the program, as a new one: whoever lowers a tensor twice keeps the
    /// first.
    pub fn bind(&mut self, weight: Weight) -> BoundWeight {
        let weight = Arc::new(weight);
        self.weights.push(weight.clone());
        BoundWeight { id: WeightId(self.weights.len() - 1), weight }
    }

    /// A new state of `len` elements.
    pub fn state(&mut self, len: usize) -> StateId {
        self.states.push(len);
        StateId(self.states.len() - 1)
    }

    /// The weights that operations multiply with activations, in the order of execution; one that
    /// several operations read comes several times.
    pub fn products(&self) -> impl Iterator<Item = &BoundWeight> {
        self.ops.iter().flat_map(Op::products)
    }

    /// Whether, for each layer of [`Program::kv`], one of the operations for which `is_here` holds writes
    /// or reads its keys and values.
    pub fn stored_by(&self, is_here: &dyn Fn(usize) -> bool) -> Vec<bool> {
        let mut stored = vec![false; self.kv.len()];
        for (_, op) in self.ops.iter().enumerate().filter(|&(i, _)| is_here(i)) {
            match op {
                Op::RopeKv(op) => stored[op.layer] = true,
                Op::Attention(op) => stored[op.layer] = true,
                _ => {}
            }
        }
        stored
    }

    /// Bytes that the buffers take for each token of a step, those inside a mixture of experts
    /// included.
    pub fn bytes_per_token(&self) -> usize {
        let inner = self.ops.iter().map(Op::inner_width).max().unwrap_or(0);
        let widths = self.widths.iter().fold(0_usize, |sum, &w| sum.saturating_add(w));
        let floats = widths.saturating_add(inner);
        floats.saturating_mul(size_of::<f32>())
    }

    /// The table of `rope`, shared with earlier equal ones.
    pub fn rope(&mut self, rope: Rope) -> RopeId {
        let known = self.ropes.iter().position(|r| *r == rope);
        RopeId(known.unwrap_or_else(|| {
            self.ropes.push(rope);
            self.ropes.len() - 1
        }))
    }
}

/// A normalization over the last dimension.
#[derive(Clone, Debug)]
pub struct Norm {
    /// The formula.
    pub kind: NormKind,
    /// Added to the mean square or the variance.
    pub eps: f32,
    /// Elementwise factor, if any.
    pub weight: Option<Vec<f32>>,
    /// Elementwise addend, if any.
    pub bias: Option<Vec<f32>>,
    /// Name of the factor's tensor, if it has one of its own.
    pub name: Option<String>,
}

/// Formula of a [`Norm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps)` (arXiv:1910.07467).
    Rms,
    /// `(x - mean(x)) / sqrt(var(x) + eps)` (arXiv:1607.06450).
    Layer,
}

/// An operation.
#[derive(Debug)]
pub enum Op {
    /// `out[t] = scale * table[token t] + addend + positions[position of t]`.
    Embed {
        /// Matrix `[n_vocab][width of out]`.
        table: BoundWeight,
        /// Factor.
        scale: f32,
        /// Added to every row.
        addend: Option<Vec<f32>>,
        /// Learned positions to add: a matrix `[positions][width of out]`.
        positions: Option<BoundWeight>,
        /// Destination.
        out: Buf,
    },
    /// `buf = norm(buf)`.
    Normalize {
        /// Source and destination.
        buf: Buf,
        /// The norm.
        norm: Norm,
        /// Tokens that are computed.
        rows: Tokens,
    },
    /// `buf[i] *= factors[i]`.
    Scale {
        /// Source and destination.
        buf: Buf,
        /// One for each element.
        factors: Vec<f32>,
        /// Tokens that are computed.
        rows: Tokens,
    },
    /// `buf = f(buf)`.
    Xielu {
        /// Source and destination.
        buf: Buf,
        /// The function.
        f: Xielu,
        /// Tokens that are computed.
        rows: Tokens,
    },
    /// `buf[i] *= gate[i / n]`, where the buffer is `n` times as wide as the gate.
    MulBroadcast {
        /// Factors.
        gate: Buf,
        /// Source and destination.
        buf: Buf,
        /// Tokens that are computed.
        rows: Tokens,
    },
    /// Products that share an input.
    Linear(Linear),
    /// A product for each head with a matrix of its own.
    HeadLinear(HeadLinear),
    /// Pieces of rows that are put together.
    CopyPieces(CopyPieces),
    /// Per-head norms and rotation of queries and keys; keys and values go to the cache.
    RopeKv(RopeKv),
    /// A causal convolution of each channel.
    Conv(Conv),
    /// A recurrence.
    Scan(Box<Scan>),
    /// Scaled dot-product attention over the cache.
    Attention(Attention),
    /// `out += scale * norm(input)`.
    AddNorm {
        /// Source.
        input: Buf,
        /// Norm of the source.
        norm: Norm,
        /// Factor of the sum's second term.
        scale: f32,
        /// Residual stream.
        out: Buf,
        /// Tokens that are computed.
        rows: Tokens,
    },
    /// `buf = max(buf - mean(buf) - deviations * deviation(buf), 0)`: keeps the largest.
    Sparsify {
        /// Source and destination.
        buf: Buf,
        /// Sample standard deviations above the mean.
        deviations: f32,
        /// Tokens that are computed.
        rows: Tokens,
    },
    /// Scales each part of `buf` that is as wide as `to` to the Euclidean length of `to`.
    MatchLength {
        /// Has the length.
        to: Buf,
        /// Source and destination.
        buf: Buf,
        /// Tokens that are computed.
        rows: Tokens,
    },
    /// Parallel streams, mixed or corrected.
    MixStreams(Box<MixStreams>),
    /// `out[from..] += input`, where that is once or several times as wide: to each part.
    Add {
        /// Source.
        input: Buf,
        /// Destination.
        out: Buf,
        /// First element in the destination.
        from: usize,
        /// Tokens that are computed.
        rows: Tokens,
    },
    /// A mixture of experts, added to the residual stream.
    Moe(Box<Moe>),
    /// The rows of results: `norm(input)`, in the order of the tokens that want them.
    Result {
        /// Source.
        input: Buf,
        /// Norm of the source.
        norm: Option<Norm>,
    },
}

/// `alpha_p x^2 + beta x` for positive `x`, otherwise `alpha_n (exp(min(x, eps)) - 1 - x) + beta x`
/// (arXiv:2411.13010).
#[derive(Clone, Copy, Debug)]
pub struct Xielu {
    /// Coefficient for negative numbers.
    pub alpha_n: f32,
    /// Coefficient for positive numbers.
    pub alpha_p: f32,
    /// Coefficient of the linear part.
    pub beta: f32,
    /// Largest exponent.
    pub eps: f32,
}

impl Xielu {
    /// The function's value at `x`.
    pub fn at(self, x: f32) -> f32 {
        let curve = if x > 0.0 {
            self.alpha_p * x * x
        } else {
            (x.min(self.eps).exp_m1() - x) * self.alpha_n
        };
        curve + self.beta * x
    }
}

/// Tokens of a batch that an operation computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// All tokens of the batch.
    All,
    /// Only those whose results were asked for; the others' buffers keep what they held.
    Outputs,
}

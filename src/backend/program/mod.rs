//! A model lowered to a flat list of operations on numbered buffers, made once at load.
//!
//! Every buffer is `[tokens][width]` in f32. Norms are the prologue of the product that reads
//! them, biases, activations and residual sums its epilogue: each operation is one phase of the
//! CPU, and will be one dispatch of a GPU.

mod access;
mod check;
mod recurrent;
mod reuse;

pub use access::{Access, AccessKind, Columns, WeightUse};
pub use check::{Fault, ProgramError};

use crate::tensor::Weight;
pub use recurrent::{Conv, Scan, ScanKind, StateId};
use std::ops::Deref;
use std::sync::Arc;
use teff_kernels::{Activation, RopePairing};

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

/// The keys and values that a layer keeps for each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvShape {
    /// Heads that keys and values have.
    pub n_kv_heads: usize,
    /// Elements of a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// A token sees itself and the `window - 1` tokens before it, and as many behind it if the
    /// program is bidirectional; `None`: all.
    pub window: Option<usize>,
}

/// Frequencies of rotary position embedding (RoFormer, arXiv:2104.09864): dimension pair `i` turns
/// by `position * inv_freq[i]`, and the result is multiplied by `magnitude`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Radians per position, one for each rotated pair.
    pub inv_freq: Vec<f64>,
    /// Factor of both cosine and sine (YaRN's attention factor, arXiv:2309.00071).
    pub magnitude: f32,
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
}

/// Formula of a [`Norm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps)` (arXiv:1910.07467).
    Rms,
    /// `(x - mean(x)) / sqrt(var(x) + eps)` (arXiv:1607.06450).
    Layer,
}

/// One operation.
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

/// `out = epilogue(scale * W norm(input) + bias + addend)` for each of `parts`, whose outputs are
/// laid out one behind the other.
#[derive(Debug)]
pub struct Linear {
    /// Source.
    pub input: Buf,
    /// Applied to the input.
    pub norm: Option<Norm>,
    /// The matrices.
    pub parts: Vec<Part>,
    /// Added to the products of all parts, as wide as they are together.
    pub addend: Option<Buf>,
    /// Applied to the products.
    pub epilogue: Epilogue,
    /// Destination.
    pub out: Output,
    /// Tokens that are computed.
    pub rows: Tokens,
}

impl Linear {
    /// Rows of all matrices.
    pub fn n_products(&self) -> usize {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.weight.rows))
    }

    /// Columns of the result.
    pub fn n_rows(&self) -> usize {
        match self.epilogue {
            Epilogue::Glu(..) => self.n_products() / 2,
            Epilogue::None | Epilogue::Act(_) => self.n_products(),
        }
    }
}

/// One matrix of a [`Linear`].
#[derive(Clone, Debug)]
pub struct Part {
    /// Matrix `[rows][width of the input]`.
    pub weight: BoundWeight,
    /// Factor of the product.
    pub scale: f32,
    /// Added after the factor.
    pub bias: Option<Vec<f32>>,
}

/// Function of the products that is applied before they are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// `f(y)`.
    Act(Activation),
    /// The parts are a gate and an up projection of equal shape, or one part has the rows of both:
    /// `f(gate) * up`, both bounded before if there are bounds.
    Glu(Activation, Option<GluClamp>),
}

/// Destination of a [`Linear`]'s result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Output {
    /// Overwrites a buffer.
    Store(Buf),
    /// `buffer += scale * result`: the residual stream.
    Add(Buf, f32),
    /// The rows of logits, in the order of the tokens that want them: `softcap * tanh(scale * y /
    /// softcap)`.
    Logits {
        /// Factor.
        scale: f32,
        /// Bound, if any.
        softcap: Option<f32>,
    },
}

/// `out[h] = scale * W[h] input[h]` for each head.
#[derive(Debug)]
pub struct HeadLinear {
    /// Source, `[heads][input_stride]`; the leading elements of each head are read.
    pub input: Buf,
    /// Elements from one head of the input to the next.
    pub input_stride: usize,
    /// `[heads][rows][cols]`.
    pub weight: BoundWeight,
    /// Factor of the product.
    pub scale: f32,
    /// Destination, `[heads][out_stride]`; the leading elements of each head are written.
    pub out: Buf,
    /// Elements from one head of the output to the next.
    pub out_stride: usize,
    /// Tokens that are computed.
    pub rows: Tokens,
}

/// Copies pieces of rows of buffers to other places in rows of another.
#[derive(Debug)]
pub struct CopyPieces {
    /// The pieces, which do not overlap in the destination.
    pub pieces: Vec<Piece>,
    /// Destination; what no piece covers stays.
    pub out: Buf,
    /// Tokens that are computed.
    pub rows: Tokens,
}

/// `n` pieces of `len` elements: of the source at `from`, `from + from_stride`, ... in the
/// destination at `to`, `to + to_stride`, ...
#[derive(Debug)]
pub struct Piece {
    /// Source.
    pub input: Buf,
    /// First element.
    pub from: usize,
    /// Elements from one to the next; 0: it is one that is copied several times.
    pub from_stride: usize,
    /// First element in the destination.
    pub to: usize,
    /// Elements from one to the next.
    pub to_stride: usize,
    /// Elements of each.
    pub len: usize,
    /// Number.
    pub n: usize,
    /// Applied to each.
    pub norm: Option<Norm>,
    /// Applied last.
    pub act: Option<Activation>,
}

impl Piece {
    /// `n` pieces of `len`, `from_stride` apart from `from` on, put one behind the other.
    pub fn heads(input: Buf, from: usize, from_stride: usize, len: usize, n: usize) -> Piece {
        let (to_stride, norm, act) = (len, None, None);
        Piece { input, from, from_stride, to: 0, to_stride, len, n, norm, act }
    }
}

/// Per-head norms and rotation of queries and keys in a buffer `[q | k | v]`; keys and values go
/// to the cache of `layer`.
#[derive(Debug)]
pub struct RopeKv {
    /// Buffer of width `(n_heads + n_kv_heads) * k_dim + n_kv_heads * v_dim`, or of queries.
    pub qkv: Buf,
    /// Query heads.
    pub n_heads: usize,
    /// Index into [`Program::kv`].
    pub layer: usize,
    /// Queries, keys and values are clamped to `-clamp..=clamp` before anything else.
    pub clamp: Option<f32>,
    /// Norm of the queries.
    pub q_norm: Option<HeadNorm>,
    /// Norm of the keys.
    pub k_norm: Option<HeadNorm>,
    /// True if the norms come after the rotation.
    pub norm_after_rope: bool,
    /// Norm of the values.
    pub v_norm: Option<HeadNorm>,
    /// True if the layer stores keys and values; otherwise the buffer has queries alone, which are
    /// for the keys of an earlier layer.
    pub stores: bool,
    /// Rotation, if the layer has one.
    pub rope: Option<(RopeId, RopePairing)>,
    /// First dimension of a head that is rotated.
    pub rope_from: usize,
    /// Factor of the queries by position.
    pub temperature: Option<Temperature>,
}

/// Streams that a token may have; Gemma 3n has four.
pub const STREAMS_MAX: usize = 8;

/// Parallel residual streams of a token (AltUp, arXiv:2301.13310), the first of which the layers
/// work on. Coefficients are `coefficients * tanh(router * norm(x))`.
#[derive(Clone, Debug)]
pub struct MixStreams {
    /// `[n_streams][width]`.
    pub streams: Buf,
    /// The first stream as the layer changed it: all streams move by their coefficient plus 1 times
    /// the difference, and `x` is this. `None`: the streams are predicted, each being added the
    /// sum of all by coefficients `[to][from]`, and `x` is the first stream.
    pub made: Option<Buf>,
    /// The norm of `x`.
    pub norm: Norm,
    /// `[n_streams][width]`.
    pub router: Vec<f32>,
    /// `[n_streams]` or `[n_streams * n_streams]` rows of `n_streams`.
    pub coefficients: Vec<f32>,
    /// Number of streams, at most [`STREAMS_MAX`].
    pub n: usize,
    /// Tokens that are computed.
    pub rows: Tokens,
}

/// Queries grow with the position, so that attention stays sharp in long contexts (Llama 4):
/// `1 + scale * ln(1 + floor(position / period))` times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// Weight of the logarithm.
    pub scale: f32,
    /// Tokens between steps.
    pub period: u32,
}

impl Temperature {
    /// The factor at a position.
    pub fn at(&self, position: u32) -> f32 {
        1.0 + self.scale * ((1 + position / self.period) as f32).ln()
    }
}

/// A norm of each `dim` elements of a row. Its weights and biases are `dim` long and the same for
/// all, or as long as the row.
#[derive(Clone, Debug)]
pub struct HeadNorm {
    /// The formula and its parameters.
    pub norm: Norm,
    /// Elements that are normalized together.
    pub dim: usize,
}

/// `out[h] = softmax(scale * q[h] k^T) v`, within the layer's window, causal unless the program is
/// bidirectional.
#[derive(Debug)]
pub struct Attention {
    /// The buffer of [`RopeKv::qkv`].
    pub qkv: Buf,
    /// Query heads.
    pub n_heads: usize,
    /// Index into [`Program::kv`].
    pub layer: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Slope of each query head: `slope * |key's position - query's|` is taken from a score (ALiBi,
    /// arXiv:2108.12409).
    pub slopes: Option<Vec<f32>>,
    /// Score of each query head that takes part in the softmax without a value
    /// (arXiv:2309.17453).
    pub sinks: Option<Vec<f32>>,
    /// Buffer of width `n_heads * v_dim`.
    pub out: Buf,
    /// Tokens that are computed.
    pub rows: Tokens,
}

/// `out += scale * sum over the chosen experts e of w_e * down_e(f(gate_e(x)) * up_e(x))` with
/// `x = norm(input)`.
#[derive(Debug)]
pub struct Moe {
    /// Source.
    pub input: Buf,
    /// Applied to the input.
    pub norm: Option<Norm>,
    /// Source of the experts' scores.
    pub router: Router,
    /// Number of experts.
    pub n_experts: usize,
    /// Experts per token.
    pub n_used: usize,
    /// Formula from scores to probabilities.
    pub gating: Gating,
    /// Added to the probabilities when experts are chosen, not to their weights.
    pub choice_bias: Option<Vec<f32>>,
    /// Experts come in groups, of which the best few take part.
    pub groups: Option<ExpertGroups>,
    /// True if the weights of the chosen experts are divided by their sum.
    pub normalize_weights: bool,
    /// True if an expert's input is multiplied by its weight, instead of its output.
    pub weigh_input: bool,
    /// Factor of the weights.
    pub weight_scale: f32,
    /// Stack of gate projections. `None`: they are the lower half of `up`'s rows, if it has twice
    /// as many as `down` has columns; otherwise there is no gate: `down_e(f(up_e(x)))`.
    pub gate: Option<ExpertPart>,
    /// Stack of up projections.
    pub up: ExpertPart,
    /// Stack of down projections.
    pub down: ExpertPart,
    /// Activation of the gate.
    pub act: Activation,
    /// Bounds of gate and up projection.
    pub clamp: Option<GluClamp>,
    /// Destination.
    pub out: Buf,
    /// True if the sum is added to the destination, false if it overwrites it.
    pub adds: bool,
    /// Factor of the sum's second term.
    pub scale: f32,
    /// Tokens that are computed.
    pub rows: Tokens,
}

/// Source of the scores of experts.
#[derive(Debug)]
pub enum Router {
    /// Products of `[n_experts][width of the input]` with the normalized input.
    Input(Part),
    /// A buffer.
    Scores(Buf),
}

/// Formula from a router's scores to the weights of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts.
    Softmax,
    /// Softmax over the chosen ones.
    SoftmaxOfChosen,
    /// Sigmoid of each.
    Sigmoid,
}

/// Groups of experts: those with the largest sums of their two best probabilities take part
/// (DeepSeek-V3, arXiv:2412.19437).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Groups of equal size.
    pub n_groups: usize,
    /// Number of groups that take part.
    pub n_used: usize,
}

/// `f(min(gate, gate_max)) * (clamp(up, -up_max, up_max) + up_plus)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GluClamp {
    /// Bound of the gate, before its activation.
    pub gate_max: f32,
    /// Bound of the up projection, to both sides.
    pub up_max: f32,
    /// Added to the up projection.
    pub up_plus: f32,
}

impl GluClamp {
    /// Bounds `gate` and `up`.
    pub fn apply(self, gate: &mut [f32], up: &mut [f32]) {
        let GluClamp { gate_max, up_max, up_plus } = self;
        gate.iter_mut().for_each(|x| *x = x.min(gate_max));
        up.iter_mut().for_each(|x| *x = x.clamp(-up_max, up_max) + up_plus);
    }
}

/// A stack of matrices, one per expert, each with a factor and biases.
#[derive(Clone, Debug)]
pub struct ExpertPart {
    /// `[n_experts][rows][cols]`.
    pub weight: BoundWeight,
    /// `[n_experts][rows]`, added after the factor.
    pub biases: Option<Vec<f32>>,
    /// One factor per expert, if any.
    pub scales: Option<Vec<f32>>,
    /// Products of low rank that are added, after the factor.
    pub low_rank: Vec<ExpertLowRank>,
}

/// `B A` of each expert.
#[derive(Clone, Debug)]
pub struct ExpertLowRank {
    /// Rows of `A`.
    pub rank: usize,
    /// `[n_experts][rank][cols]`.
    pub a: Vec<f32>,
    /// `[n_experts][rows][rank]`.
    pub b: Vec<f32>,
}

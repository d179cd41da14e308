//! Attention over the cache, and the norms and rotation that come before it.

use super::{Buf, Norm, RopeId, Tokens};
use teff_kernels::RopePairing;

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

/// Per-head norms and rotation of queries and keys in a buffer `[q | k | v]`; keys and values go
/// to the cache of `layer`.
#[derive(Debug)]
pub struct RopeKv {
    /// Buffer of width `(n_heads + n_kv_heads) * k_dim + n_kv_heads * v_dim`, or of queries.
    pub qkv: Buf,
    /// Query heads.
    pub n_heads: usize,
    /// Index into [`Program::kv`](super::Program::kv).
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
    /// Index into [`Program::kv`](super::Program::kv).
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

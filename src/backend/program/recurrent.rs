//! Operations with a state that lives from token to token.
//!
//! A state belongs to one sequence and one layer. Unlike keys and values it cannot be cut: going
//! back to an earlier position needs a copy from then, see [`crate::kv`].

use super::{Buf, Norm};
use teff_kernels::Activation;

/// Number of a state in [`super::Program::states`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateId(pub usize);

/// A causal convolution of each channel with itself:
/// `out[c] = act(bias[c] + sum over j of weight[j][c] * x[c] at the token (taps - 1 - j) before)`,
/// where `x` may be the product of two columns and `out` be multiplied with a third.
#[derive(Debug)]
pub struct Conv {
    /// Source.
    pub input: Buf,
    /// First column of `x`.
    pub from: usize,
    /// First columns of the factors of `x` and of `out`.
    pub factors: Option<(usize, usize)>,
    /// `[taps][channels]`.
    pub weight: Vec<f32>,
    /// Tokens that take part in an output.
    pub taps: usize,
    /// Bias of each channel.
    pub bias: Option<Vec<f32>>,
    /// Applied last, but for the factor.
    pub act: Option<Activation>,
    /// `[channels][taps - 1]`, the oldest first.
    pub state: StateId,
    /// Destination, `[channels]`.
    pub out: Buf,
}

impl Conv {
    /// Number of channels.
    pub fn n_channels(&self) -> usize {
        self.weight.len() / self.taps.max(1)
    }
}

/// A recurrence with a matrix as the state of each head.
#[derive(Debug)]
pub struct Scan {
    /// The recurrence.
    pub kind: ScanKind,
    /// Heads.
    pub n_heads: usize,
    /// Elements of a head's output.
    pub head_dim: usize,
    /// Elements of a head's keys.
    pub state_dim: usize,
    /// `head_dim * state_dim` elements for each head, in the backend's order.
    pub state: StateId,
    /// Buffer and first column of `[n_heads][head_dim]` that gate the output.
    pub gate: Option<(Buf, usize)>,
    /// Applied to the gate.
    pub gate_act: Activation,
    /// Applied to the output of a head before the gate.
    pub norm: Option<Norm>,
    /// Destination, `[n_heads][head_dim]`.
    pub out: Buf,
}

/// A recurrence: `x`, `b`, `c`, `dt` and the like are columns of buffers.
#[derive(Debug)]
pub enum ScanKind {
    /// Selective state spaces (arXiv:2312.00752, arXiv:2405.21060), with `dt' = softplus(dt)`:
    /// `state[i][n] = state[i][n] * exp(dt' a[n]) + dt' x[i] b[n]`,
    /// `y[i] = sum over n of state[i][n] c[n] + d x[i]`.
    StateSpace {
        /// Buffer and first column of `x`, `[n_heads][head_dim]`.
        x: (Buf, usize),
        /// Buffer and first columns of `b` and `c`, `[n_groups][state_dim]` each.
        bc: (Buf, [usize; 2]),
        /// Groups of neighbouring heads that share `b` and `c`.
        n_groups: usize,
        /// Buffer and first column of `dt`, one for each head.
        dt: (Buf, usize),
        /// Added to `dt`.
        dt_bias: Vec<f32>,
        /// Negative; `[n_heads]`, or `[n_heads][state_dim]`.
        a: Vec<f32>,
        /// One for each head.
        d: Vec<f32>,
    },
    /// Linear attention with a decay of each head (arXiv:2401.04658):
    /// `state[i][n] = state[i][n] * decay + v[i] k[n]`, `y[i] = sum over n of state[i][n] q[n]`.
    Linear {
        /// Buffer and first columns of the first head's `q`, `k` and `v`, which are `state_dim`,
        /// `state_dim` and `head_dim` long.
        qkv: (Buf, [usize; 3]),
        /// Columns from one head to the next.
        head_stride: usize,
        /// One for each head.
        decay: Vec<f32>,
    },
    /// The gated delta rule (arXiv:2412.06464, arXiv:2510.26692), with `q` and `k` of length 1 and
    /// `decay[n] = exp(a softplus(alpha[n] + alpha_bias[n]))`, or with a bound
    /// `exp(bound sigmoid(a (alpha[n] + alpha_bias[n])))`:
    /// `state[i][n] *= decay[n]`,
    /// `state[i][n] += sigmoid(beta) * (v[i] - sum over m of state[i][m] k[m]) * k[n]`,
    /// `y[i] = sum over n of state[i][n] q[n] / sqrt(state_dim)`.
    Delta {
        /// Buffer and first columns of `q`, `k` and `v`, which are `[key heads][state_dim]` and
        /// `[n_heads][head_dim]`.
        qkv: (Buf, [usize; 3]),
        /// Key head of each head.
        key_head: Vec<usize>,
        /// Buffer of `alpha`, and its first column for each head.
        alpha: (Buf, Vec<usize>),
        /// Added to `alpha`: `[n_heads]` if it is one number for each head, or
        /// `[n_heads][state_dim]`.
        alpha_bias: Vec<f32>,
        /// One for each head, negative.
        a: Vec<f32>,
        /// Negative: a decay's logarithm is larger.
        bound: Option<f32>,
        /// Buffer of `beta`, and its column for each head.
        beta: (Buf, Vec<usize>),
        /// Added to the squared lengths of `q` and `k`.
        eps: f32,
    },
}

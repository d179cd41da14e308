//! Parallel residual streams of a token.

use super::{Buf, Norm, Tokens};

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

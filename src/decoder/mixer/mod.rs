//! Parts in which tokens see each other, one file for each, up to the matrix that leads back to the
//! residual stream.

mod attention;
mod delta;
mod lightning;
mod mla;
mod short_conv;
mod state_space;

use super::lower::{Lowering, Place};
use crate::backend::program::{Buf, Part};
use crate::model::{Mixer, ModelError};

/// Weights of a convolution, `[channels][taps]` in files, as `[taps][channels]`.
fn taps_first(weight: &[f32], taps: usize) -> Vec<f32> {
    (0..taps).flat_map(|tap| weight.iter().skip(tap).step_by(taps).copied()).collect()
}

impl Lowering<'_> {
    /// The operations of a layer's mixer. Gives buffers and the matrices that are applied to them;
    /// the products are added to the stream.
    pub(super) fn mixer(&mut self, at: Place<'_>) -> Result<Vec<(Buf, Part)>, ModelError> {
        match &at.layer.mixer {
            Mixer::None => Ok(Vec::new()),
            Mixer::Attention(attention) => Ok(vec![self.attention(at, attention)?]),
            Mixer::Mla(mla) => Ok(vec![self.mla(at, mla)?]),
            Mixer::ShortConv(conv) => Ok(vec![self.short_conv(at, conv)?]),
            Mixer::StateSpace(space) => Ok(vec![self.state_space(at, space)?]),
            Mixer::AttentionAndStateSpace(attention, space) => {
                Ok(vec![self.attention(at, attention)?, self.state_space(at, space)?])
            }
            Mixer::Delta(delta) => Ok(vec![self.delta(at, delta)?]),
            Mixer::LightningAttention(lightning) => Ok(vec![self.lightning(at, lightning)?]),
        }
    }
}

//! Ling (arXiv:2503.05139); leading dense layers in the metadata mean nothing.

use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let _ = h.u64("leading_dense_block_count")?;
    let spec = ModelSpec::unscaled(h)?.shared_expert(h)?.expert_gating(h, ExpertGating::Softmax)?;
    Ok(spec.each_attention(|_, attention| {
        if let Some(rope) = &attention.rope {
            attention.scale = 1.0 / (rope.n_rot as f32).sqrt();
        }
    }))
}

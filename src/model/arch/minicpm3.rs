//! MiniCPM 3: MiniCPM with latent attention and LongRoPE.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.mla(h)?.rope(RopePairing::Neox);
    spec.embed_scale = 12.0;
    let residual_scale = 1.4 / (h.n_layers as f32).sqrt();
    spec.layers.iter_mut().for_each(|layer| layer.residual_scale = residual_scale);
    spec.head.scale = 256.0 / h.n_embd as f32;
    Ok(spec)
}

//! Gemma 1 (arXiv:2403.08295): LLaMA with GeGLU and scaled embeddings.

use crate::model::{Activation, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).act(Activation::Gelu);
    spec.embed_scale = (h.n_embd as f32).sqrt();
    Ok(spec)
}

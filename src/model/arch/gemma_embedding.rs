//! EmbeddingGemma (arXiv:2509.20354): Gemma 3 as an encoder.

use crate::model::{Activation, Hparams, ModelError, ModelSpec, NormPlacement, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::encoder(h)?.rope(RopePairing::Neox).qk_norm().act(Activation::Gelu);
    let sliding = h.pattern("attention.sliding_window_pattern", 6)?;
    let mut spec = spec.windows_to_both_sides(h, &sliding)?.norms(NormPlacement::PRE_AND_POST);
    spec.embed_scale = (h.n_embd as f32).sqrt();
    spec.head.dense = &["dense_2", "dense_3"];
    Ok(spec)
}

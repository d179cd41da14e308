//! BLOOM (arXiv:2211.05100): ALiBi, a norm of the embeddings.

use crate::model::{EmbedNorm, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let _ = h.f32("attention.max_alibi_bias")?;
    let mut spec = ModelSpec::gpt_like(h)?.alibi(8.0);
    spec.embed_norm = EmbedNorm::Weighted;
    Ok(spec)
}

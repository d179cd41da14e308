//! Talkie: norms without weights, gains of the queries' heads, and in every layer a share of the
//! embeddings.

use crate::model::{
    EmbedNorm, Hparams, ModelError, ModelSpec, NormFormula, OutputScale, QkNorm, RopePairing,
    TensorUse,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norms(QkNorm::GainsAfterRope);
    let mut spec = spec.each_dense(|dense| dense.scales = TensorUse::OfOutput).logit_scale(h)?;
    (spec.norm, spec.embed_norm) = (NormFormula::BareRms, EmbedNorm::Bare);
    for layer in &mut spec.layers {
        layer.output_scale = OutputScale::Embeddings;
    }
    Ok(spec)
}

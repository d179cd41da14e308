//! DBRX: layer norms, clamped queries, keys and values.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.layer_norms();
    spec = spec.rope(RopePairing::Neox).clamped(h)?;
    spec.layers.iter_mut().for_each(|l| l.norms.before_ffn = Some("attn_output_norm"));
    Ok(spec)
}

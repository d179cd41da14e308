//! Seed-OSS.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox);
    spec.layers.iter_mut().for_each(|l| l.norms.before_ffn = Some("post_attention_norm"));
    Ok(spec)
}

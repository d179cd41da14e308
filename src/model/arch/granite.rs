//! Granite 3 and 4 without state (arXiv:2405.04324): LLaMA with factors everywhere, experts if the
//! metadata counts some.

use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.shared_expert(h)?.scaled(h)?.logit_scale(h)?;
    spec.head.scale = 1.0 / spec.head.scale;
    let rotates = h.bool("rope.scaling.finetuned")?.unwrap_or(true);
    Ok(spec.no_rope(|_, _| !rotates))
}

//! Granite with sliding windows and attention sinks.

use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.shared_expert(h)?.scaled(h)?.logit_scale(h)?;
    spec.head.scale = 1.0 / spec.head.scale;
    Ok(spec.sliding(h, 0, None)?.sinks())
}

//! DeepSeekMoE (arXiv:2401.06066).

use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.attention_scale(h)?.shared_expert(h)?;
    spec.each_moe(|_, moe| moe.normalize_weights = false).dense_lead(h)
}

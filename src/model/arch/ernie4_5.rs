//! ERNIE 4.5, dense and with experts.

use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    for key in ["expert_count", "expert_used_count"] {
        h.hide(key);
    }
    Ok(ModelSpec::unscaled(h)?.ignore_output_bias())
}

/// With experts, in every layer behind the leading ones.
pub fn moe(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    let step = h.u64("interleave_moe_layer_step")?;
    if step != Some(1) {
        return Err(h.bad("interleave_moe_layer_step", "is not 1, not supported"));
    }
    let spec = ModelSpec::unscaled(h)?.ignore_output_bias().shared_expert(h)?;
    spec.each_moe(|_, moe| moe.gating = ExpertGating::Softmax).dense_lead(h)
}

//! ERNIE 4.5, dense.

use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    for key in ["expert_count", "expert_used_count"] {
        h.hide(key);
    }
    Ok(ModelSpec::unscaled(h)?.ignore_output_bias())
}

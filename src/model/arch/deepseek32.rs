//! DeepSeek V3.2 (arXiv:2512.02556) within contexts that its indexer would choose all of: there
//! sparse attention is attention.

use super::deepseek2::deepseek;
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    // Of the indexer's norm.
    h.hide("attention.layer_norm_epsilon");
    h.rope_sections();
    let mut spec = deepseek(h, ExpertGating::Softmax, |_| 1.0)?.apply_ffn_scales();
    spec.dense_within(h)?;
    Ok(spec)
}

//! GPT-2, and StarCoder 1 (arXiv:2305.06161): learned positions.

use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::gpt_like(h)?.positions(true))
}

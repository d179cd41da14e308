//! Phi 3.5 MoE (arXiv:2404.14219): norms with biases, LongRoPE as in Phi 3.

use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    super::phi3::long_rope(ModelSpec::unscaled(h)?, h)
}

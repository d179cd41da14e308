//! InternLM 2 (arXiv:2403.17297).

use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    ModelSpec::unscaled(h)
}

//! openPangu Embedded (arXiv:2505.22375).

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::unscaled(h)?.rope(RopePairing::Neox))
}

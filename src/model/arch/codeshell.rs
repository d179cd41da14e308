//! CodeShell (arXiv:2403.15747).

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::gpt_like(h)?.rope(RopePairing::Neox))
}

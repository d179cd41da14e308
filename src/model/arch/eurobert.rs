//! EuroBERT (arXiv:2503.05500): an encoder of Llama's shape.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::encoder(h)?.rope(RopePairing::Neox))
}

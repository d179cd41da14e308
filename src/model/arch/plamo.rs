//! PLaMo 1: the feed-forward part beside the attention, on one norm.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::unscaled(h)?.rope(RopePairing::Neox).parallel("attn_norm"))
}

//! Phi 1, 1.5 and 2 (arXiv:2309.05463): the feed-forward part beside the attention, on one norm.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::gpt_like(h)?.rope(RopePairing::Neox).parallel("attn_norm"))
}

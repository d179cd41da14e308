//! GPT-NeoX (arXiv:2204.06745) and Pythia.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::gpt_like(h)?.rope(RopePairing::Neox);
    Ok(match h.bool("use_parallel_residual")?.unwrap_or(true) {
        true => spec.parallel("ffn_norm"),
        false => spec,
    })
}

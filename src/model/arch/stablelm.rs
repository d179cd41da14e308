//! StableLM 2 and 3B (arXiv:2402.17834): layer norms, also of each query and key head.

use crate::model::{Hparams, ModelError, ModelSpec, QkNorm, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norms(QkNorm::OwnHeads);
    Ok(match h.bool("use_parallel_residual")? {
        Some(true) if !h.has_tensor("blk.0.ffn_norm.weight") => spec.parallel("attn_norm"),
        _ => spec,
    })
}

//! The first Qwen (arXiv:2309.16609): biases on queries, keys and values; the metadata counts the
//! widths of gate and up projection together.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox);
    // As many rows as if there were no groups of queries.
    let spec = spec.each_attention(|_, attention| attention.qkv_rows = Some(3 * h.n_embd));
    Ok(spec.each_dense(|dense| dense.n_ff /= 2))
}

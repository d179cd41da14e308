//! OpenELM (arXiv:2404.14619): heads and widths of each layer.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing, TensorUse};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm();
    Ok(spec.each_attention(|_, attention| attention.qkv_scales = TensorUse::Ignore))
}

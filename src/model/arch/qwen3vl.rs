//! Qwen 3 VL, text (arXiv:2511.21631), dense and with experts.

use crate::model::{Activation, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    let _ = h.u64("n_deepstack_layers")?;
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm();
    spec.classifier(h, Activation::Tanh, true)
}

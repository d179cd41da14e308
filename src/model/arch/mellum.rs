//! Mellum 2 (JetBrains): sliding windows without stretched rotation.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    // All layers turn by the same base.
    h.hide("rope.freq_base_swa");
    let spec = ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norm();
    spec.sliding(h, 4, None)?.plain_window_ropes(h)
}

//! OLMo 2 and 3 (arXiv:2501.00656): norms after each part, and of all queries and keys.

use crate::model::{Hparams, ModelError, ModelSpec, NormPlacement, QkNorm, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    // All layers turn by the same base.
    h.hide("rope.freq_base_swa");
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norms(QkNorm::Whole);
    spec.norms(NormPlacement::POST).sliding(h, 4, None)?.plain_window_ropes(h)
}

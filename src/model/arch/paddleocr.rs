//! PaddleOCR-VL, text; counts of experts in the metadata mean nothing.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    ModelSpec::unscaled(h)?.rope(RopePairing::Neox).dense_where(h, |_| true)
}

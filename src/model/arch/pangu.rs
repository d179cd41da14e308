//! openPangu Embedded (arXiv:2505.22375).

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox);
    Ok(spec.each_rope(|_, rope| rope.freq_factors = false))
}

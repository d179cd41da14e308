//! OLMo 2 and 3 (arXiv:2501.00656): norms after each part, and of all queries and keys.

use crate::model::{
    Hparams, ModelError, ModelSpec, NormPlacement, QkNorm, RopePairing, RopeScaling,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norms(QkNorm::Whole);
    let spec = spec.norms(NormPlacement::POST).sliding(h, 4, None)?;
    Ok(spec.each_attention(|_, attention| {
        if let (Some(rope), Some(_)) = (&mut attention.rope, attention.window) {
            rope.scaling = RopeScaling::None;
        }
    }))
}

//! Maple: sliding windows with rotation, full attention without, bounded experts.

use crate::model::{GluClamp, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm().sliding(h, 1, None)?;
    let limits = h.f32s("swiglu_clamp_exp")?;
    let limits = limits.ok_or_else(|| h.bad("swiglu_clamp_exp", "is missing"))?;
    Ok(spec.no_rope(|_, attention| attention.window.is_none()).each_moe(|i, moe| {
        moe.clamp = (limits[i] > 0.0).then_some(GluClamp::both(limits[i], 0.0));
    }))
}

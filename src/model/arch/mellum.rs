//! Mellum 2 (JetBrains): sliding windows without stretched rotation.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing, RopeScaling};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norm().sliding(h, 4, None)?;
    Ok(spec.each_attention(|_, attention| {
        if let (Some(rope), Some(_)) = (&mut attention.rope, attention.window) {
            rope.scaling = RopeScaling::None;
        }
    }))
}

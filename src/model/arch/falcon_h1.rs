//! Falcon-H1 (arXiv:2507.22448): attention and Mamba 2 side by side.

use crate::model::{Hparams, Mixer, ModelError, ModelSpec, RopePairing, StateSpaceSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    let space = StateSpaceSpec::two(h)?;
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).ignore_output_bias();
    let mut spec = spec.each_rope(|_, rope| rope.freq_factors = false).attention_scale(h)?;
    for layer in &mut spec.layers {
        if let Mixer::Attention(attention) = &layer.mixer {
            layer.mixer = Mixer::AttentionAndStateSpace(attention.clone(), space.clone());
        }
    }
    Ok(spec)
}

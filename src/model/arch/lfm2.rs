//! LFM2 (arXiv:2511.23404): short convolutions with a few layers of attention.

use crate::model::{
    ExpertGating, Hparams, Mixer, ModelError, ModelSpec, RopePairing, ShortConvSpec,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.sliding_window_pattern");
    h.hide("leading_dense_block_count");
    let window = h.u64("attention.sliding_window")?.filter(|&n| n > 0).map(|n| n as usize);
    Ok(convolutions(h)?.each_attention(|_, attention| attention.window = window))
}

/// With experts.
pub fn moe(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = convolutions(h)?.expert_gating(h, ExpertGating::Sigmoid)?;
    spec.each_moe(|_, moe| moe.normalize_weights = true).dense_lead(h)
}

fn convolutions(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    let taps = h.length("shortconv.l_cache")?;
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm();
    let mut spec = spec.recurrent(&Mixer::ShortConv(ShortConvSpec { taps }));
    spec.head.norm = Some("token_embd_norm");
    Ok(spec)
}

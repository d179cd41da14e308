//! Gemma 3, text (arXiv:2503.19786): norms around everything, GeGLU, five layers with a sliding
//! window to one without.

use crate::model::{
    Activation, Hparams, ModelError, ModelSpec, NormPlacement, RopePairing, RopeScaling,
};

/// Layers of the 27B model, whose scores are scaled by the width per head, not by the head's.
const LAYERS_27B: usize = 62;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norm().ignore_ffn_scales();
    spec.embed_scale = (h.n_embd as f32).sqrt();
    spec.head.softcap = h.f32("final_logit_softcapping")?.filter(|&cap| cap != 0.0);
    let window = h.u64("attention.sliding_window")?.filter(|&n| n > 0).map(|n| n as usize);
    let sliding = h.pattern("attention.sliding_window_pattern", 6)?;
    let swa_base = h.f32("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let scale = h.f32("attention.scale")?;
    let layers = h.n_layers;
    let dims = [
        h.optional_length("attention.key_length_swa")?,
        h.optional_length("attention.value_length_swa")?,
        h.optional_length("rope.dimension_count_swa")?,
    ];
    let mut uneven = false;
    spec = spec.each_attention(|i, attention| {
        let Some(rope) = &mut attention.rope else { return };
        if layers == LAYERS_27B {
            attention.scale = 1.0 / ((h.n_embd / attention.n_heads) as f32).sqrt();
        }
        attention.scale = scale.unwrap_or(attention.scale);
        rope.freq_factors = false;
        let own = [attention.k_dim, attention.v_dim, rope.n_rot];
        uneven |= dims.iter().zip(own).any(|(dim, own)| dim.is_some_and(|dim| dim != own));
        if window.is_some() && sliding[i] {
            attention.window = window;
            rope.freq_base = swa_base;
            rope.scaling = RopeScaling::None;
        }
    });
    if uneven {
        return Err(h.bad("attention.key_length_swa", "differs from the other layers' heads"));
    }
    spec = spec.each_dense(|dense| dense.act = Activation::Gelu);
    Ok(spec.norms(NormPlacement::PRE_AND_POST))
}

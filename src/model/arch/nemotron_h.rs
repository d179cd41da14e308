//! Nemotron-H and Nemotron Nano 2 (arXiv:2504.03624): each layer is a state space, attention
//! without rotation, or a feed-forward part. Experts are not known yet.

use crate::model::{
    Activation, DenseGate, Ffn, Hparams, Mixer, ModelError, ModelSpec, StateSpaceSpec,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    // Both are written; the norms are RMS norms.
    if h.f32("attention.layer_norm_rms_epsilon")?.is_none() {
        return Err(h.bad("attention.layer_norm_rms_epsilon", "is missing"));
    }
    h.hide("attention.layer_norm_epsilon");
    if h.u64("expert_count")?.unwrap_or(0) > 0 {
        return Err(h.bad("expert_count", "is not 0, not supported yet"));
    }
    let spec = ModelSpec::llama_like(h)?.dense(Activation::ReluSqr, DenseGate::None);
    let mut spec = spec.no_rope(|_, _| true);
    for layer in &mut spec.layers {
        layer.norms.before_ffn = Some("attn_norm");
        if layer.ffn != Ffn::None {
            layer.mixer = Mixer::None;
        } else if layer.mixer == Mixer::None {
            layer.mixer = Mixer::StateSpace(StateSpaceSpec::two(h)?);
        }
    }
    spec.attention_scale(h)
}

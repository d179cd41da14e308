//! Nemotron-H, Nemotron Nano 2 and 3 (arXiv:2504.03624, arXiv:2512.20848): each layer is a state
//! space, attention without rotation, or a feed-forward part, dense or of experts.

use crate::model::{
    Activation, DenseGate, ExpertGating, Ffn, Hparams, Mixer, ModelError, ModelSpec, StateSpaceSpec,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    if h.f32("attention.layer_norm_rms_epsilon")?.is_some() {
        // Of the layers that draft further tokens.
        h.hide("attention.layer_norm_epsilon");
    }
    // The tensors say it too.
    let _ = h.u64("moe_latent_size")?;
    let n_ff = h.counts("feed_forward_length")?.unwrap_or_default();
    let spec = ModelSpec::llama_like(h)?.no_rope(|_, _| true);
    let spec = spec.act(Activation::ReluSqr).each_moe(|i, moe| {
        moe.gated = false;
        let rows = h.tensor_rows(&format!("blk.{i}.ffn_latent_down.weight"));
        moe.latent = rows.and_then(|rows| usize::try_from(rows).ok());
    });
    let spec = spec.shared_expert(h)?.expert_gating(h, ExpertGating::Sigmoid)?;
    let is_dense = |i: usize| !h.has_tensor(&format!("blk.{i}.ffn_gate_inp.weight"));
    let mut spec = spec.dense_where(h, is_dense)?.dense(Activation::ReluSqr, DenseGate::None);
    for (layer, n_ff) in spec.layers.iter_mut().zip(n_ff) {
        layer.norms.before_ffn = Some("attn_norm");
        if n_ff > 0 {
            layer.mixer = Mixer::None;
            continue;
        }
        layer.ffn = Ffn::None;
        if layer.mixer == Mixer::None {
            layer.mixer = Mixer::StateSpace(StateSpaceSpec::two(h)?);
        }
    }
    spec.attention_scale(h)
}

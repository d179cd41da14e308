//! Qwen 3 Next and Qwen 3.5: Gated DeltaNet, every fourth layer gated attention.

use crate::model::{
    AttentionGate, DeltaSpec, Hparams, KeyHeads, Mixer, ModelError, ModelSpec, RopePairing,
    SharedExpert, TensorUse,
};

/// Qwen 3 Next.
pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut delta = DeltaSpec::heads(h, KeyHeads::Grouped)?;
    delta.scales = TensorUse::Ignore;
    let mut spec = deltas(h, delta)?;
    // The same weights as `attn_qkv` and `attn_gate` in an older order.
    spec.unused = &["ssm_in."];
    Ok(spec)
}

/// Qwen 3.5, dense or with experts.
pub fn spec35(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    deltas(h, DeltaSpec::heads(h, KeyHeads::Tiled)?)
}

fn deltas(h: &Hparams<'_>, delta: DeltaSpec) -> Result<ModelSpec, ModelError> {
    let interval = h.u64("full_attention_interval")?.unwrap_or(4);
    let recurrent = h.pattern("attention.recurrent_layers", interval)?;
    let width = h.optional_length("expert_shared_feed_forward_length")?;
    let spec = ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norm().attention_scale(h)?;
    let mut spec = spec.each_attention(|_, attention| attention.gate = AttentionGate::InQuery);
    for (layer, recurrent) in spec.layers.iter_mut().zip(recurrent) {
        layer.norms.before_ffn = Some("post_attention_norm");
        if recurrent {
            layer.mixer = Mixer::Delta(delta.clone());
        }
    }
    Ok(spec.each_moe(|i, moe| {
        let n_ff = h.shared_width(i).or(width).unwrap_or(moe.n_ff);
        moe.shared = Some(SharedExpert { n_ff, suffix: "_shexp", gated: true, clamp: None });
    }))
}

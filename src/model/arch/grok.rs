//! Grok 1 and 2: experts beside a dense part, norms around everything.

use crate::model::{
    Activation, Hparams, ModelError, ModelSpec, NormPlacement, RopePairing, RopeScaling,
    SharedExpert,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    // The reference implementation has no bound of the router's scores.
    h.hide("router_logit_softcapping");
    let default = |name: &str, value: f32| h.f32(name).map(|x| x.unwrap_or(value));
    let scale = default("attention.output_scale", 0.088_388_35)?;
    let softcap = default("attn_logit_softcapping", 30.0)?;
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).act(Activation::Gelu);
    let beta_fast = default("rope.scaling.yarn_beta_fast", 8.0)?;
    let spec = spec.each_rope(|_, rope| {
        rope.freq_factors = false;
        if let RopeScaling::Yarn { beta_fast: turns, .. } = &mut rope.scaling {
            *turns = beta_fast;
        }
    });
    let mut spec = spec.each_attention(|_, attention| {
        (attention.scale, attention.softcap) = (scale, Some(softcap));
    });
    spec.embed_scale = default("embedding_scale", 78.383_675)?;
    spec.head.scale = default("logit_scale", 0.577_350_26)?;
    spec.head.softcap = h.f32("final_logit_softcapping")?.filter(|&cap| cap != 0.0);
    let n_ff = h.counts("feed_forward_length")?.unwrap_or_default();
    let has_dense = h.has_tensor("blk.0.ffn_up.weight");
    let post = h.has_tensor("blk.0.layer_output_norm.weight");
    let spec = spec.norms(NormPlacement {
        after_mixer: Some("attn_output_norm"),
        after_ffn: Some(if post { "layer_output_norm" } else { "post_ffw_norm" }),
        ..NormPlacement::PRE
    });
    Ok(spec.each_moe(|i, moe| {
        if has_dense {
            moe.shared =
                Some(SharedExpert { n_ff: n_ff[i], suffix: "", gated: false, clamp: None });
            moe.out_scale = std::f32::consts::FRAC_1_SQRT_2;
        }
    }))
}

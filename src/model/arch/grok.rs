//! Grok 1 and 2: experts beside a dense part, norms around everything. Contexts are bounded to those
//! within which scores need no temperature.

use crate::model::checkpoint::{
    Checkpoint, DECODER, Join, Key, Names, ROTARY_ALL, VOCAB, When, same,
};
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
    spec.n_ctx_max = h.optional_length("attention.temperature_length")?;
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

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["GrokForCausalLM", "Grok1ForCausalLM"],
    arch: "grok",
    when: When::Always,
    tensors: &[NAMES, DECODER],
    keys: &[
        VOCAB,
        ROTARY_ALL,
        &[
            Key::FloatElse(
                "attn_logit_softcapping",
                &["attn_logit_softcapping", "max_attn_value"],
                30.0,
            ),
            Key::FloatElse("router_logit_softcapping", &["router_logit_softcapping"], 30.0),
            Key::Float("final_logit_softcapping", &["final_logit_softcapping"]),
            Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
            Key::Int("attention.temperature_length", &["attn_temperature_len"]),
            Key::ScaleOfHeads("attention.output_scale", &["attn_output_multiplier"]),
            Key::Needs("embedding_multiplier_scale"),
            Key::Float("embedding_scale", &["embedding_multiplier_scale"]),
            Key::Needs("output_multiplier_scale"),
            Key::Float("logit_scale", &["output_multiplier_scale"]),
            // The published configuration said `original` by mistake.
            Key::YarnBeside("rope_type", &["yarn", "original"]),
            Key::MustEqual("attn_factor", 1.0),
            Key::MustBe("rope_rotate_half_dims", false),
        ],
    ],
}];

/// Names of Grok 1, then those that Grok 2 has in their place. Matrices of its experts come in parts.
const NAMES: &[Names] = &[
    same("in_out_embed", "token_embd"),
    same("rms_norm", "output_norm"),
    same("decoder_layer.#.rms_norm", "blk.#.attn_norm"),
    same("decoder_layer.#.multi_head_attention.query", "blk.#.attn_q"),
    same("decoder_layer.#.multi_head_attention.key", "blk.#.attn_k"),
    same("decoder_layer.#.multi_head_attention.value", "blk.#.attn_v"),
    same("decoder_layer.#.multi_head_attention.linear", "blk.#.attn_output"),
    same("decoder_layer.#.rms_norm_1", "blk.#.attn_output_norm"),
    same("decoder_layer.#.rms_norm_2", "blk.#.ffn_norm"),
    same("decoder_layer.#.router", "blk.#.ffn_gate_inp"),
    same("decoder_layer.#.moe.@.linear", "blk.#.ffn_gate_exps"),
    same("decoder_layer.#.moe.@.linear_1", "blk.#.ffn_down_exps"),
    same("decoder_layer.#.moe.@.linear_v", "blk.#.ffn_up_exps"),
    same("decoder_layer.#.rms_norm_3", "blk.#.layer_output_norm"),
    same("layers.#.pre_attn_norm", "blk.#.attn_norm"),
    same("layers.#.post_attn_norm", "blk.#.attn_output_norm"),
    same("layers.#.pre_moe_norm", "blk.#.ffn_norm"),
    same("layers.#.post_moe_norm", "blk.#.post_ffw_norm"),
    same("layers.#.block_sparse_moe.gate", "blk.#.ffn_gate_inp"),
    same("layers.#.block_sparse_moe.experts.@.w1", "blk.#.ffn_gate_exps").joined(Join::Rows),
    same("layers.#.block_sparse_moe.experts.@.w2", "blk.#.ffn_down_exps").joined(Join::Columns),
    same("layers.#.block_sparse_moe.experts.@.w3", "blk.#.ffn_up_exps").joined(Join::Rows),
];

//! PLaMo 3: norms around everything, sliding windows.

use crate::model::checkpoint::{Checkpoint, Key, Names, Op, VOCAB, When, changed, same};
use crate::model::{
    Activation, DenseGate, Hparams, ModelError, ModelSpec, NormPlacement, RopePairing, TensorUse,
};

/// Base of the rotation in layers with a window, where the metadata has none.
const WINDOW_FREQ_BASE: f32 = 10_000.0;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.dense(Activation::Silu, DenseGate::InUp);
    let spec = spec.rope(RopePairing::Neox).qk_norm();
    let spec = spec.sliding(h, 8, None)?.window_ropes(h, Some(WINDOW_FREQ_BASE))?;
    let spec = spec.each_attention(|_, attention| attention.qkv_scales = TensorUse::Ignore);
    Ok(spec.norms(NormPlacement::PRE_AND_POST))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Plamo3ForCausalLM", "PLaMo3ForCausalLM"],
    arch: "plamo3",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[
        VOCAB,
        &[
            Key::HeadDim("rope.dimension_count"),
            Key::Int("attention.sliding_window", &["window_size", "sliding_window"]),
            Key::Int("attention.sliding_window_pattern", &["sliding_window_pattern"]),
            Key::Float("rope.freq_base_swa", &["rope_local_theta"]),
            Key::MustEqual("rope_scaling_factor", 1.0),
        ],
    ],
}];

const NAMES: &[Names] = &[
    same("embed_tokens", "token_embd"),
    same("lm_head", "output"),
    changed("norm", "output_norm", Op::PlusOne),
    changed("layers.layers.#.pre_mixer_norm", "blk.#.attn_norm", Op::PlusOne),
    changed(
        "layers.layers.#.post_mixer_norm.weight",
        "blk.#.post_attention_norm",
        Op::PlusFifth(2),
    ),
    same("layers.layers.#.mixer.qkv_proj", "blk.#.attn_qkv"),
    changed("layers.layers.#.mixer.q_norm", "blk.#.attn_q_norm", Op::PlusOne),
    changed("layers.layers.#.mixer.k_norm", "blk.#.attn_k_norm", Op::PlusOne),
    same("layers.layers.#.mixer.o_proj", "blk.#.attn_output"),
    changed("layers.layers.#.pre_mlp_norm", "blk.#.ffn_norm", Op::PlusOne),
    changed("layers.layers.#.post_mlp_norm.weight", "blk.#.post_ffw_norm", Op::PlusFifth(3)),
    same("layers.layers.#.mlp.gate_up_proj", "blk.#.ffn_up"),
    same("layers.layers.#.mlp.down_proj", "blk.#.ffn_down"),
];

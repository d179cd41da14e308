//! Gemma 3, text (arXiv:2503.19786): norms around everything, GeGLU, five layers with a sliding
//! window to one without.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, Op, When, changed};
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

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    arch: "gemma3",
    when: When::Always,
    tensors: &[NORMS, DECODER],
    keys: &[KEYS],
}];

/// Norms, which multiply by 1 + w.
pub const NORMS: &[Names] = &[
    changed("norm", "output_norm", Op::PlusOne),
    changed("layers.#.input_layernorm", "blk.#.attn_norm", Op::PlusOne),
    changed("layers.#.post_attention_layernorm", "blk.#.post_attention_norm", Op::PlusOne),
    changed("layers.#.pre_feedforward_layernorm", "blk.#.ffn_norm", Op::PlusOne),
    changed("layers.#.post_feedforward_layernorm", "blk.#.post_ffw_norm", Op::PlusOne),
    changed("layers.#.self_attn.q_norm", "blk.#.attn_q_norm", Op::PlusOne),
    changed("layers.#.self_attn.k_norm", "blk.#.attn_k_norm", Op::PlusOne),
];

/// Entries that old checkpoints leave to the class.
pub const KEYS: &[Key] = &[
    Key::IntElse("context_length", &["max_position_embeddings"], 131_072),
    Key::IntElse("attention.head_count", &["num_attention_heads"], 8),
    Key::IntElse("attention.head_count_kv", &["num_key_value_heads"], 4),
    Key::IntElse("attention.key_length", &["head_dim"], 256),
    Key::IntElse("attention.value_length", &["head_dim"], 256),
    Key::FloatElse("attention.layer_norm_rms_epsilon", &["rms_norm_eps"], 1e-6),
    Key::Float("final_logit_softcapping", &["final_logit_softcapping"]),
    Key::Int("attention.sliding_window", &["sliding_window"]),
    Key::InverseRoot("attention.scale", "query_pre_attn_scalar"),
];

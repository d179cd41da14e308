//! Refact: LLaMA with ALiBi and no biases.

use crate::model::checkpoint::{Checkpoint, Key, Names, Rows, When, same, split};
use crate::model::{Hparams, ModelError, ModelSpec, TensorUse};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let _ = h.f32("attention.max_alibi_bias")?;
    if h.u64("expert_count")?.unwrap_or(0) > 0 {
        return Err(h.bad("expert_count", "is not 0: experts are not known here"));
    }
    let spec = ModelSpec::unscaled(h)?.alibi(8.0).ignore_output_bias();
    Ok(spec.each_dense(|dense| dense.biases = TensorUse::Ignore))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["GPTRefactForCausalLM"],
    arch: "refact",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[&[
        Key::IntIs("attention.head_count_kv", 1),
        Key::Float("attention.layer_norm_rms_epsilon", &["layer_norm_epsilon"]),
        Key::Without("attention.layer_norm_epsilon"),
        Key::TwoThirds("feed_forward_length", "n_embd", 256),
    ]],
}];

const NAMES: &[Names] = &[
    same("wte", "token_embd"),
    same("ln_f", "output_norm"),
    same("lm_head", "output"),
    same("h.#.ln_1", "blk.#.attn_norm"),
    same("h.#.attn.q", "blk.#.attn_q"),
    split("h.#.attn.kv", &[("blk.#.attn_k", Rows::FirstHalf), ("blk.#.attn_v", Rows::SecondHalf)]),
    same("h.#.attn.c_proj", "blk.#.attn_output"),
    same("h.#.ln_2", "blk.#.ffn_norm"),
    split(
        "h.#.mlp.gate_up_proj",
        &[("blk.#.ffn_gate", Rows::FirstHalf), ("blk.#.ffn_up", Rows::SecondHalf)],
    ),
    same("h.#.mlp.c_proj", "blk.#.ffn_down"),
];

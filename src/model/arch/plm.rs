//! PLM (arXiv:2503.12167): latent attention, squared ReLU.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, VOCAB, When, same};
use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::unscaled(h)?.mla(h)?.dense(Activation::ReluSqr, DenseGate::None))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["PLMForCausalLM"],
    arch: "plm",
    when: When::Always,
    tensors: &[LATENTS, DECODER],
    keys: &[
        VOCAB,
        &[
            Key::Int("attention.kv_lora_rank", &["kv_lora_rank"]),
            Key::Sum("attention.key_length", &["qk_nope_head_dim"], &["qk_rope_head_dim"]),
            Key::Int("attention.value_length", &["v_head_dim"]),
            Key::Int("rope.dimension_count", &["qk_rope_head_dim"]),
        ],
    ],
}];

const LATENTS: &[Names] = &[
    same("layers.#.self_attn.kv_a_proj_with_mqa", "blk.#.attn_kv_a_mqa"),
    same("layers.#.self_attn.kv_a_layernorm", "blk.#.attn_kv_a_norm"),
    same("layers.#.self_attn.kv_b_proj", "blk.#.attn_kv_b"),
];

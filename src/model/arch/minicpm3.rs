//! MiniCPM 3: MiniCPM with latent attention and LongRoPE.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, VOCAB, When, same};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.mla(h)?.rope(RopePairing::Neox);
    spec.embed_scale = 12.0;
    let residual_scale = 1.4 / (h.n_layers as f32).sqrt();
    spec.layers.iter_mut().for_each(|layer| layer.residual_scale = residual_scale);
    spec.head.scale = 256.0 / h.n_embd as f32;
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["MiniCPM3ForCausalLM"],
    arch: "minicpm3",
    when: When::Always,
    tensors: &[LATENTS, super::deepseek2::LATENTS, DECODER],
    keys: &[
        VOCAB,
        &[
            Key::Int("attention.q_lora_rank", &["q_lora_rank"]),
            Key::Int("attention.kv_lora_rank", &["kv_lora_rank"]),
            Key::Sum("attention.key_length", &["qk_nope_head_dim"], &["qk_rope_head_dim"]),
            Key::Int("attention.value_length", &["v_head_dim"]),
            Key::Int("rope.dimension_count", &["qk_rope_head_dim"]),
            // The description has them.
            Key::MustEqual("scale_emb", 12.0),
            Key::MustEqual("scale_depth", 1.4),
            Key::MustEqual("dim_model_base", 256.0),
        ],
    ],
}];

/// Keys and values of all heads stay one product.
const LATENTS: &[Names] = &[same("layers.#.self_attn.kv_b_proj", "blk.#.attn_kv_b")];

//! MiniMax-01 (arXiv:2501.08313): linear attention, every eighth layer softmax attention; the
//! stream is replaced by its norm ahead of each part.

use crate::model::checkpoint::{
    Checkpoint, DECODER, Key, Names, ROTARY_ALL, VOCAB, When, dropped, same,
};
use crate::model::{
    Hparams, LightningSpec, Mixer, ModelError, ModelSpec, NormPlacement, RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    // The experts are as wide as the metadata's dense part.
    h.hide("expert_feed_forward_length");
    let interval = h.u64("full_attention_interval")?.unwrap_or(8);
    let linear = h.pattern("attention.recurrent_layers", interval)?;
    let stream_scale = h.f32("residual_scale")?;
    let stream_scale = stream_scale.ok_or_else(|| h.missing("residual_scale"))?;
    let norms = NormPlacement {
        of_mixer_input: Some("attn_norm"),
        of_ffn_input: Some("ffn_norm"),
        ..NormPlacement::NONE
    };
    let mut spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).norms(norms);
    // Layers forget the less the later they come.
    let last = (h.n_layers.max(2) - 1) as f64;
    for (i, (layer, is_linear)) in spec.layers.iter_mut().zip(linear).enumerate() {
        layer.stream_scale = stream_scale;
        if let (Mixer::Attention(attention), true) = (&layer.mixer, is_linear) {
            let n_heads = attention.n_heads;
            let scale = 1.0 - i as f64 / last + 1e-5;
            let start = -((3.0 - (n_heads as f64).log2()).exp2());
            let slope = |head: usize| (scale * (start * (head + 1) as f64).exp2()) as f32;
            let slopes = (0..n_heads).map(slope).collect();
            layer.mixer =
                Mixer::LightningAttention(LightningSpec { head_dim: attention.k_dim, slopes });
        }
    }
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["MiniMaxForCausalLM"],
        arch: "minimax-01",
        when: When::Always,
        tensors: &[LINEAR, super::llama::MIXTRAL, DECODER],
        keys: &[
            VOCAB,
            ROTARY_ALL,
            &[
                Key::Int("rope.dimension_count", &["rotary_dim"]),
                Key::Pattern("attention.recurrent_layers", "layer_types", "linear_attention"),
                Key::FloatElse("residual_scale", &["full_attn_alpha_factor"], 1.0),
                Key::MustAgree("full_attn_alpha_factor", "linear_attn_alpha_factor"),
                Key::MustAgree("full_attn_alpha_factor", "mlp_alpha_factor"),
                Key::MustEqual("full_attn_beta_factor", 1.0),
                Key::MustEqual("linear_attn_beta_factor", 1.0),
                Key::MustEqual("mlp_beta_factor", 1.0),
            ],
        ],
    },
    // As published.
    Checkpoint {
        classes: &["MiniMaxM1ForCausalLM", "MiniMaxText01ForCausalLM"],
        arch: "minimax-01",
        when: When::Always,
        tensors: &[LINEAR, super::llama::MIXTRAL, DECODER],
        keys: &[
            VOCAB,
            ROTARY_ALL,
            &[
                Key::Int("rope.dimension_count", &["rotary_dim"]),
                Key::Needs("attn_type_list"),
                Key::Zeros("attention.recurrent_layers", "attn_type_list"),
                Key::FloatElse("residual_scale", &["layernorm_full_attention_alpha"], 1.0),
                Key::MustAgree(
                    "layernorm_full_attention_alpha",
                    "layernorm_linear_attention_alpha",
                ),
                Key::MustAgree("layernorm_full_attention_alpha", "layernorm_mlp_alpha"),
                Key::MustEqual("layernorm_full_attention_beta", 1.0),
                Key::MustEqual("layernorm_linear_attention_beta", 1.0),
                Key::MustEqual("layernorm_mlp_beta", 1.0),
                Key::MustEqual("shared_intermediate_size", 0.0),
                Key::Needs("postnorm"),
                Key::MustBe("postnorm", true),
            ],
        ],
    },
];

/// Linear attention; how fast its layers forget is computed.
const LINEAR: &[Names] = &[
    same("layers.#.self_attn.qkv_proj", "blk.#.attn_qkv"),
    same("layers.#.self_attn.out_proj", "blk.#.attn_output"),
    same("layers.#.self_attn.output_gate", "blk.#.attn_gate"),
    same("layers.#.self_attn.norm", "blk.#.attn_norm_2"),
    dropped("layers.#.self_attn.slope_rate"),
    dropped("layers.#.self_attn.query_decay"),
    dropped("layers.#.self_attn.key_decay"),
    dropped("layers.#.self_attn.diagonal_decay"),
];

//! Llama-Nemotron (arXiv:2411.19146): LLaMA with heads and widths of each layer, some of which have no
//! attention or no feed-forward part. Layers whose attention is a plain product are refused.

use crate::model::checkpoint::{
    Checkpoint, DECODER, Key, Layout, Names, ROTARY_ALL, VOCAB, When, laid,
};
use crate::model::{Ffn, Hparams, Mixer, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.attention_scale(h)?;
    let n_ff = h.counts("feed_forward_length")?.unwrap_or_default();
    for (layer, n_ff) in spec.layers.iter_mut().zip(n_ff) {
        if n_ff == 0 {
            layer.ffn = Ffn::None;
        }
        if layer.mixer == Mixer::None {
            layer.norms.before_mixer = None;
        }
        if layer.ffn == Ffn::None {
            layer.norms.before_ffn = None;
        }
    }
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["DeciLMForCausalLM"],
    arch: "deci",
    when: When::Always,
    tensors: &[PAIRS, DECODER],
    keys: &[
        VOCAB,
        ROTARY_ALL,
        &[
            Key::HeadDim("attention.key_length"),
            Key::HeadDim("attention.value_length"),
            Key::Int("attention.head_count_kv", &["num_key_value_heads_per_layer"]),
            Key::BlockConfigs("block_configs"),
        ],
    ],
}];

/// Layers have other numbers of heads, but all heads are alike.
const PAIRS: &[Names] = &[
    laid("layers.#.self_attn.q_proj", "blk.#.attn_q", Layout::PairHeads),
    laid("layers.#.self_attn.k_proj", "blk.#.attn_k", Layout::PairHeads),
];

//! Snowflake Arctic: a dense model with experts beside each layer, which read its input.

use crate::model::checkpoint::{Checkpoint, DECODER, Names, PAIRS, ROTARY_ALL, VOCAB, When, same};
use crate::model::{Activation, DenseSpec, Ffn, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    // The experts are as wide as the metadata's dense part, and that as the stream.
    h.hide("expert_feed_forward_length");
    let mut spec = ModelSpec::llama_like(h)?;
    for layer in &mut spec.layers {
        if let Ffn::Moe(moe) = &layer.ffn {
            let dense = DenseSpec::gated(h.n_embd, Activation::Silu);
            layer.ffn = Ffn::DenseBesideMoe(dense, moe.clone());
        }
    }
    Ok(spec.ignore_ffn_scales())
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["ArcticForCausalLM"],
    arch: "arctic",
    when: When::Always,
    tensors: &[NAMES, super::llama::MIXTRAL, PAIRS, DECODER],
    keys: &[VOCAB, ROTARY_ALL],
}];

/// The dense part, and the norm ahead of the experts.
const NAMES: &[Names] = &[
    same("layers.#.residual_layernorm", "blk.#.ffn_norm"),
    same("layers.#.residual_mlp.w1", "blk.#.ffn_gate"),
    same("layers.#.residual_mlp.w2", "blk.#.ffn_down"),
    same("layers.#.residual_mlp.w3", "blk.#.ffn_up"),
    same("layers.#.post_attention_layernorm", "blk.#.ffn_norm_exps"),
];

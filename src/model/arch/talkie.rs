//! Talkie: norms without weights, gains of the queries' heads, and in every layer a share of the
//! embeddings.

use crate::model::checkpoint::{Checkpoint, Key, Layout, Names, VOCAB, When, laid, same};
use crate::model::{
    EmbedNorm, Hparams, ModelError, ModelSpec, NormFormula, OutputScale, QkNorm, RopePairing,
    TensorUse,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norms(QkNorm::GainsAfterRope);
    let mut spec = spec.each_dense(|dense| dense.scales = TensorUse::OfOutput).logit_scale(h)?;
    (spec.norm, spec.embed_norm) = (NormFormula::BareRms, EmbedNorm::Bare);
    for layer in &mut spec.layers {
        layer.output_scale = OutputScale::Embeddings;
    }
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["TalkieForCausalLM"],
    arch: "talkie",
    when: When::Always,
    tensors: &[NAMES],
    // Its code leaves the epsilon to its library.
    keys: &[VOCAB, &[Key::FloatIs("attention.layer_norm_rms_epsilon", f32::EPSILON)]],
}];

const NAMES: &[Names] = &[
    same("embed.weight", "token_embd.weight"),
    same("embed", "token_embd.weight"),
    same("lm_head.weight", "output.weight"),
    same("lm_head", "output.weight"),
    laid("lm_head_gain.w_g", "logit_scale", Layout::Number),
    laid("blocks.#.attn.attn_query", "blk.#.attn_q", Layout::SecondHalvesNegated),
    laid("blocks.#.attn.attn_key", "blk.#.attn_k", Layout::SecondHalvesNegated),
    same("blocks.#.attn.attn_value", "blk.#.attn_v"),
    same("blocks.#.attn.attn_resid", "blk.#.attn_output"),
    laid("blocks.#.attn.head_gain.head_g", "blk.#.attn_q_norm.weight", Layout::Column),
    same("blocks.#.attn_gain.a_g", "blk.#.attn_output.scale"),
    same("blocks.#.mlp.mlp_gate", "blk.#.ffn_gate"),
    same("blocks.#.mlp.mlp_linear", "blk.#.ffn_up"),
    same("blocks.#.mlp.mlp_resid", "blk.#.ffn_down"),
    same("blocks.#.mlp_gain.a_g", "blk.#.ffn_down.scale"),
    same("blocks.#.embed_skip.a_g", "blk.#.layer_output_scale.weight"),
];

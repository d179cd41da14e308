//! Gemma 1 (arXiv:2403.08295): LLaMA with GeGLU and scaled embeddings.

use crate::model::checkpoint::{Checkpoint, DECODER, Names, Op, When, changed};
use crate::model::{Activation, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).act(Activation::Gelu);
    spec.embed_scale = (h.n_embd as f32).sqrt();
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["GemmaForCausalLM"],
    arch: "gemma",
    when: When::Always,
    tensors: &[super::gemma2::HEAD, NORMS, DECODER],
    keys: &[],
}];

const NORMS: &[Names] = &[
    changed("norm", "output_norm", Op::PlusOne),
    changed("layers.#.input_layernorm", "blk.#.attn_norm", Op::PlusOne),
    changed("layers.#.post_attention_layernorm", "blk.#.ffn_norm", Op::PlusOne),
];

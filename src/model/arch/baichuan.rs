//! Baichuan (arXiv:2309.10305): the 7B model rotates, the 13B model has ALiBi.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, ROTARY_ALL, Rows, When, split};
use crate::model::{Hparams, ModelError, ModelSpec};

const LAYERS_7B: usize = 32;
const LAYERS_13B: usize = 40;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?;
    Ok(match h.n_layers {
        LAYERS_7B => spec,
        LAYERS_13B => spec.alibi(8.0),
        // There is no such model; the reference takes it to have neither.
        _ => spec.positions(false),
    })
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["BaichuanForCausalLM", "BaiChuanForCausalLM"],
    arch: "baichuan",
    when: When::Always,
    tensors: &[NAMES, DECODER],
    keys: &[
        ROTARY_ALL,
        &[Key::Int("context_length", &["max_position_embeddings", "model_max_length"])],
    ],
}];

const NAMES: &[Names] = &[split(
    "layers.#.self_attn.W_pack",
    &[
        ("blk.#.attn_q", Rows::PairedQueries),
        ("blk.#.attn_k", Rows::PairedKeys),
        ("blk.#.attn_v", Rows::Values),
    ],
)];

//! Nomic BERT (arXiv:2402.01613): rotation, SwiGLU. Version 2 (arXiv:2502.07972) has ungated experts
//! in every second layer, weighed as they are.

use crate::model::checkpoint::{Checkpoint, Key, Names, When, same};
use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec, TensorUse};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::bert_like(h)?.dense(Activation::Silu, DenseGate::Own);
    // The reference implementation loads and ignores them.
    Ok(spec.each_dense(|dense| dense.biases = TensorUse::Ignore))
}

pub fn moe(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let period = h.u64("moe_every_n_layers")?.unwrap_or(0) as usize;
    let spec = ModelSpec::bert_like(h)?.act(Activation::Gelu).each_moe(|_, moe| {
        moe.gated = false;
        moe.normalize_weights = false;
    });
    spec.dense_where(h, |i| period == 0 || i % period != 1)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["NomicBertModel", "NomicBertForMaskedLM"],
    arch: "nomic-bert",
    when: When::Zero("moe_every_n_layers"),
    tensors: &[NAMES, super::bert::NAMES],
    keys: &[super::bert::KEYS, ROTATION],
}];

/// Rotation of whole heads.
pub const ROTATION: &[Key] = &[Key::RotaryShare(&["rotary_emb_fraction"], 1.0)];

const NAMES: &[Names] = &[
    same("emb_ln", "token_embd_norm"),
    same("encoder.layers.#.attn.Wqkv", "blk.#.attn_qkv"),
    same("encoder.layers.#.attn.out_proj", "blk.#.attn_output"),
    same("encoder.layers.#.norm1", "blk.#.attn_output_norm"),
    same("encoder.layers.#.mlp.fc11", "blk.#.ffn_up"),
    same("encoder.layers.#.mlp.fc12", "blk.#.ffn_gate"),
    same("encoder.layers.#.mlp.fc2", "blk.#.ffn_down"),
    same("encoder.layers.#.norm2", "blk.#.layer_output_norm"),
];

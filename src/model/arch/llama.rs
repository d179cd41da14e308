//! LLaMA 1 to 3 (arXiv:2302.13971, arXiv:2407.21783), Mistral, Mixtral, SmolLM and many others.

use crate::model::checkpoint::{Checkpoint, DECODER, Names, PAIRS, ROTARY_ALL, VOCAB, When, same};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    ModelSpec::llama_like(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &[
        "LlamaForCausalLM",
        "LLaMAForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "LlamaModel",
        "MistralModel",
        "IQuestCoderForCausalLM",
    ],
    arch: "llama",
    when: When::Always,
    tensors: &[MIXTRAL, PAIRS, DECODER],
    keys: &[VOCAB, ROTARY_ALL],
}];

/// Experts of Mixtral.
pub const MIXTRAL: &[Names] = &[
    same("layers.#.block_sparse_moe.gate", "blk.#.ffn_gate_inp"),
    same("layers.#.block_sparse_moe.experts.@.w1", "blk.#.ffn_gate_exps"),
    same("layers.#.block_sparse_moe.experts.@.w2", "blk.#.ffn_down_exps"),
    same("layers.#.block_sparse_moe.experts.@.w3", "blk.#.ffn_up_exps"),
];

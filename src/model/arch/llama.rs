//! LLaMA 1 to 3 (arXiv:2302.13971, arXiv:2407.21783), Mistral, Mixtral, SmolLM and many others.

use crate::model::checkpoint::{
    Checkpoint, DECODER, Key, Names, PAIRS, ROTARY_ALL, VOCAB, When, same,
};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    ModelSpec::llama_like(h)?.window_everywhere(h)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &[
            "LlamaForCausalLM",
            "LLaMAForCausalLM",
            "LlamaModel",
            "IQuestCoderForCausalLM",
            "InternLM3ForCausalLM",
            "VLlama3ForCausalLM",
        ],
        arch: "llama",
        when: When::Always,
        tensors: &[PAIRS, DECODER],
        keys: &[VOCAB, ROTARY_ALL],
    },
    Checkpoint {
        classes: &["MistralForCausalLM", "MistralModel", "MixtralForCausalLM"],
        arch: "llama",
        when: When::Always,
        tensors: &[MIXTRAL, PAIRS, DECODER],
        keys: &[VOCAB, ROTARY_ALL, WINDOW],
    },
];

/// The window that Mistral's first models have in all layers.
pub const WINDOW: &[Key] = &[Key::Int("attention.sliding_window", &["sliding_window"])];

/// Experts of Mixtral.
pub const MIXTRAL: &[Names] = &[
    same("layers.#.block_sparse_moe.gate", "blk.#.ffn_gate_inp"),
    same("layers.#.block_sparse_moe.experts.@.w1", "blk.#.ffn_gate_exps"),
    same("layers.#.block_sparse_moe.experts.@.w2", "blk.#.ffn_down_exps"),
    same("layers.#.block_sparse_moe.experts.@.w3", "blk.#.ffn_up_exps"),
];

//! BitNet b1.58 (arXiv:2402.17764): LLaMA with norms ahead of the matrices that lead back to the
//! stream. Microsoft's 2B4T (arXiv:2504.12285) squares ReLU where the first models have SiLU.

use crate::model::checkpoint::{
    Checkpoint, DECODER, Key, Names, Op, ROTARY_ALL, VOCAB, When, changed, same,
};
use crate::model::{Activation, Hparams, ModelError, ModelSpec, NormPlacement, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let norms = NormPlacement {
        inside_attention: Some("attn_sub_norm"),
        inside_ffn: Some("ffn_sub_norm"),
        ..NormPlacement::PRE
    };
    Ok(ModelSpec::llama_like(h)?.rope(RopePairing::Neox).norms(norms))
}

pub fn relu2(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(spec(h)?.act(Activation::ReluSqr))
}

pub const HF: &[Checkpoint] = &[
    // 1bitLLM's code: its floats become ternary whenever a layer runs.
    Checkpoint {
        classes: &["BitnetForCausalLM"],
        arch: "bitnet",
        when: When::Always,
        tensors: &[TERNARY, NAMES, DECODER],
        keys: &[VOCAB, ROTARY_ALL, &[Key::MustEqual("weight_bits", 1.0)]],
    },
    // That of transformers, whose floats are what they are unless the quantization says otherwise, and
    // whose activation squares ReLU if it says none.
    Checkpoint {
        classes: &["BitNetForCausalLM"],
        arch: "bitnet",
        when: When::Is("hidden_act", "silu"),
        tensors: &[NAMES, DECODER],
        keys: &[VOCAB, ROTARY_ALL],
    },
    Checkpoint {
        classes: &["BitNetForCausalLM"],
        arch: "bitnet-b1.58",
        when: When::Always,
        tensors: &[NAMES, DECODER],
        keys: &[VOCAB, ROTARY_ALL],
    },
];

/// Norms ahead of the matrices that lead back, as both name them.
const NAMES: &[Names] = &[
    same("layers.#.self_attn.inner_attn_ln", "blk.#.attn_sub_norm"),
    same("layers.#.mlp.ffn_layernorm", "blk.#.ffn_sub_norm"),
    same("layers.#.self_attn.attn_sub_norm", "blk.#.attn_sub_norm"),
    same("layers.#.mlp.ffn_sub_norm", "blk.#.ffn_sub_norm"),
];

const TERNARY: &[Names] = &[
    changed("layers.#.self_attn.q_proj.weight", "blk.#.attn_q.weight", Op::Ternary),
    changed("layers.#.self_attn.k_proj.weight", "blk.#.attn_k.weight", Op::Ternary),
    changed("layers.#.self_attn.v_proj.weight", "blk.#.attn_v.weight", Op::Ternary),
    changed("layers.#.self_attn.o_proj.weight", "blk.#.attn_output.weight", Op::Ternary),
    changed("layers.#.mlp.gate_proj.weight", "blk.#.ffn_gate.weight", Op::Ternary),
    changed("layers.#.mlp.up_proj.weight", "blk.#.ffn_up.weight", Op::Ternary),
    changed("layers.#.mlp.down_proj.weight", "blk.#.ffn_down.weight", Op::Ternary),
];

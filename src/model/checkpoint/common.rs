//! Names and entries that checkpoints of many classes have in common.

use super::{Key, Layout, Names, Rows, laid, same, split};

/// Names that most decoders of transformers have.
pub const DECODER: &[Names] = &[
    same("embed_tokens", "token_embd"),
    same("norm", "output_norm"),
    same("lm_head", "output"),
    same("layers.#.input_layernorm", "blk.#.attn_norm"),
    same("layers.#.post_attention_layernorm", "blk.#.ffn_norm"),
    same("layers.#.self_attn.q_proj", "blk.#.attn_q"),
    same("layers.#.self_attn.k_proj", "blk.#.attn_k"),
    same("layers.#.self_attn.v_proj", "blk.#.attn_v"),
    same("layers.#.self_attn.o_proj", "blk.#.attn_output"),
    same("layers.#.self_attn.q_norm", "blk.#.attn_q_norm"),
    same("layers.#.self_attn.k_norm", "blk.#.attn_k_norm"),
    same("layers.#.mlp.gate_proj", "blk.#.ffn_gate"),
    same("layers.#.mlp.up_proj", "blk.#.ffn_up"),
    same("layers.#.mlp.down_proj", "blk.#.ffn_down"),
];

/// Names of experts in the mould of Qwen and DeepSeek, one tensor each or stacked.
pub const EXPERTS: &[Names] = &[
    same("layers.#.mlp.gate", "blk.#.ffn_gate_inp"),
    same("layers.#.mlp.gate.e_score_correction_bias", "blk.#.exp_probs_b.bias"),
    same("layers.#.mlp.experts.@.gate_proj", "blk.#.ffn_gate_exps"),
    same("layers.#.mlp.experts.@.up_proj", "blk.#.ffn_up_exps"),
    same("layers.#.mlp.experts.@.down_proj", "blk.#.ffn_down_exps"),
    split("layers.#.mlp.experts.gate_up_proj", GATE_UP_EXPERTS),
    same("layers.#.mlp.experts.down_proj", "blk.#.ffn_down_exps.weight"),
    same("layers.#.mlp.shared_expert.gate_proj", "blk.#.ffn_gate_shexp"),
    same("layers.#.mlp.shared_expert.up_proj", "blk.#.ffn_up_shexp"),
    same("layers.#.mlp.shared_expert.down_proj", "blk.#.ffn_down_shexp"),
    laid("layers.#.mlp.shared_expert_gate", "blk.#.ffn_gate_inp_shexp", Layout::Squeezed),
    same("layers.#.mlp.shared_experts.gate_proj", "blk.#.ffn_gate_shexp"),
    same("layers.#.mlp.shared_experts.up_proj", "blk.#.ffn_up_shexp"),
    same("layers.#.mlp.shared_experts.down_proj", "blk.#.ffn_down_shexp"),
];

/// Gate and up projections of experts, one behind the other.
pub const GATE_UP_EXPERTS: &[(&str, Rows)] = &[
    ("blk.#.ffn_gate_exps.weight", Rows::FirstHalf),
    ("blk.#.ffn_up_exps.weight", Rows::SecondHalf),
];

/// Rows of queries and keys from halves to pairs, before [`DECODER`].
pub const PAIRS: &[Names] = &[
    laid("layers.#.self_attn.q_proj", "blk.#.attn_q", Layout::PairQ),
    laid("layers.#.self_attn.k_proj", "blk.#.attn_k", Layout::PairK),
];

/// Buffers of transformers that hold no weights: masks, and frequencies that are computed anew.
pub const BUFFERS: &[&str] = &[
    ".attention.masked_bias",
    ".attention.bias",
    ".attn.masked_bias",
    ".attn.bias",
    ".rotary_emb.inv_freq",
    ".rope.freqs",
    "rotary_emb.inv_freq",
    "embeddings.position_ids",
];

/// Beginnings and parts of names of what sees, hears or projects into the text: not converted.
pub const OTHER_PARTS: &[&str] = &[
    "visual.",
    "vision_tower.",
    "vision_model.",
    "vision_",
    "audio_",
    "audio_tower.",
    "multi_modal_projector.",
    "mm_projector.",
    "mlp_AR.",
    "vit.",
    "code2wav.",
    "talker.",
    "token2wav.",
    "mtp.",
    "embed_vision.",
    "embed_audio.",
];

/// The most entries that all decoders have with a head dimension of their own.
pub const ROTARY_ALL: &[Key] = &[Key::RotaryShare(&[], 1.0)];
/// Size of the vocabulary.
pub const VOCAB: &[Key] = &[Key::Int("vocab_size", &["vocab_size"])];

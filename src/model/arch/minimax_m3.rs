//! MiniMax M3 within contexts that its indexer would choose all of: there sparse attention is
//! attention.

use crate::model::checkpoint::{
    Checkpoint, DECODER, EXPERTS, Key, Names, Op, Rows, VOCAB, When, changed, same, split,
};
use crate::model::{
    Activation, ExpertGating, GluClamp, Hparams, ModelError, ModelSpec, RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let block = h.length("attention.indexer.block_size")?;
    h.hide("attention.indexer.local_blocks");
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm().act(Activation::GeluQuick);
    let spec = spec.shared_expert(h)?.expert_gating(h, ExpertGating::Sigmoid)?;
    let clamp = Some(GluClamp::both(7.0, 1.0));
    let mut spec = spec.each_moe(|_, moe| moe.clamp = clamp).dense_lead(h)?;
    spec.dense_within(h)?;
    spec.n_ctx_max = spec.n_ctx_max.map(|n| n.saturating_mul(block));
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &[
        "MiniMaxM3SparseForCausalLM",
        "MiniMaxM3SparseForConditionalGeneration",
        "MiniMaxM3VLForCausalLM",
    ],
    arch: "minimax-m3",
    when: When::Always,
    tensors: &[NORMS, NAMES, super::llama::MIXTRAL, EXPERTS, DECODER],
    keys: &[
        VOCAB,
        &[
            Key::Int("feed_forward_length", &["dense_intermediate_size", "intermediate_size"]),
            Key::Int("expert_feed_forward_length", &["intermediate_size"]),
            Key::Int("expert_shared_feed_forward_length", &["shared_intermediate_size"]),
            Key::IntElse("expert_shared_count", &["n_shared_experts"], 1),
            Key::FloatElse("expert_weights_scale", &["routed_scaling_factor"], 2.0),
            Key::FlagIs("expert_weights_norm", true),
            Key::IntIs("expert_gating_func", 2),
            Key::Leading("leading_dense_block_count", "mlp_layer_types", "dense"),
            Key::LeadingZeros("leading_dense_block_count", "moe_layer_freq"),
            Key::Int("rope.dimension_count", &["rotary_dim"]),
            Key::RotaryIfSaid,
            Key::Int(
                "attention.indexer.head_count",
                &["sparse_attention_config.sparse_num_index_heads", "index_n_heads"],
            ),
            Key::Int(
                "attention.indexer.key_length",
                &["sparse_attention_config.sparse_index_dim", "index_head_dim"],
            ),
            Key::Int(
                "attention.indexer.top_k",
                &["sparse_attention_config.sparse_topk_blocks", "index_topk_blocks"],
            ),
            Key::Int(
                "attention.indexer.block_size",
                &["sparse_attention_config.sparse_block_size", "index_block_size"],
            ),
            Key::Int(
                "attention.indexer.local_blocks",
                &["sparse_attention_config.sparse_local_block", "index_local_blocks"],
            ),
            Key::MustEqual("swiglu_alpha", 1.702),
            Key::MustEqual("swiglu_limit", 7.0),
        ],
    ],
}];

/// Norms that multiply by 1 + w.
const NORMS: &[Names] = &[
    changed("norm", "output_norm", Op::PlusOne),
    changed("layers.#.input_layernorm", "blk.#.attn_norm", Op::PlusOne),
    changed("layers.#.post_attention_layernorm", "blk.#.ffn_norm", Op::PlusOne),
    changed("layers.#.self_attn.q_norm", "blk.#.attn_q_norm", Op::PlusOne),
    changed("layers.#.self_attn.k_norm", "blk.#.attn_k_norm", Op::PlusOne),
    changed("layers.#.self_attn.indexer.q_norm", "blk.#.indexer.q_norm", Op::PlusOne),
    changed("layers.#.self_attn.indexer.k_norm", "blk.#.indexer.k_norm", Op::PlusOne),
    changed("layers.#.self_attn.index_q_norm", "blk.#.indexer.q_norm", Op::PlusOne),
    changed("layers.#.self_attn.index_k_norm", "blk.#.indexer.k_norm", Op::PlusOne),
];

/// As published, and as transformers stores it.
const NAMES: &[Names] = &[
    same("layers.#.self_attn.indexer.q_proj", "blk.#.indexer.q_proj"),
    same("layers.#.self_attn.indexer.k_proj", "blk.#.indexer.k_proj"),
    same("layers.#.self_attn.index_q_proj", "blk.#.indexer.q_proj"),
    same("layers.#.self_attn.index_k_proj", "blk.#.indexer.k_proj"),
    same("layers.#.block_sparse_moe.e_score_correction_bias", "blk.#.exp_probs_b.bias"),
    same("layers.#.block_sparse_moe.shared_experts.gate_proj", "blk.#.ffn_gate_shexp"),
    same("layers.#.block_sparse_moe.shared_experts.up_proj", "blk.#.ffn_up_shexp"),
    same("layers.#.block_sparse_moe.shared_experts.down_proj", "blk.#.ffn_down_shexp"),
    split(
        "layers.#.mlp.shared_experts.gate_up_proj",
        &[("blk.#.ffn_gate_shexp", Rows::FirstHalf), ("blk.#.ffn_up_shexp", Rows::SecondHalf)],
    ),
    split(
        "layers.#.mlp.gate_up_proj",
        &[("blk.#.ffn_gate", Rows::FirstHalf), ("blk.#.ffn_up", Rows::SecondHalf)],
    ),
];

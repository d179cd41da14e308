//! Hunyuan (arXiv:2411.02265), dense and with experts: norms of query and key heads after the
//! rotation.

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, Names, When, same};
use crate::model::{Hparams, ModelError, ModelSpec, QkNorm, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    // The experts are as wide as the metadata's dense part.
    h.hide("expert_feed_forward_length");
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox);
    spec.qk_norms(QkNorm::HeadsAfterRope).shared_expert(h)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["HunYuanDenseV1ForCausalLM"],
        arch: "hunyuan-dense",
        when: When::Always,
        tensors: &[NAMES, DECODER],
        keys: &[&[Key::Without("expert_count"), Key::Without("expert_used_count")]],
    },
    Checkpoint {
        classes: &["HunYuanVLForConditionalGeneration"],
        arch: "hunyuan_vl",
        when: When::Always,
        tensors: &[NAMES, DECODER],
        keys: &[&[Key::Without("expert_count"), Key::Without("expert_used_count")]],
    },
    Checkpoint {
        classes: &["HunYuanMoEV1ForCausalLM"],
        arch: "hunyuan-moe",
        when: When::Always,
        tensors: &[NAMES, MOE, EXPERTS, DECODER],
        keys: &[&[
            Key::FirstInt("expert_used_count", &["moe_topk"]),
            Key::Int("expert_shared_feed_forward_length", &["intermediate_size"]),
            Key::FirstInt("expert_feed_forward_length", &["moe_intermediate_size"]),
            Key::IntDefault("expert_shared_count", 1),
            Key::FirstInt("expert_shared_count", &["num_shared_expert"]),
        ]],
    },
];

const NAMES: &[Names] = &[
    same("layers.#.self_attn.query_layernorm", "blk.#.attn_q_norm"),
    same("layers.#.self_attn.key_layernorm", "blk.#.attn_k_norm"),
];

const MOE: &[Names] = &[
    same("layers.#.mlp.gate.wg", "blk.#.ffn_gate_inp"),
    same("layers.#.mlp.shared_mlp.gate_proj", "blk.#.ffn_gate_shexp"),
    same("layers.#.mlp.shared_mlp.up_proj", "blk.#.ffn_up_shexp"),
    same("layers.#.mlp.shared_mlp.down_proj", "blk.#.ffn_down_shexp"),
];

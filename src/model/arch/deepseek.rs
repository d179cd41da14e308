//! DeepSeekMoE (arXiv:2401.06066).

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, PAIRS, ROTARY_ALL, VOCAB, When};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.attention_scale(h)?.shared_expert(h)?;
    spec.each_moe(|_, moe| moe.normalize_weights = false).dense_lead(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["DeepseekForCausalLM"],
    arch: "deepseek",
    when: When::Always,
    tensors: &[EXPERTS, PAIRS, DECODER],
    keys: &[
        VOCAB,
        ROTARY_ALL,
        &[
            Key::MustBeText("scoring_func", "softmax"),
            Key::Without("expert_gating_func"),
            Key::MustBe("norm_topk_prob", false),
            Key::Int("leading_dense_block_count", &["first_k_dense_replace"]),
            Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
            Key::FloatIs("expert_weights_scale", 1.0),
            Key::Int("expert_shared_count", &["n_shared_experts"]),
        ],
    ],
}];

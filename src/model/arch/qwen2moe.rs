//! Qwen 1.5 and 2 MoE (arXiv:2407.10671): a gated shared expert, weights as the softmax has them.

use crate::model::checkpoint::{Checkpoint, DECODER, EXPERTS, Key, When};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing, SharedExpert};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox);
    let own = h.optional_length("expert_feed_forward_length")?.is_some();
    let width = h.optional_length("expert_shared_feed_forward_length")?;
    Ok(spec.each_moe(|i, moe| {
        moe.normalize_weights = false;
        let n_ff = h.shared_width(i).or(width).unwrap_or(moe.n_ff);
        moe.shared = Some(SharedExpert { n_ff, suffix: "_shexp", gated: true, clamp: None });
        if !own {
            moe.n_ff /= moe.n_used;
        }
    }))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Qwen2MoeForCausalLM"],
    arch: "qwen2moe",
    when: When::Always,
    tensors: &[EXPERTS, DECODER],
    keys: &[EXPERT_WIDTHS],
}];

/// Widths of experts as Qwen names them.
pub const EXPERT_WIDTHS: &[Key] = &[
    Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
    Key::Int("expert_shared_feed_forward_length", &["shared_expert_intermediate_size"]),
];

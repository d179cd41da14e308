//! Command R7B and Command A (arXiv:2504.00698): sliding windows with rotation, full attention
//! without.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, VOCAB, When};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::llama_like(h)?.layer_norms();
    let spec = spec.parallel("attn_norm").logit_scale(h)?;
    Ok(spec.sliding(h, 4, None)?.no_rope(|_, attention| attention.window.is_none()))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Cohere2ForCausalLM"],
    arch: "cohere2",
    when: When::Always,
    tensors: &[DECODER],
    keys: &[
        VOCAB,
        &[
            Key::Float("logit_scale", &["logit_scale"]),
            Key::Int("attention.sliding_window", &["sliding_window"]),
            Key::RotaryShare(&["rotary_pct"], 1.0),
            Key::TextIs("rope.scaling.type", "none"),
        ],
    ],
}];

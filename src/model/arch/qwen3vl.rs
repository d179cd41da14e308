//! Qwen 3 VL, text (arXiv:2511.21631), dense and with experts.

use crate::model::checkpoint::{
    Checkpoint, DECODER, EXPERTS, GATE_UP_EXPERTS, Key, Layout, Names, Rows, When, laid,
};
use crate::model::{Activation, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    let _ = h.u64("n_deepstack_layers")?;
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm();
    spec.classifier(h, Activation::Tanh, true)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["Qwen3ASRForConditionalGeneration", "Qwen3VLForConditionalGeneration"],
        arch: "qwen3vl",
        when: When::Always,
        tensors: &[DECODER],
        keys: &[KEYS],
    },
    Checkpoint {
        classes: &[
            "Qwen3OmniMoeForConditionalGeneration",
            "Qwen3OmniMoeThinkerForConditionalGeneration",
            "Qwen3VLMoeForConditionalGeneration",
        ],
        arch: "qwen3vlmoe",
        when: When::Always,
        tensors: &[STACKS, EXPERTS, DECODER],
        keys: &[super::qwen2moe::EXPERT_WIDTHS, KEYS],
    },
];

/// Layers to which the part that sees adds something.
const KEYS: &[Key] = &[Key::Count("n_deepstack_layers", "vision_config.deepstack_visual_indexes")];

/// Stacks of experts, as first published with inputs as rows, now with inputs as columns.
const STACKS: &[Names] = &[
    laid(
        "layers.#.mlp.experts.gate_up_proj",
        "",
        Layout::SplitByColumns(&["hidden_size"], GATE_UP_EXPERTS),
    ),
    laid(
        "layers.#.mlp.experts.down_proj",
        "",
        Layout::SplitByColumns(
            &["moe_intermediate_size"],
            &[("blk.#.ffn_down_exps.weight", Rows::All)],
        ),
    ),
];

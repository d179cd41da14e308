//! SmallThinker (arXiv:2507.20984): the router reads the layer's input, before attention.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, When, same};
use crate::model::{
    Activation, ExpertGating, Hparams, ModelError, ModelSpec, RopePairing, RouterInput,
};

/// Every fourth layer, from the first on, has no rotation if there is a window.
const NO_ROPE_STEP: usize = 4;
/// The window of all its models, whatever the metadata says.
const WINDOW: usize = 4096;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let windowed = h.u64("attention.sliding_window")?.is_some_and(|n| n > 0);
    let mut spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).act(Activation::Relu);
    if windowed {
        spec = spec.sliding_from(h, 4, Some(WINDOW))?;
        spec = spec.each_attention(|_, a| a.window = a.window.map(|_| WINDOW));
        // The reference takes a step of the whole depth for none.
        let rotates = h.n_layers == NO_ROPE_STEP;
        spec = spec.no_rope(|i, _| i.is_multiple_of(NO_ROPE_STEP) && !rotates);
    }
    let spec = spec.expert_gating(h, ExpertGating::Softmax)?;
    Ok(spec.each_moe(|_, moe| {
        moe.normalize_weights = true;
        moe.router = RouterInput::Layer;
    }))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["SmallThinkerForCausalLM"],
    arch: "smallthinker",
    when: When::Always,
    tensors: &[EXPERTS, DECODER],
    keys: &[&[
        Key::RotaryShare(&[], 1.0),
        Key::Int("expert_count", &["moe_num_primary_experts"]),
        Key::Int("expert_used_count", &["moe_num_active_primary_experts"]),
        Key::Int("expert_feed_forward_length", &["moe_ffn_hidden_size"]),
        Key::Int("feed_forward_length", &["moe_ffn_hidden_size"]),
        Key::IntIs("expert_gating_func", 2),
        Key::IntIfSet("expert_gating_func", "moe_primary_router_apply_softmax", 1),
        Key::IntWhereAny(
            "attention.sliding_window",
            "sliding_window_size",
            "sliding_window_layout",
        ),
    ]],
}];

const EXPERTS: &[Names] = &[
    same("layers.#.block_sparse_moe.primary_router", "blk.#.ffn_gate_inp"),
    same("layers.#.block_sparse_moe.experts.@.gate", "blk.#.ffn_gate_exps"),
    same("layers.#.block_sparse_moe.experts.@.up", "blk.#.ffn_up_exps"),
    same("layers.#.block_sparse_moe.experts.@.down", "blk.#.ffn_down_exps"),
];

//! Granite 4: Mamba 2 with a few layers of attention, without rotation unless the metadata says
//! otherwise.

use super::granite;
use crate::model::checkpoint::{
    Checkpoint, DECODER, Key, Names, PAIRS, ROTARY_ALL, Rows, VOCAB, When, same, split,
};
use crate::model::{Hparams, Mixer, ModelError, ModelSpec, StateSpaceSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    let spec = granite::spec(h)?.recurrent(&Mixer::StateSpace(StateSpaceSpec::two(h)?));
    spec.dense_where(h, |i| !h.has_tensor(&format!("blk.{i}.ffn_gate_inp.weight")))
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["GraniteMoeHybridForCausalLM"],
        arch: "granitehybrid",
        when: When::Zero("num_local_experts"),
        tensors: &[DENSE, STATES, PAIRS, DECODER],
        keys: &[
            VOCAB,
            ROTARY_ALL,
            super::granite::SCALES,
            KEYS,
            &[
                Key::Int("feed_forward_length", &["shared_intermediate_size"]),
                Key::Without("expert_count"),
                Key::Without("expert_used_count"),
            ],
        ],
    },
    Checkpoint {
        classes: &["GraniteMoeHybridForCausalLM"],
        arch: "granitehybrid",
        when: When::Always,
        tensors: &[super::granite::MOE, STATES, PAIRS, DECODER],
        keys: &[
            VOCAB,
            ROTARY_ALL,
            super::granite::SCALES,
            KEYS,
            &[Key::Int("expert_shared_feed_forward_length", &["shared_intermediate_size"])],
        ],
    },
];

const KEYS: &[Key] = &[
    Key::Int("ssm.conv_kernel", &["mamba_d_conv"]),
    Key::Int("ssm.state_size", &["mamba_d_state"]),
    Key::Int("ssm.group_count", &["mamba_n_groups"]),
    Key::Product("ssm.inner_size", &["mamba_expand"], &["hidden_size"]),
    Key::Int("ssm.time_step_rank", &["mamba_n_heads"]),
    Key::WhereIs(
        "attention.head_count_kv",
        &["num_key_value_heads"],
        &["layer_types", "layers_block_type"],
        &["attention", "full_attention"],
    ),
    Key::FlagWhen("rope.scaling.finetuned", "position_embedding_type", "rope"),
];

/// Without experts, what all tokens share is all there is.
const DENSE: &[Names] = &[
    split(
        "layers.#.shared_mlp.input_linear",
        &[("blk.#.ffn_gate", Rows::FirstHalf), ("blk.#.ffn_up", Rows::SecondHalf)],
    ),
    same("layers.#.shared_mlp.output_linear", "blk.#.ffn_down"),
];

const STATES: &[Names] = super::falcon_h1::STATES;

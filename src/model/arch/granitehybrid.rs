//! Granite 4: Mamba 2 with a few layers of attention, without rotation unless the metadata says
//! otherwise.

use super::granite;
use crate::model::checkpoint::{
    Checkpoint, DECODER, Key, Layout, Names, PAIRS, ROTARY_ALL, Rows, VOCAB, When, laid, same,
    split,
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
            SPACE,
            KEYS,
            &[
                Key::Int("feed_forward_length", &["shared_intermediate_size"]),
                Key::Without("expert_count"),
                Key::Without("expert_used_count"),
            ],
        ],
    },
    Checkpoint {
        classes: &["BambaForCausalLM"],
        arch: "granitehybrid",
        when: When::Always,
        tensors: &[BAMBA, STATES, DECODER],
        keys: &[
            VOCAB,
            SPACE,
            &[
                Key::Needs("attn_layer_indices"),
                Key::WhereNumbered(
                    "attention.head_count_kv",
                    &["num_key_value_heads"],
                    "attn_layer_indices",
                ),
                Key::RotaryShare(&[], 0.5),
                Key::MustEqual("partial_rotary_factor", 0.5),
                Key::FlagIs("rope.scaling.finetuned", true),
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
            SPACE,
            KEYS,
            &[Key::Int("expert_shared_feed_forward_length", &["shared_intermediate_size"])],
        ],
    },
];

const SPACE: &[Key] = &[
    Key::Int("ssm.conv_kernel", &["mamba_d_conv"]),
    Key::Int("ssm.state_size", &["mamba_d_state"]),
    Key::Int("ssm.group_count", &["mamba_n_groups"]),
    Key::Product("ssm.inner_size", &["mamba_expand"], &["hidden_size"]),
    Key::Int("ssm.time_step_rank", &["mamba_n_heads"]),
];

const KEYS: &[Key] = &[
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

/// Bamba, half of whose heads' dimensions turn.
const BAMBA: &[Names] = &[
    laid("layers.#.self_attn.q_proj", "blk.#.attn_q", Layout::PairHalfQ),
    laid("layers.#.self_attn.k_proj", "blk.#.attn_k", Layout::PairHalfK),
    same("final_layernorm", "output_norm"),
    same("layers.#.pre_ff_layernorm", "blk.#.ffn_norm"),
    same("layers.#.feed_forward.gate_proj", "blk.#.ffn_gate"),
    same("layers.#.feed_forward.up_proj", "blk.#.ffn_up"),
    same("layers.#.feed_forward.down_proj", "blk.#.ffn_down"),
];

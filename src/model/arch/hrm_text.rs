//! HRM-Text: two stacks of gated attention without weights in their norms, passed in turn.

use crate::model::checkpoint::{
    Checkpoint, Key, Names, ROTARY_ALL, Rows, VOCAB, When, same, split,
};
use crate::model::{
    AttentionGate, CycleSpec, Hparams, ModelError, ModelSpec, NormFormula, RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let (n_layers, n_low) = (h.length("hrm.layers_per_stack")?, h.length("hrm.l_cycles")?);
    let n_high = h.length("hrm.h_cycles")?;
    let expected = n_layers.saturating_mul(n_high).saturating_mul(n_low + 1);
    if h.n_layers != expected {
        return Err(h.bad("block_count", format!("is not {expected}, that of all passes")));
    }
    // Texts are continued from left to right all the same.
    let _ = h.bool("hrm.prefix_lm")?;
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).scaled(h)?;
    let mut spec = spec.each_attention(|_, attention| attention.gate = AttentionGate::Elements);
    spec.norm = NormFormula::BareRms;
    spec.cycles = Some(CycleSpec { n_layers, n_low });
    spec.head.norm = None;
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["HrmTextForCausalLM"],
    arch: "hrm_text",
    when: When::Always,
    tensors: &[NAMES],
    keys: &[
        VOCAB,
        ROTARY_ALL,
        &[
            Key::Passes("block_count", LAYERS, "H_cycles", "L_cycles"),
            Key::Int("attention.head_count_kv", &["num_attention_heads"]),
            Key::Int("hrm.layers_per_stack", LAYERS),
            Key::Int("hrm.h_cycles", &["H_cycles"]),
            Key::Int("hrm.l_cycles", &["L_cycles"]),
            Key::Flag("hrm.prefix_lm", &["prefix_lm"]),
            Key::Reciprocal("embedding_scale", "initializer_range"),
            Key::Float("embedding_scale", &["embedding_scale"]),
        ],
    ],
}];

/// Layers of a stack: first published under the name that others have for all.
const LAYERS: &[&str] = &["num_layers_per_stack", "num_hidden_layers"];

const GATE_QKV: &[(&str, Rows)] = &[
    ("blk.#.attn_gate", Rows::Quarter(0)),
    ("blk.#.attn_q", Rows::Quarter(1)),
    ("blk.#.attn_k", Rows::Quarter(2)),
    ("blk.#.attn_v", Rows::Quarter(3)),
];
const GATE_UP: &[(&str, Rows)] =
    &[("blk.#.ffn_gate", Rows::FirstHalf), ("blk.#.ffn_up", Rows::SecondHalf)];

/// The stack that is passed more often, then the other.
const NAMES: &[Names] = &[
    same("embed_tokens", "token_embd"),
    same("lm_head", "output"),
    same("z_L_init", "hrm.z_l_init"),
    split("L_module.layers.#.attn.gqkv_proj", GATE_QKV),
    same("L_module.layers.#.attn.o_proj", "blk.#.attn_output"),
    split("L_module.layers.#.mlp.gate_up_proj", GATE_UP),
    same("L_module.layers.#.mlp.down_proj", "blk.#.ffn_down"),
    split("H_module.layers.#.attn.gqkv_proj", GATE_QKV).behind(LAYERS),
    same("H_module.layers.#.attn.o_proj", "blk.#.attn_output").behind(LAYERS),
    split("H_module.layers.#.mlp.gate_up_proj", GATE_UP).behind(LAYERS),
    same("H_module.layers.#.mlp.down_proj", "blk.#.ffn_down").behind(LAYERS),
];

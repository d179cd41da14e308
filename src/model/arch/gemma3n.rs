//! Gemma 3n, text: four parallel streams, a low-rank branch beside attention, token embeddings of
//! each layer, sparse activations, and last layers that read the keys and values of earlier ones.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Layout, Names, When, laid, same};
use crate::model::{
    Activation, Ffn, Hparams, KvSource, ModelError, ModelSpec, NormPlacement, RopePairing,
};

/// Values where the metadata has none: parallel streams, elements of a layer's token embedding,
/// layers with keys and values of their own, base of the rotation in layers with a window.
const STREAMS: u64 = 4;
const LAYER_EMBED: usize = 256;
const STORED_LAYERS: usize = 20;
const WINDOW_FREQ_BASE: f32 = 10_000.0;
/// Layers with sparse activations, and the deviations above the mean from which a normal
/// distribution has a twentieth.
const SPARSE_LAYERS: usize = 10;
const SPARSITY: f32 = 1.644_853_6;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let n_shared = h.u64("attention.shared_kv_layers")?.map(|n| n as usize);
    let n_stored = n_shared.map_or(STORED_LAYERS, |n| h.n_layers.saturating_sub(n));
    let streams = h.u64("altup.num_inputs")?.unwrap_or(STREAMS);
    if streams != STREAMS || h.u64("altup.active_idx")?.unwrap_or(0) != 0 {
        return Err(h.bad("altup.num_inputs", "is not 4 with the first active, not supported"));
    }
    let sparsity = h.f32s("activation_sparsity_scale")?;
    let sliding = h.pattern("attention.sliding_window_pattern", 5)?;
    if n_stored < h.n_layers && (n_stored < 2 || !sliding[n_stored - 2] || sliding[n_stored - 1]) {
        return Err(h.bad("attention.shared_kv_layers", "ends at layers of other kinds"));
    }
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm().act(Activation::Gelu);
    let spec = spec.sliding(h, 5, None)?.window_ropes(h, Some(WINDOW_FREQ_BASE))?;
    let mut spec = spec.each_attention(|i, attention| {
        attention.scale = 1.0;
        attention.v_norm = true;
        if let Some(rope) = &mut attention.rope {
            rope.freq_factors = false;
        }
        if i >= n_stored {
            attention.kv = KvSource::Layer(n_stored - if sliding[i] { 2 } else { 1 });
        }
    });
    let missing = || ModelError::MissingTensor("blk.0.laurel_l.weight".into());
    let rank = h.tensor_rows("blk.0.laurel_l.weight").ok_or_else(missing)?;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        layer.laurel = Some(rank as usize);
        if let Ffn::Dense(dense) = &mut layer.ffn {
            let usual = if i < SPARSE_LAYERS { SPARSITY } else { 0.0 };
            let deviations = sparsity.as_ref().map_or(usual, |all| all[i]);
            dense.sparsity = (deviations > 0.0).then_some(deviations);
        }
    }
    spec.n_streams = STREAMS as usize;
    let len = h.optional_length("embedding_length_per_layer_input")?;
    spec.layer_embed = Some(len.unwrap_or(LAYER_EMBED));
    spec.embed_scale = (h.n_embd as f32).sqrt();
    let cap = h.f32("final_logit_softcapping")?.unwrap_or(30.0);
    spec.head.softcap = Some(cap).filter(|&cap| cap != 0.0);
    Ok(spec.norms(NormPlacement::PRE_AND_POST))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"],
    arch: "gemma3n",
    when: When::Always,
    tensors: &[NAMES, NORMS, LAYER_EMBEDS, DECODER],
    keys: &[
        super::gemma3::KEYS,
        LAYER_KEYS,
        &[
            Key::IntElse("altup.active_idx", &["altup_active_idx"], 0),
            Key::IntElse("altup.num_inputs", &["altup_num_inputs"], 4),
            Key::NormalQuantiles("activation_sparsity_scale", "activation_sparsity_pattern"),
        ],
    ],
}];

/// Parallel streams and the low-rank branch.
const NAMES: &[Names] = &[
    same("altup_projections.@", "altup_proj"),
    same("altup_unembed_projections.@", "altup_unembd_proj"),
    same("layers.#.altup.correction_coefs", "blk.#.altup_correct_coef"),
    same("layers.#.altup.correct_output_scale", "blk.#.altup_correct_scale.weight"),
    same("layers.#.altup.prediction_coefs", "blk.#.altup_predict_coef"),
    same("layers.#.altup.modality_router", "blk.#.altup_router"),
    same("layers.#.altup.router_norm", "blk.#.altup_router_norm"),
    same("layers.#.laurel.linear_left", "blk.#.laurel_l"),
    same("layers.#.laurel.linear_right", "blk.#.laurel_r"),
    same("layers.#.laurel.post_laurel_norm", "blk.#.laurel_post_norm"),
];

/// Norms around everything, which multiply by their weights.
pub const NORMS: &[Names] = &[
    same("layers.#.post_attention_layernorm", "blk.#.post_attention_norm"),
    same("layers.#.pre_feedforward_layernorm", "blk.#.ffn_norm"),
    same("layers.#.post_feedforward_layernorm", "blk.#.post_ffw_norm"),
];

/// Token embeddings of the layers.
pub const LAYER_EMBEDS: &[Names] = &[
    laid("embed_tokens_per_layer", "per_layer_token_embd", Layout::ForAllTokens),
    same("per_layer_model_projection", "per_layer_model_proj"),
    same("per_layer_projection_norm", "per_layer_proj_norm"),
    same("layers.#.per_layer_input_gate", "blk.#.inp_gate"),
    same("layers.#.per_layer_projection", "blk.#.proj"),
    same("layers.#.post_per_layer_input_norm", "blk.#.post_norm"),
];

/// Embeddings and shared keys of layers, and which of them have windows.
pub const LAYER_KEYS: &[Key] = &[
    Key::IntElse("embedding_length_per_layer_input", &["hidden_size_per_layer_input"], 0),
    Key::IntElse("attention.shared_kv_layers", &["num_kv_shared_layers"], 0),
    Key::Pattern("attention.sliding_window_pattern", "layer_types", "sliding_attention"),
];

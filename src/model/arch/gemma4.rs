//! Gemma 4, text: heads of two sizes, the last layers read the keys and values of earlier ones,
//! layers have token embeddings of their own, or experts beside a dense part.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, When, same};
use crate::model::{
    Activation, DenseSpec, Ffn, Hparams, KvSource, ModelError, ModelSpec, NormPlacement,
    OutputScale, RopePairing, RopeScaling, RouterInput,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let n_shared = h.u64("attention.shared_kv_layers")?.unwrap_or(0) as usize;
    let n_stored = h.n_layers.checked_sub(n_shared).filter(|&n| n_shared == 0 || n >= 2);
    let problem = || h.bad("attention.shared_kv_layers", "leaves too few layers");
    let n_stored = n_stored.ok_or_else(problem)?;
    let window = h.length("attention.sliding_window")?;
    let sliding = h.pattern("attention.sliding_window_pattern", 1)?;
    let swa_k_dim = h.length("attention.key_length_swa")?;
    let swa_v_dim = h.length("attention.value_length_swa")?;
    let swa_rot = h.length("rope.dimension_count_swa")?;
    let swa_base = h.f32("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let spec = ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norm().act(Activation::Gelu);
    let mut spec = spec.each_attention(|i, attention| {
        attention.scale = 1.0;
        attention.v_norm = true;
        if !h.has_tensor(&format!("blk.{i}.attn_v.weight")) {
            attention.kv = KvSource::KeysOnly;
        }
        if i >= n_stored {
            attention.kv = KvSource::Layer(n_stored - if sliding[i] { 2 } else { 1 });
        }
        if let (Some(rope), true) = (&mut attention.rope, sliding[i]) {
            (rope.n_rot, rope.freq_base, rope.freq_factors) = (swa_rot, swa_base, false);
            rope.scaling = RopeScaling::None;
            (attention.k_dim, attention.v_dim) = (swa_k_dim, swa_v_dim);
            attention.window = Some(window);
        }
    });
    if swa_rot > swa_k_dim || !swa_rot.is_multiple_of(2) {
        return Err(h.bad("rope.dimension_count_swa", "does not fit the heads"));
    }
    if n_shared > 0 && (!sliding[n_stored - 2] || sliding[n_stored - 1]) {
        return Err(h.bad("attention.shared_kv_layers", "ends at layers of other kinds"));
    }
    spec.embed_scale = (h.n_embd as f32).sqrt();
    let cap = h.f32("final_logit_softcapping")?.unwrap_or(30.0);
    spec.head.softcap = Some(cap).filter(|&cap| cap != 0.0);
    let n = h.u64("embedding_length_per_layer_input")?.unwrap_or(0) as usize;
    spec.layer_embed = (n > 0).then_some(n);
    let n_ff = h.counts("feed_forward_length")?.unwrap_or_default();
    for (layer, n_ff) in spec.layers.iter_mut().zip(n_ff) {
        layer.output_scale = OutputScale::Stream;
        if let Ffn::Moe(moe) = &mut layer.ffn {
            moe.router = RouterInput::OwnNorm;
            let mut dense = DenseSpec::gated(n_ff, Activation::Gelu);
            dense.scales = moe.scales;
            layer.ffn = Ffn::DenseAndMoe(dense, moe.clone());
        }
    }
    Ok(spec.norms(NormPlacement::PRE_AND_POST))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"],
    arch: "gemma4",
    when: When::Always,
    tensors: &[NAMES, super::gemma3n::NORMS, super::gemma3n::LAYER_EMBEDS, DECODER],
    keys: &[super::gemma3::KEYS, super::gemma3n::LAYER_KEYS, KEYS],
}];

/// Experts beside the dense part, and the scale of layers.
const NAMES: &[Names] = &[
    same("layers.#.layer_scalar", "blk.#.layer_output_scale.weight"),
    same("layers.#.router.proj", "blk.#.ffn_gate_inp"),
    same("layers.#.router.scale", "blk.#.ffn_gate_inp.scale"),
    same("layers.#.router.per_expert_scale", "blk.#.ffn_down_exps.scale"),
    same("layers.#.experts.gate_up_proj", "blk.#.ffn_gate_up_exps.weight"),
    same("layers.#.experts.down_proj", "blk.#.ffn_down_exps.weight"),
    same("layers.#.pre_feedforward_layernorm_2", "blk.#.pre_ffw_norm_2"),
    same("layers.#.post_feedforward_layernorm_1", "blk.#.post_ffw_norm_1"),
    same("layers.#.post_feedforward_layernorm_2", "blk.#.post_ffw_norm_2"),
];

/// Heads of two sizes.
const KEYS: &[Key] = &[
    Key::TextIs("tokenizer.ggml.model", "gemma4"),
    Key::FullLayersInt("attention.key_length", "global_head_dim", "head_dim"),
    Key::FullLayersInt("attention.value_length", "global_head_dim", "head_dim"),
    Key::FullLayersInt("rope.dimension_count", "global_head_dim", "head_dim"),
    Key::Int("attention.key_length_swa", &["head_dim"]),
    Key::Int("attention.value_length_swa", &["head_dim"]),
    Key::Int("rope.dimension_count_swa", &["head_dim"]),
    Key::FullLayersInts(
        "attention.head_count_kv",
        &["num_key_value_heads"],
        "num_global_key_value_heads",
        "num_key_value_heads",
    ),
    Key::Int("expert_feed_forward_length", &["moe_intermediate_size"]),
    Key::WiderLastLayers(
        "feed_forward_length",
        "use_double_wide_mlp",
        &["intermediate_size"],
        "num_kv_shared_layers",
    ),
];

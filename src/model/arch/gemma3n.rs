//! Gemma 3n, text: four parallel streams, a low-rank branch beside attention, token embeddings of
//! each layer, sparse activations, and last layers that read the keys and values of earlier ones.

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

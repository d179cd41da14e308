//! Gemma 4, text: heads of two sizes, the last layers read the keys and values of earlier ones,
//! layers have token embeddings of their own, or experts beside a dense part.

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

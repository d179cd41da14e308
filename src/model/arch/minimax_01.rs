//! MiniMax-01 (arXiv:2501.08313): linear attention, every eighth layer softmax attention; the
//! stream is replaced by its norm ahead of each part.

use crate::model::{
    Hparams, LightningSpec, Mixer, ModelError, ModelSpec, NormPlacement, RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    // The experts are as wide as the metadata's dense part.
    h.hide("expert_feed_forward_length");
    let interval = h.u64("full_attention_interval")?.unwrap_or(8);
    let linear = h.pattern("attention.recurrent_layers", interval)?;
    let stream_scale = h.f32("residual_scale")?;
    let stream_scale = stream_scale.ok_or_else(|| h.bad("residual_scale", "is missing"))?;
    let norms = NormPlacement {
        of_mixer_input: Some("attn_norm"),
        of_ffn_input: Some("ffn_norm"),
        ..NormPlacement::NONE
    };
    let mut spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).norms(norms);
    // Layers forget the less the later they come.
    let last = (h.n_layers.max(2) - 1) as f64;
    for (i, (layer, is_linear)) in spec.layers.iter_mut().zip(linear).enumerate() {
        layer.stream_scale = stream_scale;
        if let (Mixer::Attention(attention), true) = (&layer.mixer, is_linear) {
            let n_heads = attention.n_heads;
            let scale = 1.0 - i as f64 / last + 1e-5;
            let start = -((3.0 - (n_heads as f64).log2()).exp2());
            let slope = |head: usize| (scale * (start * (head + 1) as f64).exp2()) as f32;
            let slopes = (0..n_heads).map(slope).collect();
            layer.mixer =
                Mixer::LightningAttention(LightningSpec { head_dim: attention.k_dim, slopes });
        }
    }
    Ok(spec)
}

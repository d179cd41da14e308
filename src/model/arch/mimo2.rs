//! MiMo V2: sliding windows with sinks.

use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, RopePairing, TensorUse};

/// Base of the rotation in layers with a window, where the metadata has none.
const WINDOW_FREQ_BASE: f32 = 10_000.0;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let value_scale = h.f32("attention.value_scale")?.filter(|&scale| scale != 1.0);
    if value_scale.is_some() {
        return Err(h.bad("attention.value_scale", "is not 1, not supported yet"));
    }
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).sliding(h, 1, None)?;
    let spec = spec.window_ropes(h, Some(WINDOW_FREQ_BASE))?;
    let has = |i: usize, name: &str| h.has_tensor(&format!("blk.{i}.{name}.weight"));
    let spec = spec.each_attention(|i, attention| {
        attention.sinks = has(i, "attn_sinks");
        attention.qkv_scales = TensorUse::Ignore;
        attention.qkv_biases = TensorUse::Ignore;
    });
    let mut spec = spec.each_moe(|_, moe| moe.gating = ExpertGating::Sigmoid);
    spec.unused = super::hy_v3::BESIDE_EXPERTS;
    spec.dense_where(h, |i| !has(i, "ffn_gate_inp"))
}

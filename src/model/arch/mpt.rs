//! MPT: ALiBi or learned positions, clamped queries, keys and values.

use crate::model::{Hparams, ModelError, ModelSpec, QkNorm};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let exponent = h.f32("attention.max_alibi_bias")?.unwrap_or(0.0);
    let spec = ModelSpec::gpt_like(h)?.layer_norms().clamped(h)?;
    let mut spec = spec.positions(h.has_tensor("position_embd.weight"));
    if exponent > 0.0 {
        spec = spec.alibi(exponent);
    }
    if h.has_tensor("blk.0.attn_q_norm.weight") {
        spec = spec.qk_norms(QkNorm::Whole);
    } else {
        // The reference implementation norms both or none.
        spec.unused = &["attn_k_norm."];
    }
    Ok(spec)
}

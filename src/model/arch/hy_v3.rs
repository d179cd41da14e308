//! Hunyuan 3.

use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec, RopePairing};

/// Dense feed-forward parts are not used in layers with experts.
pub(super) const BESIDE_EXPERTS: &[&str] = &["ffn_gate.", "ffn_up.", "ffn_down."];

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norm();
    let mut spec = spec.shared_expert(h)?.expert_gating(h, ExpertGating::Sigmoid)?;
    spec.unused = BESIDE_EXPERTS;
    let has_router = |i: usize| h.has_tensor(&format!("blk.{i}.ffn_gate_inp.weight"));
    spec.dense_where(h, |i| !has_router(i))
}

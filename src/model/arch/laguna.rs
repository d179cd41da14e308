//! Laguna: attention gated by softplus, sliding windows, experts.

use crate::model::{
    Activation, AttentionGate, ExpertGating, Hparams, ModelError, ModelSpec, RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm();
    let spec =
        spec.sliding_from(h, 4, None)?.plain_window_ropes(h)?.each_attention(|i, attention| {
            let rows = h.tensor_rows(&format!("blk.{i}.attn_gate.weight"));
            let by_head = rows == Some(attention.n_heads as u64);
            attention.gate = if by_head { AttentionGate::Heads } else { AttentionGate::Elements };
            attention.gate_act = Activation::Softplus;
        });
    spec.shared_expert(h)?.expert_gating(h, ExpertGating::Sigmoid)?.dense_lead(h)
}

//! MiniMax M3 within contexts that its indexer would choose all of: there sparse attention is
//! attention.

use crate::model::{
    Activation, ExpertGating, GluClamp, Hparams, ModelError, ModelSpec, RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let block = h.length("attention.indexer.block_size")?;
    h.hide("attention.indexer.local_blocks");
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).qk_norm().act(Activation::GeluQuick);
    let spec = spec.shared_expert(h)?.expert_gating(h, ExpertGating::Sigmoid)?;
    let clamp = Some(GluClamp::both(7.0, 1.0));
    let mut spec = spec.each_moe(|_, moe| moe.clamp = clamp).dense_lead(h)?;
    spec.dense_within(h)?;
    spec.n_ctx_max = spec.n_ctx_max.map(|n| n.saturating_mul(block));
    Ok(spec)
}

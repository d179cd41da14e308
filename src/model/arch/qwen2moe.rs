//! Qwen 1.5 and 2 MoE (arXiv:2407.10671): a gated shared expert, weights as the softmax has them.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing, SharedExpert};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox);
    let own = h.optional_length("expert_feed_forward_length")?.is_some();
    let width = h.optional_length("expert_shared_feed_forward_length")?;
    Ok(spec.each_moe(|i, moe| {
        moe.normalize_weights = false;
        let n_ff = h.shared_width(i).or(width).unwrap_or(moe.n_ff);
        moe.shared = Some(SharedExpert { n_ff, suffix: "_shexp", gated: true, clamp: None });
        if !own {
            moe.n_ff /= moe.n_used;
        }
    }))
}

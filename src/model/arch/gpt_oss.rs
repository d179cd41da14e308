//! gpt-oss (arXiv:2508.10925): attention sinks, sliding windows in every other layer, clamped experts
//! with biases.

use crate::model::{
    Activation, ExpertGating, GluClamp, Hparams, ModelError, ModelSpec, RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).sliding(h, 2, None)?.sinks();
    spec.layers.iter_mut().for_each(|l| l.norms.before_ffn = Some("post_attention_norm"));
    Ok(spec.each_moe(|_, moe| {
        moe.act = Activation::GeluQuick;
        moe.clamp = Some(GluClamp::both(7.0, 1.0));
        moe.gating = ExpertGating::SoftmaxOfChosen;
        moe.normalize_weights = false;
    }))
}

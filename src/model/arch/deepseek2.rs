//! DeepSeek V2 and V3 (arXiv:2405.04434, arXiv:2412.19437) and its relatives: latent attention,
//! shared experts.

use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec};

/// Layers and vocabulary of GLM 4.7 Flash, whose files do not name the sigmoid of its router.
const GLM_FLASH: ([usize; 2], u64) = ([47, 48], 154_880);

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let is_glm = GLM_FLASH.0.contains(&h.n_layers) && h.u64("vocab_size")? == Some(GLM_FLASH.1);
    let gating = if is_glm { ExpertGating::Sigmoid } else { ExpertGating::Softmax };
    deepseek(h, gating, |all| if all == 1.0 { 1.0 } else { all })
}

/// The common shape. `mscale`: YaRN's factor of cosine and sine, by that of the scores.
pub(super) fn deepseek(
    h: &Hparams<'_>,
    gating: ExpertGating,
    mscale: impl Fn(f32) -> f32,
) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.mla(h)?;
    // A tenth of YaRN's factor `mscale_all_dim`, as the conversion writes it.
    let all = h.f32("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0) / 0.1;
    spec = spec.each_mla(|_, latent| {
        let Some(rope) = &mut latent.rope else { return };
        let magnitude = match all {
            0.0 => rope.magnitude * rope.scaling.mscale(1.0),
            all => rope.magnitude * rope.scaling.mscale(mscale(all)) / rope.scaling.mscale(all),
        };
        rope.magnitude = magnitude / rope.scaling.mscale(1.0);
        latent.scale *= (magnitude * rope.scaling.mscale(all)).powi(2);
    });
    let period = h.optional_length("attention.temperature_length")?.unwrap_or(h.n_ctx_train);
    let spec = spec.temperature(h, period)?;
    spec.shared_expert(h)?.expert_gating(h, gating)?.dense_lead(h)
}

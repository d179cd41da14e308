//! SmallThinker (arXiv:2507.20984): the router reads the layer's input, before attention.

use crate::model::{
    Activation, ExpertGating, Hparams, ModelError, ModelSpec, RopePairing, RouterInput,
};

/// Every fourth layer, from the first on, has no rotation if there is a window.
const NO_ROPE_STEP: usize = 4;
/// The window of all its models, whatever the metadata says.
const WINDOW: usize = 4096;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let windowed = h.u64("attention.sliding_window")?.is_some_and(|n| n > 0);
    let mut spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).act(Activation::Relu);
    if windowed {
        spec = spec.sliding_from(h, 4, Some(WINDOW))?;
        spec = spec.each_attention(|_, a| a.window = a.window.map(|_| WINDOW));
        // The reference takes a step of the whole depth for none.
        let rotates = h.n_layers == NO_ROPE_STEP;
        spec = spec.no_rope(|i, _| i.is_multiple_of(NO_ROPE_STEP) && !rotates);
    }
    let spec = spec.expert_gating(h, ExpertGating::Softmax)?;
    Ok(spec.each_moe(|_, moe| {
        moe.normalize_weights = true;
        moe.router = RouterInput::Layer;
    }))
}

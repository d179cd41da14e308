//! Snowflake Arctic: a dense model with experts beside each layer, which read its input.

use crate::model::{Activation, DenseSpec, Ffn, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    // The experts are as wide as the metadata's dense part, and that as the stream.
    h.hide("expert_feed_forward_length");
    let mut spec = ModelSpec::llama_like(h)?;
    for layer in &mut spec.layers {
        if let Ffn::Moe(moe) = &layer.ffn {
            let dense = DenseSpec::gated(h.n_embd, Activation::Silu);
            layer.ffn = Ffn::DenseBesideMoe(dense, moe.clone());
        }
    }
    Ok(spec.ignore_ffn_scales())
}

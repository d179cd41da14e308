//! ModernBERT (arXiv:2412.13663): norms before each part, windows in two of three layers, GeGLU.

use crate::model::{Activation, DenseGate, EmbedNorm, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let act = match h.str("hidden_activation")? {
        None | Some("gelu" | "geglu") => Activation::Gelu,
        Some("silu" | "swiglu") => Activation::Silu,
        Some(other) => return Err(h.bad("hidden_activation", format!("is `{other}`, not known"))),
    };
    let spec = ModelSpec::encoder(h)?.layer_norms();
    let spec = spec.rope(RopePairing::Neox).dense(act, DenseGate::InUp);
    let sliding = h.pattern_from("attention.sliding_window_pattern", 3)?;
    let mut spec = spec.windows_to_both_sides(h, &sliding)?;
    spec.embed_norm = EmbedNorm::Weighted;
    // The norm of the embeddings is that of the first layer too.
    if !h.has_tensor("blk.0.attn_norm.weight") {
        spec.layers[0].norms.before_mixer = None;
    }
    spec.classifier(h, Activation::Gelu, false)
}

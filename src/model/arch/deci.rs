//! Llama-Nemotron (arXiv:2411.19146): LLaMA with heads and widths of each layer. Layers without
//! attention or feed-forward part are refused.

use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    ModelSpec::unscaled(h)?.attention_scale(h)
}

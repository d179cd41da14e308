//! LLaMA 1 to 3 (arXiv:2302.13971, arXiv:2407.21783), Mistral, Mixtral, SmolLM and many others.

use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    ModelSpec::llama_like(h)
}

//! Llama as an encoder, such as Llama-Embed-Nemotron (arXiv:2511.07025).

use super::llama;
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    llama::spec(h)?.encoding(h)
}

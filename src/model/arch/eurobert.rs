//! EuroBERT (arXiv:2503.05500): an encoder of Llama's shape.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, VOCAB, When};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::encoder(h)?.rope(RopePairing::Neox))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["EuroBertModel", "JinaEmbeddingsV5Model"],
    arch: "eurobert",
    when: When::Always,
    tensors: &[DECODER],
    keys: &[
        VOCAB,
        &[
            Key::FlagIs("attention.causal", false),
            Key::TextIs("rope.scaling.type", "none"),
            Key::Pooling,
        ],
    ],
}];

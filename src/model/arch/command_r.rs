//! Command R (Cohere): the feed-forward part beside the attention, on one layer norm.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, When};
use crate::model::{Hparams, ModelError, ModelSpec, QkNorm};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.layer_norms().qk_norms(QkNorm::OwnHeads);
    spec.parallel("attn_norm").logit_scale(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["CohereForCausalLM"],
    arch: "command-r",
    when: When::Always,
    tensors: &[DECODER],
    keys: &[&[
        Key::Int("context_length", &["model_max_length", "max_position_embeddings"]),
        Key::Float("logit_scale", &["logit_scale"]),
        Key::TextIs("rope.scaling.type", "none"),
    ]],
}];

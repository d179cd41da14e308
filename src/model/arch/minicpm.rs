//! MiniCPM (arXiv:2404.06395): LLaMA with factors, which old files do not have.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, PAIRS, ROTARY_ALL, VOCAB, When};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?;
    spec.embed_scale = 12.0;
    let residual_scale = 1.4 / (h.n_layers as f32).sqrt();
    spec.layers.iter_mut().for_each(|layer| layer.residual_scale = residual_scale);
    let logit_scale = h.f32("logit_scale")?.unwrap_or(256.0 / h.n_embd as f32);
    spec.head.scale = 1.0 / logit_scale;
    spec.scaled(h)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["MiniCPMForCausalLM"],
    arch: "minicpm",
    when: When::Always,
    tensors: &[super::llama::MIXTRAL, PAIRS, DECODER],
    keys: &[
        VOCAB,
        ROTARY_ALL,
        &[
            Key::Float("embedding_scale", &["scale_emb"]),
            Key::OverRootOfLayers("residual_scale", &["scale_depth"]),
            Key::Ratio("logit_scale", &["hidden_size"], &["dim_model_base"]),
        ],
    ],
}];

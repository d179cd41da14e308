//! NeoBERT (arXiv:2502.19587): an encoder of Llama's shape, gate and up projection in one tensor.

use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::encoder(h)?.dense(Activation::Silu, DenseGate::InUp);
    spec.head.norm = Some("enc.output_norm");
    spec.classifier(h, Activation::Tanh, false)
}

//! PLM (arXiv:2503.12167): latent attention, squared ReLU.

use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::unscaled(h)?.mla(h)?.dense(Activation::ReluSqr, DenseGate::None))
}

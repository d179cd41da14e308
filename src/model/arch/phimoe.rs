//! Phi 3.5 MoE (arXiv:2404.14219): norms with biases, LongRoPE as in Phi 3. Experts are weighed by the
//! softmax of the chosen ones, as in the reference; the original's SparseMixer weighs them
//! otherwise, so that its checkpoints are not converted.

use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::unscaled(h)?.rope(RopePairing::Neox))
}

//! OLMo (arXiv:2402.00838): layer norms without parameters.

use crate::model::{Hparams, ModelError, ModelSpec, NormFormula};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.clamped(h)?;
    spec.norm = NormFormula::BareLayer;
    Ok(spec)
}

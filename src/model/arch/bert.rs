//! BERT (arXiv:1810.04805): learned positions, norms of the sums.

use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::bert_like(h)?.positions(true))
}

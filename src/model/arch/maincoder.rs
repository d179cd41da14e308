//! Maincoder: LLaMA with norms of query and key heads after the rotation.

use crate::model::{Hparams, ModelError, ModelSpec, QkNorm};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::unscaled(h)?.qk_norms(QkNorm::HeadsAfterRope))
}

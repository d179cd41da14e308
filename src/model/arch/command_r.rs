//! Command R (Cohere): the feed-forward part beside the attention, on one layer norm.

use crate::model::{Hparams, ModelError, ModelSpec, QkNorm};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::unscaled(h)?.layer_norms().qk_norms(QkNorm::OwnHeads);
    spec.parallel("attn_norm").logit_scale(h)
}

//! Mistral 4: DeepSeek's shape.

use super::deepseek2::deepseek;
use crate::model::{ExpertGating, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    deepseek(h, ExpertGating::Softmax, |_| 1.0)
}

//! PaddleOCR-VL, text; counts of experts in the metadata mean nothing.

use crate::model::checkpoint::{Checkpoint, DECODER, ROTARY_ALL, When};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.rope_sections();
    ModelSpec::unscaled(h)?.rope(RopePairing::Neox).dense_where(h, |_| true)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["PaddleOCRVLForConditionalGeneration"],
    arch: "paddleocr",
    when: When::Always,
    tensors: &[super::ernie4_5::FUSED, DECODER],
    keys: &[ROTARY_ALL],
}];

//! Seed-OSS.

use crate::model::checkpoint::{Checkpoint, DECODER, Names, When, same};
use crate::model::{Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox);
    spec.layers.iter_mut().for_each(|l| l.norms.before_ffn = Some("post_attention_norm"));
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["SeedOssForCausalLM"],
    arch: "seed_oss",
    when: When::Always,
    tensors: &[NAMES, DECODER],
    keys: &[],
}];

const NAMES: &[Names] = &[same("layers.#.post_attention_layernorm", "blk.#.post_attention_norm")];

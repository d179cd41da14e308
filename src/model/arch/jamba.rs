//! Jamba (arXiv:2403.19887): Mamba with a few layers of attention without rotation.

use crate::model::{Hparams, Mixer, ModelError, ModelSpec, StateSpaceSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    let space = Mixer::StateSpace(StateSpaceSpec::one(h)?);
    let spec = ModelSpec::unscaled(h)?.no_rope(|_, _| true).recurrent(&space);
    let spec = spec.each_moe(|_, moe| moe.normalize_weights = false);
    spec.dense_where(h, |i| !h.has_tensor(&format!("blk.{i}.ffn_gate_inp.weight")))
}

//! Granite 4: Mamba 2 with a few layers of attention, without rotation unless the metadata says
//! otherwise.

use super::granite;
use crate::model::{Hparams, Mixer, ModelError, ModelSpec, StateSpaceSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    h.hide("attention.recurrent_layers");
    let spec = granite::spec(h)?.recurrent(&Mixer::StateSpace(StateSpaceSpec::two(h)?));
    spec.dense_where(h, |i| !h.has_tensor(&format!("blk.{i}.ffn_gate_inp.weight")))
}

//! HRM-Text: two stacks of gated attention without weights in their norms, passed in turn.

use crate::model::{
    AttentionGate, CycleSpec, Hparams, ModelError, ModelSpec, NormFormula, RopePairing,
};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let (n_layers, n_low) = (h.length("hrm.layers_per_stack")?, h.length("hrm.l_cycles")?);
    let n_high = h.length("hrm.h_cycles")?;
    let expected = n_layers.saturating_mul(n_high).saturating_mul(n_low + 1);
    if h.n_layers != expected {
        return Err(h.bad("block_count", format!("is not {expected}, that of all passes")));
    }
    // Texts are continued from left to right all the same.
    let _ = h.bool("hrm.prefix_lm")?;
    let spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).scaled(h)?;
    let mut spec = spec.each_attention(|_, attention| attention.gate = AttentionGate::Elements);
    spec.norm = NormFormula::BareRms;
    spec.cycles = Some(CycleSpec { n_layers, n_low });
    spec.head.norm = None;
    Ok(spec)
}

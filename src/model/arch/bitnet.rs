//! BitNet b1.58 (arXiv:2402.17764): LLaMA with norms ahead of the matrices that lead back to the
//! stream.

use crate::model::{Hparams, ModelError, ModelSpec, NormPlacement, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let norms = NormPlacement {
        inside_attention: Some("attn_sub_norm"),
        inside_ffn: Some("ffn_sub_norm"),
        ..NormPlacement::PRE
    };
    Ok(ModelSpec::llama_like(h)?.rope(RopePairing::Neox).norms(norms))
}

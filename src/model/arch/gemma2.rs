//! Gemma 2 (arXiv:2408.00118): norms around everything, GeGLU, soft caps, every other layer with a
//! sliding window.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, When, dropped};
use crate::model::{Activation, Hparams, ModelError, ModelSpec, NormPlacement, RopePairing};

/// Layers of the 27B model, whose scores are scaled by the width per head, not by the head's.
const LAYERS_27B: usize = 46;
/// Window in tokens where the metadata has none.
const WINDOW: usize = 4096;
const SCORE_CAP: f32 = 50.0;
const LOGIT_CAP: f32 = 30.0;

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::unscaled(h)?.rope(RopePairing::Neox).act(Activation::Gelu);
    spec.embed_scale = (h.n_embd as f32).sqrt();
    let cap = |name, usual| {
        let cap = h.f32(name)?.unwrap_or(usual);
        Ok::<_, ModelError>(Some(cap).filter(|&cap| cap != 0.0))
    };
    spec.head.softcap = cap("final_logit_softcapping", LOGIT_CAP)?;
    let softcap = cap("attn_logit_softcapping", SCORE_CAP)?;
    let wide = h.n_layers == LAYERS_27B;
    spec = spec.sliding(h, 2, Some(WINDOW))?.each_attention(|_, attention| {
        attention.softcap = softcap;
        if wide {
            attention.scale = 1.0 / ((h.n_embd / attention.n_heads) as f32).sqrt();
        }
    });
    Ok(spec.attention_scale(h)?.norms(NormPlacement::PRE_AND_POST))
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Gemma2ForCausalLM"],
    arch: "gemma2",
    when: When::Always,
    tensors: &[HEAD, super::gemma3::NORMS, DECODER],
    keys: &[&[
        Key::Float("attn_logit_softcapping", &["attn_logit_softcapping"]),
        Key::Float("final_logit_softcapping", &["final_logit_softcapping"]),
        Key::Int("attention.sliding_window", &["sliding_window"]),
        Key::InverseRoot("attention.scale", "query_pre_attn_scalar"),
    ]],
}];

/// A copy of the embedding that some checkpoints have.
pub const HEAD: &[Names] = &[dropped("lm_head")];

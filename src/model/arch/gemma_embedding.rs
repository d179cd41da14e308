//! EmbeddingGemma (arXiv:2509.20354): Gemma 3 as an encoder.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Names, VOCAB, When, same};
use crate::model::{Activation, Hparams, ModelError, ModelSpec, NormPlacement, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::encoder(h)?.rope(RopePairing::Neox).qk_norm().act(Activation::Gelu);
    let sliding = h.pattern("attention.sliding_window_pattern", 6)?;
    let mut spec = spec.windows_to_both_sides(h, &sliding)?.norms(NormPlacement::PRE_AND_POST);
    spec.embed_scale = (h.n_embd as f32).sqrt();
    spec.head.dense = &["dense_2", "dense_3"];
    Ok(spec)
}

pub const HF: &[Checkpoint] = &[Checkpoint {
    classes: &["Gemma3TextModel"],
    arch: "gemma-embedding",
    when: When::Always,
    tensors: &[DENSE, super::gemma3::NORMS, DECODER],
    keys: &[
        super::gemma3::KEYS,
        VOCAB,
        &[
            Key::FlagIs("attention.causal", false),
            // Without it a text is read from left to right.
            Key::Needs("use_bidirectional_attention"),
            Key::MustBe("use_bidirectional_attention", true),
            Key::Pattern("attention.sliding_window_pattern", "layer_types", "sliding_attention"),
            Key::Pooling,
        ],
    ],
}];

/// What sentence-transformers has behind the pooling.
const DENSE: &[Names] = &[same("2_Dense.linear", "dense_2"), same("3_Dense.linear", "dense_3")];

//! ModernBERT (arXiv:2412.13663): norms before each part, windows in two of three layers, GeGLU.

use crate::model::checkpoint::{Checkpoint, Key, Names, VOCAB, When, dropped, same};
use crate::model::{Activation, DenseGate, EmbedNorm, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let act = match h.str("hidden_activation")? {
        None | Some("gelu" | "geglu") => Activation::Gelu,
        Some("silu" | "swiglu") => Activation::Silu,
        Some(other) => return Err(h.bad("hidden_activation", format!("is `{other}`, not known"))),
    };
    let spec = ModelSpec::encoder(h)?.layer_norms();
    let spec = spec.rope(RopePairing::Neox).dense(act, DenseGate::InUp);
    let sliding = h.pattern_from("attention.sliding_window_pattern", 3)?;
    let mut spec = spec.windows_to_both_sides(h, &sliding)?;
    spec.embed_norm = EmbedNorm::Weighted;
    // The norm of the embeddings is that of the first layer too.
    if !h.has_tensor("blk.0.attn_norm.weight") {
        spec.layers[0].norms.before_mixer = None;
    }
    spec.classifier(h, Activation::Gelu, false)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["ModernBertModel", "ModernBertForMaskedLM"],
        arch: "modern-bert",
        when: When::Always,
        tensors: &[NAMES, TRAINING],
        keys: &[VOCAB, KEYS],
    },
    Checkpoint {
        classes: &["ModernBertForSequenceClassification"],
        arch: "modern-bert",
        when: When::Always,
        tensors: &[NAMES, SCORES],
        keys: &[
            VOCAB,
            KEYS,
            super::bert::RANKS,
            &[
                Key::IntWhen("classifier.pooling_type", "classifier_pooling", "mean", 1),
                Key::IntWhen("classifier.pooling_type", "classifier_pooling", "cls", 2),
                Key::MustBeText("classifier_activation", "gelu"),
            ],
        ],
    },
];

const KEYS: &[Key] = &[
    Key::FlagIs("attention.causal", false),
    Key::FloatElse("attention.layer_norm_epsilon", &["norm_eps", "layer_norm_eps"], 1e-5),
    Key::Without("attention.layer_norm_rms_epsilon"),
    Key::Int("attention.sliding_window", &["local_attention"]),
    Key::Int("attention.sliding_window_pattern", &["global_attn_every_n_layers"]),
    Key::PatternWhen(
        "layer_types",
        "attention.sliding_window_pattern",
        "layer_types",
        "sliding_attention",
    ),
    Key::TextIs("rope.scaling.type", "none"),
    Key::Text("hidden_activation", "hidden_activation"),
    Key::Pooling,
];

const NAMES: &[Names] = &[
    same("embeddings.tok_embeddings", "token_embd"),
    same("embeddings.norm", "token_embd_norm"),
    same("final_norm", "output_norm"),
    same("layers.#.attn_norm", "blk.#.attn_norm"),
    same("layers.#.attn.Wqkv", "blk.#.attn_qkv"),
    same("layers.#.attn.Wo", "blk.#.attn_output"),
    same("layers.#.mlp_norm", "blk.#.ffn_norm"),
    same("layers.#.mlp.Wi", "blk.#.ffn_up"),
    same("layers.#.mlp.Wo", "blk.#.ffn_down"),
];

const SCORES: &[Names] =
    &[same("head.dense", "cls"), same("head.norm", "cls.norm"), same("classifier", "cls.output")];

/// Heads of training.
const TRAINING: &[Names] = &[dropped("head.dense"), dropped("head.norm"), dropped("decoder")];

//! NeoBERT (arXiv:2502.19587): an encoder of Llama's shape, gate and up projection in one tensor.

use crate::model::checkpoint::{Checkpoint, Key, Names, ROTARY_ALL, VOCAB, When, dropped, same};
use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ModelSpec::encoder(h)?.dense(Activation::Silu, DenseGate::InUp);
    spec.head.norm = Some("enc.output_norm");
    spec.classifier(h, Activation::Tanh, false)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["NeoBERT", "NeoBERTLMHead"],
        arch: "neo-bert",
        when: When::Always,
        tensors: &[NAMES, TRAINING],
        keys: &[VOCAB, ROTARY_ALL, KEYS],
    },
    Checkpoint {
        classes: &["NeoBERTForSequenceClassification"],
        arch: "neo-bert",
        when: When::Always,
        tensors: &[NAMES, SCORES],
        keys: &[VOCAB, ROTARY_ALL, KEYS, super::bert::RANKS],
    },
];

const KEYS: &[Key] = &[
    Key::FlagIs("attention.causal", false),
    Key::Int("context_length", &["max_length", "max_position_embeddings"]),
    Key::FloatElse("attention.layer_norm_rms_epsilon", &["norm_eps"], 1e-6),
    // Two thirds of what the configuration says, as gate and up projection are one matrix.
    Key::Share("feed_forward_length", &["intermediate_size"], 2, 3),
    Key::FloatIs("rope.freq_base", 10_000.0),
    Key::TextIs("rope.scaling.type", "none"),
    Key::IntIs("pooling_type", 2),
];

const NAMES: &[Names] = &[
    same("encoder", "token_embd"),
    same("layer_norm", "enc.output_norm"),
    same("transformer_encoder.#.attention_norm", "blk.#.attn_norm"),
    same("transformer_encoder.#.qkv", "blk.#.attn_qkv"),
    same("transformer_encoder.#.wo", "blk.#.attn_output"),
    same("transformer_encoder.#.ffn_norm", "blk.#.ffn_norm"),
    same("transformer_encoder.#.ffn.w12", "blk.#.ffn_up"),
    same("transformer_encoder.#.ffn.w3", "blk.#.ffn_down"),
    // Positions of the rotation, which are computed anew.
    dropped("freqs_cis"),
];

const SCORES: &[Names] = &[same("dense", "cls"), same("classifier", "cls.output")];

/// The head of training, whose name loses its root; alone.
const TRAINING: &[Names] = &[dropped("decoder"), dropped("weight"), dropped("bias")];

//! BERT (arXiv:1810.04805): learned positions, norms of the sums.

use crate::model::checkpoint::{Checkpoint, Key, Layout, Names, When, dropped, laid, same};
use crate::model::{Hparams, ModelError, ModelSpec};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    Ok(ModelSpec::bert_like(h)?.positions(true))
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["BertModel", "BertForMaskedLM"],
        arch: "bert",
        when: When::Always,
        tensors: &[NAMES],
        keys: &[KEYS],
    },
    Checkpoint {
        classes: &[
            "CamembertModel",
            "RobertaModel",
            "XLMRobertaModel",
            "RobertaForMaskedLM",
            "XLMRobertaForMaskedLM",
        ],
        arch: "bert",
        when: When::Always,
        tensors: &[ROBERTA, NAMES],
        keys: &[KEYS, &[Key::PositionsBehindPadding("context_length", "max_position_embeddings")]],
    },
    Checkpoint {
        classes: &["BertForSequenceClassification"],
        arch: "bert",
        when: When::Always,
        tensors: &[SCORES, NAMES],
        keys: &[KEYS, RANKS],
    },
    Checkpoint {
        classes: &["RobertaForSequenceClassification", "XLMRobertaForSequenceClassification"],
        arch: "bert",
        when: When::Always,
        tensors: &[SCORES_OF_ROBERTA, ROBERTA, NAMES],
        keys: &[
            KEYS,
            RANKS,
            &[Key::PositionsBehindPadding("context_length", "max_position_embeddings")],
        ],
    },
    Checkpoint {
        classes: &["DistilBertModel", "DistilBertForMaskedLM"],
        arch: "bert",
        when: When::Always,
        tensors: &[DISTILLED, NAMES],
        keys: &[KEYS, &[Key::FloatIs("attention.layer_norm_epsilon", 1e-12)]],
    },
];

/// DistilBERT (arXiv:1910.01108) names the same parts otherwise.
const DISTILLED: &[Names] = &[
    same("layer.#.attention.q_lin", "blk.#.attn_q"),
    same("layer.#.attention.k_lin", "blk.#.attn_k"),
    same("layer.#.attention.v_lin", "blk.#.attn_v"),
    same("layer.#.attention.out_lin", "blk.#.attn_output"),
    same("layer.#.sa_layer_norm", "blk.#.attn_output_norm"),
    same("layer.#.ffn.lin1", "blk.#.ffn_up"),
    same("layer.#.ffn.lin2", "blk.#.ffn_down"),
    same("layer.#.output_layer_norm", "blk.#.layer_output_norm"),
    dropped("vocab_transform"),
    dropped("vocab_layer_norm"),
    dropped("vocab_projector"),
];

const ROBERTA: &[Names] = &[
    laid("embeddings.position_embeddings", "position_embd", Layout::BehindPadding),
    // Heads of training.
    dropped("lm_head.bias"),
    dropped("lm_head.dense"),
    dropped("lm_head.layer_norm"),
    dropped("lm_head.decoder"),
];

/// Encoders of the shape of BERT.
pub const KEYS: &[Key] = &[
    Key::FlagIs("attention.causal", false),
    Key::IntElse("tokenizer.ggml.token_type_count", &["type_vocab_size"], 1),
    Key::Pooling,
];

pub const NAMES: &[Names] = &[
    same("embeddings.word_embeddings", "token_embd"),
    same("embeddings.position_embeddings", "position_embd"),
    same("embeddings.token_type_embeddings", "token_types"),
    same("embeddings.LayerNorm", "token_embd_norm"),
    same("encoder.layer.#.attention.self.query", "blk.#.attn_q"),
    same("encoder.layer.#.attention.self.key", "blk.#.attn_k"),
    same("encoder.layer.#.attention.self.value", "blk.#.attn_v"),
    same("encoder.layer.#.attention.output.dense", "blk.#.attn_output"),
    same("encoder.layer.#.attention.output.LayerNorm", "blk.#.attn_output_norm"),
    same("encoder.layer.#.intermediate.dense", "blk.#.ffn_up"),
    same("encoder.layer.#.output.dense", "blk.#.ffn_down"),
    same("encoder.layer.#.output.LayerNorm", "blk.#.layer_output_norm"),
    // Heads of training: what is wanted is the last layer.
    dropped("pooler.dense"),
    dropped("cls.predictions.bias"),
    dropped("cls.predictions.transform.dense"),
    dropped("cls.predictions.transform.LayerNorm"),
    dropped("cls.predictions.decoder"),
    dropped("cls.seq_relationship"),
];

/// Heads of classes and rerankers: a label or more, each with a score.
pub const RANKS: &[Key] = &[Key::IntIs("pooling_type", 4), Key::Labels("classifier.output_labels")];

const SCORES: &[Names] = &[same("pooler.dense", "cls"), same("classifier", "cls.output")];

const SCORES_OF_ROBERTA: &[Names] =
    &[same("classifier.dense", "cls"), same("classifier.out_proj", "cls.output")];

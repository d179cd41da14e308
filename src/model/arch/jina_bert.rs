//! Jina's BERTs: version 2 (arXiv:2310.19923) with ALiBi to both sides and gates, version 3
//! (arXiv:2409.10173) with rotation.

use crate::model::checkpoint::{Checkpoint, Key, Names, When, same};
use crate::model::{Activation, DenseGate, Hparams, ModelError, ModelSpec, QkNorm};

pub fn v2(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::bert_like(h)?.alibi(8.0);
    // Files differ in where the gate is; one without it has `ffn_up` alone.
    let gate = match (h.has_tensor("blk.0.ffn_gate.weight"), h.counts("feed_forward_length")?) {
        (true, _) => DenseGate::Own,
        (false, n_ff) => {
            let rows = h.tensor_rows("blk.0.ffn_up.weight");
            let n_ff = n_ff.and_then(|n_ff| n_ff.first().copied()).map(|n| n as u64);
            if rows == n_ff { DenseGate::None } else { DenseGate::InUp }
        }
    };
    Ok(spec.dense(Activation::Gelu, gate).each_attention(|i, attention| {
        if h.has_tensor(&format!("blk.{i}.attn_q_norm.weight")) {
            attention.qk_norm = QkNorm::Whole;
        }
    }))
}

pub fn v3(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    ModelSpec::bert_like(h)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["JinaBertModel", "JinaBertForMaskedLM"],
        arch: "jina-bert-v2",
        when: When::Always,
        tensors: &[NAMES_2, super::bert::NAMES],
        keys: &[
            super::bert::KEYS,
            &[
                Key::IntElse("tokenizer.ggml.token_type_count", &["type_vocab_size"], 2),
                Key::MustBeText("position_embedding_type", "alibi"),
                Key::MustBeText("feed_forward_type", "geglu"),
            ],
        ],
    },
    Checkpoint {
        classes: &["JinaEmbeddingsV3Model"],
        arch: "jina-bert-v3",
        when: When::Always,
        tensors: &[NAMES, super::bert::NAMES],
        keys: &[super::bert::KEYS, super::nomic_bert::ROTATION],
    },
];

/// Version 2, for text and for code.
const NAMES_2: &[Names] = &[
    same("encoder.layer.#.attention.self.layer_norm_q", "blk.#.attn_q_norm"),
    same("encoder.layer.#.attention.self.layer_norm_k", "blk.#.attn_k_norm"),
    same("encoder.layer.#.layer_norm_1", "blk.#.attn_norm_2"),
    same("encoder.layer.#.layer_norm_2", "blk.#.layer_output_norm"),
    same("encoder.layer.#.mlp.layernorm", "blk.#.layer_output_norm"),
    same("encoder.layer.#.mlp.gated_layers", "blk.#.ffn_up"),
    same("encoder.layer.#.mlp.up_gated_layer", "blk.#.ffn_up"),
    same("encoder.layer.#.mlp.wo", "blk.#.ffn_down"),
    same("encoder.layer.#.mlp.down_layer", "blk.#.ffn_down"),
];

const NAMES: &[Names] = &[
    same("emb_ln", "token_embd_norm"),
    same("encoder.layers.#.mixer.Wqkv", "blk.#.attn_qkv"),
    same("encoder.layers.#.mixer.out_proj", "blk.#.attn_output"),
    same("encoder.layers.#.norm1", "blk.#.attn_output_norm"),
    same("encoder.layers.#.mlp.fc1", "blk.#.ffn_up"),
    same("encoder.layers.#.mlp.fc2", "blk.#.ffn_down"),
    same("encoder.layers.#.norm2", "blk.#.layer_output_norm"),
];

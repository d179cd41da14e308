//! Qwen 3, dense (arXiv:2505.09388): norms of query and key heads.

use crate::model::checkpoint::{Checkpoint, DECODER, Key, Layout, Names, When, laid};
use crate::model::{Activation, Hparams, ModelError, ModelSpec, RopePairing};

pub fn spec(h: &Hparams<'_>) -> Result<ModelSpec, ModelError> {
    let spec = ModelSpec::llama_like(h)?.rope(RopePairing::Neox).qk_norm();
    spec.classifier(h, Activation::Tanh, true)
}

pub const HF: &[Checkpoint] = &[
    Checkpoint {
        classes: &["Qwen3ForCausalLM"],
        arch: "qwen3",
        when: When::Named("qwen3-reranker"),
        tensors: &[ANSWERS, DECODER],
        keys: &[&[
            Key::IntIs("pooling_type", 4),
            Key::TextsAre("classifier.output_labels", &["yes", "no"]),
            Key::TextsAre("tokenizer.chat_templates", &["rerank"]),
            Key::TextIs("tokenizer.chat_template.rerank", RERANK),
        ]],
    },
    Checkpoint {
        classes: &["Qwen3ForCausalLM", "Qwen3Model"],
        arch: "qwen3",
        when: When::Always,
        tensors: &[DECODER],
        keys: &[&[Key::Pooling]],
    },
];

/// Rerankers answer yes or no: these rows of the head are all that is needed.
const ANSWERS: &[Names] = &[
    laid("embed_tokens", "token_embd", Layout::AndRowsIfTied("cls.output.weight", YES_NO)),
    laid("lm_head", "cls.output", Layout::RowsOfTokens(YES_NO)),
];
const YES_NO: &[&str] = &["yes", "no"];

/// Prompt of a pair, with the instruction that the published models have by default.
const RERANK: &str = "<|im_start|>system\nJudge whether the Document meets the requirements based on \
    the Query and the Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n\
    <|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that answer \
    the query\n<Query>: {query}\n<Document>: {document}<|im_end|>\n\
    <|im_start|>assistant\n<think>\n\n</think>\n\n";

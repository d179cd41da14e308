//! One integration binary: it links once, and its parts share their helpers.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[cfg(feature = "chat-template")]
mod answers;
mod architectures;
#[cfg(feature = "cache")]
mod cache;
#[cfg(feature = "cli")]
mod chat;
#[cfg(feature = "chat-template")]
mod chat_templates;
#[cfg(all(feature = "cli", unix))]
mod chat_terminal;
#[cfg(all(feature = "cli", feature = "hub"))]
mod checkpoint;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod cli_answers;
#[cfg(feature = "cli")]
mod cli_prefixes;
#[cfg(feature = "convert")]
mod convert;
#[cfg(feature = "convert")]
mod convert_classes;
#[cfg(feature = "convert")]
mod convert_lora;
#[cfg(feature = "convert")]
mod convert_packed;
#[cfg(feature = "convert")]
mod convert_reversed;
#[cfg(feature = "convert")]
mod convert_reversed_grok;
#[cfg(feature = "convert")]
mod convert_reversed_mixed;
#[cfg(feature = "convert")]
mod convert_settings;
#[cfg(feature = "convert")]
mod convert_ternary;
#[cfg(feature = "convert")]
mod convert_vocab;
mod decoder;
mod disk_cache;
mod draft_model;
#[cfg(feature = "cli")]
mod edit;
mod embeddings;
mod eval;
mod experts;
#[cfg(feature = "cli")]
mod faults;
mod files;
mod fixture_model;
mod folder;
mod folds;
mod generate;
mod goldens;
#[cfg(feature = "cli")]
mod gptq;
#[cfg(any(feature = "gpu", target_vendor = "apple"))]
mod gpu;
#[cfg(all(any(feature = "gpu", target_vendor = "apple"), feature = "cli"))]
mod gpu_cli;
#[cfg(any(feature = "gpu", target_vendor = "apple"))]
mod gpu_loss;
#[cfg(any(feature = "gpu", target_vendor = "apple"))]
mod gpu_models;
#[cfg(any(feature = "gpu", target_vendor = "apple"))]
mod gpu_shaders;
#[cfg(feature = "grammar")]
mod grammar;
mod hooked;
mod hostile_models;
#[cfg(feature = "cache")]
mod hub;
mod imatrix;
#[cfg(feature = "chat-template")]
mod jinja;
#[cfg(feature = "cli")]
mod kills;
mod kv;
mod layers;
mod lora;
mod measure;
mod observer;
mod program_check;
#[cfg(feature = "chat-template")]
mod prompts;
#[cfg(feature = "cli")]
mod prune;
mod qat;
#[cfg(feature = "convert")]
mod qat_files;
mod quantize;
#[cfg(feature = "cli")]
mod readme;
#[cfg(feature = "cli")]
mod real_models;
mod reference;
mod require;
#[cfg(feature = "convert")]
mod reversed;
mod rust_source;
mod sampling;
mod saved;
mod scheduler;
#[cfg(feature = "grammar")]
mod schema_suite;
mod seam;
#[cfg(all(feature = "cli", feature = "serve"))]
mod serve;
mod sessions;
#[cfg(feature = "cli")]
mod target;
mod tokenizers;
mod tune;
mod twins;
#[cfg(feature = "cli")]
mod verify;

/// `value` with some of its fields set: options may gain fields, so no literal can name them all.
fn changed<T>(mut value: T, change: impl FnOnce(&mut T)) -> T {
    change(&mut value);
    value
}

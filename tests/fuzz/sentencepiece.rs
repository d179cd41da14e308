//! Fuzzes the reader of SentencePiece's vocabularies: any bytes as `tokenizer.model` of a small Llama
//! are refused, or become a vocabulary that cuts texts.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

#[global_allocator]
static ALLOCATOR: common::Bounded = common::Bounded;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(common::tiny_folder);

fuzz_target!(|data: &[u8]| {
    std::fs::write(FOLDER.join("tokenizer.model"), data).expect("a file");
    common::convert(&FOLDER, 0);
});

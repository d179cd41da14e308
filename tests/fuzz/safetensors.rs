//! Fuzzes the reader of weights: any bytes as `model.safetensors` of a small Llama are refused, or
//! converted to a file that runs.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use std::path::PathBuf;
use std::sync::LazyLock;

#[global_allocator]
static ALLOCATOR: common::Bounded = common::Bounded;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(common::tiny_folder);

fuzz_target!(|data: &[u8]| {
    std::fs::write(FOLDER.join("model.safetensors"), data).expect("a file");
    common::convert(&FOLDER, data.last().copied().unwrap_or(0));
});

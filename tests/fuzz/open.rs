//! Fuzzes the reader: any bytes give an error or a file whose every part can be read.
//!
//! In this folder, write the seed corpus once and fuzz; `max_total_time` is in seconds:
//! ```text
//! cargo run --release --bin seeds
//! cargo +nightly fuzz run open --fuzz-dir . -- -max_total_time=600 -rss_limit_mb=1024 -timeout=5
//! ```
//! On a stable toolchain, without cargo-fuzz (no address sanitizer, which code without `unsafe`
//! can spare; name your own target triple, so that build scripts are not instrumented):
//! ```text
//! RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
//!   -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Ccodegen-units=1 \
//!   -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares" \
//!   cargo run --release --target x86_64-unknown-linux-gnu --bin open -- \
//!   corpus/open -max_total_time=600 -rss_limit_mb=256 -timeout=5
//! ```
//! Limits: bytes in memory stand for files, so mapping is not fuzzed; several shards are inputs
//! in which `GGUF` appears again.

#![no_main]

use gguf_rs_lite::{GgufFile, OwnedValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(file) = GgufFile::from_bytes(data.to_vec()) {
        read_all(&file);
    }
    let shards = split(data);
    if shards.len() > 1
        && let Ok(file) = GgufFile::from_shards(shards)
    {
        read_all(&file);
    }
});

/// The input cut before every magic but the first.
fn split(data: &[u8]) -> Vec<Vec<u8>> {
    let mut shards: Vec<Vec<u8>> = vec![Vec::new()];
    for (at, &byte) in data.iter().enumerate() {
        if at > 0 && data[at..].starts_with(b"GGUF") {
            shards.push(Vec::new());
        }
        shards.last_mut().expect("never empty").push(byte);
    }
    shards
}

fn read_all(file: &GgufFile) {
    for (key, value) in file.entries() {
        let owned = OwnedValue::from(value);
        assert_eq!(owned.value_type(), file.get(key).expect("a key of the file").value_type());
        if let Some(array) = value.as_array() {
            let floats = array.to_f32s().map(|v| v.len());
            let integers = array.to_i64s().map(|v| v.len());
            assert!(floats.or(integers).unwrap_or(array.len()) == array.len());
        }
    }
    for tensor in file.tensors() {
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
        assert_eq!(file.data(tensor).len() as u64, tensor.bytes);
        assert!(tensor.shard > 0 || tensor.offset.is_multiple_of(file.alignment().into()));
    }
}

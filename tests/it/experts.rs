//! Mixtures of experts of many shapes: the same bits for every batch and number of threads.
//!
//! The formula itself is tested by the fixtures with experts in `decoder.rs`.

use crate::decoder::{logits, model, options, quantized};
use crate::fixture_model::{self, Fixture, weight};
use crate::measure::{assert_finite, bits};
use gguf_rs_lite::{GgmlType, GgufFile, GgufWriter};

/// The fixture of Qwen 3 MoE with other experts.
fn mixture(n_experts: u64, n_used: u32, n_ff: u64) -> Vec<u8> {
    let file = GgufFile::from_bytes(fixture_model::load("qwen3moe-moe").gguf).unwrap();
    let mut writer = GgufWriter::new(Vec::new());
    for (key, value) in file.entries() {
        match key.strip_prefix("qwen3moe.") {
            Some("expert_count") => writer.add(key, n_experts as u32).unwrap(),
            Some("expert_used_count") => writer.add(key, n_used).unwrap(),
            Some("expert_feed_forward_length") => writer.add(key, n_ff as u32).unwrap(),
            _ => writer.add(key, value).unwrap(),
        }
    }
    let n_embd = 256;
    let dims_of = |name: &str, dims: &[u64]| {
        let part = name.split('.').nth(2).unwrap_or_default();
        match (part, dims.len()) {
            ("ffn_gate_inp", _) => vec![n_embd, n_experts],
            ("ffn_gate_exps" | "ffn_up_exps", 3) => vec![n_embd, n_ff, n_experts],
            ("ffn_down_exps", 3) => vec![n_ff, n_embd, n_experts],
            ("ffn_gate_exps" | "ffn_up_exps" | "ffn_down_exps", _) => vec![n_experts],
            _ => dims.to_vec(),
        }
    };
    for tensor in file.tensors() {
        let dims = dims_of(&tensor.name, &tensor.dims);
        writer.declare(&tensor.name, GgmlType::F32, &dims).unwrap();
    }
    let mut data = writer.write_header().unwrap();
    for tensor in file.tensors() {
        let dims = dims_of(&tensor.name, &tensor.dims);
        let n = dims.iter().product();
        let values = (0..n).map(|i| weight(42, &tensor.name, &dims, i));
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        data.write_tensor(&bytes).unwrap();
    }
    data.finish().unwrap()
}

/// More and fewer tokens of an expert than the panels of the kernels take, bins of one expert and of
/// many, rows that are no whole number of chunks.
#[test]
fn mixtures_of_every_shape_give_the_same_bits_however_they_are_batched() {
    const N: usize = 75;
    let Fixture { tokens, .. } = fixture_model::load("qwen3moe-moe");
    let tokens: Vec<u32> = (0..N).map(|i| tokens[(i * i + i / 48) % tokens.len()]).collect();
    let shapes = [(1, 1, 32), (5, 3, 96), (3, 3, 416), (40, 7, 160), (64, 2, 1056)];
    for (n_experts, n_used, n_ff) in shapes {
        let gguf = mixture(n_experts, n_used, n_ff);
        for gguf in [quantized(&gguf, GgmlType::Q8_0), gguf] {
            let model = model(gguf);
            let first = logits(&model, &tokens, &options(1, 1));
            assert_finite(&first);
            for (threads, batch) in [(2, 2), (3, 8), (2, 9), (5, 33), (1, N), (4, N)] {
                let other = logits(&model, &tokens, &options(threads, batch));
                assert!(
                    bits(&other) == bits(&first),
                    "{n_used} of {n_experts} experts of {n_ff}: {threads} threads, batches of {batch}"
                );
            }
        }
    }
}

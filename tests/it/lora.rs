//! Adapters against models whose weights have them merged, and files that are no good adapters.

use crate::decoder::{logits, options, quantized};
use crate::fixture_model::{self, Fixture, weight};
use crate::measure::{bits, nmse_max};
use gguf_rs_lite::{GgmlType, GgufFile, GgufWriter, OwnedValue};
use std::path::Path;
use std::sync::Arc;
use teff::engine::{Engine, EngineOptions, Model};

/// What an adapter says of itself, and its tensors with their dimensions in GGUF order.
struct Spec {
    keys: Vec<(&'static str, OwnedValue)>,
    tensors: Vec<(String, Vec<u64>)>,
    seed: u64,
}

fn spec(architecture: &str, alpha: f32, seed: u64) -> Spec {
    let keys = vec![
        ("general.type", "adapter".into()),
        ("adapter.type", "lora".into()),
        ("general.architecture", architecture.into()),
        ("adapter.lora.alpha", alpha.into()),
    ];
    Spec { keys, tensors: Vec::new(), seed }
}

impl Spec {
    /// Adapts a tensor of `rows` and `cols`.
    fn pair(&mut self, name: &str, [rows, cols]: [u64; 2], rank: u64) {
        let dims = match name {
            "token_embd.weight" => [[rank, rows], [rank, cols]],
            _ => [[cols, rank], [rank, rows]],
        };
        for (suffix, dims) in ["lora_a", "lora_b"].iter().zip(dims) {
            self.tensors.push((format!("{name}.{suffix}"), dims.to_vec()));
        }
    }

    fn values(&self, name: &str) -> Vec<f32> {
        let (name, dims) = self.tensors.iter().find(|(n, _)| n == name).unwrap();
        (0..dims.iter().product()).map(|i| weight(self.seed, name, dims, i)).collect()
    }

    fn gguf(&self, ty: GgmlType) -> Vec<u8> {
        let mut writer = GgufWriter::new(Vec::new());
        for (key, value) in &self.keys {
            writer.add(*key, value.clone()).unwrap();
        }
        for (name, dims) in &self.tensors {
            writer.declare(name, ty, dims).unwrap();
        }
        let mut data = writer.write_header().unwrap();
        let kernels = teff_kernels::KernelTable::detect().types(ty).unwrap();
        for (name, dims) in &self.tensors {
            let values = self.values(name);
            let mut bytes = vec![0; ty.bytes_of(dims.iter().product()).unwrap() as usize];
            kernels.quantize(&values, None, &mut bytes).unwrap();
            data.write_tensor(&bytes).unwrap();
        }
        data.finish().unwrap()
    }

    /// Adapts a stack of `n` matrices of `rows` and `cols`.
    fn stack(&mut self, name: &str, [n, rows, cols]: [u64; 3], rank: u64) {
        for (suffix, dims) in [("lora_a", [cols, rank, n]), ("lora_b", [rank, rows, n])] {
            self.tensors.push((format!("{name}.{suffix}"), dims.to_vec()));
        }
    }

    /// `scale * B A` of a tensor of `cols` columns, in f64.
    fn delta(&self, name: &str, cols: usize, scale: f64) -> Option<Vec<f64>> {
        let (_, dims) = self.tensors.iter().find(|(n, _)| *n == format!("{name}.lora_a"))?;
        let n = dims.get(2).map_or(1, |&n| n as usize);
        let [a, b] = ["a", "b"].map(|ab| self.values(&format!("{name}.lora_{ab}")));
        let embedding = name == "token_embd.weight";
        let rank = if embedding { b.len() / cols } else { a.len() / cols / n };
        let rows = if embedding { a.len() } else { b.len() } / rank;
        let element = |row: usize, col: usize| -> f64 {
            let a_of = &a[row / (rows / n) * rank * cols..];
            let terms = (0..rank).map(|r| match embedding {
                true => f64::from(a[row * rank + r]) * f64::from(b[col * rank + r]),
                false => f64::from(b[row * rank + r]) * f64::from(a_of[r * cols + col]),
            });
            scale * terms.sum::<f64>()
        };
        Some((0..rows * cols).map(|i| element(i / cols, i % cols)).collect())
    }
}

fn open(gguf: &[u8]) -> GgufFile {
    GgufFile::from_bytes(gguf.to_vec()).unwrap()
}

fn model(gguf: &[u8]) -> Model {
    Model::from_file(Arc::new(open(gguf)), Path::new("test.gguf")).unwrap()
}

fn adapted(gguf: &[u8], adapters: &[(&[u8], f32)]) -> Model {
    let mut model = model(gguf);
    for (adapter, scale) in adapters {
        model.add_adapter(open(adapter), Path::new("adapter.gguf"), *scale).unwrap();
    }
    model
}

/// The F32 file with adapters merged into its weights, and without the factors of its tensors:
/// those are the weights' alone.
fn merged(gguf: &[u8], adapters: &[(&Spec, f64)]) -> Vec<u8> {
    let file = open(gguf);
    let mut writer = GgufWriter::new(Vec::new());
    for (key, value) in file.entries() {
        writer.add(key, value).unwrap();
    }
    let tensors = || file.tensors().iter().filter(|tensor| !tensor.name.ends_with("scale"));
    for tensor in tensors() {
        writer.declare(&tensor.name, tensor.ty, &tensor.dims).unwrap();
    }
    let mut data = writer.write_header().unwrap();
    for tensor in tensors() {
        let bytes = file.data(tensor).as_chunks().0.iter();
        let mut values: Vec<f64> = bytes.map(|&b| f32::from_le_bytes(b).into()).collect();
        for (spec, scale) in adapters {
            if let Some(delta) = spec.delta(&tensor.name, tensor.dims[0] as usize, *scale) {
                values.iter_mut().zip(delta).for_each(|(value, delta)| *value += delta);
            }
        }
        let bytes: Vec<u8> = values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
        data.write_tensor(&bytes).unwrap();
    }
    data.finish().unwrap()
}

/// An adapter of one tensor of a fixture.
pub fn adapter_of(gguf: &[u8], tensor: &str) -> GgufFile {
    open(&adapter_bytes(gguf, tensor))
}

/// The bytes of such an adapter's file.
pub fn adapter_bytes(gguf: &[u8], tensor: &str) -> Vec<u8> {
    let architecture = open(gguf).get("general.architecture").unwrap().as_str().unwrap().to_owned();
    let mut spec = spec(&architecture, 4.0, 7);
    pairs(&mut spec, gguf, 4, |name| name == tensor);
    spec.gguf(GgmlType::F32)
}

/// Adapts the matrices of a file that `wanted` names.
fn pairs(spec: &mut Spec, gguf: &[u8], rank: u64, wanted: impl Fn(&str) -> bool) {
    for tensor in open(gguf).tensors().iter().filter(|tensor| wanted(&tensor.name)) {
        match tensor.dims[..] {
            [cols, rows] => spec.pair(&tensor.name, [rows, cols], rank),
            [cols, rows, n] => spec.stack(&tensor.name, [n, rows, cols], rank),
            _ => {}
        }
    }
}

#[test]
fn adapters_compute_what_merged_weights_compute() {
    // The last three have experts: gated ones, fused ones and such that weigh their inputs.
    let dense = ["llama-dense", "gemma3-dense", "qwen2-dense", "phi3-dense", "gpt2-dense"];
    for name in dense.into_iter().chain(["llama-moe", "deepseek2-moe", "llama4-moe"]) {
        let Fixture { gguf, tokens, n_vocab, .. } = fixture_model::load(name);
        let gguf = merged(&gguf, &[]);
        let arch = fixture_model::architecture(name);
        let has_head = open(&gguf).tensor("output.weight").is_some();
        let (mut first, mut second) = (spec(&arch, 24.0, 1), spec(&arch, 0.0, 2));
        // With a shared table the reference adapts the embedding only.
        let linear = |name: &str| {
            let embedding = name == "token_embd.weight" && has_head;
            (name.starts_with("blk.") || name == "output.weight" || embedding)
                && !["position", "attn_k_b", "attn_v_b"].iter().any(|part| name.contains(part))
        };
        pairs(&mut first, &gguf, 8, linear);
        pairs(&mut second, &gguf, 3, |name| name.contains("attn_output") || name.contains("up"));
        assert!(first.tensors.len() > 10 && second.tensors.len() > 2, "{name}");
        let merged = model(&merged(&gguf, &[(&first, 24.0 / 8.0 * 0.125), (&second, -0.25)]));
        let truth = logits(&merged, &tokens, &options(1, 48));
        let (first, second) = (first.gguf(GgmlType::F32), second.gguf(GgmlType::F32));
        let model = adapted(&gguf, &[(&first, 0.125), (&second, -0.25)]);
        let ours = logits(&model, &tokens, &options(1, 48));
        let error = nmse_max(&ours, &truth, n_vocab);
        assert!(error <= 1e-6, "{name}: NMSE {error:.2e}");
        let plain = logits(&self::model(&gguf), &tokens, &options(1, 48));
        assert!(nmse_max(&plain, &truth, n_vocab) > 1e-3, "{name}: the adapters change nothing");
        for (threads, batch) in [(1, 1), (2, 7), (4, 48), (3, 5)] {
            let other = logits(&model, &tokens, &options(threads, batch));
            assert!(bits(&other) == bits(&ours), "{name}: {threads} threads, batches of {batch}");
        }
    }
}

#[test]
fn adapters_of_quantized_weights_keep_their_bits() {
    let Fixture { gguf, tokens, .. } = fixture_model::load("qwen3-dense");
    let mut lora = spec("qwen3", 16.0, 3);
    pairs(&mut lora, &gguf, 32, |name| name.starts_with("blk."));
    let model = adapted(&quantized(&gguf, GgmlType::Q4_K), &[(&lora.gguf(GgmlType::Q8_0), 1.0)]);
    let first = bits(&logits(&model, &tokens, &options(1, 1)));
    for (threads, batch) in [(2, 7), (4, 48)] {
        let other = logits(&model, &tokens, &options(threads, batch));
        assert!(bits(&other) == first, "{threads} threads, batches of {batch}");
    }
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_name() {
    let gguf = fixture_model::load("llama-moe").gguf;
    let dims = open(&gguf).tensor("blk.0.attn_q.weight").unwrap().dims.clone();
    let (rows, cols) = (dims[1], dims[0]);
    let error = |change: &dyn Fn(&mut Spec)| {
        let mut lora = spec("llama", 8.0, 1);
        lora.pair("blk.0.attn_q.weight", [rows, cols], 4);
        change(&mut lora);
        let mut model = model(&gguf);
        let file = open(&lora.gguf(GgmlType::F32));
        let added = model.add_adapter(file, Path::new("adapter.gguf"), 1.0);
        let started = added.and_then(|()| Engine::new(&model, &EngineOptions::default()));
        started.err().map(|error| error.to_string())
    };
    assert_eq!(error(&|_| {}), None);
    let says = |change: &dyn Fn(&mut Spec), message: &str| {
        let error = error(change).unwrap();
        assert!(error.starts_with("adapter.gguf: ") && error.contains(message), "{error}");
    };
    let set = |lora: &mut Spec, key: &'static str, value: OwnedValue| {
        lora.keys.retain(|(k, _)| *k != key);
        lora.keys.push((key, value));
    };
    says(
        &|l| set(l, "general.architecture", "qwen2".into()),
        "key `general.architecture` is `qwen2`, not `llama`",
    );
    says(&|l| set(l, "general.type", "model".into()), "key `general.type` is `model`");
    says(&|l| l.keys.retain(|(k, _)| *k != "adapter.type"), "key `adapter.type` is missing");
    says(&|l| set(l, "adapter.lora.alpha", f32::NAN.into()), "key `adapter.lora.alpha`");
    says(
        &|l| set(l, "adapter.alora.invocation_tokens", vec![1u32].into()),
        "key `adapter.alora.invocation_tokens` is not understood",
    );
    says(&|l| drop(l.tensors.pop()), "tensor `blk.0.attn_q.weight.lora_b` is missing");
    says(&|l| l.tensors[0].1[0] += 1, "tensor `blk.0.attn_q.weight.lora_a` has shape");
    says(&|l| l.tensors[1].1 = vec![4, rows + 1], "tensor `blk.0.attn_q.weight.lora_b` has shape");
    says(&|l| l.tensors[0].1 = vec![4, cols], "tensor `blk.0.attn_q.weight.lora_a` has shape");
    says(&|l| l.pair("blk.9.attn_q.weight", [rows, cols], 4), "`blk.9.attn_q.weight`");
    says(
        &|l| l.pair("blk.0.ffn_down_exps.weight", [8, 8], 4),
        "`blk.0.ffn_down_exps.weight.lora_b` has shape",
    );
    says(
        &|l| l.tensors.push(("blk.0.attn_norm.weight".into(), vec![4])),
        "tensor `blk.0.attn_norm.weight`",
    );
    let big = |l: &mut Spec| {
        l.tensors.clear();
        l.pair("blk.0.attn_q.weight", [rows, cols], 4097);
    };
    says(&big, "rank of 4097");
    let alone = Arc::new(open(&spec("llama", 8.0, 1).gguf(GgmlType::F32)));
    let error = Model::from_file(alone, Path::new("adapter.gguf")).err().unwrap().to_string();
    assert!(error.contains("key `general.type` is `adapter`"), "{error}");
}

#[test]
fn damaged_adapters_never_panic() {
    let gguf = fixture_model::load("llama-dense").gguf;
    let mut lora = spec("llama", 8.0, 1);
    pairs(&mut lora, &gguf, 2, |name| name.starts_with("blk.0.attn") || name == "output.weight");
    let whole = lora.gguf(GgmlType::F16);
    let header = whole.len() - 4096;
    let mut rng = teff::sample::rng::Rng::new(1);
    let mut started = 0;
    for _ in 0..300 {
        let mut bytes = whole.clone();
        bytes[rng.next_u64() as usize % header] ^= 1 << (rng.next_u64() % 8);
        let Ok(file) = GgufFile::from_bytes(bytes) else { continue };
        let mut model = model(&gguf);
        if model.add_adapter(file, Path::new("adapter.gguf"), 1.0).is_ok() {
            let engine = Engine::new(&model, &options(1, 1));
            started += usize::from(engine.is_ok());
        }
    }
    assert!(started > 0, "no damaged file got as far as the engine");
}

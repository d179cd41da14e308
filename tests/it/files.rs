//! One model in all forms that a file can have: versions, byte orders, shards, other metadata.

use crate::decoder::{logits, options, quantized};
use crate::fixture_model::{self, Fixture};
use crate::measure::bits;
use gguf_rs_lite::{
    ByteOrder, GgmlType, GgufFile, GgufWriter, Scalar, WriteOptions, swap_tensor_bytes,
};
use std::path::Path;
use std::sync::Arc;
use teff::engine::{Engine, EngineOptions, Model};
use teff::model::ModelError;

fn model(file: GgufFile) -> Model {
    Model::from_file(Arc::new(file), Path::new("test.gguf")).unwrap()
}

/// The file in another form; of `n_shards`, the tensors `shard` of every `n_shards`.
fn rewritten(gguf: &[u8], options: WriteOptions, shard: usize, n_shards: usize) -> Vec<u8> {
    let file = GgufFile::from_bytes(gguf.to_vec()).unwrap();
    let mut writer = GgufWriter::with_options(Vec::new(), options).unwrap();
    if n_shards > 1 {
        writer.add("split.no", shard as u16).unwrap();
        writer.add("split.count", n_shards as u16).unwrap();
        writer.add("split.tensors.count", file.tensors().len() as i32).unwrap();
    }
    for (key, value) in file.entries().filter(|_| shard == 0) {
        writer.add(key, value).unwrap();
    }
    let tensors: Vec<_> = file.tensors().iter().skip(shard).step_by(n_shards).collect();
    for tensor in &tensors {
        writer.declare(&tensor.name, tensor.ty, &tensor.dims).unwrap();
    }
    let mut data = writer.write_header().unwrap();
    for tensor in tensors {
        let mut bytes = file.data(tensor).to_vec();
        if options.byte_order == ByteOrder::Big {
            swap_tensor_bytes(tensor.ty, &mut bytes).unwrap();
        }
        data.write_tensor(&bytes).unwrap();
    }
    data.finish().unwrap()
}

#[test]
fn every_form_of_a_file_gives_the_same_bits() {
    let Fixture { gguf, tokens, .. } = fixture_model::load("qwen3-dense");
    for gguf in [quantized(&gguf, GgmlType::Q5_1), quantized(&gguf, GgmlType::Q4_K), gguf] {
        let run = |file| bits(&logits(&model(file), &tokens[..8], &options(1, 8)));
        let plain = run(GgufFile::from_bytes(gguf.clone()).unwrap());
        for version in 1..=3 {
            for byte_order in [ByteOrder::Little, ByteOrder::Big] {
                let form = WriteOptions { version, byte_order };
                let whole = rewritten(&gguf, form, 0, 1);
                let shards = (0..3).map(|shard| rewritten(&gguf, form, shard, 3)).collect();
                for mut file in
                    [GgufFile::from_bytes(whole).unwrap(), GgufFile::from_shards(shards).unwrap()]
                {
                    let bytes = file.make_little_endian().unwrap();
                    assert_eq!(bytes > 0, byte_order == ByteOrder::Big);
                    assert_eq!(run(file), plain, "v{version}, {byte_order}");
                }
            }
        }
    }
}

#[test]
fn big_endian_tensors_never_run_as_they_are() {
    let gguf = fixture_model::load("llama-dense").gguf;
    let form = WriteOptions { byte_order: ByteOrder::Big, ..WriteOptions::default() };
    let file = GgufFile::from_bytes(rewritten(&gguf, form, 0, 1)).unwrap();
    let error = Engine::new(&model(file), &EngineOptions::default()).err().unwrap();
    assert!(error.to_string().ends_with(&ModelError::BigEndian.to_string()), "{error}");
}

#[test]
fn metadata_can_be_overridden() {
    let Fixture { gguf, tokens, .. } = fixture_model::load("llama-dense");
    let file = || GgufFile::from_bytes(gguf.clone()).unwrap();
    let run = |file| bits(&logits(&model(file), &tokens[..8], &options(1, 8)));
    let plain = run(file());
    let key = "llama.attention.layer_norm_rms_epsilon";
    let mut changed = file();
    assert!(changed.set(key, Scalar::Float(0.5)).unwrap());
    assert_eq!(changed.get(key).unwrap().as_f32(), Some(0.5));
    assert_ne!(run(changed), plain);
    let mut back = file();
    let own = f64::from(back.get(key).unwrap().as_f32().unwrap());
    back.set(key, Scalar::Float(0.5)).unwrap();
    back.set(key, Scalar::Float(own)).unwrap();
    assert_eq!(back.entries().count(), file().entries().count());
    assert_eq!(run(back), plain);
    let mut added = file();
    assert!(!added.set("llama.rope.scaling.type", Scalar::Str("linear".into())).unwrap());
    assert!(!added.set("llama.rope.scaling.factor", Scalar::Float(4.0)).unwrap());
    assert_eq!(added.entries().count(), file().entries().count() + 2);
    assert_ne!(run(added), plain);
}

#[test]
fn overrides_of_another_kind_or_of_the_layout_are_refused() {
    let mut file = GgufFile::from_bytes(fixture_model::load("llama-dense").gguf).unwrap();
    for (key, value, problem) in [
        ("llama.block_count", Scalar::Float(1.0), "must be u32, is f64"),
        ("general.architecture", Scalar::Int(1), "must be str, is i64"),
        ("general.alignment", Scalar::Int(1), "it says how the file is laid out"),
        ("split.count", Scalar::Int(1), "it says how the file is laid out"),
    ] {
        let error = file.set(key, value).unwrap_err().to_string();
        assert_eq!(error, format!("cannot override key `{key}`: {problem}"));
    }
    file.set("llama.typo", Scalar::Int(1)).unwrap();
    let error = Model::from_file(Arc::new(file), Path::new("x")).err().unwrap().to_string();
    assert!(error.contains("key `llama.typo` is not understood"), "{error}");
}

/// The file with a tensor for each expert, as they were before April 2024.
fn unstacked(gguf: &[u8]) -> Vec<u8> {
    let file = GgufFile::from_bytes(gguf.to_vec()).unwrap();
    let mut writer = GgufWriter::new(Vec::new());
    for (key, value) in file.entries() {
        writer.add(key, value).unwrap();
    }
    let mut parts: Vec<(String, &[u64], &[u8])> = Vec::new();
    for tensor in file.tensors() {
        match tensor.name.strip_suffix("_exps.weight") {
            None => parts.push((tensor.name.clone(), &tensor.dims, file.data(tensor))),
            Some(part) => {
                let n = tensor.dims[2] as usize;
                let experts = file.data(tensor).chunks_exact(tensor.bytes as usize / n);
                let named = experts.enumerate();
                parts.extend(named.map(|(expert, bytes)| {
                    (format!("{part}.{expert}.weight"), &tensor.dims[..2], bytes)
                }));
            }
        }
    }
    for (name, dims, _) in &parts {
        writer.declare(name, GgmlType::F32, dims).unwrap();
    }
    let mut data = writer.write_header().unwrap();
    parts.iter().for_each(|(.., bytes)| data.write_tensor(bytes).unwrap());
    data.finish().unwrap()
}

#[test]
fn old_files_with_a_tensor_per_expert_give_the_same_bits() {
    let Fixture { gguf, tokens, .. } = fixture_model::load("llama-moe");
    let run =
        |gguf| bits(&logits(&model(GgufFile::from_bytes(gguf).unwrap()), &tokens, &options(2, 7)));
    let old = unstacked(&gguf);
    assert_ne!(old, gguf);
    assert_eq!(run(old), run(gguf));
}

//! Hugging Face folders to GGUF: what the file computes, how it cuts texts, its chat template, against
//! what transformers and its tokenizers say; and folders that lie.
//!
//! `tests/golden/hf` has a few small folders. `TEFF_FIXTURES` names a folder whose `hf` has more.

use crate::folder::Folder;
use crate::measure::nmse_max;
use crate::require::fixtures;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use teff::convert::{Conversion, ConvertOptions, TargetType};
use teff::decoder::{Outputs, SequenceChunk};
use teff::engine::{Engine, EngineOptions, Model};
use teff::model::Pooling;
use teff::text::EncodeOptions;

/// Two F32 computations in another order differ only by rounding.
const NMSE_MAX: f64 = 1e-6;
/// Models whose recurrence is sensitive.
const SENSITIVE: &[(&str, f64)] = &[("qwen35", 1e-5)];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf")
}

fn folders(of: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(of).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|path| path.join("config.json").exists());
    all.sort();
    all
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub fn floats(path: &Path) -> Option<Vec<f32>> {
    let bytes = fs::read(path).ok()?;
    Some(bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect())
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

pub fn convert(folder: &Path, out: &Path, ty: TargetType) -> Result<(), String> {
    convert_with(folder, out, Some(ty)).map(drop)
}

pub fn convert_as_stored(folder: &Path, out: &Path) -> Result<Conversion, String> {
    convert_with(folder, out, None)
}

fn convert_with(folder: &Path, out: &Path, ty: Option<TargetType>) -> Result<Conversion, String> {
    let options = ConvertOptions { ty, ..ConvertOptions::default() };
    let conversion = Conversion::plan(folder, &options).map_err(|error| error.to_string())?;
    let cancel = AtomicBool::new(false);
    conversion.write(out, &mut |_| {}, &cancel).map_err(|error| error.to_string())?;
    Ok(conversion)
}

fn engine_options() -> EngineOptions {
    crate::changed(EngineOptions::default(), |options| {
        options.threads = Some(2);
        options.n_ctx = Some(64);
        options.max_batch = 64;
        options.max_outputs = 64;
        options.kv_type = teff::backend::pages::KvType::F32;
    })
}

/// Logits of all tokens.
pub fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut engine = Engine::new(model, &engine_options()).unwrap();
    let found = engine.lead(|decoder| {
        let sequence = decoder.kv_mut().create();
        let chunk = SequenceChunk { sequence, tokens, outputs: Outputs::All };
        decoder.step(&[chunk]).map(|rows| rows.to_vec())
    });
    found.unwrap()
}

/// The problem of a folder, if there is one.
fn check(folder: &Path) -> Result<f64, String> {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let scratch = Folder::new(name);
    let out = scratch.0.join("model.gguf");
    convert(folder, &out, TargetType::F32)?;
    let mut model = Model::open(&out).map_err(|error| error.to_string())?;
    check_template(folder, &model)?;
    check_texts(folder, &model)?;
    let tokens = ids(&json(&folder.join("tokens.json"))["tokens"]);
    let vectors = [("hidden.f32", Pooling::None), ("scores.f32", Pooling::Rank)];
    let mut vectors = vectors
        .iter()
        .filter_map(|(name, pooling)| floats(&folder.join(name)).map(|truth| (truth, *pooling)));
    let (found, truth) = match vectors.next() {
        Some((truth, pooling)) => {
            model.output_embeddings();
            let engine = Engine::new(&model, &engine_options());
            let mut engine = engine.map_err(|error| error.to_string())?;
            let found = engine.embed(std::slice::from_ref(&tokens), pooling);
            (found.map_err(|error| error.to_string())?.remove(0), truth)
        }
        None => {
            let truth = floats(&folder.join("logits.f32")).ok_or("no logits")?;
            (logits(&model, &tokens), truth)
        }
    };
    if found.len() != truth.len() {
        return Err(format!("{} numbers, not {}", found.len(), truth.len()));
    }
    let error = nmse_max(&found, &truth, truth.len());
    let max = SENSITIVE.iter().find(|row| row.0 == name).map_or(NMSE_MAX, |row| row.1);
    match error <= max {
        true => Ok(error),
        false => Err(format!("NMSE {error:.2e}")),
    }
}

fn check_template(folder: &Path, model: &Model) -> Result<(), String> {
    let config = json(&folder.join("tokenizer_config.json"));
    let file = fs::read_to_string(folder.join("chat_template.jinja")).ok();
    let expected = file.or_else(|| config["chat_template"].as_str().map(str::to_owned));
    let found = model.file().get("tokenizer.chat_template");
    let found = found.and_then(|value| value.as_str()).map(str::to_owned);
    match found == expected {
        true => Ok(()),
        false => Err("another chat template".into()),
    }
}

pub fn check_texts(folder: &Path, model: &Model) -> Result<(), String> {
    let tokenizer = model.tokenizer().map_err(|error| error.to_string())?;
    let cases = json(&folder.join("tokenizer_cases.json"));
    let mut wrong = Vec::new();
    let cases =
        cases.as_array().cloned().unwrap_or_else(|| cases["cases"].as_array().unwrap().clone());
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        let parse_special = case["parse_special"].as_bool().unwrap_or(false);
        for (key, add_special) in [("ids", false), ("ids_special", true)] {
            let options = EncodeOptions { add_special, parse_special };
            let found = tokenizer.encode(text, options).map_err(|error| error.to_string())?;
            let expected = ids(&case[key]);
            if found != expected {
                wrong.push(format!("{key} of {text:?}: {found:?}, not {expected:?}"));
            }
        }
    }
    match wrong.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} texts, {first}", wrong.len())),
    }
}

fn check_all(of: &Path) {
    let mut problems = Vec::new();
    for folder in folders(of) {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        match check(&folder) {
            Ok(error) => eprintln!("{name}: NMSE {error:.1e}"),
            Err(problem) => problems.push(format!("{name}: {problem}")),
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn folders_become_files_that_answer_alike() {
    assert!(folders(&golden()).len() >= 4);
    check_all(&golden());
}

#[test]
fn more_folders_become_files_that_answer_alike() {
    if let Some(folder) = fixtures("hf") {
        check_all(&folder);
    }
}

/// A copy of a golden folder, to be spoiled.
pub fn copy_of(name: &str, scratch: &Folder) -> PathBuf {
    copy_folder(&golden().join(name), scratch)
}

pub fn copy_folder(from: &Path, scratch: &Folder) -> PathBuf {
    let to = scratch.0.join("hf");
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        fs::write(to.join(path.file_name().unwrap()), fs::read(&path).unwrap()).unwrap();
    }
    to
}

/// Replaces the first of some bytes by as many others.
fn spoil(path: &Path, from: &[u8], to: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    fs::write(path, bytes).unwrap();
}

/// The error of a folder, after which nothing is left of the result.
fn error_of(folder: &Path, scratch: &Folder) -> String {
    let out = scratch.0.join("model.gguf");
    let error = convert(folder, &out, TargetType::F32).unwrap_err();
    assert_eq!(scratch.names(), ["hf"], "{error}");
    error
}

#[test]
fn folders_that_lie_are_refused_by_name() {
    type Spoil = fn(&Path);
    let cases: &[(&str, &str, Spoil, &str)] = &[
        (
            "shard",
            "llama-spm",
            |folder| fs::remove_file(folder.join("model-00002-of-00002.safetensors")).unwrap(),
            "model-00002-of-00002.safetensors: missing",
        ),
        (
            "unknown",
            "mamba2",
            |folder| spoil(&folder.join("model.safetensors"), b"norm_f.weight", b"norm_g.weight"),
            "tensor `backbone.norm_g.weight` has no known place",
        ),
        (
            "nan",
            "mamba2",
            |folder| {
                let path = folder.join("model.safetensors");
                let mut bytes = fs::read(&path).unwrap();
                let n = bytes.len();
                bytes[n - 2..].copy_from_slice(&[0xc0, 0x7f]);
                fs::write(path, bytes).unwrap();
            },
            "is NaN",
        ),
        (
            "class",
            "gpt2",
            |folder| spoil(&folder.join("config.json"), b"GPT2LMHeadModel", b"GPT9LMHeadModel"),
            "no conversion is known for class `GPT9LMHeadModel`",
        ),
        (
            "shape",
            "gpt2",
            |folder| spoil(&folder.join("config.json"), b"\"n_head\": 4", b"\"n_head\": 5"),
            "the result would not run",
        ),
        (
            "cut",
            "gpt2",
            |folder| {
                let path = folder.join("model.safetensors");
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
            },
            "ends behind the file",
        ),
        (
            "vocabulary",
            "gpt2",
            |folder| fs::remove_file(folder.join("vocab.json")).unwrap(),
            "vocabulary: none of",
        ),
    ];
    for (name, golden, spoil, expected) in cases {
        let scratch = Folder::new(name);
        let folder = copy_of(golden, &scratch);
        spoil(&folder);
        let error = error_of(&folder, &scratch);
        assert!(error.contains(expected), "{name}: {error}");
    }
}

/// Changes entries of a folder's `config.json`.
pub fn configure(folder: &Path, entries: &Value) {
    let path = folder.join("config.json");
    let mut config = json(&path);
    let own = config.as_object_mut().unwrap();
    own.extend(entries.as_object().unwrap().clone());
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn configurations_that_say_otherwise_are_refused_by_name() {
    use serde_json::json;
    let cases = [
        ("gpt2", json!({"vocab_size": 383}), "`vocab_size` is 383, and the embedding has 384 rows"),
        ("llama-spm", json!({"rms_norm_eps": 0}), "`rms_norm_eps` is 0, not above 0"),
        (
            "gpt2",
            json!({"layer_norm_epsilon": -1e-5}),
            "`layer_norm_epsilon` is -0.00001, not above",
        ),
        ("deepseek2-lite", json!({"rms_norm_eps": 1e-60}), "`rms_norm_eps` is 1"),
        (
            "llama-spm",
            json!({"attention_bias": true}),
            "`attention_bias` is true, but tensor `blk.0.attn_k.bias` is not there",
        ),
        (
            "llama-spm",
            json!({"mlp_bias": true}),
            "`mlp_bias` is true, but tensor `blk.0.ffn_down.bias` is not there",
        ),
        (
            "gpt2",
            json!({"mlp_bias": false}),
            "`mlp_bias` is false, but tensor `blk.0.ffn_down.bias` is there",
        ),
        (
            "llama-spm",
            json!({"hidden_act": "gelu"}),
            "`hidden_act` is gelu, and this architecture computes silu",
        ),
        (
            "gpt2",
            json!({"activation_function": "relu"}),
            "`activation_function` is relu, and this architecture computes gelu",
        ),
        ("mamba2", json!({"hidden_act": "mish"}), "`hidden_act` is mish, and"),
        (
            "llama-spm",
            json!({"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 1}),
            "`use_sliding_window` gives layer 1 a window of 4 tokens",
        ),
        (
            "llama-spm",
            json!({"layer_types": vec!["sliding_attention"; 9], "sliding_window": 4}),
            "`layer_types` gives layer 0 a window of 4 tokens",
        ),
    ];
    for (golden, entries, expected) in cases {
        let scratch = Folder::new("configuration");
        let folder = copy_of(golden, &scratch);
        configure(&folder, &entries);
        let error = error_of(&folder, &scratch);
        assert!(error.contains(expected), "{golden}, {entries}: {error}");
    }
    // What says the same in other words, or nothing.
    for (golden, entries) in [
        ("gpt2", json!({"activation_function": "gelu"})),
        ("llama-spm", json!({"hidden_act": "swish", "attention_bias": null})),
        ("llama-spm", json!({"use_sliding_window": false, "sliding_window": 4})),
        (
            "llama-spm",
            json!({"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 99}),
        ),
        ("llama-spm", json!({"use_sliding_window": true, "sliding_window": 1 << 20})),
        ("mamba2", json!({"vocab_size": 377, "pad_vocab_size_multiple": 8})),
    ] {
        let scratch = Folder::new("configuration");
        let folder = copy_of(golden, &scratch);
        configure(&folder, &entries);
        let converted = convert(&folder, &scratch.0.join("model.gguf"), TargetType::F32);
        assert!(converted.is_ok(), "{golden}, {entries}: {converted:?}");
    }
}

/// Mistral's first models see 4096 tokens back in every layer, whatever `layer_types` and its kin say.
#[test]
fn windows_of_all_layers_are_kept() {
    let scratch = Folder::new("windows");
    let folder = copy_of("llama-spm", &scratch);
    for (entry, expected) in [(serde_json::json!(5), Some(5)), (Value::Null, None)] {
        let entries = serde_json::json!({
            "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": entry,
        });
        configure(&folder, &entries);
        let path = scratch.0.join("model.gguf");
        convert(&folder, &path, TargetType::F32).unwrap();
        let model = Model::open(&path).unwrap();
        for layer in &model.spec().layers {
            let teff::model::Mixer::Attention(attention) = &layer.mixer else {
                panic!("attention")
            };
            assert_eq!(attention.window, expected);
        }
    }
}

/// What only shapes tell is told before a weight is read, and leaves nothing behind.
#[test]
fn what_would_not_run_is_told_before_weights_are_read() {
    let scratch = Folder::new("early");
    let folder = copy_of("llama-spm", &scratch);
    configure(&folder, &serde_json::json!({"intermediate_size": 77}));
    let options = ConvertOptions { ty: Some(TargetType::F32), ..ConvertOptions::default() };
    let conversion = Conversion::plan(&folder, &options).unwrap();
    let error = conversion.outline().map(drop).unwrap_err().to_string();
    assert!(error.contains("would not run") && error.contains("ffn_"), "{error}");
    let mut done = 0;
    let cancel = AtomicBool::new(false);
    let written = conversion.write(&scratch.0.join("x.gguf"), &mut |n| done = n, &cancel);
    assert_eq!((written.unwrap_err().to_string(), done), (error, 0));
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
    // Of a folder that is fine there is a file without weights, which goes away.
    let whole = Conversion::plan(&golden().join("llama-spm"), &options).unwrap();
    let (file, place) = whole.outline().unwrap();
    assert_eq!(file.tensors().len(), whole.tensors().len());
    let path = file.path().unwrap().to_owned();
    drop((file, place));
    assert!(!path.exists());
}

#[test]
fn a_cancelled_conversion_leaves_what_was_there() {
    let scratch = Folder::new("cancelled");
    let out = scratch.0.join("model.gguf");
    fs::write(&out, "older").unwrap();
    let conversion = Conversion::plan(&golden().join("gpt2"), &ConvertOptions::default()).unwrap();
    let error = conversion.write(&out, &mut |_| {}, &AtomicBool::new(true)).unwrap_err();
    assert_eq!(error.to_string(), "nothing was written");
    assert_eq!(fs::read(&out).unwrap(), b"older");
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
}

#[test]
fn types_are_as_asked_for_and_as_stored() {
    use gguf_rs_lite::{GgmlType, GgufFile};
    let scratch = Folder::new("types");
    let folder = golden().join("llama-spm");
    for (ty, expected) in [
        (None, GgmlType::BF16),
        (Some(TargetType::F16), GgmlType::F16),
        (Some(TargetType::Q8_0), GgmlType::Q8_0),
    ] {
        let out = scratch.0.join("model.gguf");
        let options = ConvertOptions { ty, ..ConvertOptions::default() };
        let conversion = Conversion::plan(&folder, &options).unwrap();
        let mut last = 0;
        conversion.write(&out, &mut |done| last = done, &AtomicBool::new(false)).unwrap();
        assert_eq!(last, conversion.bytes());
        let file = GgufFile::open(&out).unwrap();
        let ty_of = |name: &str| file.tensor(name).unwrap().ty;
        assert_eq!(ty_of("blk.0.attn_q.weight"), expected);
        assert_eq!(ty_of("blk.0.attn_norm.weight"), GgmlType::F32);
    }
}

//! Hugging Face folders to GGUF: what the file computes, how it cuts texts, its chat template, against
//! what transformers and its tokenizers say; and folders that lie.
//!
//! `tests/golden/hf` has a few small folders. `TEFF_FIXTURES` names a folder whose `hf` has more.

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

/// A place for a result, which goes away with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("teff-convert-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn floats(path: &Path) -> Option<Vec<f32>> {
    let bytes = fs::read(path).ok()?;
    Some(bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect())
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn convert(folder: &Path, out: &Path, ty: TargetType) -> Result<(), String> {
    let options = ConvertOptions { ty: Some(ty), ..ConvertOptions::default() };
    let conversion = Conversion::plan(folder, &options).map_err(|error| error.to_string())?;
    let cancel = AtomicBool::new(false);
    conversion.write(out, &mut |_| {}, &cancel).map_err(|error| error.to_string())
}

/// The problem of a folder, if there is one.
fn check(folder: &Path) -> Result<f64, String> {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let scratch = Scratch::new(name);
    let out = scratch.0.join("model.gguf");
    convert(folder, &out, TargetType::F32)?;
    let mut model = Model::open(&out).map_err(|error| error.to_string())?;
    check_template(folder, &model)?;
    check_texts(folder, &model)?;
    let tokens = ids(&json(&folder.join("tokens.json"))["tokens"]);
    let hidden = floats(&folder.join("hidden.f32"));
    let mut options = EngineOptions::default();
    options.threads = Some(2);
    options.n_ctx = Some(64);
    (options.max_batch, options.max_outputs) = (64, 64);
    options.kv_type = teff::backend::pages::KvType::F32;
    let (found, truth) = match hidden {
        Some(truth) => {
            model.output_embeddings();
            let mut engine = Engine::new(&model, &options).map_err(|error| error.to_string())?;
            let found = engine.embed(&[tokens.clone()], Pooling::None);
            (found.map_err(|error| error.to_string())?.remove(0), truth)
        }
        None => {
            let mut engine = Engine::new(&model, &options).map_err(|error| error.to_string())?;
            let found = engine.lead(|decoder| {
                let sequence = decoder.kv_mut().create();
                let chunk = SequenceChunk { sequence, tokens: &tokens, outputs: Outputs::All };
                decoder.step(&[chunk]).map(|rows| rows.to_vec())
            });
            let truth = floats(&folder.join("logits.f32")).ok_or("no logits")?;
            (found.map_err(|error| error.to_string())?, truth)
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

fn check_texts(folder: &Path, model: &Model) -> Result<(), String> {
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

//! The two small models that aliases name, against exact arithmetic: the model dequantized to F32
//! and run in F32 (`tests/golden/reference`). They need the models in the cache (`teff pull
//! smollm2:135m`, `teff pull gemma3:270m`): see `require.rs`.

use crate::measure;
use crate::require::require;
use serde_json::Value;
use std::path::{Path, PathBuf};
use teff::backend::pages::KvType;
use teff::cache::{Cache, ModelRef};
use teff::decoder::{Outputs, SequenceChunk};
use teff::engine::{Engine, EngineOptions, Model};

/// Positions computed at a time.
const BATCH: usize = 32;

/// The model's file, where it is in the cache.
pub fn cached(alias: &str) -> Option<PathBuf> {
    let model: ModelRef = alias.parse().unwrap();
    let entry = Cache::from_env().ok().and_then(|cache| {
        cache.list().into_iter().find(|entry| entry.model == model.to_string() && entry.is_cached)
    });
    let why = format!("{alias} is not in the cache: `teff pull {alias}` fetches it");
    require("models", entry, &why).map(|entry| entry.path)
}

fn reference(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/reference").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// For each position but the last, the log-probability of the next token and the likeliest one.
fn predictions(path: &Path, tokens: &[u32]) -> Vec<(f64, usize)> {
    let mut options = EngineOptions::default();
    options.n_ctx = Some(tokens.len());
    options.max_batch = BATCH;
    options.max_outputs = BATCH;
    options.kv_type = KvType::F32;
    let mut engine = Engine::new(&Model::open(path).unwrap(), &options).unwrap();
    engine.lead(|decoder| {
        let sequence = decoder.kv_mut().create();
        let mut predictions = Vec::new();
        for (i, chunk) in tokens.chunks(BATCH).enumerate() {
            let n_vocab = decoder.n_vocab();
            let run = SequenceChunk { sequence, tokens: chunk, outputs: Outputs::All };
            let rows = decoder.step(&[run]).unwrap();
            measure::assert_finite(rows);
            for (j, row) in rows.chunks(n_vocab).enumerate() {
                let Some(&next) = tokens.get(i * BATCH + j + 1) else { break };
                let best = (0..n_vocab).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
                let max = f64::from(row[best]);
                let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
                predictions.push((f64::from(row[next as usize]) - max - sum.ln(), best));
            }
        }
        predictions
    })
}

/// As close to exact arithmetic as the reference implementation is.
fn check(alias: &str, golden: &str) {
    let Some(path) = cached(alias) else { return };
    let golden = reference(golden);
    let tokens: Vec<u32> =
        numbers(&golden["passage_tokens"]).into_iter().map(|x| x as u32).collect();
    let truth = numbers(&golden["truth_logprob_of_next"]);
    let truth_best = numbers(&golden["truth_argmax"]);
    let ours = predictions(&path, &tokens);
    let n = ours.len();
    let log_probs: Vec<f64> = ours.iter().map(|x| x.0).collect();
    let rms = measure::rms(&log_probs, &truth);
    let perplexity = (-log_probs.iter().sum::<f64>() / n as f64).exp();
    let agree = ours.iter().zip(&truth_best).filter(|(a, b)| a.1 == **b as usize).count();
    let top1 = agree as f64 / n as f64;
    let report = format!("{alias}: rms {rms:.4}, perplexity {perplexity:.3}, top-1 {top1:.4}");
    eprintln!("{report}");
    let peer = golden["quantized_reference"]["rms_error_of_next_logprob"].as_f64().unwrap();
    assert!(rms <= 1.1 * peer, "{report}; the reference's rms is {peer}");
    let truth_perplexity = golden["truth_perplexity"].as_f64().unwrap();
    assert!((perplexity / truth_perplexity - 1.0).abs() <= 0.01, "{report}");
    assert!(top1 >= 0.967, "{report}");
}

#[test]
fn smollm2_is_as_close_to_the_truth_as_the_reference() {
    check("smollm2:135m", "SmolLM2-135M-Instruct.Q4_1.json");
}

#[test]
fn gemma3_is_as_close_to_the_truth_as_the_reference() {
    check("gemma3:270m", "gemma-3-270m-q4_k_m.json");
}

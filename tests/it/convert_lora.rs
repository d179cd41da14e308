//! Adapters of PEFT to adapters in GGUF: with one a model computes what it computes with the matrices
//! merged into its weights; and adapters that have no form in GGUF.

use crate::convert::{convert, copy_of, ids, json};
use crate::decoder::{logits, options};
use crate::fixture_model::weight;
use crate::folder::Folder;
use crate::measure::nmse_max;
use gguf_rs_lite::GgufFile;
use serde_json::{Map, Value, json as object};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use teff::convert::{Conversion, ConvertOptions, TargetType};
use teff::engine::Model;

const RANK: u64 = 4;
const ALPHA: f64 = 6.0;

/// A tensor in f32.
pub struct Tensor {
    pub name: String,
    pub shape: Vec<u64>,
    pub values: Vec<f32>,
}

fn tensor(name: &str, shape: &[u64]) -> Tensor {
    let n: u64 = shape.iter().product();
    let values = (0..n).map(|i| 0.5 * weight(7, name, shape, i)).collect();
    Tensor { name: name.to_owned(), shape: shape.to_vec(), values }
}

pub fn read(path: &Path) -> Vec<Tensor> {
    let bytes = fs::read(path).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    let entries = header.iter().filter(|(name, _)| *name != "__metadata__");
    let one = |(name, entry): (&String, &Value)| {
        let number = |value: &Value| value.as_u64().unwrap();
        let shape = entry["shape"].as_array().unwrap().iter().map(number).collect();
        let [from, to] = [0, 1].map(|i| 8 + n + number(&entry["data_offsets"][i]) as usize);
        let words = &bytes[from..to];
        let half = |x: &[u8]| u16::from_le_bytes(x.try_into().unwrap());
        let values = match entry["dtype"].as_str().unwrap() {
            "F32" => words.chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect(),
            "BF16" => words.chunks(2).map(|x| half::bf16::from_bits(half(x)).to_f32()).collect(),
            _ => words.chunks(2).map(|x| half::f16::from_bits(half(x)).to_f32()).collect(),
        };
        Tensor { name: name.clone(), shape, values }
    };
    entries.map(one).collect()
}

pub fn write(path: &Path, tensors: &[Tensor]) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for tensor in tensors {
        let from = data.len();
        data.extend(tensor.values.iter().flat_map(|x| x.to_le_bytes()));
        let range = [from, data.len()];
        let entry = object!({"dtype": "F32", "shape": tensor.shape, "data_offsets": range});
        header.insert(tensor.name.clone(), entry);
    }
    let header = Value::from(header).to_string().into_bytes();
    let all = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    fs::write(path, all).unwrap();
}

/// Files of weights of a folder.
pub fn shards(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|path| path.extension().is_some_and(|end| end == "safetensors"));
    all.sort();
    all
}

/// The matrices of an adapter.
#[derive(Default)]
struct Drawn {
    tensors: Vec<Tensor>,
    /// What `adapter_config.json` has beyond the usual.
    more: Map<String, Value>,
}

impl Drawn {
    /// Draws `A` and `B` of a module and adds their product to its weight.
    fn adapt(&mut self, weight: &mut Tensor, is_turned: bool, scale: f64) {
        let [rows, cols] = weight.shape[..] else { panic!("{} is no matrix", weight.name) };
        let is_table = weight.name.contains("embed_tokens");
        let module = weight.name.strip_suffix(".weight").unwrap();
        let name = |end: &str| format!("base_model.model.{module}.{end}");
        let (out, input) = if is_turned != is_table { (cols, rows) } else { (rows, cols) };
        let ends = match is_table {
            true => ["lora_embedding_A", "lora_embedding_B"],
            false => ["lora_A.weight", "lora_B.weight"],
        };
        let a = tensor(&name(ends[0]), &[RANK, input]);
        let b = tensor(&name(ends[1]), &[out, RANK]);
        let delta = |o: u64, i: u64| -> f64 {
            let at = |t: &Tensor, n: u64| f64::from(t.values[n as usize]);
            (0..RANK).map(|r| at(&b, o * RANK + r) * at(&a, r * input + i)).sum::<f64>() * scale
        };
        for row in 0..rows {
            for col in 0..cols {
                let (o, i) = if is_turned != is_table { (col, row) } else { (row, col) };
                weight.values[(row * cols + col) as usize] += delta(o, i) as f32;
            }
        }
        self.tensors.extend([a, b]);
    }

    fn save(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let mut config = object!({
            "peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none",
            "base_model_name_or_path": "some/base", "modules_to_save": null, "use_dora": false,
        });
        config.as_object_mut().unwrap().extend(self.more.clone());
        fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
        write(&folder.join("adapter_model.safetensors"), &self.tensors);
    }
}

/// Converts an adapter for the model of a folder.
fn convert_adapter(folder: &Path, base: &Path, out: &Path) -> Result<(), String> {
    let (ty, base) = (Some(TargetType::F32), Some(base.to_owned()));
    let options = ConvertOptions { ty, base, ..ConvertOptions::default() };
    let conversion = Conversion::plan(folder, &options).map_err(|error| error.to_string())?;
    let written = conversion.write(out, &mut |_| {}, &AtomicBool::new(false));
    written.map_err(|error| error.to_string())
}

fn model(path: &Path) -> Model {
    Model::open(path).unwrap()
}

/// Adapts the modules of a golden folder that are `wanted` and compares with merged weights.
fn check(golden: &str, wanted: &[&str], is_turned: bool, more: Value, scale: impl Fn(&str) -> f64) {
    let scratch = Folder::new(&format!("lora-{golden}-{}", more.to_string().len()));
    let folder = copy_of(golden, &scratch);
    let [base, merged, lora] = ["base", "merged", "lora"].map(|name| scratch.0.join(name));
    convert(&folder, &base, TargetType::F32).unwrap();
    let mut drawn = Drawn { more: more.as_object().unwrap().clone(), ..Drawn::default() };
    for path in shards(&folder) {
        let mut tensors = read(&path);
        for tensor in tensors.iter_mut().filter(|tensor| {
            tensor.name.ends_with(".weight") && wanted.iter().any(|part| tensor.name.contains(part))
        }) {
            let scale = scale(&tensor.name);
            drawn.adapt(tensor, is_turned, scale);
        }
        write(&path, &tensors);
    }
    assert!(drawn.tensors.len() >= 8, "{golden}");
    convert(&folder, &merged, TargetType::F32).unwrap();
    drawn.save(&scratch.0.join("peft"));
    convert_adapter(&scratch.0.join("peft"), &folder, &lora).unwrap();
    let tokens = ids(&json(&folder.join("tokens.json"))["tokens"]);
    let mut adapted = model(&base);
    adapted.add_adapter(GgufFile::open(&lora).unwrap(), &lora, 1.0).unwrap();
    let [truth, plain, ours] = [&model(&merged), &model(&base), &adapted]
        .map(|model| logits(model, &tokens, &options(2, 32)));
    let n = truth.len() / tokens.len();
    let error = nmse_max(&ours, &truth, n);
    assert!(error <= 1e-6, "{golden}: NMSE {error:.2e}");
    assert!(nmse_max(&plain, &truth, n) > 1e-3, "{golden}: the adapter changes nothing");
    eprintln!("{golden}: NMSE {error:.1e}");
}

#[test]
fn adapters_of_peft_compute_what_merged_weights_compute() {
    let usual = |_: &str| ALPHA / RANK as f64;
    let none = object!({});
    // Rows of queries and keys are permuted; the embedding is a table.
    let all = ["_proj", "embed_tokens", "lm_head"];
    check("llama-spm", &all, false, none.clone(), usual);
    // Stored transposed, queries, keys and values in one.
    check("gpt2", &[".attn.c_", ".mlp.c_"], true, object!({"fan_in_fan_out": true}), usual);
    // Experts one by one.
    let experts = ["gate_proj", "up_proj", "down_proj", "q_proj", "o_proj", "kv_a_proj"];
    check("deepseek2-lite", &experts, false, none.clone(), usual);
    check("mamba2", &["in_proj", "out_proj"], false, none, usual);
}

#[test]
fn alphas_and_ranks_are_those_of_peft() {
    let root = (RANK as f64).sqrt();
    let queries = ["q_proj", "k_proj", "v_proj"];
    check("llama-spm", &queries, false, object!({"use_rslora": true}), |_| ALPHA / root);
    let patterns =
        object!({"alpha_pattern": {"0.self_attn.q_proj": 1.5, "self_attn.[vk]_proj": 9}});
    check("llama-spm", &queries, false, patterns, |name| {
        let alpha = match name {
            name if name.contains("layers.0.self_attn.q_proj") => 1.5,
            name if name.contains("q_proj") => ALPHA,
            _ => 9.0,
        };
        alpha / RANK as f64
    });
}

#[test]
fn adapters_without_a_form_in_gguf_are_refused_by_name() {
    let scratch = Folder::new("lora-refused");
    let folder = copy_of("llama-spm", &scratch);
    let out = scratch.0.join("out.gguf");
    let refused = |more: Value, change: &dyn Fn(&mut Vec<Tensor>)| {
        let mut drawn = Drawn { more: more.as_object().unwrap().clone(), ..Drawn::default() };
        for path in shards(&folder) {
            for mut tensor in read(&path) {
                if tensor.name.contains("layers.0.self_attn.q_proj") {
                    drawn.adapt(&mut tensor, false, 1.0);
                }
            }
        }
        change(&mut drawn.tensors);
        drawn.save(&scratch.0.join("peft"));
        let error = convert_adapter(&scratch.0.join("peft"), &folder, &out).err();
        assert!(error.is_none() || !out.exists());
        let _ = fs::remove_file(&out);
        error
    };
    assert_eq!(refused(object!({}), &|_| {}), None);
    let entries = [
        (object!({"peft_type": "IA3"}), "`peft_type` is IA3"),
        (object!({"use_dora": true}), "`use_dora` is true"),
        (object!({"modules_to_save": ["lm_head"]}), "`modules_to_save` is [\"lm_head\"]"),
        (object!({"bias": "all"}), "`bias` is all"),
        (object!({"init_lora_weights": "pissa_niter_4"}), "`init_lora_weights` is pissa_niter_4"),
        (object!({"lora_alpha": 0}), "`lora_alpha` is not a number"),
        (object!({"lora_alpha": "x"}), "`lora_alpha` is not a number"),
        (object!({"alpha_pattern": {"(": 1}}), "`alpha_pattern`: `(`"),
    ];
    for (more, expected) in entries {
        let error = refused(more, &|_| {}).unwrap();
        assert!(error.contains(expected), "{error}");
    }
    let q = "base_model.model.model.layers.0.self_attn.q_proj";
    type Change = fn(&mut Vec<Tensor>);
    let tensors: [(Change, &str); 8] = [
        (|t| drop(t.pop()), "q_proj`: one of its two matrices is missing"),
        (|t| t.clear(), "the adapter has none"),
        (|t| t[0] = tensor(&t[0].name.clone(), &[RANK + 1, 48]), "that of its other matrix"),
        (|t| t[1] = tensor(&t[1].name.clone(), &[RANK]), "not a matrix"),
        (|t| t.push(tensor("base_model.model.lm_head.weight", &[4, 4])), "a whole tensor"),
        (
            |t| t.push(tensor("base_model.model.x.lora_magnitude_vector", &[4])),
            "DoRA has no form in GGUF",
        ),
        (
            |t| t.iter_mut().for_each(|t| t.name = t.name.replace("q_proj", "z_proj")),
            "z_proj.weight` has no known place",
        ),
        (|t| t[1] = tensor(&t[1].name.clone(), &[7, RANK]), "heads of an even number of rows"),
    ];
    for (change, expected) in tensors {
        let error = refused(object!({}), &change).unwrap();
        assert!(error.contains(expected), "{q}: {error}");
    }
    let peft = scratch.0.join("peft");
    let error = Conversion::plan(&peft, &ConvertOptions::default()).err().unwrap().to_string();
    assert!(error.contains("config.json of its model (some/base)"), "{error}");
    fs::copy(folder.join("config.json"), peft.join("config.json")).unwrap();
    let base = Some(peft.clone());
    let options = ConvertOptions { base, ..ConvertOptions::default() };
    let error = Conversion::plan(&folder, &options).err().unwrap().to_string();
    assert!(error.contains("missing, though a base is named"), "{error}");
}

//! Quantized checkpoints (GPTQ, AWQ, HQQ, compressed-tensors, ternary, floats of 8 bits) to GGUF: values,
//! logits and types against what their tools' formulas say.
//!
//! `tests/golden/quantized` has some; `TEFF_FIXTURES` names a folder whose `quantized_checkpoints` and
//! `quantized_experts` have more.

use crate::convert::{convert, convert_as_stored, copy_folder, floats, ids, json, logits};
use crate::convert_lora::read;
use crate::folder::Folder;
use crate::measure::nmse_max;
use crate::require::fixtures;
use gguf_rs_lite::GgufFile;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use teff::convert::TargetType;
use teff::engine::Model;
use teff::quantize::mix::Mix;
use teff::quantize::{Options, Plan, Step};
use teff_kernels::KernelTable;

/// Folders, the types that their matrices get, whether these have their codes, and how far the logits
/// may be from those of the values.
const TYPES: &[(&str, &str, bool, f64)] = &[
    ("awq-4bit-g128", "Q4_0 Q4_1", true, 1e-4),
    ("bitnet-ternary", "Q4_0 TQ2_0", true, 1e-5),
    ("ct-fp8-block", "BF16", false, 1e-4),
    ("ct-fp8-tensor", "BF16", false, 1e-4),
    ("ct-int3-g128", "Q4_0", true, 1e-5),
    ("ct-int4-g128-sym", "Q4_0", true, 1e-5),
    ("ct-int8-channel", "Q8_0", true, 1e-5),
    ("ct-mxfp4", "MXFP4", true, 1e-5),
    ("fp8-block-128", "BF16", false, 1e-4),
    ("gptq-2bit-g64-asym", "Q4_0", true, 1e-5),
    ("gptq-3bit-g128-sym", "Q4_0", true, 1e-5),
    ("gptq-4bit-g128-sym", "Q4_0", true, 1e-5),
    ("gptq-4bit-g32-sym-v2", "Q4_0", true, 1e-5),
    ("gptq-4bit-g64-asym-actorder", "Q8_0", false, 1e-3),
    ("gptq-4bit-g64-asym-zero0", "Q4_0 Q4_1", true, 1e-4),
    ("gptq-8bit-g128-sym", "Q8_0", true, 1e-5),
    ("hqq-2bit-g32", "Q4_0 Q4_1", true, 1e-4),
    ("hqq-4bit-g64", "Q4_0 Q4_1", true, 1e-4),
    ("hqq-8bit-g128", "F16", false, 1e-4),
];

pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quantized")
}

/// Rows and columns of a tensor of a file, and its values.
pub fn values(file: &GgufFile, name: &str) -> (usize, Vec<f32>) {
    let info = file.tensor(name).unwrap_or_else(|| panic!("{name}"));
    let cols = info.dims[0] as usize;
    let mut values = vec![0.0; info.dims.iter().product::<u64>() as usize];
    let kernels = KernelTable::detect().types(info.ty).unwrap();
    kernels.dequantize(file.data(info), &mut values);
    (cols, values)
}

/// Names of a layer's matrices: theirs, ours, and the heads of which rows are laid anew.
pub const MATRICES: &[(&str, &str, bool)] = &[
    ("self_attn.q_proj", "attn_q", true),
    ("self_attn.k_proj", "attn_k", true),
    ("self_attn.v_proj", "attn_v", false),
    ("self_attn.o_proj", "attn_output", false),
    ("mlp.gate_proj", "ffn_gate", false),
    ("mlp.up_proj", "ffn_up", false),
    ("mlp.down_proj", "ffn_down", false),
];

/// Rows in the order of the checkpoint: halves of heads in place of pairs.
pub fn unpaired(cols: usize, head: usize, values: &[f32]) -> Vec<f32> {
    let rows: Vec<&[f32]> = values.chunks_exact(cols).collect();
    let place = |row: usize| {
        let (first, i) = (row / head * head, row % head);
        first + i % (head / 2) * 2 + i / (head / 2)
    };
    (0..rows.len()).flat_map(|row| rows[place(row)]).copied().collect()
}

/// The largest distance to the values of the checkpoint, by the largest of them.
fn distance(folder: &Path, file: &GgufFile) -> f64 {
    let path = folder.join("dequant.safetensors");
    let mut worst = 0.0_f64;
    for tensor in if path.exists() { read(&path) } else { Vec::new() } {
        let name = |row: &&(&str, &str, bool)| tensor.name.contains(row.0);
        let &(_, ours, is_paired) = MATRICES.iter().find(name).unwrap();
        let (cols, mut found) = values(file, &format!("blk.0.{ours}.weight"));
        if is_paired {
            found = unpaired(cols, 32, &found);
        }
        assert_eq!(found.len(), tensor.values.len(), "{}", tensor.name);
        let largest = tensor.values.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        for (a, b) in found.iter().zip(&tensor.values) {
            assert!(a.is_finite());
            worst = worst.max(f64::from((a - b).abs() / largest));
        }
    }
    worst
}

/// Sums of squares of all matrices are those of the checkpoint.
fn check_sums(folder: &Path, file: &GgufFile) {
    let tokens = json(&folder.join("tokens.json"));
    for &(theirs, ours, _) in MATRICES {
        let (_, found) = values(file, &format!("blk.0.{ours}.weight"));
        let sum: f64 = found.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let expected = &tokens["sum_of_squares"][format!("model.layers.0.{theirs}.weight")];
        let expected = expected.as_f64().unwrap();
        assert!((sum / expected - 1.0).abs() < 1e-9, "{theirs}: {sum}, not {expected}");
    }
}

fn check(folder: &Path) {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let row = TYPES.iter().find(|row| row.0 == name);
    let &(_, types, keeps, bar) = row.unwrap_or_else(|| panic!("{name} has no row"));
    let scratch = Folder::new(&format!("packed-{name}"));
    let out = scratch.0.join("model.gguf");
    let tokens = ids(&json(&folder.join("tokens.json"))["tokens"]);
    let truth = floats(&folder.join("logits.f32")).unwrap();
    let nmse = |path: &Path| {
        let found = logits(&Model::open(path).unwrap(), &tokens);
        nmse_max(&found, &truth, truth.len())
    };
    // As floats: every value.
    convert(folder, &out, TargetType::F32).unwrap_or_else(|e| panic!("{name}: {e}"));
    let file = GgufFile::open(&out).unwrap();
    check_sums(folder, &file);
    assert_eq!(distance(folder, &file), 0.0, "{name}");
    let error = nmse(&out);
    assert!(error <= 1e-9, "{name}: {error}");
    // As codes.
    let conversion = convert_as_stored(folder, &out).unwrap_or_else(|e| panic!("{name}: {e}"));
    let file = GgufFile::open(&out).unwrap();
    for &(_, ours, _) in MATRICES {
        let tensor = file.tensor(&format!("blk.0.{ours}.weight")).unwrap();
        assert!(types.split(' ').any(|ty| ty == tensor.ty.name()), "{name}: {:?}", tensor.ty);
        let output = conversion.tensors().iter().find(|o| o.name == tensor.name).unwrap();
        assert_eq!(output.keeps_codes().unwrap_or(false), keeps, "{name}, {ours}");
    }
    let worst = distance(folder, &file);
    let most = match types {
        "Q4_0 Q4_1" => 7e-4,
        // A scale that is the inverse of one is no half.
        "Q4_0 TQ2_0" => 5e-4,
        "Q8_0" | "F16" | "BF16" if !keeps => 5e-3,
        _ => 0.0,
    };
    assert!(worst <= most, "{name}: {worst}");
    // Its values as floats: with codes, activations have eight bits, too.
    let mut options = Options::new(Mix::F32);
    options.force = true;
    let (plain, mut on) = (scratch.0.join("plain.gguf"), |_: Step<'_>| true);
    Plan::new(&file, &options).unwrap().write(&plain, &mut on).unwrap();
    let error = nmse(&plain);
    assert!(error <= bar, "{name}: {error}");
}

#[test]
fn codes_of_checkpoints_stay_as_they_are() {
    let mut n = 0;
    for entry in fs::read_dir(golden()).unwrap() {
        check(&entry.unwrap().path());
        n += 1;
    }
    assert!(n >= 7, "{n} folders");
}

#[test]
fn codes_of_more_checkpoints_stay_as_they_are() {
    let Some(folder) = fixtures("quantized_checkpoints") else { return };
    for entry in fs::read_dir(folder).unwrap() {
        check(&entry.unwrap().path());
    }
}

/// Experts in one stack, whose unquantized tensors have inputs as rows.
#[test]
fn experts_of_four_bits_stay_as_they_are() {
    let Some(folder) = fixtures("quantized_experts") else { return };
    let folder = folder.join("gpt-oss-mxfp4");
    let scratch = Folder::new("packed-experts");
    let out = scratch.0.join("model.gguf");
    let tokens = ids(&json(&folder.join("tokens.json"))["tokens"]);
    let truth = floats(&folder.join("logits.f32")).unwrap();
    convert(&folder, &out, TargetType::F32).unwrap();
    let found = logits(&Model::open(&out).unwrap(), &tokens);
    let error = nmse_max(&found, &truth, truth.len());
    assert!(error <= 1e-9, "{error}");
    let exact = GgufFile::open(&out).unwrap();
    convert_as_stored(&folder, &out).unwrap();
    let file = GgufFile::open(&out).unwrap();
    for part in ["gate", "up", "down"] {
        let name = format!("blk.0.ffn_{part}_exps.weight");
        assert_eq!(file.tensor(&name).unwrap().ty.name(), "MXFP4");
        assert!(values(&file, &name) == values(&exact, &name), "{part}");
    }
}

/// Floats of eight bits without their factors are no weights.
#[test]
fn missing_factors_are_named() {
    let scratch = Folder::new("packed-factors");
    let folder = copy_folder(&golden().join("gptq-3bit-g128-sym"), &scratch);
    let path = folder.join("config.json");
    let mut config = json(&path);
    config["quantization_config"] = serde_json::json!({"quant_method": "fp8"});
    fs::write(path, config.to_string()).unwrap();
    let (name, shape) = ("model.layers.0.mlp.down_proj.weight", [128_u64, 256]);
    let header = serde_json::json!({
        name: {"dtype": "F8_E4M3", "shape": shape, "data_offsets": [0, shape[0] * shape[1]]},
    });
    let header = header.to_string().into_bytes();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.extend(vec![0x38; (shape[0] * shape[1]) as usize]);
    fs::write(folder.join("model.safetensors"), bytes).unwrap();
    let error = convert(&folder, &scratch.0.join("model.gguf"), TargetType::F32).unwrap_err();
    assert!(error.contains(name) && error.contains("factors"), "{error}");
}

/// Changes an entry of `quantization_config`.
pub fn set(folder: &Path, entry: &str, value: Value) {
    let path = folder.join("config.json");
    let mut config = json(&path);
    config["quantization_config"][entry] = value;
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    use serde_json::json;
    for (name, entry, value, expected) in [
        ("gptq-3bit-g128-sym", "checkpoint_format", json!("marlin"), "gptq (marlin)"),
        ("gptq-3bit-g128-sym", "bits", json!(5), "gptq (5 bits)"),
        ("gptq-3bit-g128-sym", "pack_dtype", json!("int16"), "gptq (`pack_dtype` is int16)"),
        ("gptq-3bit-g128-sym", "is_marlin_format", json!(true), "gptq (`is_marlin_format`)"),
        ("gptq-3bit-g128-sym", "bits", json!(8), "[1, 32] is expected"),
        ("gptq-3bit-g128-sym", "group_size", json!(64), "not as many groups as `group_size`"),
        ("awq-4bit-g128", "group_size", json!(32), "not as many groups as `group_size`"),
        ("gptq-3bit-g128-sym", "quant_method", json!("quip"), "quip"),
        ("awq-4bit-g128", "version", json!("gemv"), "awq (gemv, 4 bits)"),
        ("awq-4bit-g128", "bits", json!(3), "awq (gemm, 3 bits)"),
        ("bitnet-ternary", "linear_class", json!("other"), "bitnet (other)"),
    ] {
        let scratch = Folder::new("packed-refused");
        let folder = copy_folder(&golden().join(name), &scratch);
        set(&folder, entry, value);
        let error = convert(&folder, &scratch.0.join("model.gguf"), TargetType::F32).unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

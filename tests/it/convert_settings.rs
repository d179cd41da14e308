//! Quantized checkpoints in settings of which there are no files: made here by the formulas of their tools, and
//! read back value by value.

use crate::convert::{convert, convert_as_stored, copy_folder, json};
use crate::convert_lora::read;
use crate::convert_packed::{MATRICES, golden, set, unpaired, values};
use crate::folder::Folder;
use gguf_rs_lite::GgufFile;
use half::{bf16, f16};
use serde_json::{Map, Value, json as object};
use std::fs;
use std::path::Path;
use teff::convert::TargetType;

/// A tensor of a checkpoint.
struct Entry {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn entry(name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Entry {
    Entry { name: name.into(), dtype, shape: shape.to_vec(), bytes }
}

fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Entry {
    entry(name, "F32", shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

fn f16s(name: &str, shape: &[usize], values: &[f32]) -> Entry {
    let halves = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes());
    entry(name, "F16", shape, halves.collect())
}

fn bf16s(name: &str, shape: &[usize], values: &[f32]) -> Entry {
    let halves = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes());
    entry(name, "BF16", shape, halves.collect())
}

fn i32s(name: &str, shape: &[usize], values: &[u32]) -> Entry {
    entry(name, "I32", shape, values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

fn write(path: &Path, entries: &[Entry]) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for entry in entries {
        let from = data.len();
        data.extend(&entry.bytes);
        let range = [from, data.len()];
        let told = object!({"dtype": entry.dtype, "shape": entry.shape, "data_offsets": range});
        header.insert(entry.name.clone(), told);
    }
    let header = Value::from(header).to_string().into_bytes();
    let all = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    fs::write(path, all).unwrap();
}

/// A number below `n` for an element.
fn drawn(i: usize, n: usize) -> usize {
    (i.wrapping_mul(0x9e37_79b9) >> 9) % n
}

/// A scale that every type of floats has.
fn scale(i: usize) -> f32 {
    (1.0 + (i * 7 % 5) as f32 / 8.0) / 64.0
}

/// Codes as one stream of bits through words, for each of `n` lines.
fn stream(n: usize, len: usize, bits: usize, code: impl Fn(usize, usize) -> usize) -> Vec<u32> {
    let words = (len * bits).div_ceil(32);
    let mut out = vec![0; n * words];
    for (line, out) in out.chunks_exact_mut(words).enumerate() {
        for i in 0..len {
            let (word, shift) = (i * bits / 32, i * bits % 32);
            let field = (code(line, i) as u64) << shift;
            out[word] |= field as u32;
            if field >> 32 != 0 {
                out[word + 1] |= (field >> 32) as u32;
            }
        }
    }
    out
}

/// `[n][m]` as `[m][n]`.
fn turned(x: &[u32], m: usize) -> Vec<u32> {
    (0..m).flat_map(|j| x.iter().skip(j).step_by(m)).copied().collect()
}

/// What a tool makes of a matrix: its tensors, whose names begin behind the module's, and its values.
type Packed = (Vec<Entry>, Vec<f32>);

/// The values of all elements.
fn all(rows: usize, cols: usize, value: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    (0..rows * cols).map(|i| value(i / cols, i % cols)).collect()
}

/// Makes a folder of a tiny llama whose matrices are packed so; `said` is of how they are quantized, and
/// where that is told.
fn folder(
    scratch: &Folder,
    (place, said): (&str, Value),
    pack: &dyn Fn(&str, usize, usize) -> Packed,
) -> (std::path::PathBuf, Vec<Vec<f32>>) {
    let folder = copy_folder(&golden().join("gptq-3bit-g128-sym"), scratch);
    let path = folder.join("config.json");
    let mut config = json(&path);
    config.as_object_mut().unwrap().remove("quantization_config");
    if place.ends_with(".json") {
        fs::write(folder.join(place), said.to_string()).unwrap();
    } else {
        config[place] = said;
    }
    fs::write(path, config.to_string()).unwrap();
    let path = folder.join("model.safetensors");
    let is_float = |name: &str| name.contains("norm") || name.contains("embed");
    let floats = read(&path).into_iter().filter(|tensor| is_float(&tensor.name));
    let shape = |shape: &[u64]| shape.iter().map(|&n| n as usize).collect::<Vec<_>>();
    let mut entries: Vec<Entry> =
        floats.map(|t| f32s(&t.name, &shape(&t.shape), &t.values)).collect();
    let mut expected = Vec::new();
    for &(theirs, ours, _) in MATRICES {
        let [rows, cols] = match ours {
            "attn_k" | "attn_v" => [32, 128],
            "ffn_gate" | "ffn_up" => [256, 128],
            "ffn_down" => [128, 256],
            _ => [128, 128],
        };
        let (tensors, values) = pack(theirs, rows, cols);
        let named = tensors.into_iter().map(|tensor| Entry {
            name: format!("model.layers.0.{theirs}.{}", tensor.name),
            ..tensor
        });
        entries.extend(named);
        expected.push(values);
    }
    write(&path, &entries);
    (folder, expected)
}

/// Converts such a folder: to the very values as F32, and to these types without one.
fn check(
    name: &str,
    said: (&str, Value),
    types: &str,
    pack: &dyn Fn(&str, usize, usize) -> Packed,
) {
    let scratch = Folder::new(&format!("settings-{name}"));
    let (folder, expected) = folder(&scratch, said, pack);
    let out = scratch.0.join("model.gguf");
    convert(&folder, &out, TargetType::F32).unwrap_or_else(|error| panic!("{name}: {error}"));
    let file = GgufFile::open(&out).unwrap();
    for (&(_, ours, is_paired), expected) in MATRICES.iter().zip(&expected) {
        let (cols, mut found) = values(&file, &format!("blk.0.{ours}.weight"));
        if is_paired {
            found = unpaired(cols, 32, &found);
        }
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        let differs = differs.map(|i| (i, found[i], expected[i]));
        assert!(found.len() == expected.len() && differs.is_none(), "{name}: {ours}, {differs:?}");
    }
    convert_as_stored(&folder, &out).unwrap_or_else(|error| panic!("{name}: {error}"));
    let file = GgufFile::open(&out).unwrap();
    for &(_, ours, _) in MATRICES {
        let ty = file.tensor(&format!("blk.0.{ours}.weight")).unwrap().ty.name();
        assert!(types.split(' ').any(|known| known == ty), "{name}: {ours} is {ty}");
    }
}

/// Refuses such a folder with these words.
fn refused(
    name: &str,
    said: (&str, Value),
    words: &str,
    pack: &dyn Fn(&str, usize, usize) -> Packed,
) {
    let scratch = Folder::new(&format!("settings-refused-{name}"));
    let (folder, _) = folder(&scratch, said, pack);
    let error = convert(&folder, &scratch.0.join("model.gguf"), TargetType::F32).unwrap_err();
    assert!(error.contains(words), "{name}: {error}");
}

/// Packed integers of compressed-tensors.
fn integers(bits: usize, group: usize) -> impl Fn(&str, usize, usize) -> Packed {
    move |_, rows, cols| {
        let across = cols / group;
        let code = |r: usize, c: usize| drawn(r * cols + c, 1 << bits);
        let scales: Vec<f32> = (0..rows * across).map(scale).collect();
        let words = stream(rows, cols, bits, code);
        let shape = [rows, cols].iter().flat_map(|&n| (n as u64).to_le_bytes()).collect();
        let tensors = vec![
            i32s("weight_packed", &[rows, words.len() / rows], &words),
            bf16s("weight_scale", &[rows, across], &scales),
            entry("weight_shape", "I64", &[2], shape),
        ];
        let value = |r: usize, c: usize| {
            (code(r, c) as f32 - (1 << (bits - 1)) as f32) * scales[r * across + c / group]
        };
        let values = all(rows, cols, value);
        (tensors, values)
    }
}

fn compressed(format: &str, weights: Value) -> Value {
    let group = object!({"format": format, "targets": ["Linear"], "weights": weights});
    object!({
        "quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*norm.*"], "sparsity_config": {}, "transform_config": {},
    })
}

const ENTRY: &str = "quantization_config";

#[test]
fn compressed_integers_are_read() {
    let said = |bits: usize, group: usize| {
        compressed("pack-quantized", object!({"num_bits": bits, "group_size": group}))
    };
    check("ct-5", (ENTRY, said(5, 32)), "Q5_0", &integers(5, 32));
    check("ct-old-entry", ("compression_config", said(4, 64)), "Q4_0", &integers(4, 64));
    // Columns name their groups; minus one says that they come in order.
    let index = |of: fn(usize) -> u32| {
        move |name: &str, rows: usize, cols: usize| {
            let (mut tensors, mut values) = integers(4, 64)(name, rows, cols);
            let groups: Vec<u32> = (0..cols).map(of).collect();
            if groups.iter().all(|&group| group != u32::MAX) {
                let codes = values;
                let step = |r: usize, g: usize| scale(r * (cols / 64) + g);
                values = all(rows, cols, |r, c| {
                    codes[r * cols + c] / step(r, c / 64) * step(r, groups[c] as usize)
                });
            }
            tensors.push(i32s("weight_g_idx", &[cols], &groups));
            (tensors, values)
        }
    };
    check("ct-index", (ENTRY, said(4, 64)), "Q8_0", &index(|c| (c % 2) as u32));
    check("ct-no-index", (ENTRY, said(4, 64)), "Q4_0", &index(|_| u32::MAX));
    // Bytes: fewer bits than they have room for, and scales of blocks that the last rows and columns cut.
    let bytes = |bits: usize, block: [usize; 2]| {
        move |_: &str, rows: usize, cols: usize| {
            let across = cols.div_ceil(block[1]);
            let n = rows.div_ceil(block[0]) * across;
            let code =
                |r: usize, c: usize| drawn(r * cols + c, 1 << bits) as i32 - (1 << (bits - 1));
            let scales: Vec<f32> = (0..n).map(scale).collect();
            let codes = (0..rows * cols).map(|i| code(i / cols, i % cols) as u8).collect();
            let values = all(rows, cols, |r, c| {
                code(r, c) as f32 * scales[r / block[0] * across + c / block[1]]
            });
            let scales = bf16s("weight_scale", &[n / across, across], &scales);
            (vec![entry("weight", "I8", &[rows, cols], codes), scales], values)
        }
    };
    let weights = object!({"num_bits": 4, "group_size": 32});
    check("ct-bytes-4", (ENTRY, compressed("int-quantized", weights)), "Q4_0", &bytes(4, [1, 32]));
    let weights = object!({"num_bits": 8, "strategy": "block", "block_structure": [24, 96]});
    check("ct-blocks", (ENTRY, compressed("int-quantized", weights)), "Q8_0", &bytes(8, [24, 96]));
}

/// Floats of eight bits: 1 to 7.5 and their negatives.
fn fp8(i: usize) -> (u8, f32) {
    let code = drawn(i, 24) as u8;
    let value = (1.0 + f32::from(code % 8) / 8.0) * f32::from(1_u8 << (code / 8));
    let sign = u8::from(i.is_multiple_of(3)) << 7;
    (sign | (0x38 + code), if sign == 0 { value } else { -value })
}

#[test]
fn factors_of_floats_are_read() {
    let pack = |name: &'static str, dtype: &'static str, block: [usize; 2]| {
        move |_: &str, rows: usize, cols: usize| {
            let across = cols.div_ceil(block[1]);
            let n = rows.div_ceil(block[0]) * across;
            let powers: Vec<u8> = (0..n).map(|i| 120 + (i * 7 % 5) as u8).collect();
            let factors: Vec<f32> = match dtype {
                "BF16" => (0..n).map(scale).collect(),
                _ => powers.iter().map(|&p| 2f32.powi(i32::from(p) - 127)).collect(),
            };
            let shape = [n / across, across];
            let tensor = match dtype {
                "BF16" => bf16s(name, &shape, &factors),
                dtype => entry(name, dtype, &shape, powers),
            };
            let codes = (0..rows * cols).map(|i| fp8(i).0).collect();
            let values = all(rows, cols, |r, c| {
                fp8(r * cols + c).1 * factors[r / block[0] * across + c / block[1]]
            });
            // What belongs to activations and caches is left out.
            let more = f32s("input_scale", &[1], &[1.0]);
            (vec![entry("weight", "F8_E4M3", &[rows, cols], codes), tensor, more], values)
        }
    };
    let said = object!({"quant_method": "fp8", "weight_block_size": [48, 80]});
    let blocks = pack("weight_scale_inv", "F8_E8M0", [48, 80]);
    check("fp8-powers", (ENTRY, said.clone()), "BF16 F16 F32 Q8_0", &blocks);
    let blocks = pack("weight_scale_inv", "BF16", [48, 80]);
    check("fp8-blocks", (ENTRY, said), "BF16 F16 F32 Q8_0", &blocks);
    let weights = object!({"num_bits": 8, "type": "float", "group_size": 32});
    let said = compressed("mxfp8-quantized", weights.clone());
    check("ct-mxfp8", (ENTRY, said), "BF16 F16 F32 Q8_0", &pack("weight_scale", "U8", [1, 32]));
    let said = compressed("float-quantized", weights);
    check("ct-fp8-32", (ENTRY, said), "BF16 F16 F32 Q8_0", &pack("weight_scale", "BF16", [1, 32]));
    let said = object!({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0});
    let rows = pack("weight_scale", "BF16", [1, 1 << 20]);
    check("fbgemm", (ENTRY, said), "BF16 F16 F32 Q8_0", &rows);
    // A power that is no number.
    let said = object!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    refused("fp8-nan", (ENTRY, said), "NaN", &|_, rows, cols| {
        let codes = entry("weight", "F8_E4M3", &[rows, cols], vec![0x38; rows * cols]);
        let n = rows.div_ceil(128) * cols.div_ceil(128);
        let shape = [rows.div_ceil(128), cols.div_ceil(128)];
        (vec![codes, entry("weight_scale_inv", "U8", &shape, vec![255; n])], Vec::new())
    });
}

#[test]
fn modelopt_is_read() {
    const LEVELS: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let pack = |_: &str, rows: usize, cols: usize| -> Packed {
        let value = |code: usize| if code < 8 { LEVELS[code] } else { -LEVELS[code - 8] };
        let code = |i: usize| drawn(i, 16);
        let bytes = (0..rows * cols / 2).map(|i| (code(2 * i) | code(2 * i + 1) << 4) as u8);
        let bytes = bytes.collect();
        let n = rows * cols / 16;
        let scales = (0..n).map(|i| fp8(3 * i + 1).0).collect();
        let values = all(rows, cols, |r, c| {
            let i = r * cols + c;
            value(code(i)) * (fp8(3 * (i / 16) + 1).1 * 0.0625)
        });
        let tensors = vec![
            entry("weight", "U8", &[rows, cols / 2], bytes),
            entry("weight_scale", "F8_E4M3", &[rows, cols / 16], scales),
            f32s("weight_scale_2", &[], &[0.0625]),
            f32s("input_scale", &[], &[1.0]),
        ];
        (tensors, values)
    };
    let said = object!({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16});
    check("nvfp4", (ENTRY, said), "Q8_0", &pack);
    let said = object!({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}});
    check("nvfp4-file", ("hf_quant_config.json", said), "Q8_0", &pack);
    let said = object!({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"});
    refused("modelopt", (ENTRY, said), "modelopt (W4A8_AWQ)", &pack);
}

#[test]
fn hqq_in_all_forms_is_read() {
    let pack = |bits: f32, as_floats: bool| {
        move |_: &str, rows: usize, cols: usize| -> Packed {
            const GROUP: usize = 64;
            let n = rows * cols / GROUP;
            let room = match bits {
                1.58 => 2,
                5.0 | 6.0 => 8,
                bits => bits as usize,
            };
            let codes = (bits.exp2() - 1.0).round() as usize + 1;
            let code = |i: usize| drawn(i, codes);
            let fields = 8 / room;
            let lines = n / fields;
            let byte = |i: usize| -> u8 {
                let part =
                    |slab: usize| code(i + slab * lines * GROUP) << (room * (fields - 1 - slab));
                (0..fields).map(part).sum::<usize>() as u8
            };
            let bytes = (0..lines * GROUP).map(byte).collect();
            let packed = match as_floats {
                true => entry("W_q", "F16", &[lines, GROUP / 2], bytes),
                false => entry("W_q", "U8", &[lines, GROUP], bytes),
            };
            let scales: Vec<f32> = (0..n).map(scale).collect();
            let zeros: Vec<f32> = (0..n).map(|i| 1.25 + (i % 3) as f32).collect();
            let values = all(rows, cols, |r, c| {
                let i = r * cols + c;
                (code(i) as f32 - zeros[i / GROUP]) * scales[i / GROUP]
            });
            let number = |name: &str, n: u32| i32s(name, &[], &[n]);
            let bits = match bits.fract() == 0.0 {
                true => number("nbits", bits as u32),
                false => f32s("nbits", &[], &[bits]),
            };
            let shape = [rows, cols].iter().flat_map(|&n| (n as u64).to_le_bytes()).collect();
            let tensors = vec![
                packed,
                f16s("scale", &[n, 1], &scales),
                f16s("zero", &[n, 1], &zeros),
                bits,
                number("axis", 1),
                number("group_size", GROUP as u32),
                entry("shape", "I64", &[2], shape),
            ];
            (tensors, values)
        }
    };
    // What is said of zero points of zero points is ignored by the tool, too.
    let said = object!({
        "quant_method": "hqq", "skip_modules": ["lm_head"],
        "quant_config": {"zero_quant_params": {"nbits": 8}},
    });
    let said = || (ENTRY, said.clone());
    check("hqq-1.58", said(), "Q4_1", &pack(1.58, false));
    check("hqq-4-floats", said(), "Q4_1", &pack(4.0, true));
    check("hqq-5", said(), "Q5_1", &pack(5.0, false));
    check("hqq-6", said(), "F16 F32", &pack(6.0, false));
    refused("hqq-zeros", said(), "hqq with `zero_quant_params`", &|name, rows, cols| {
        let (mut tensors, values) = pack(4.0, false)(name, rows, cols);
        tensors.retain(|tensor| tensor.name != "zero");
        (tensors, values)
    });
}

/// GPTQ's matrices, symmetric.
fn gptq(bits: usize, group: usize, rows: usize, cols: usize) -> Packed {
    let across = cols / group;
    let code = |r: usize, c: usize| drawn(r * cols + c, 1 << bits);
    let middle = 1 << (bits - 1);
    let words = turned(&stream(rows, cols, bits, code), cols * bits / 32);
    let zeros = stream(across, rows, bits, |_, _| middle - 1);
    let scales: Vec<f32> = (0..across * rows).map(scale).collect();
    let values =
        all(rows, cols, |r, c| (code(r, c) as f32 - middle as f32) * scales[c / group * rows + r]);
    let tensors = vec![
        i32s("qweight", &[cols * bits / 32, rows], &words),
        i32s("qzeros", &[across, rows * bits / 32], &zeros),
        f16s("scales", &[across, rows], &scales),
    ];
    (tensors, values)
}

#[test]
fn gptq_of_several_bits_and_places_is_read() {
    let said = object!({"bits": 4, "group_size": 128, "desc_act": false, "sym": true});
    let pack = |_: &str, rows: usize, cols: usize| gptq(4, 128, rows, cols);
    check("gptq-file", ("quantize_config.json", said.clone()), "Q4_0", &pack);
    let mut said = said;
    said["quant_method"] = "gptq".into();
    said["dynamic"] = object!({"+:.*down_proj": {"bits": 8, "group_size": 32}});
    let pack = |name: &str, rows: usize, cols: usize| match name {
        "mlp.down_proj" => gptq(8, 32, rows, cols),
        _ => gptq(4, 128, rows, cols),
    };
    check("gptq-dynamic", (ENTRY, said.clone()), "Q4_0 Q8_0", &pack);
    said.as_object_mut().unwrap().remove("dynamic");
    // Biases of zeros where there are none are nothing; others are.
    let biased = |x: f32| {
        move |_: &str, rows: usize, cols: usize| {
            let (mut tensors, values) = gptq(4, 128, rows, cols);
            tensors.push(f16s("bias", &[rows], &vec![x; rows]));
            (tensors, values)
        }
    };
    check("gptq-no-bias", (ENTRY, said.clone()), "Q4_0", &biased(0.0));
    refused("gptq-bias", (ENTRY, said.clone()), "attention_bias", &biased(0.5));
    refused("gptq-bits", (ENTRY, said), "is expected", &pack);
}

/// Formats that no tensor tells are refused by name.
#[test]
fn formats_are_refused_by_name() {
    let pack = integers(4, 32);
    let weights = object!({"num_bits": 4, "group_size": 32});
    for (entry, value, words) in [
        ("format", object!("marlin-24"), "(`format` is marlin-24)"),
        ("format", object!("mxfp6-pack-quantized"), "(`format` is mxfp6-pack-quantized)"),
        (
            "sparsity_config",
            object!({"format": "sparse-24-bitmask"}),
            "(`sparsity_config.format` is sparse-24-bitmask)",
        ),
        (
            "transform_config",
            object!({"config_groups": {"R4": {"type": "hadamard", "apply": [
                {"location": "weight_output"}, {"location": "input"},
            ]}}}),
            "(`transform_config: location` is input)",
        ),
    ] {
        let mut said = compressed("pack-quantized", weights.clone());
        said[entry] = value;
        refused(entry, (ENTRY, said), words, &pack);
    }
    let scratch = Folder::new("settings-awq");
    let folder = copy_folder(&golden().join("awq-4bit-g128"), &scratch);
    set(&folder, "version", object!("gemv_fast"));
    let error = convert(&folder, &scratch.0.join("model.gguf"), TargetType::F32).unwrap_err();
    assert!(error.contains("awq (gemv_fast, 4 bits)"), "{error}");
}

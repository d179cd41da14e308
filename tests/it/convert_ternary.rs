//! BitNet's own classes: floats that become ternary when their model runs are ternary in the result, and
//! what is ternary already stays.

use crate::convert::{configure, convert, convert_as_stored};
use crate::convert_lora::read;
use crate::folder::Folder;
use crate::reversed::{Drawn, Part, SCALES, check, checkpoint, drawn, is_scale, layer, renamed};
use gguf_rs_lite::GgufFile;
use serde_json::{Value, json as object};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use teff::convert::TargetType;
use teff_kernels::KernelTable;

/// The class of 1bitLLM, and that of transformers.
const CLASSES: [&str; 2] = ["BitnetForCausalLM", "BitNetForCausalLM"];

fn config(more: &Value) -> Value {
    let mut all = object!({
        "vocab_size": 128, "max_position_embeddings": 256, "hidden_size": 192,
        "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3,
        "intermediate_size": 384, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": true,
    });
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

/// Whether a tensor is one of the matrices of layers.
fn is_linear(name: &str) -> bool {
    name.starts_with("blk.") && name.ends_with(".weight") && !name.contains("norm")
}

/// The tensors of a class, matrices of layers changed.
fn tensors(drawn: &Drawn, class: &str, change: impl Fn(&Part) -> Part) -> Vec<(String, Part)> {
    let is_first = class == CLASSES[0];
    renamed(drawn, |name, part| {
        if is_scale(name) {
            return Vec::new();
        }
        let part = if is_linear(name) { change(part) } else { part.clone() };
        let Some((n, of, end)) = layer(name) else {
            let to = name.replace("token_embd", "embed_tokens").replace("output_norm", "norm");
            return vec![(format!("model.{to}"), part)];
        };
        let of = match of {
            "attn_norm" => "input_layernorm",
            "ffn_norm" => "post_attention_layernorm",
            "attn_sub_norm" if is_first => "self_attn.inner_attn_ln",
            "attn_sub_norm" => "self_attn.attn_sub_norm",
            "ffn_sub_norm" if is_first => "mlp.ffn_layernorm",
            "ffn_sub_norm" => "mlp.ffn_sub_norm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            other => panic!("{other}"),
        };
        vec![(format!("model.layers.{n}.{of}.{end}"), part)]
    })
}

/// Weights as the reference makes them: `(w / s).round().clamp(-1, 1) * s`, `s` the mean magnitude.
fn by_reference(part: &Part) -> Part {
    let n = part.values.len() as f64;
    let mean = part.values.iter().map(|x| f64::from(x.abs())).sum::<f64>() / n;
    let inverse = 1.0 / (mean as f32).max(1e-5);
    let of = |x: &f32| (x * inverse).round_ties_even().clamp(-1.0, 1.0) / inverse;
    Part { values: part.values.iter().map(of).collect(), ..part.clone() }
}

/// Ternary weights of a magnitude that f16 has, and zeros by thirds.
fn ternary(part: &Part) -> Part {
    let of = |x: &f32| 0.0625 * (x / 0.03).trunc().clamp(-1.0, 1.0);
    Part { values: part.values.iter().map(of).collect(), ..part.clone() }
}

/// Matrices of layers of a result, by name: their types and values.
fn linears(path: &Path) -> HashMap<String, (String, Vec<f32>)> {
    let file = GgufFile::open(path).unwrap();
    let all = file.tensors().iter().filter(|info| is_linear(&info.name));
    all.map(|info| {
        let mut values = vec![0.0; info.dims.iter().product::<u64>() as usize];
        let kernels = KernelTable::detect().types(info.ty).unwrap();
        kernels.dequantize(file.data(info), &mut values);
        (info.name.clone(), (info.ty.to_string(), values))
    })
    .collect()
}

/// Matrices are those of the drawn model, changed.
fn check_linears(drawn: &Drawn, path: &Path, change: impl Fn(&Part) -> Part) {
    let found = linears(path);
    assert_eq!(found.len(), 14);
    for (name, (_, values)) in found {
        let wanted = change(&drawn.parts[&name]);
        assert!(values == wanted.values, "{name}");
        let magnitudes = values.iter().filter(|x| **x != 0.0).map(|x| x.abs());
        let is_one = magnitudes.clone().all(|x| x == magnitudes.clone().next().unwrap());
        assert!(is_one && values.contains(&0.0), "{name}");
    }
}

#[test]
fn floats_become_what_the_reference_makes_of_them() {
    let scratch = Folder::new("ternary-floats");
    let drawn = drawn("archs", "bitnet-dense", &scratch);
    let except = [SCALES, &["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate"]].concat();
    let except = [&except[..], &["ffn_up", "ffn_down"]].concat();
    let out = scratch.0.join("model.gguf");
    let folder = checkpoint(&scratch, CLASSES[0], config(&object!({"weight_bits": 1})), {
        tensors(&drawn, CLASSES[0], Part::clone)
    });
    check(&scratch, &drawn, &folder, &except);
    check_linears(&drawn, &out, by_reference);
    // The stored type is f32: blocks have the codes, and scales in f16.
    convert_as_stored(&folder, &out).unwrap();
    for (name, (ty, values)) in linears(&out) {
        assert_eq!(ty, "Q4_0", "{name}");
        let wanted = by_reference(&drawn.parts[&name]).values;
        let is_near = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 2048.0;
        assert!(values.iter().zip(&wanted).all(is_near), "{name}");
    }
    configure(&folder, &object!({"weight_bits": 2}));
    let error = convert(&folder, &out, TargetType::F32).unwrap_err();
    assert!(error.contains("`weight_bits` is not 1"), "{error}");
}

#[test]
fn what_is_ternary_stays() {
    let scratch = Folder::new("ternary-kept");
    let drawn = drawn("archs", "bitnet-dense", &scratch);
    let folder = checkpoint(&scratch, CLASSES[0], config(&object!({})), {
        tensors(&drawn, CLASSES[0], ternary)
    });
    let out = scratch.0.join("model.gguf");
    convert(&folder, &out, TargetType::F32).unwrap();
    check_linears(&drawn, &out, ternary);
    convert_as_stored(&folder, &out).unwrap();
    check_linears(&drawn, &out, ternary);
}

#[test]
fn the_class_of_transformers_has_floats_unless_they_are_quantized_online() {
    let scratch = Folder::new("ternary-online");
    let drawn = drawn("archs", "bitnet-dense", &scratch);
    let class = CLASSES[1];
    let folder =
        checkpoint(&scratch, class, config(&object!({})), tensors(&drawn, class, Part::clone));
    check(&scratch, &drawn, &folder, SCALES);
    let out = scratch.0.join("model.gguf");
    let online = |more: Value| {
        let mut all = object!({"quant_method": "bitnet", "linear_class": "autobitlinear",
            "quantization_mode": "online"});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        configure(&folder, &object!({"quantization_config": all}));
        convert(&folder, &out, TargetType::F32).unwrap();
    };
    online(object!({}));
    check_linears(&drawn, &out, by_reference);
    online(object!({"modules_to_not_convert": ["mlp"]}));
    for (name, (_, values)) in linears(&out) {
        let drawn = &drawn.parts[&name];
        let wanted = if name.contains("ffn") { drawn.clone() } else { by_reference(drawn) };
        assert!(values == wanted.values, "{name}");
    }
    // What Microsoft's model computes, and what none that is said means.
    for act in [object!("relu2"), Value::Null] {
        configure(&folder, &object!({"hidden_act": act}));
        convert(&folder, &out, TargetType::F32).unwrap();
        let file = GgufFile::open(&out).unwrap();
        let arch = file.get("general.architecture").and_then(|value| value.as_str());
        assert_eq!(arch, Some("bitnet-b1.58"));
    }
    configure(&folder, &object!({"hidden_act": "gelu"}));
    let error = convert(&folder, &out, TargetType::F32).unwrap_err();
    assert!(
        error.contains("`hidden_act` is gelu, and this architecture computes relu2"),
        "{error}"
    );
}

/// Has a folder's ternary matrices as transformers packs them: a byte has a row of each quarter.
fn pack(folder: &Path) {
    let path = folder.join("model.safetensors");
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    let mut add = |name: String, ty: &str, shape: &[u64], bytes: Vec<u8>| {
        let range = [data.len(), data.len() + bytes.len()];
        data.extend(bytes);
        let entry = object!({"dtype": ty, "shape": shape, "data_offsets": range});
        header.insert(name, entry);
    };
    for tensor in read(&path) {
        let floats = || tensor.values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        if !tensor.name.contains("_proj") {
            add(tensor.name.clone(), "F32", &tensor.shape, floats());
            continue;
        }
        let scale = tensor.values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let quarter = tensor.values.len() / 4;
        let code = |part: usize, i: usize| {
            ((tensor.values[part * quarter + i] / scale) as i8 + 1) as u8 & 3
        };
        let byte = |i: usize| (0..4).fold(0, |byte, part| byte | code(part, i) << (2 * part));
        let shape = [tensor.shape[0] / 4, tensor.shape[1]];
        add(tensor.name.clone(), "U8", &shape, (0..quarter).map(byte).collect());
        let name = format!("{}_scale", tensor.name);
        add(name, "F32", &[1], scale.to_le_bytes().to_vec());
    }
    let header = Value::from(header).to_string().into_bytes();
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).unwrap();
}

#[test]
fn packed_matrices_of_the_class_keep_their_codes() {
    let scratch = Folder::new("ternary-packed");
    let drawn = drawn("archs", "bitnet-dense", &scratch);
    let class = CLASSES[1];
    let quantization = object!({"quant_method": "bitnet", "linear_class": "autobitlinear",
        "quantization_mode": "offline"});
    let more = object!({"hidden_act": "relu2", "quantization_config": quantization});
    let folder = checkpoint(&scratch, class, config(&more), tensors(&drawn, class, ternary));
    pack(&folder);
    let out = scratch.0.join("model.gguf");
    convert(&folder, &out, TargetType::F32).unwrap();
    check_linears(&drawn, &out, ternary);
    let conversion = convert_as_stored(&folder, &out).unwrap();
    check_linears(&drawn, &out, ternary);
    assert_eq!(conversion.arch(), "bitnet-b1.58");
    let kept = conversion.tensors().iter().filter(|output| output.keeps_codes() == Some(true));
    assert_eq!(kept.count(), 14);
}

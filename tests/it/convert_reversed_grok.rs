//! As `convert_reversed.rs`: Grok 1, and Grok 2, whose experts' matrices come in parts, one in each file of a
//! rank.

use crate::convert::{configure, convert};
use crate::convert_lora::{Tensor, write};
use crate::folder::Folder;
use crate::reversed::{
    Drawn, Names, Part, SCALES, USUAL, check, checkpoint, common, drawn, is_scale, layer, renamed,
};
use gguf_rs_lite::GgufFile;
use serde_json::{Value, json as object};
use std::fs;
use std::path::{Path, PathBuf};
use teff::convert::TargetType;

/// Ranks of the files.
const RANKS: u64 = 4;
const CLASS: &str = "Grok1ForCausalLM";

/// Matrices of a stack.
fn experts(part: &Part) -> impl Iterator<Item = Part> {
    let shape = part.shape[1..].to_vec();
    let n: u64 = shape.iter().product();
    let all = part.values.chunks(n as usize);
    all.map(move |values| Part { shape: shape.clone(), values: values.to_vec() })
}

fn config(more: &Value) -> Value {
    let mut all = common();
    all.extend(
        object!({"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 32,
            "embedding_multiplier_scale": 78.38367462158203, "output_multiplier_scale": 1.0,
            "attn_output_multiplier": 0.0883883461356163, "final_logit_softcapping": 0.0,
            "tie_word_embeddings": false})
        .as_object()
        .unwrap()
        .clone(),
    );
    all.extend(more.as_object().unwrap().clone());
    all.into()
}

/// Names of Grok 1. It has no dense part, and a tensor for each expert.
const FIRST: Names = Names {
    model: &[
        ("token_embd", "transformer.in_out_embed"),
        ("output_norm", "transformer.rms_norm"),
        ("output", "lm_head"),
    ],
    layer: "transformer.decoder_layer.{}.",
    layers: &[
        ("attn_norm", "rms_norm"),
        ("attn_output_norm", "rms_norm_1"),
        ("ffn_norm", "rms_norm_2"),
        ("layer_output_norm", "rms_norm_3"),
        ("attn_q", "multi_head_attention.query"),
        ("attn_k", "multi_head_attention.key"),
        ("attn_v", "multi_head_attention.value"),
        ("attn_output", "multi_head_attention.linear"),
        ("ffn_gate_inp", "router"),
        ("ffn_gate_exps", "moe.{expert}.linear"),
        ("ffn_down_exps", "moe.{expert}.linear_1"),
        ("ffn_up_exps", "moe.{expert}.linear_v"),
    ],
};

fn first(drawn: &Drawn) -> Vec<(String, Part)> {
    renamed(drawn, |name, part| {
        let Some(to) = FIRST.of(name) else { return Vec::new() };
        if !to.contains("{expert}") {
            return vec![(to, part.clone())];
        }
        let all = experts(part).enumerate();
        all.map(|(i, part)| (to.replace("{expert}", &i.to_string()), part)).collect()
    })
}

#[test]
fn grok_1_with_a_tensor_for_each_expert() {
    let scratch = Folder::new("reversed-grok1");
    let drawn = drawn("archs", "grok-moe", &scratch);
    let config = config(&object!({"num_local_experts": null, "num_experts": 8}));
    let folder = checkpoint(&scratch, "GrokForCausalLM", config, first(&drawn));
    let dense = ["ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"];
    // That has a width of experts of its own, which is the same.
    let except = [SCALES, &dense, &["expert_feed_forward_length"]].concat();
    check(&scratch, &drawn, &folder, &except);
}

/// Names of Grok 2, but for those of experts.
const SECOND: Names = Names {
    model: USUAL,
    layer: "model.layers.{}.",
    layers: &[
        ("attn_norm", "pre_attn_norm"),
        ("attn_output_norm", "post_attn_norm"),
        ("ffn_norm", "pre_moe_norm"),
        ("layer_output_norm", "post_moe_norm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate_inp", "block_sparse_moe.gate"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ],
};

/// The tensors common to all ranks, and those of each.
fn second(drawn: &Drawn) -> Vec<Vec<(String, Part)>> {
    let mut ranks = vec![Vec::new(); RANKS as usize];
    for (name, stack) in &drawn.parts {
        let Some((n, of, _)) = layer(name).filter(|_| !is_scale(name)) else { continue };
        let (to, is_down) = match of {
            "ffn_gate_exps" => ("w1", false),
            "ffn_down_exps" => ("w2", true),
            "ffn_up_exps" => ("w3", false),
            _ => continue,
        };
        for (i, part) in experts(stack).enumerate() {
            let name = format!("model.layers.{n}.block_sparse_moe.experts.{i}.{to}.weight");
            // Columns of the down projection are rows of the transposed one.
            let whole = if is_down { part.transposed() } else { part };
            let shape = vec![whole.shape[0] / RANKS, whole.shape[1]];
            let chunks = whole.values.chunks(whole.values.len() / RANKS as usize);
            for (rank, values) in ranks.iter_mut().zip(chunks) {
                let part = Part { shape: shape.clone(), values: values.to_vec() };
                let part = if is_down { part.transposed() } else { part };
                rank.push((name.clone(), part));
            }
        }
    }
    ranks.insert(0, SECOND.rename(drawn));
    ranks
}

/// Writes the files of the ranks, in no order of their numbers.
fn write_ranks(folder: &Path, files: &[Vec<(String, Part)>]) -> Vec<PathBuf> {
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let path = |i: usize| match i.checked_sub(1) {
        None => folder.join("pytorch_model-00009-TP-common.safetensors"),
        Some(rank) => {
            folder.join(format!("pytorch_model-0000{}-TP-{rank:03}.safetensors", 7 - rank))
        }
    };
    let all = files.iter().enumerate().map(|(i, tensors)| {
        write_rank(&path(i), tensors);
        path(i)
    });
    all.collect()
}

#[test]
fn grok_2_with_parts_of_experts_in_files_of_ranks() {
    let scratch = Folder::new("reversed-grok2");
    let drawn = drawn("archs", "grok-moe", &scratch);
    let more = object!({"moe_intermediate_size": 384, "residual_moe": true});
    let folder = checkpoint(&scratch, CLASS, config(&more), Vec::new());
    let mut ranks = second(&drawn);
    let files = write_ranks(&folder, &ranks);
    // The one norm that has two names.
    let other = [SCALES, &["layer_output_norm", "post_ffw_norm"]].concat();
    check(&scratch, &drawn, &folder, &other);
    let out = scratch.0.join("model.gguf");
    let file = GgufFile::open(&out).unwrap();
    for n in 0..3 {
        let info = |file: &GgufFile, name: &str| file.tensor(name).unwrap().clone();
        let ours = info(&file, &format!("blk.{n}.post_ffw_norm.weight"));
        let theirs = info(&drawn.file, &format!("blk.{n}.layer_output_norm.weight"));
        assert!(file.data(&ours) == drawn.file.data(&theirs));
    }
    // An index names each tensor once.
    let map: serde_json::Map<String, Value> = ranks[..2]
        .iter()
        .zip(&files)
        .flat_map(|(tensors, file)| tensors.iter().map(move |(name, _)| (name, file)))
        .map(|(name, file)| (name.clone(), file.file_name().unwrap().to_str().unwrap().into()))
        .collect();
    let index = folder.join("model.safetensors.index.json");
    fs::write(&index, object!({"weight_map": map}).to_string()).unwrap();
    check(&scratch, &drawn, &folder, &other);
    fs::remove_file(&index).unwrap();

    let error = || convert(&folder, &out, TargetType::F32).unwrap_err();
    fs::rename(&files[3], scratch.0.join("away")).unwrap();
    assert!(convert(&folder, &out, TargetType::F32).is_err(), "a rank is missing");
    fs::rename(scratch.0.join("away"), &files[3]).unwrap();
    let (name, part) = ranks[2].pop().unwrap();
    write_rank(&files[2], &ranks[2]);
    assert!(error().contains(&format!("tensor `{name}` has 3 parts, not 4")), "{}", error());
    let rows = part.values[..part.shape[1] as usize].to_vec();
    let short = Part { shape: vec![1, part.shape[1]], values: rows };
    ranks[2].push((name.clone(), short));
    write_rank(&files[2], &ranks[2]);
    let expected = format!("tensor `{name}` has another type or shape than its first part");
    assert!(error().contains(&expected), "{}", error());
    *ranks[2].last_mut().unwrap() = (name, part);
    let norm = (
        "model.layers.0.pre_attn_norm.weight".to_owned(),
        drawn.parts["output_norm.weight"].clone(),
    );
    ranks[2].push(norm);
    write_rank(&files[2], &ranks[2]);
    assert!(error().contains("pre_attn_norm.weight` is in another file, too"), "{}", error());
}

fn write_rank(path: &Path, tensors: &[(String, Part)]) {
    let tensor = |(name, part): &(String, Part)| {
        let (name, shape, values) = (name.clone(), part.shape.clone(), part.values.clone());
        Tensor { name, shape, values }
    };
    write(path, &tensors.iter().map(tensor).collect::<Vec<_>>());
}

#[test]
fn what_grok_says_of_rotation_and_temperature_is_kept() {
    let scratch = Folder::new("reversed-grok-keys");
    let drawn = drawn("archs", "grok-moe", &scratch);
    let yarn = object!({"num_experts": 8, "rope_type": "original", "scaling_factor": 16.0,
        "original_max_position_embeddings": 64, "extrapolation_factor": 1.0, "attn_factor": 1.0,
        "beta_fast": 8, "beta_slow": 1, "attn_temperature_len": 32});
    let folder = checkpoint(&scratch, CLASS, config(&yarn), first(&drawn));
    let out = scratch.0.join("model.gguf");
    convert(&folder, &out, TargetType::F32).unwrap();
    let file = GgufFile::open(&out).unwrap();
    let value = |key: &str| file.get(&format!("grok.{key}")).map(|value| format!("{value:?}"));
    assert_eq!(value("rope.scaling.type"), Some("Str(\"yarn\")".into()));
    assert_eq!(value("rope.scaling.factor"), Some("F32(16.0)".into()));
    assert_eq!(value("rope.scaling.original_context_length"), Some("U32(64)".into()));
    assert_eq!(value("rope.scaling.yarn_beta_fast"), Some("F32(8.0)".into()));
    assert_eq!(value("router_logit_softcapping"), Some("F32(30.0)".into()));
    let model = teff::engine::Model::open(&out).unwrap();
    assert_eq!(model.spec().n_ctx_max, Some(32));
    for (entry, value) in [
        ("rope_type", object!("yarn_log")),
        ("scaling_factor", Value::Null),
        ("attn_factor", object!(2.0)),
        ("rope_rotate_half_dims", object!(true)),
        ("embedding_multiplier_scale", Value::Null),
    ] {
        configure(&folder, &config(&yarn));
        configure(&folder, &object!({entry: value, "architectures": [CLASS]}));
        let error = convert(&folder, &out, TargetType::F32).unwrap_err();
        assert!(error.contains(&format!("`{entry}`")), "{error}");
    }
}

//! As `convert_reversed.rs`: classes whose layers are of two kinds, or have signs and gains of their own.

use crate::convert::convert;
use crate::folder::Folder;
use crate::reversed::{
    Drawn, Names, Part, check, checkpoint, common, drawn, drawn_by, golden, is_scale, layer,
    renamed,
};
use gguf_rs_lite::GgufFile;
use serde_json::{Value, json as object};
use std::fs;
use teff::convert::TargetType;

/// The first two layers of a drawn model, as one group: linear attention, then latent attention.
fn one_group(scratch: &Folder) -> Drawn {
    let text = fs::read_to_string(golden("archs", "bailingmoe3-clamped")).unwrap();
    let mut all: Value = serde_json::from_str(&text).unwrap();
    let is_in = |tensor: &Value| !tensor[0].as_str().unwrap().starts_with("blk.2.");
    all["tensors"].as_array_mut().unwrap().retain(is_in);
    for (_, value) in all["metadata"].as_object_mut().unwrap() {
        if let Some(list) = value[1].as_array_mut().filter(|list| list.len() == 3) {
            list.pop();
        }
    }
    // As many tokens as the checkpoint's vocabulary has.
    for tensor in all["tensors"].as_array_mut().unwrap() {
        if ["token_embd.weight", "output.weight"].contains(&tensor[0].as_str().unwrap()) {
            tensor[1][1] = 128.into();
        }
    }
    all["metadata"]["bailingmoe3.vocab_size"][1] = 128.into();
    all["metadata"]["bailingmoe3.block_count"][1] = 2.into();
    all["metadata"]["bailingmoe3.attention.head_count"] = object!(["UINT32", 2]);
    let path = scratch.0.join("two.json");
    fs::write(&path, all.to_string()).unwrap();
    drawn_by(&path, scratch)
}

/// Logarithms of decays.
const A_LOG: [f32; 2] = [0.5, -1.25];

const LING: Names = Names {
    model: &[
        ("token_embd", "model.word_embeddings"),
        ("output_norm", "model.norm"),
        ("output", "lm_head"),
    ],
    layer: "model.layers.{}.",
    layers: &[
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_q", "attention.q_proj"),
        ("attn_k", "attention.k_proj"),
        ("attn_v", "attention.v_proj"),
        ("attn_output", "attention.dense"),
        ("attn_gate", "attention.g_proj"),
        ("ssm_f_a", "attention.f_proj"),
        ("ssm_g_a", "attention.g_proj"),
        ("ssm_beta", "attention.b_proj"),
        ("ssm_norm", "attention.o_norm"),
        ("ssm_conv1d_q", "attention.q_conv1d"),
        ("ssm_conv1d_k", "attention.k_conv1d"),
        ("ssm_conv1d_v", "attention.v_conv1d"),
        ("attn_q_a", "attention.q_a_proj"),
        ("attn_q_a_norm", "attention.q_a_layernorm"),
        ("attn_q_b", "attention.q_b_proj"),
        ("attn_kv_a_mqa", "attention.kv_a_proj_with_mqa"),
        ("attn_kv_a_norm", "attention.kv_a_layernorm"),
        ("attn_k_b", "attention.kv_b_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("ffn_gate_inp", "mlp.gate"),
        ("ffn_up_exps", "mlp.experts.{expert}.up_proj"),
        ("ffn_gate_exps", "mlp.experts.{expert}.gate_proj"),
        ("ffn_down_exps", "mlp.experts.{expert}.down_proj"),
        ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
        ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
        ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
    ],
};

fn ling_tensors(drawn: &Drawn) -> Vec<(String, Part)> {
    renamed(drawn, |name, part| {
        if name == "blk.0.ssm_a" {
            let part = Part { shape: vec![2], values: A_LOG.to_vec() };
            return vec![("model.layers.0.attention.A_log".into(), part)];
        }
        let at = |n: &str, of: &str| format!("model.layers.{n}.{of}");
        match layer(name).filter(|_| !is_scale(name)) {
            Some((n, "ssm_dt", _)) => return vec![(at(n, "attention.dt_bias"), part.clone())],
            Some((n, "exp_probs_b", _)) => {
                return vec![(at(n, "mlp.gate.expert_bias"), part.clone())];
            }
            // The layer of linear attention has another name for it.
            Some(("0", "attn_output", end)) => {
                return vec![(at("0", &format!("attention.o_proj.{end}")), part.clone())];
            }
            _ => {}
        }
        let Some(to) = LING.of(name) else { return Vec::new() };
        if to.contains("{expert}") {
            let all = part.values.chunks(part.values.len() / 4).enumerate();
            let expert = |(i, values): (usize, &[f32])| {
                let (shape, values) = (part.shape[1..].to_vec(), values.to_vec());
                (to.replace("{expert}", &i.to_string()), Part { shape, values })
            };
            return all.map(expert).collect();
        }
        let Some((n, "attn_k_b", end)) = layer(name) else { return vec![(to, part.clone())] };
        let values = &drawn.parts[&format!("blk.{n}.attn_v_b.{end}")].values;
        let heads = part.values.chunks(32 * 128).zip(values.chunks(32 * 128));
        let head = |(keys, values): (&[f32], &[f32])| {
            let keys = Part { shape: vec![32, 128], values: keys.to_vec() };
            [keys.transposed().values, values.to_vec()].concat()
        };
        let values = heads.flat_map(head).collect();
        vec![(to, Part { shape: vec![2 * 256, 32], values })]
    })
}

fn ling_config() -> Value {
    object!({"vocab_size": 128, "max_position_embeddings": 256, "hidden_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "intermediate_size": 64, "moe_intermediate_size": 48,
        "moe_shared_expert_intermediate_size": 96, "num_experts": 4, "num_experts_per_tok": 2,
        "num_shared_experts": 1, "first_k_dense_replace": 1, "score_function": "sigmoid",
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "head_dim": 32, "layer_group_size": 2,
        "short_conv_kernel_size": 4, "no_kda_lora": true, "kda_safe_gate": true,
        "kda_lower_bound": -5.0, "gated_attention_proj_granularity_type": "head_wise",
        "q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "expert_swiglu_limit_list": [null, 0.02, 7.0],
        "share_expert_swiglu_limit_list": [0.05, 0.02], "tie_word_embeddings": false})
}

/// Keys and tensors that are not the drawn model's: decays follow from other logarithms.
const LING_OTHER: &[&str] = &[".scale", ".input_scale", "recurrent_layers", "ssm_a"];

#[test]
fn ling_3_alone_and_with_pictures() {
    let scratch = Folder::new("reversed-ling");
    let drawn = one_group(&scratch);
    let mut tensors = ling_tensors(&drawn);
    // A layer that drafts.
    let ones = Part { shape: vec![96], values: vec![1.0; 96] };
    for name in ["enorm", "input_layernorm"] {
        tensors.push((format!("model.layers.2.{name}.weight"), ones.clone()));
    }
    let class = "BailingMoeV3ForCausalLM";
    let folder = checkpoint(&scratch, class, ling_config(), tensors.clone());
    check(&scratch, &drawn, &folder, &[LING_OTHER, &["dimension_sections"]].concat());
    let file = GgufFile::open(scratch.0.join("model.gguf")).unwrap();
    assert!(file.get("bailingmoe3.rope.dimension_sections").is_none());
    let decays = file.data(file.tensor("blk.0.ssm_a").unwrap());
    let decays = decays.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x));
    assert!(decays.eq(A_LOG.map(f32::exp)));
    for (entry, value) in [
        ("no_kda_lora", object!(false)),
        ("kda_safe_gate", Value::Null),
        ("gated_attention_proj_granularity_type", object!("element_wise")),
    ] {
        let mut config = ling_config();
        config[entry] = value;
        let folder = checkpoint(&scratch, class, config, tensors.clone());
        let error = convert(&folder, &scratch.0.join("no.gguf"), TargetType::F32).unwrap_err();
        assert!(error.contains(entry), "{error}");
    }
    let mut text = ling_config();
    text["mrope_section"] = object!([8, 12, 12]);
    tensors.push(("linear_proj.0.weight".into(), ones.clone()));
    tensors.push(("model.visual.merger.norm.weight".into(), ones));
    let class = "BailingMoeV3VLForConditionalGeneration";
    let folder = checkpoint(&scratch, class, object!({"text_config": text}), tensors);
    check(&scratch, &drawn, &folder, LING_OTHER);
}

/// What this class has no place for, and its epsilon, which is that of 32 bits.
const TALKIE_OTHER: &[&str] = &[
    ".input_scale",
    "attn_q.scale",
    "attn_k.scale",
    "attn_v.scale",
    "ffn_gate.scale",
    "ffn_up.scale",
    ".bias",
    "epsilon",
    "logit_scale",
];

#[test]
fn talkie_with_gains_and_signs() {
    let scratch = Folder::new("reversed-talkie");
    let drawn = drawn("archs", "talkie-dense", &scratch);
    let negated = |part: &Part| {
        let sign = |row: usize| if row % 32 < 16 { 1.0 } else { -1.0 };
        let values = part.values.iter().enumerate().map(|(i, x)| x * sign(i / 256)).collect();
        Part { values, ..part.clone() }
    };
    let tensors = renamed(&drawn, |name, part| {
        if TALKIE_OTHER.iter().any(|other| name.ends_with(other)) {
            return Vec::new();
        }
        let Some((n, of, end)) = layer(name) else {
            let to = if name == "token_embd.weight" { "model.embed.weight" } else { "lm_head" };
            return vec![(to.into(), part.clone())];
        };
        let at = |of: &str, part| vec![(format!("model.blocks.{n}.{of}"), part)];
        match (of, end) {
            ("attn_q", _) => at("attn.attn_query.weight", negated(part)),
            ("attn_k", _) => at("attn.attn_key.weight", negated(part)),
            ("attn_v", _) => at("attn.attn_value.weight", part.clone()),
            ("attn_output", "scale") => at("attn_gain.a_g", part.clone()),
            ("attn_output", _) => at("attn.attn_resid.weight", part.clone()),
            ("attn_q_norm", _) => {
                at("attn.head_gain.head_g", Part { shape: vec![8], ..part.clone() })
            }
            ("ffn_gate", _) => at("mlp.mlp_gate.weight", part.clone()),
            ("ffn_up", _) => at("mlp.mlp_linear.weight", part.clone()),
            ("ffn_down", "scale") => at("mlp_gain.a_g", part.clone()),
            ("ffn_down", _) => at("mlp.mlp_resid.weight", part.clone()),
            ("layer_output_scale", _) => at("embed_skip.a_g", part.clone()),
            other => panic!("{other:?}"),
        }
    });
    let mut tensors = tensors;
    let gain = Part { shape: vec![1], values: vec![0.375] };
    tensors.push(("lm_head_gain.w_g".into(), gain));
    let mut config = common();
    config.remove("rms_norm_eps");
    config.insert("head_dim".into(), 32.into());
    config.insert("tie_word_embeddings".into(), false.into());
    let folder = checkpoint(&scratch, "TalkieForCausalLM", config.into(), tensors);
    check(&scratch, &drawn, &folder, TALKIE_OTHER);
    let file = GgufFile::open(scratch.0.join("model.gguf")).unwrap();
    let value = |key: &str| file.get(key).map(|value| format!("{value:?}"));
    assert_eq!(value("talkie.logit_scale"), Some("F32(0.375)".into()));
    let epsilon = format!("F32({:?})", f32::EPSILON);
    assert_eq!(value("talkie.attention.layer_norm_rms_epsilon"), Some(epsilon));
}

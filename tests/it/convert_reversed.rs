//! Classes whose code nobody has at hand: checkpoints are made of drawn models by turning the names and
//! layouts around that llama.cpp's converter has for them, and become these models again, bit for bit.

use crate::convert::{convert, logits};
use crate::folder::Folder;
use crate::reversed::{
    Drawn, Names, Part, SCALES, USUAL, check, checkpoint, common, drawn, layer, renamed,
};
use gguf_rs_lite::GgufFile;
use serde_json::{Value, json as object};
use std::fs;
use teff::convert::{Conversion, ConvertOptions, TargetType};
use teff::engine::Model;

#[test]
fn qwen_of_the_first_generation() {
    let scratch = Folder::new("reversed-qwen");
    let drawn = drawn("archs", "qwen-dense", &scratch);
    let names = Names {
        model: &[
            ("token_embd", "transformer.wte"),
            ("output_norm", "transformer.ln_f"),
            ("output", "lm_head"),
        ],
        layer: "transformer.h.{}.",
        layers: &[
            ("attn_norm", "ln_1"),
            ("ffn_norm", "ln_2"),
            ("attn_qkv", "attn.c_attn"),
            ("attn_output", "attn.c_proj"),
            ("ffn_up", "mlp.w1"),
            ("ffn_gate", "mlp.w2"),
            ("ffn_down", "mlp.c_proj"),
        ],
    };
    let mut config = common();
    config.remove("rms_norm_eps");
    config.extend(
        object!({"layer_norm_epsilon": 1e-5, "kv_channels": 32, "rotary_emb_base": 10000,
        "no_bias": true, "tie_word_embeddings": false})
        .as_object()
        .unwrap()
        .clone(),
    );
    config.remove("rope_theta");
    let folder = checkpoint(&scratch, "QWenLMHeadModel", config.into(), names.rename(&drawn));
    check(&scratch, &drawn, &folder, SCALES);
}

#[test]
fn vocabularies_of_ranks() {
    // All bytes, "ab", "abc" and " a".
    let digits: Vec<char> =
        ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
    let base64 = |bytes: &[u8]| -> String {
        let chunk = |three: &[u8]| {
            let at = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
            let bits = at(0) << 16 | at(1) << 8 | at(2);
            let digit = |i: usize| match i <= three.len() {
                true => digits[(bits >> (18 - 6 * i) & 63) as usize],
                false => '=',
            };
            (0..4).map(digit).collect::<String>()
        };
        bytes.chunks(3).map(chunk).collect()
    };
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    tokens.extend([&b"ab"[..], b"abc", b" a"].map(<[u8]>::to_vec));
    let lines = tokens.iter().enumerate();
    let lines: Vec<String> = lines.map(|(n, token)| format!("{} {n}", base64(token))).collect();
    let scratch = Folder::new("reversed-ranks");
    let folder = crate::convert::copy_of("llama-spm", &scratch);
    for name in ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"] {
        let _ = fs::remove_file(folder.join(name));
    }
    fs::write(folder.join("qwen.tiktoken"), lines.join("\n")).unwrap();
    let out = scratch.0.join("model.gguf");
    convert(&folder, &out, TargetType::F32).unwrap();
    let model = Model::open(&out).unwrap();
    let options = teff::text::EncodeOptions { parse_special: true, ..Default::default() };
    let ids = model.tokenizer().unwrap().encode("abc ac<|im_end|>x", options).unwrap();
    assert_eq!(ids, [257, 258, u32::from(b'c'), 261, u32::from(b'x')]);
    // The embedding has 448 rows: 464 tokens with those that have only numbers.
    let conversion = Conversion::plan(&folder, &ConvertOptions::default()).unwrap();
    let left_out = conversion.tokens_left_out();
    assert_eq!(left_out.len(), 259 + 208 - 448);
    assert_eq!(left_out[0], "448 <|extra_186|>");
}

fn deci_config(blocks: Option<Value>) -> Value {
    let mut config = common();
    config.insert("attention_bias".into(), true.into());
    config.insert("mlp_bias".into(), true.into());
    config.insert("tie_word_embeddings".into(), false.into());
    if let Some(blocks) = blocks {
        config.insert("block_configs".into(), blocks);
        config.insert("num_hidden_layers".into(), 5.into());
        config.remove("intermediate_size");
        config.insert("num_key_value_heads".into(), Value::Null);
    }
    config.into()
}

const DECI: Names = Names {
    model: USUAL,
    layer: "model.layers.{}.",
    layers: &[
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_down", "mlp.down_proj"),
    ],
};

/// Tensors of a checkpoint; `place` is what becomes of a layer's number.
fn deci_tensors(drawn: &Drawn, place: impl Fn(usize) -> usize) -> Vec<(String, Part)> {
    renamed(drawn, |name, part| {
        let placed = match layer(name) {
            Some((n, of, end)) => format!("blk.{}.{of}.{end}", place(n.parse().unwrap())),
            None => name.to_owned(),
        };
        let is_paired = name.contains("attn_q") || name.contains("attn_k");
        let part = if is_paired { part.halved(32) } else { part.clone() };
        DECI.of(&placed).map(|to| (to, part)).into_iter().collect()
    })
}

#[test]
fn llama_nemotron_with_and_without_parts() {
    let scratch = Folder::new("reversed-deci");
    let drawn = drawn("archs", "deci-dense", &scratch);
    let folder =
        checkpoint(&scratch, "DeciLMForCausalLM", deci_config(None), deci_tensors(&drawn, |n| n));
    let except = [SCALES, &["rope_freqs"]].concat();
    check(&scratch, &drawn, &folder, &except);
    let tokens = [5, 9, 77, 120];
    let out = scratch.0.join("model.gguf");
    let before = logits(&Model::open(&out).unwrap(), &tokens);
    // Two layers that are nothing, which change nothing: 512 is 2/3 of 3 times the width.
    let whole = object!({"attention": {"n_heads_in_group": 4, "replace_with_linear": false},
        "ffn": {"ffn_mult": 2.25}});
    let none = object!({"attention": {"n_heads_in_group": null, "no_op": true,
        "replace_with_linear": false}, "ffn": {"ffn_mult": null, "no_op": true}});
    let blocks = object!([whole, none, whole, whole, none]);
    let place = |n: usize| [0, 2, 3][n];
    let config = deci_config(Some(blocks));
    let folder = checkpoint(&scratch, "DeciLMForCausalLM", config, deci_tensors(&drawn, place));
    // The width is a multiple of 256 by that rule, and 384 is none.
    let error = convert(&folder, &out, TargetType::F32).unwrap_err();
    assert!(error.contains("blk.0.ffn"), "{error}");
    let cut = |(name, part): (String, Part)| {
        let part = match &name {
            name if name.contains("gate_proj") || name.contains("up_proj") => {
                let cols = part.values.len() / part.shape[0] as usize;
                let shape = [&[256], &part.shape[1..]].concat();
                Part { values: part.values[..256 * cols].to_vec(), shape }
            }
            name if name.contains("down_proj.weight") => {
                let turned = part.transposed();
                let cut =
                    Part { values: turned.values[..256 * 256].to_vec(), shape: vec![256, 256] };
                cut.transposed()
            }
            _ => part,
        };
        (name, part)
    };
    let mult = |blocks: &mut Value| {
        for block in blocks.as_array_mut().unwrap() {
            if block["ffn"]["ffn_mult"].is_number() {
                block["ffn"]["ffn_mult"] = 1.5.into();
            }
        }
    };
    let mut blocks = object!([whole, none, whole, whole, none]);
    mult(&mut blocks);
    let config = deci_config(Some(blocks));
    let tensors = deci_tensors(&drawn, place).into_iter().map(cut).collect();
    let folder = checkpoint(&scratch, "DeciLMForCausalLM", config.clone(), tensors);
    convert(&folder, &out, TargetType::F32).unwrap();
    let five = logits(&Model::open(&out).unwrap(), &tokens);
    let mut blocks = object!([whole, whole, whole]);
    mult(&mut blocks);
    let mut config = deci_config(Some(blocks));
    config["num_hidden_layers"] = 3.into();
    let tensors = deci_tensors(&drawn, |n| n).into_iter().map(cut).collect();
    let folder = checkpoint(&scratch, "DeciLMForCausalLM", config.clone(), tensors);
    convert(&folder, &out, TargetType::F32).unwrap();
    let three = logits(&Model::open(&out).unwrap(), &tokens);
    assert!(five == three && three != before);
    config["block_configs"][1]["attention"] =
        object!({"n_heads_in_group": null, "replace_with_linear": true});
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    config["architectures"] = object!(["DeciLMForCausalLM"]);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let error = convert(&folder, &out, TargetType::F32).unwrap_err();
    assert!(error.contains("layer 1 has a plain product"), "{error}");
}

#[test]
fn neo_bert() {
    let scratch = Folder::new("reversed-neobert");
    let drawn = drawn("embeddings", "neo-bert", &scratch);
    let names = Names {
        model: &[("token_embd", "model.encoder"), ("enc.output_norm", "model.layer_norm")],
        layer: "model.transformer_encoder.{}.",
        layers: &[
            ("attn_norm", "attention_norm"),
            ("ffn_norm", "ffn_norm"),
            ("attn_qkv", "qkv"),
            ("attn_output", "wo"),
            ("ffn_up", "ffn.w12"),
            ("ffn_down", "ffn.w3"),
        ],
    };
    let mut tensors = names.rename(&drawn);
    let head = Part { shape: vec![128], values: vec![0.5; 128] };
    tensors.push(("decoder.bias".into(), head));
    let config = object!({"vocab_size": 128, "max_length": 256, "hidden_size": 64,
        "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 144,
        "norm_eps": 1e-6, "hidden_act": "SwiGLU"});
    let folder = checkpoint(&scratch, "NeoBERTLMHead", config, tensors);
    // That pools by the mean.
    check(&scratch, &drawn, &folder, &["pooling_type"]);
}

const JAIS: Names = Names {
    model: &[
        ("token_embd", "transformer.wte"),
        ("output_norm", "transformer.ln_f"),
        ("output", "lm_head"),
    ],
    layer: "transformer.h.{}.",
    layers: &[
        ("attn_norm", "ln_1"),
        ("ffn_norm", "ln_2"),
        ("attn_qkv", "attn.c_attn"),
        ("attn_output", "attn.c_proj"),
        ("ffn_up", "mlp.c_fc"),
        ("ffn_gate", "mlp.c_fc2"),
        ("ffn_down", "mlp.c_proj"),
    ],
};

#[test]
fn jais_with_factors_and_slopes() {
    for is_tied in [false, true] {
        let scratch = Folder::new(&format!("reversed-jais-{is_tied}"));
        let drawn = drawn("archs", "jais-dense", &scratch);
        let mut tensors = JAIS.rename_with(&drawn, |name, part| match name {
            "token_embd.weight" => part.times(0.25),
            "output.weight" => part.times(8.0),
            name if name.starts_with("blk.") => part.transposed(),
            _ => part.clone(),
        });
        tensors.retain(|(name, _)| !(is_tied && name == "lm_head.weight"));
        let slopes: Vec<f32> = (1..=8).map(|i| (-i as f32).exp2()).collect();
        let name = "transformer.relative_pe.slopes".to_owned();
        tensors.push((name, Part { shape: vec![8], values: slopes }));
        let mut config = object!({"vocab_size": 128, "n_positions": 256, "n_embd": 256, "n_layer": 3,
            "n_head": 8, "num_key_value_heads": 2, "n_inner": 384, "layer_norm_epsilon": 1e-5,
            "activation_function": "swiglu", "position_embedding_type": "alibi",
            "mup_embeddings_scale": 4.0, "mup_output_alpha": 0.5, "mup_width_scale": 0.25});
        if !is_tied {
            config["tie_word_embeddings"] = false.into();
        }
        let folder = checkpoint(&scratch, "JAISLMHeadModel", config, tensors);
        let except: &[&str] = if is_tied { &["output.weight"] } else { &[] };
        check(&scratch, &drawn, &folder, &[SCALES, except].concat());
        if is_tied {
            let file = GgufFile::open(scratch.0.join("model.gguf")).unwrap();
            let head = file.data(file.tensor("output.weight").unwrap());
            let head = head.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x));
            let embed = drawn.parts["token_embd.weight"].times(0.25 * 0.125);
            assert!(head.eq(embed.values.iter().copied()));
        }
    }
}

#[test]
fn plamo_3_with_its_vocabulary() {
    let scratch = Folder::new("reversed-plamo3");
    let drawn = drawn("archs", "plamo3-linear", &scratch);
    let tensors = renamed(&drawn, |name, part| {
        let less =
            |x: f32| Part { values: part.values.iter().map(|v| v - x).collect(), ..part.clone() };
        let rooted = |of: &str, part: Part| vec![(format!("model.{of}"), part)];
        let Some((n, of)) = name.strip_prefix("blk.").and_then(|name| name.split_once('.')) else {
            // As many tokens as there are bytes, and some more.
            let values = part.values.iter().copied().cycle().take(300 * 256).collect();
            let tall = Part { shape: vec![300, 256], values };
            return match name {
                "token_embd.weight" => rooted("embed_tokens.weight", tall),
                "output_norm.weight" => rooted("norm.weight", less(1.0)),
                _ => vec![("lm_head.weight".into(), tall)],
            };
        };
        let (of, part) = match of.trim_end_matches(".weight") {
            "attn_norm" => ("pre_mixer_norm", less(1.0)),
            "post_attention_norm" => ("post_mixer_norm", less(0.2)),
            "attn_qkv" => ("mixer.qkv_proj", part.clone()),
            "attn_q_norm" => ("mixer.q_norm", less(1.0)),
            "attn_k_norm" => ("mixer.k_norm", less(1.0)),
            "attn_output" => ("mixer.o_proj", part.clone()),
            "ffn_norm" => ("pre_mlp_norm", less(1.0)),
            "post_ffw_norm" => ("post_mlp_norm", less(0.089_442_72)),
            "ffn_up" => ("mlp.gate_up_proj", part.clone()),
            "ffn_down" => ("mlp.down_proj", part.clone()),
            other => panic!("{other}"),
        };
        rooted(&format!("layers.layers.{n}.{of}.weight"), part)
    });
    let mut config = common();
    config.extend(
        object!({"num_hidden_layers": 2, "vocab_size": 300, "head_dim": 32, "window_size": 32,
        "sliding_window_pattern": 2, "rope_theta": 500000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0}})
        .as_object()
        .unwrap()
        .clone(),
    );
    let folder = checkpoint(&scratch, "Plamo3ForCausalLM", config.into(), tensors);
    fs::remove_file(folder.join("vocab.txt")).unwrap();
    let mut lines = vec![
        object!(["<|plamo:unk|>", 0.0, "UNKNOWN"]),
        object!(["<|plamo:bos|>", 0.0, "CONTROL"]),
        object!(["<|plamo:eos|>", 0.0, "CONTROL"]),
        object!(["<|plamo:op|>", 0.0, "NORMAL"]),
    ];
    lines.extend(('a'..='z').map(|c| object!([c.to_string(), -2.0, "NORMAL"])));
    lines.push(object!(["ab", -1.0, "NORMAL"]));
    lines.extend((0..=255).map(|byte| object!([format!("<0x{byte:02X}>"), 0.0, "BYTE"])));
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(folder.join("tokenizer.jsonl"), lines.join("\n")).unwrap();
    let roles = object!({"bos_token": "<|plamo:bos|>", "eos_token": "<|plamo:eos|>"});
    fs::write(folder.join("tokenizer_config.json"), roles.to_string()).unwrap();
    check(&scratch, &drawn, &folder, &["token_embd", "output.weight", "vocab_size"]);
    let file = GgufFile::open(scratch.0.join("model.gguf")).unwrap();
    let value = |key: &str| file.get(key).map(|value| format!("{value:?}"));
    assert_eq!(value("tokenizer.ggml.eot_token_id"), Some("U32(3)".into()));
    assert_eq!(value("tokenizer.ggml.eos_token_id"), Some("U32(2)".into()));
    let model = Model::open(&scratch.0.join("model.gguf")).unwrap();
    let ids = model.tokenizer().unwrap().encode("cab", teff::text::EncodeOptions::default());
    assert_eq!(ids.unwrap(), [6, 30]);
}

#[test]
fn plamo_1_with_queries_that_share_keys() {
    let scratch = Folder::new("reversed-plamo");
    let drawn = drawn("archs", "plamo-dense", &scratch);
    // Head 0 of the keys answers the queries of heads 0, 2, 4, 6, head 1 the others.
    let tiled =
        |part: &Part| part.rows((0..256).map(|row| (row / 32 % 2 * 4 + row / 64) * 32 + row % 32));
    let names = Names {
        model: USUAL,
        layer: "model.layers.layers.{}.",
        layers: &[
            ("attn_norm", "norm"),
            ("attn_q", "self_attn.q_proj"),
            ("attn_k", "self_attn.k_proj"),
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_down", "mlp.down_proj"),
        ],
    };
    let tensors = names.rename_with(&drawn, |name, part| match layer(name) {
        Some((_, "attn_q", _)) => tiled(part),
        Some((_, "attn_output", _)) => tiled(&part.transposed()).transposed(),
        _ => part.clone(),
    });
    let mut config = common();
    config.insert("n_shared_head".into(), 4.into());
    config.insert("num_key_value_heads".into(), 8.into());
    config.insert("tie_word_embeddings".into(), false.into());
    let folder = checkpoint(&scratch, "PlamoForCausalLM", config.clone().into(), tensors.clone());
    check(&scratch, &drawn, &folder, SCALES);
    config.insert("n_shared_head".into(), 3.into());
    let folder = checkpoint(&scratch, "PlamoForCausalLM", config.into(), tensors);
    let out = scratch.0.join("other.gguf");
    let error = convert(&folder, &out, TargetType::F32).unwrap_err();
    assert!(error.contains("no 8 heads of which 3 share keys"), "{error}");
}

#[test]
fn mistral_4() {
    let scratch = Folder::new("reversed-mistral4");
    let drawn = drawn("archs", "mistral4-moe", &scratch);
    let names = Names {
        model: USUAL,
        layer: "model.layers.{}.",
        layers: &[
            ("attn_norm", "input_layernorm"),
            ("ffn_norm", "post_attention_layernorm"),
            ("attn_q_a", "self_attn.q_a_proj"),
            ("attn_q_a_norm", "self_attn.q_a_layernorm"),
            ("attn_q_b", "self_attn.q_b_proj"),
            ("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"),
            ("attn_kv_a_norm", "self_attn.kv_a_layernorm"),
            ("attn_k_b", "self_attn.kv_b_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_down", "mlp.down_proj"),
            ("ffn_gate_inp", "mlp.gate"),
            ("ffn_gate_up_exps", "mlp.experts.gate_up_proj"),
            ("ffn_down_exps", "mlp.experts.down_proj"),
            ("ffn_gate_shexp", "mlp.shared_experts.gate_proj"),
            ("ffn_up_shexp", "mlp.shared_experts.up_proj"),
            ("ffn_down_shexp", "mlp.shared_experts.down_proj"),
        ],
    };
    let mut tensors = names.rename_with(&drawn, |name, part| match layer(name) {
        Some((n, "attn_k_b", end)) => {
            let (keys, values) =
                (part.transposed(), &drawn.parts[&format!("blk.{n}.attn_v_b.{end}")]);
            Part { shape: vec![64 * 4, 512], values: [&keys.values[..], &values.values].concat() }
        }
        _ => part.clone(),
    });
    for (name, _) in tensors.iter_mut().filter(|(name, _)| name.contains("mlp.experts.")) {
        *name = name.replace(".weight", "");
    }
    let config = object!({"model_type": "mistral4", "vocab_size": 128,
        "max_position_embeddings": 256, "hidden_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 192,
        "moe_intermediate_size": 192, "n_routed_experts": 8, "num_experts_per_tok": 2,
        "n_shared_experts": 1, "first_k_dense_replace": 1, "rms_norm_eps": 1e-5,
        "q_lora_rank": 512, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "rope_interleave": true, "norm_topk_prob": true,
        "tie_word_embeddings": false, "rope_parameters": {"rope_theta": 10000.0}});
    let folder = checkpoint(&scratch, "Mistral4ForCausalLM", config, tensors);
    let except = [SCALES, &["expert_gating_func", "exp_probs_b", "_exps.weight"]].concat();
    check(&scratch, &drawn, &folder, &except);
    let file = GgufFile::open(scratch.0.join("model.gguf")).unwrap();
    let halves = ["ffn_gate_exps", "ffn_up_exps"].map(|of| {
        let bytes = file.data(file.tensor(&format!("blk.1.{of}.weight")).unwrap());
        bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect::<Vec<f32>>()
    });
    let n_one = halves[0].len() / 8;
    let both = halves[0].chunks(n_one).zip(halves[1].chunks(n_one));
    let both = both.flat_map(|(gate, up)| [gate, up].concat());
    assert!(both.eq(drawn.parts["blk.1.ffn_gate_up_exps.weight"].values.iter().copied()));
}

#[test]
fn classes_that_run_and_are_not_converted_say_why() {
    let scratch = Folder::new("reversed-refused");
    let config = object!({"num_hidden_layers": 1});
    let folder = checkpoint(&scratch, "PhimoeForCausalLM", config, Vec::new());
    let error = Conversion::plan(&folder, &ConvertOptions::default()).err().unwrap().to_string();
    let expected = "PhimoeForCausalLM run, but are not converted: it weighs experts by SparseMixer";
    assert!(error.contains(expected), "{error}");
}

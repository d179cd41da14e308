//! Classes of Hugging Face that hold a model of another class, classify or rerank, or whose folders say
//! things in unusual ways.

use crate::convert::{configure, convert, copy_of, json, logits};
use crate::folder::Folder;
use gguf_rs_lite::{OwnedArray, OwnedValue};
use serde_json::{Value, json as object};
use std::fs;
use std::path::{Path, PathBuf};
use teff::convert::{Conversion, ConvertOptions, TargetType};
use teff::engine::Model;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf").join(name)
}

fn plan(folder: &Path) -> Result<Conversion, String> {
    Conversion::plan(folder, &ConvertOptions::default()).map_err(|error| error.to_string())
}

fn value(conversion: &Conversion, key: &str) -> Option<OwnedValue> {
    let entry = conversion.entries().iter().find(|entry| entry.0 == key);
    entry.map(|entry| entry.1.clone())
}

fn texts(all: &[&str]) -> Option<OwnedValue> {
    let all = all.iter().map(|text| (*text).to_owned()).collect();
    Some(OwnedValue::Array(OwnedArray::Str(all)))
}

/// Changes the header of a file of weights.
fn rewrite(path: &Path, change: impl Fn(&mut serde_json::Map<String, Value>)) {
    let bytes = fs::read(path).unwrap();
    let n = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..n]).unwrap();
    change(header.as_object_mut().unwrap());
    let header = header.to_string();
    let len = (header.len() as u64).to_le_bytes();
    fs::write(path, [&len[..], header.as_bytes(), &bytes[n..]].concat()).unwrap();
}

/// Has all tensors of a folder in two shards begin with `language_model.`, and gives it a class around
/// its own.
fn wrap(folder: &Path, class: &str) {
    let renamed = |map: &mut serde_json::Map<String, Value>| {
        let all = std::mem::take(map).into_iter().map(|(name, value)| match name.as_str() {
            "__metadata__" => (name, value),
            _ => (format!("language_model.{name}"), value),
        });
        map.extend(all);
    };
    for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        rewrite(&folder.join(shard), renamed);
    }
    let path = folder.join("model.safetensors.index.json");
    let mut index = json(&path);
    renamed(index["weight_map"].as_object_mut().unwrap());
    fs::write(path, index.to_string()).unwrap();
    let path = folder.join("config.json");
    let mut text = json(&path);
    text.as_object_mut().unwrap().remove("architectures");
    let config = object!({"architectures": [class], "text_config": text});
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn text_parts_of_other_classes_answer_as_they_would_alone() {
    let scratch = Folder::new("wrapped");
    let folder = copy_of("llama-spm", &scratch);
    let (alone, within) = (scratch.0.join("alone.gguf"), scratch.0.join("within.gguf"));
    convert(&folder, &alone, TargetType::F32).unwrap();
    wrap(&folder, "LlavaForConditionalGeneration");
    convert(&folder, &within, TargetType::F32).unwrap();
    let tokens = [5, 9, 77, 120];
    let of = |path: &Path| logits(&Model::open(path).unwrap(), &tokens);
    assert_eq!(of(&alone), of(&within));
    configure(&folder, &object!({"text_config": {"model_type": "rwkv9"}}));
    let error = plan(&folder).err().unwrap();
    assert!(error.contains("LlavaForConditionalGeneration with text of type rwkv9"), "{error}");
    configure(&folder, &object!({"text_config": {}}));
    let error = plan(&folder).err().unwrap();
    assert!(error.contains("`text_config.model_type` is missing"), "{error}");
}

#[test]
fn classes_have_labels_and_rerankers_their_prompt() {
    let classes = plan(&golden("bert-classes")).unwrap();
    let labels = value(&classes, "bert.classifier.output_labels");
    assert_eq!(labels, texts(&["no", "perhaps", "yes"]));
    assert_eq!(value(&classes, "bert.pooling_type"), Some(OwnedValue::U32(4)));
    let scratch = Folder::new("labels");
    let folder = copy_of("bert-classes", &scratch);
    configure(&folder, &object!({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}));
    assert_eq!(value(&plan(&folder).unwrap(), "bert.classifier.output_labels"), None);
    configure(&folder, &object!({"id2label": {"0": "a", "2": "b"}}));
    assert!(plan(&folder).err().unwrap().contains("`id2label` is not a text for each number"));

    let reranker = plan(&golden("qwen3-reranker")).unwrap();
    let has = |of: &Conversion, name: &str| of.tensors().iter().any(|t| t.name == name);
    assert!(has(&reranker, "cls.output.weight") && has(&reranker, "token_embd.weight"));
    assert_eq!(value(&reranker, "tokenizer.chat_templates"), texts(&["rerank"]));
    let prompt = value(&reranker, "tokenizer.chat_template.rerank");
    let Some(OwnedValue::Str(prompt)) = prompt else { panic!("no prompt") };
    assert!(prompt.contains("<Query>: {query}\n<Document>: {document}<|im_end|>"), "{prompt}");
    // The folder's name, or the one that it was saved under, says that it is one.
    let scratch = Folder::new("reranker");
    let folder = copy_of("qwen3-reranker", &scratch);
    assert!(!has(&plan(&folder).unwrap(), "cls.output.weight"));
    configure(&folder, &object!({"_name_or_path": "x/Qwen3-Reranker-0.6B"}));
    assert!(has(&plan(&folder).unwrap(), "cls.output.weight"));
}

#[test]
fn configurations_as_python_writes_them() {
    let scratch = Folder::new("python");
    let folder = copy_of("mamba2", &scratch);
    let path = folder.join("config.json");
    let text = fs::read_to_string(&path).unwrap();
    let open = text.trim_end().trim_end_matches('}');
    let named = format!("\u{feff}{open}, \"time_step_limit\": [0.0, Infinity], \"x\": NaN}}");
    fs::write(&path, named).unwrap();
    assert!(plan(&folder).is_ok());
    fs::write(&path, format!("{open}, \"x\": Infinite}}")).unwrap();
    assert!(plan(&folder).err().unwrap().contains("config.json: "));
    // Several ends of an answer, which only the configuration of the model has.
    fs::write(&path, text).unwrap();
    fs::remove_file(folder.join("generation_config.json")).unwrap();
    configure(&folder, &object!({"eos_token_id": [0, 7, 9999]}));
    let ends = value(&plan(&folder).unwrap(), "tokenizer.ggml.eos_token_ids");
    assert_eq!(ends, Some(OwnedValue::Array(OwnedArray::U32(vec![0, 7]))));
}

#[test]
fn missing_entries_are_told_by_their_names() {
    for entry in ["rms_norm_eps", "hidden_size", "intermediate_size", "num_attention_heads"] {
        let scratch = Folder::new("entries");
        let folder = copy_of("llama-spm", &scratch);
        configure(&folder, &object!({ entry: null }));
        let error = convert(&folder, &scratch.0.join("x.gguf"), TargetType::F32).unwrap_err();
        assert!(error.contains(&format!("config.json: `{entry}` is missing")), "{entry}: {error}");
    }
    for (golden, entry) in
        [("granitemoe-swa", "layer_types"), ("gemma3-text", "use_bidirectional_attention")]
    {
        let scratch = Folder::new("entries");
        let folder = copy_of(golden, &scratch);
        configure(&folder, &object!({ entry: null }));
        // A copy has the names of steps behind the model, not the steps.
        drop(fs::remove_file(folder.join("modules.json")));
        let error = plan(&folder).err().unwrap();
        assert!(error.contains(&format!("`{entry}` is missing")), "{error}");
    }
}

#[test]
fn steps_behind_a_model_are_taken_along_or_refused() {
    let scratch = Folder::new("steps");
    // A copy of the files alone has the names of the steps, not the steps.
    let folder = copy_of("gemma3-text", &scratch);
    assert!(plan(&folder).err().unwrap().contains("2_Dense"));
    fs::remove_file(folder.join("modules.json")).unwrap();
    assert!(plan(&folder).is_ok());
    let module =
        |path: &str| object!([{"path": path, "type": "sentence_transformers.models.Dense"}]);
    fs::write(folder.join("modules.json"), module("../2_Dense").to_string()).unwrap();
    assert!(plan(&folder).err().unwrap().contains("`../2_Dense` is no folder beside it"));
    fs::write(folder.join("modules.json"), module("2_Dense").to_string()).unwrap();
    fs::create_dir(folder.join("2_Dense")).unwrap();
    let act = object!({"activation_function": "torch.nn.modules.activation.Tanh"});
    fs::write(folder.join("2_Dense/config.json"), act.to_string()).unwrap();
    let error = plan(&folder).err().unwrap();
    assert!(error.contains("Tanh`, which is not supported"), "{error}");
}

#[test]
fn layers_that_do_not_turn_are_marked() {
    let scratch = Folder::new("turning");
    let folder = copy_of("granitemoe-swa", &scratch);
    let pattern =
        |folder: &Path| value(&plan(folder).unwrap(), "granite_swa.attention.rope_pattern");
    assert_eq!(pattern(&folder), None);
    configure(&folder, &object!({"layer_rope_theta": [0, 10000.0, 10000.0]}));
    let expected = OwnedValue::Array(OwnedArray::Bool(vec![false, true, true]));
    assert_eq!(pattern(&folder), Some(expected));
    configure(&folder, &object!({"layer_rope_theta": [10000.0, 20000.0, 10000.0]}));
    let error = plan(&folder).err().unwrap();
    assert!(
        error.contains("`layer_rope_theta` is not the same for all layers that turn"),
        "{error}"
    );
}

//! Vocabularies and templates of conversions: forms that no golden folder has, and vocabularies that
//! would cut texts in another way than the checkpoint's own tokenizer.

use crate::convert::{check_texts, convert, copy_of, json};
use crate::folder::Folder;
use gguf_rs_lite::{OwnedArray, OwnedValue};
use serde_json::{Value, json as object};
use std::fs;
use std::path::Path;
use teff::convert::{Conversion, ConvertError, ConvertOptions, TargetType};
use teff::engine::Model;
use teff::text::EncodeOptions;

fn write(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).unwrap();
}

fn converted(folder: &Path, scratch: &Folder) -> Model {
    let out = scratch.0.join("model.gguf");
    convert(folder, &out, TargetType::F32).unwrap();
    Model::open(&out).unwrap()
}

fn plan(folder: &Path) -> Result<Conversion, ConvertError> {
    Conversion::plan(folder, &ConvertOptions::default())
}

fn plain() -> EncodeOptions {
    EncodeOptions { add_special: false, parse_special: false }
}

#[test]
fn merges_stand_in_for_a_model_of_sentencepiece() {
    let scratch = Folder::new("merges");
    let folder = copy_of("llama-spm", &scratch);
    fs::remove_file(folder.join("tokenizer.model")).unwrap();
    let model = converted(&folder, &scratch);
    check_texts(&folder, &model).unwrap();
}

#[test]
fn probabilities_without_a_model_of_sentencepiece() {
    let scratch = Folder::new("unigram");
    let folder = copy_of("llama-spm", &scratch);
    fs::remove_file(folder.join("tokenizer.model")).unwrap();
    // In the order of XLM-R; "▁the" costs less than its parts, "cats" more than its own.
    let pieces = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -3.0),
        ("▁the", -4.0),
        ("the", -5.0),
        ("t", -6.0),
        ("h", -6.0),
        ("e", -6.0),
        ("▁cat", -5.0),
        ("s", -4.0),
        ("▁cats", -12.0),
        ("世", -7.0),
        ("界", -7.0),
        ("世界", -9.0),
    ];
    let mut tokenizer = json(&folder.join("tokenizer.json"));
    let vocab: Vec<Value> = pieces.iter().map(|(text, score)| object!([text, score])).collect();
    tokenizer["model"] = object!({"type": "Unigram", "unk_id": 3, "vocab": vocab});
    tokenizer["normalizer"] = object!({
        "type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "});
    tokenizer["pre_tokenizer"] = object!({
        "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let special = |id: usize| {
        object!({"id": id, "content": pieces[id].0, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false})
    };
    tokenizer["added_tokens"] = [0, 1, 2, 3].map(special).into_iter().collect();
    tokenizer["post_processor"] = Value::Null;
    tokenizer["decoder"] = Value::Null;
    write(&folder.join("tokenizer.json"), &tokenizer);
    let model = converted(&folder, &scratch);
    let kind = model.file().get("tokenizer.ggml.model").and_then(|value| value.as_str());
    assert_eq!(kind, Some("t5"));
    let vocabulary = model.tokenizer().unwrap();
    let ids = |text: &str| vocabulary.encode(text, plain()).unwrap();
    assert_eq!(ids("the cats"), [5, 10, 11]);
    assert_eq!(ids("世界 the"), [4, 15, 5]);
    assert_eq!(ids("the x"), [5, 4, 3]);
}

#[test]
fn a_vocabulary_that_cuts_otherwise_is_refused_with_the_text() {
    let scratch = Folder::new("cuts");
    // Another name than that of the steps that tokenizer.json has.
    let folder = copy_of("mamba2", &scratch);
    let pre = Some("llama-bpe".to_owned());
    let options = ConvertOptions { pre, ..ConvertOptions::default() };
    let error = Conversion::plan(&folder, &options).err().unwrap();
    let ConvertError::OtherTokens { ref text, ref ours, ref theirs } = error else {
        panic!("{error}")
    };
    assert!(!text.is_empty() && ours != theirs);
    assert!(error.to_string().contains(&format!("tokenizer.json gives {theirs:?}")), "{error}");
    // Steps without a name.
    let path = folder.join("tokenizer.json");
    let mut tokenizer = json(&path);
    tokenizer["pre_tokenizer"] = object!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "x+|[^x]+"}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]});
    write(&path, &tokenizer);
    let error = plan(&folder).err().unwrap().to_string();
    assert!(error.contains("unknown pre-tokenizer") && error.contains("x+|[^x]+"), "{error}");
    // A name does not help what is not so.
    let error = Conversion::plan(&folder, &options).err().unwrap().to_string();
    assert!(error.contains("and the result would give"), "{error}");
}

#[test]
fn a_pipeline_that_lies_is_refused() {
    let scratch = Folder::new("pipeline");
    let folder = copy_of("mamba2", &scratch);
    let path = folder.join("tokenizer.json");
    let whole = json(&path);
    let plan_with = |change: &dyn Fn(&mut Value)| {
        let mut tokenizer = whole.clone();
        change(&mut tokenizer);
        write(&path, &tokenizer);
        plan(&folder)
    };
    // Nothing is filled up or cut off, however long.
    let filled = object!({"strategy": {"Fixed": 1_000_000_000_000_u64}, "direction": "Right",
        "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"});
    assert!(plan_with(&|tokenizer| tokenizer["padding"] = filled.clone()).is_ok());
    let cut =
        object!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
    assert!(plan_with(&|tokenizer| tokenizer["truncation"] = cut.clone()).is_ok());
    for (key, value) in [
        ("model", object!({"type": "BPE", "vocab": {"a": 0}, "merges": [["b", "c"]]})),
        ("added_tokens", object!([{"id": 7, "content": "x"}])),
        ("post_processor", object!({"type": "Nothing"})),
    ] {
        let error = plan_with(&|tokenizer| tokenizer[key] = value.clone()).err();
        let error = error.unwrap().to_string();
        assert!(error.contains("tokenizer"), "{key}: {error}");
    }
}

#[test]
fn named_templates_are_kept_byte_for_byte() {
    let scratch = Folder::new("templates");
    let folder = copy_of("llama-spm", &scratch);
    let keys = || {
        let entries = plan(&folder).unwrap().entries().to_vec();
        let is_template = |key: &str| key.starts_with("tokenizer.chat_template");
        entries.into_iter().filter(|(key, _)| is_template(key)).collect::<Vec<_>>()
    };
    let text = |key: &str, text: &str| (key.to_owned(), OwnedValue::Str(text.into()));
    let names = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        ("tokenizer.chat_templates".to_owned(), OwnedValue::Array(OwnedArray::Str(names)))
    };
    // A list in the configuration, as before there were files.
    fs::remove_file(folder.join("chat_template.jinja")).unwrap();
    let path = folder.join("tokenizer_config.json");
    let mut config = json(&path);
    config["chat_template"] = object!([
        {"name": "default", "template": "d\n"}, {"name": "tool-use", "template": " t "},
        {"name": "rag", "template": "r"},
    ]);
    write(&path, &config);
    let expected = [
        text("tokenizer.chat_template", "d\n"),
        names(&["tool-use", "rag"]),
        text("tokenizer.chat_template.tool_use", " t "),
        text("tokenizer.chat_template.rag", "r"),
    ];
    assert_eq!(keys(), expected);
    // Files come before the configuration.
    fs::write(folder.join("chat_template.jinja"), "file\n\n").unwrap();
    let more = folder.join("additional_chat_templates");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("tool_use.jinja"), "tools").unwrap();
    fs::write(more.join("notes.txt"), "no template").unwrap();
    let expected = [
        text("tokenizer.chat_template", "file\n\n"),
        names(&["tool_use"]),
        text("tokenizer.chat_template.tool_use", "tools"),
    ];
    assert_eq!(keys(), expected);
    fs::rename(&more, folder.join("chat_templates")).unwrap();
    assert_eq!(keys(), expected);
}

#[test]
fn lists_of_words_stand_in_for_a_tokenizer_of_bert() {
    let scratch = Folder::new("words");
    let folder = copy_of("bert-classes", &scratch);
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    let write_list = |first: &[&str]| {
        let fill = (first.len()..384).map(|i| format!("w{i}"));
        let words: Vec<String> = first.iter().map(|word| (*word).to_owned()).chain(fill).collect();
        fs::write(folder.join("vocab.txt"), words.join("\n")).unwrap();
    };
    write_list(&["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "c", "hello", "##s"]);
    write(&folder.join("tokenizer_config.json"), &object!({}));
    let with = EncodeOptions { add_special: true, parse_special: true };
    let vocabulary = converted(&folder, &scratch).tokenizer().unwrap();
    assert_eq!(vocabulary.encode("Hellos \u{e1}b C?", plain()).unwrap(), [8, 9, 5, 6, 7, 1]);
    assert_eq!(vocabulary.encode("a [MASK]", with).unwrap(), [2, 5, 4, 3]);
    write(&folder.join("tokenizer_config.json"), &object!({"do_lower_case": false}));
    let vocabulary = converted(&folder, &scratch).tokenizer().unwrap();
    assert_eq!(vocabulary.encode("hellos C", plain()).unwrap(), [8, 9, 1]);
    write_list(&["<s>", "</s>"]);
    let error = plan(&folder).err().unwrap().to_string();
    assert!(error.contains("none of tokenizer.json"), "{error}");
}

//! Faults that users of such programs report, as they would meet them: odd files, odd values on the
//! command line, interruptions, inputs that are partly bad.

#[cfg(unix)]
mod interrupts;
#[cfg(target_os = "linux")]
mod memory_limits;

use crate::cli::{error_of, json, program, teff, text};
use crate::folder::Folder;
use gguf_rs_lite::{GgmlType, GgufFile, GgufWriter, OwnedValue};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A llama of one layer with a vocabulary of 290 tokens, 259 of which are bytes.
const TINY: &[u8] = include_bytes!("../../golden/faults/tiny.gguf");

type Entries = Vec<(String, OwnedValue)>;

impl Folder {
    /// The tiny model, with metadata of its own and further tensors of zeros.
    fn tiny(
        &self,
        name: &str,
        change: impl FnOnce(&mut Entries),
        tensors: &[(&str, &[u64])],
    ) -> PathBuf {
        let file = GgufFile::from_bytes(TINY.to_vec()).unwrap();
        let mut entries: Entries =
            file.entries().map(|(key, value)| (key.to_string(), value.into())).collect();
        change(&mut entries);
        let mut writer = GgufWriter::new(Vec::new());
        for (key, value) in entries {
            writer.add(key, value).unwrap();
        }
        for info in file.tensors() {
            writer.declare(&info.name, info.ty, &info.dims).unwrap();
        }
        for (name, dims) in tensors {
            writer.declare(*name, GgmlType::F32, dims).unwrap();
        }
        let mut data = writer.write_header().unwrap();
        file.tensors().iter().for_each(|info| data.write_tensor(file.data(info)).unwrap());
        for (_, dims) in tensors {
            let n = dims.iter().product::<u64>() as usize;
            data.write_tensor(&vec![0; n * 4]).unwrap();
        }
        let path = self.0.join(format!("{name}.gguf"));
        std::fs::write(&path, data.finish().unwrap()).unwrap();
        path
    }

    /// The tiny model with keys that replace its own or are added.
    pub fn tiny_with(&self, name: &str, keys: Vec<(&str, OwnedValue)>) -> PathBuf {
        let change = |entries: &mut Entries| {
            for (key, value) in keys {
                match entries.iter_mut().find(|entry| entry.0 == key) {
                    Some(entry) => entry.1 = value,
                    None => entries.push((key.into(), value)),
                }
            }
        };
        self.tiny(name, change, &[])
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a greedy run of a few tokens writes, which must succeed.
fn answer(args: &[&str]) -> (String, String) {
    let args = [&["run", "-p", "hello", "-n", "3", "--temp", "0"], args].concat();
    let output = teff(&args, "");
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    (stdout(&output), stderr(&output))
}

/// What `inspect` says keeps a file from running.
fn unsupported(model: &Path) -> String {
    json(&["inspect", "--json", text(model)])["unsupported"].to_string()
}

// ------------------------------------------------------------------ what is not needed yet

#[test]
fn a_file_needs_no_cache() {
    let folder = Folder::new("no-home");
    let model = folder.tiny_with("m", vec![]);
    let (model, out) = (text(&model), folder.0.join("out"));
    let bare = |args: &[&str]| {
        let mut command = program();
        for name in ["HOME", "XDG_CACHE_HOME", "TEFF_CACHE", "LOCALAPPDATA"] {
            command.env_remove(name);
        }
        command.args(args).stdin(std::process::Stdio::null()).output().unwrap()
    };
    for args in [
        &["inspect", model][..],
        &["run", model, "-p", "x", "-n", "1"],
        &["tokenize", model],
        &["embed", model, "-p", "x"],
        &["bench", model, "--prompt", "2", "--gen", "1", "--reps", "1"],
        &["logits", model, "--tokens", "1", "-o", text(&out)],
        &["pull", model],
    ] {
        let output = bare(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    }
    let missing = error_of(&bare(&["inspect", "nowhere.gguf"]), 1);
    assert!(missing.contains("no file and no alias `nowhere.gguf`"), "{missing}");
    for model in ["smollm2:135m", "hf:o/r"] {
        assert!(error_of(&bare(&["inspect", model]), 1).contains("no cache folder"));
    }
}

#[test]
fn nobody_types_a_prompt_for_a_model_that_is_not_there() {
    let folder = Folder::new("no-prompt");
    let missing = folder.0.join("missing.gguf");
    // Standard input stays open: whoever reads it first waits for ever.
    let mut command = program();
    command.args(["run", "-m", text(&missing)]).stdin(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let status = child.wait_timeout(20);
    assert_eq!(status, Some(Some(1)));
}

/// Waiting for the end of a process, but not for ever.
trait WaitTimeout {
    /// The exit code, `None` in it for a signal; `None` if the process had to be killed.
    fn wait_timeout(&mut self, seconds: u64) -> Option<Option<i32>>;
}

impl WaitTimeout for std::process::Child {
    fn wait_timeout(&mut self, seconds: u64) -> Option<Option<i32>> {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
        while std::time::Instant::now() < end {
            if let Some(status) = self.try_wait().unwrap() {
                return Some(status.code());
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = self.kill();
        let _ = self.wait();
        None
    }
}

// ------------------------------------------------------------------ what is harmless

#[test]
fn keys_that_change_nothing_pass() {
    let folder = Folder::new("harmless");
    let (expected, _) = answer(&[text(&folder.tiny_with("plain", vec![]))]);
    let keys: Vec<(&str, OwnedValue)> = vec![
        ("llama.attention.head_dim", 16u32.into()),
        ("llama.comment", "made by hand".into()),
        ("llama.spatial_merge_size", 2u32.into()),
        ("llama.vision.image_size", 336u32.into()),
        ("llama.vision_feature_layer", "-2".into()),
        ("llama.image_token_index", 32000u32.into()),
        ("llama.audio_token_id", 5u32.into()),
        ("llama.mtp.depth", 1u32.into()),
        ("llama.mrope_sections", vec![1i32, 2, 3].into()),
        ("llama.norm_top_k_prob", true.into()),
        ("llama.use_qk_norm", false.into()),
        ("llama.rope.local.freq_base", 10_000f32.into()),
        ("llama.ssm.v_head_reordered", true.into()),
        ("llama.attention_dropout", 0.1f32.into()),
        ("llama.torch_dtype", "bfloat16".into()),
        ("llama.final_logit_softcapping", 0f32.into()),
        ("llama.residual_scale", 1f32.into()),
        ("llama.attention.sliding_window", 0u32.into()),
        ("llama.attention.layer_norm_epsilon", 1e-5f32.into()),
        ("llama.tie_word_embeddings", true.into()),
    ];
    let model = folder.tiny_with("harmless", keys);
    assert_eq!(unsupported(&model), "[]");
    let (found, told) = answer(&[text(&model)]);
    assert_eq!(found, expected);
    let told: Vec<&str> = told.lines().filter(|line| !line.contains("no chat template")).collect();
    assert!(told.len() == 1 && told[0].starts_with("prompt"), "they pass silently: {told:?}");
}

#[test]
fn keys_that_may_change_the_results_do_not() {
    let folder = Folder::new("harmful");
    let plain = folder.tiny_with("plain", vec![]);
    let (expected, _) = answer(&[text(&plain)]);
    for (name, key, value) in [
        ("a", "llama.attention.head_dim", OwnedValue::from(32u32)),
        ("b", "llama.use_qk_norm", true.into()),
        ("c", "llama.residual_scale", 0.5f32.into()),
        ("d", "llama.final_logit_softcapping", 30f32.into()),
        ("e", "llama.attention.chunk_size", 16u32.into()),
        ("f", "llama.attention.layer_norm_epsilon", 1e-6f32.into()),
        ("g", "llama.unheard_of", 1u32.into()),
        ("h", "llama.visionary", 1u32.into()),
        ("i", "llama.residual_scale", "1".into()),
        ("j", "llama.residual_scale", f32::NAN.into()),
    ] {
        let model = folder.tiny_with(name, vec![(key, value)]);
        assert!(unsupported(&model).contains(key), "{key}");
        let error = error_of(&teff(&["run", text(&model), "-p", "x"], ""), 1);
        assert!(error.contains(key) && error.contains(text(&model)), "{error}");
        let (found, _) = answer(&[text(&model), "--ignore-key", key]);
        assert_eq!(found, expected, "{key}");
    }
    let (_, told) = answer(&[text(&plain), "--ignore-key", "llama.nothing"]);
    assert!(told.contains("`llama.nothing`, which is not there"), "{told}");
    let args = ["run", text(&plain), "-p", "x", "--ignore-key", "general.alignment"];
    let error = error_of(&teff(&args, ""), 1);
    assert!(error.contains("general.alignment") && error.contains("plain.gguf"), "{error}");
}

#[test]
fn tensors_of_other_parts_are_named_once() {
    let folder = Folder::new("parts");
    let (expected, _) = answer(&[text(&folder.tiny_with("plain", vec![]))]);
    let tensors: &[(&str, &[u64])] = &[
        ("v.patch_embd.weight", &[4, 4]),
        ("v.blk.0.ffn_up.weight", &[8, 4]),
        ("mm.0.weight", &[4]),
        ("mtp.layers.0.norm.weight", &[32]),
    ];
    let model = folder.tiny("parts", |_| {}, tensors);
    assert_eq!(unsupported(&model), "[]");
    let (found, told) = answer(&[text(&model)]);
    assert_eq!(found, expected);
    for part in ["2 tensors `v.*`", "1 tensor `mm.*`", "1 tensor `mtp.*`"] {
        assert_eq!(told.matches(part).count(), 1, "{part}: {told}");
    }
    let shown = stdout(&teff(&["inspect", text(&model)], ""));
    assert!(shown.contains("unused: 2 tensors `v.*` of the part that sees"), "{shown}");
    let odd = folder.tiny("odd", |_| {}, &[("blk.0.attn_odd.weight", &[4])]);
    assert!(unsupported(&odd).contains("blk.0.attn_odd.weight"));
    let error = error_of(&teff(&["run", text(&odd), "-p", "x"], ""), 1);
    assert!(error.contains("`blk.0.attn_odd.weight` has no place"), "{error}");
}

#[test]
fn a_list_of_ends_counts() {
    let folder = Folder::new("ends");
    let key = "tokenizer.ggml.eos_token_ids";
    let model = folder.tiny_with("ends", vec![(key, vec![2i32, 280].into())]);
    let shown = stdout(&teff(&["inspect", text(&model)], ""));
    let line = shown.lines().find(|line| line.contains("answers end with")).unwrap();
    assert!(line.contains(" 2 ") && line.contains(" 280 "), "{line}");
    let beyond = folder.tiny_with("beyond", vec![(key, vec![2i32, 999].into())]);
    let (_, told) = answer(&[text(&beyond)]);
    assert!(told.contains("`tokenizer.ggml.eos_token_ids` has 999"), "{told}");
}

// ------------------------------------------------------------------ values

#[test]
fn texts_may_begin_with_a_dash() {
    let folder = Folder::new("dash");
    let model = folder.tiny_with("m", vec![]);
    let model = text(&model);
    let run = |args: &[&str], stdin: &str| {
        let args = [&["run", model, "-n", "3", "--temp", "0", "--raw"], args].concat();
        let output = teff(&args, stdin);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        stdout(&output)
    };
    let expected = run(&["-p", "- hello"], "");
    assert_eq!(run(&["--prompt=- hello"], ""), expected);
    assert_eq!(run(&["-f", "-"], "- hello\n"), expected);
    assert_eq!(run(&[], "- hello"), expected);
    let file = folder.0.join("-prompt");
    std::fs::write(&file, "- hello").unwrap();
    let mut command = program();
    let args = ["run", model, "-n", "3", "--temp", "0", "--raw", "-f", "-prompt"];
    let output = command.args(args).current_dir(&folder.0).output().unwrap();
    assert_eq!(stdout(&output), expected);
    for text in ["-1", "--help", "-p", "-", "- a"] {
        assert_ne!(run(&["-p", text], ""), "", "{text}");
        let embedded = teff(&["embed", model, "-p", text], "");
        assert!(embedded.status.success(), "{text}: {}", stderr(&embedded));
        // A text like any other: it is the model that is wrong.
        let error = error_of(&teff(&["rerank", model, "-q", text, "-p", text], ""), 1);
        assert!(error.contains("no reranker"), "{error}");
    }
    assert_eq!(
        teff(&["embed", model, "-f", "-"], "a\n").stdout,
        teff(&["embed", model, "-p", "a"], "").stdout
    );
    let logits = teff(&["logits", model, "--tokens", "1,2", "-o", "-"], "");
    assert_eq!(logits.stdout.len(), 2 * 290 * 4, "{}", stderr(&logits));
}

#[test]
fn bad_numbers_name_option_and_range() {
    let options: &[(&str, &str)] = &[
        ("run", "--n-predict"),
        ("run", "--threads"),
        ("run", "--ctx"),
        ("run", "--seed"),
        ("run", "--kv-bytes"),
        ("run", "--temp"),
        ("run", "--top-k"),
        ("run", "--top-p"),
        ("run", "--min-p"),
        ("run", "--repeat-penalty"),
        ("run", "--repeat-last-n"),
        ("bench", "--prompt"),
        ("bench", "--gen"),
        ("bench", "--depth"),
        ("bench", "--reps"),
        ("bench", "--threads"),
        ("logits", "--batch"),
        ("logits", "--ctx"),
        ("embed", "--ctx"),
        ("rerank", "--top-n"),
        ("inspect", "--ctx"),
    ];
    for (verb, option) in options {
        for value in ["-1", "x", "", "99999999999999999999999", "nan", "-1.5"] {
            let output = teff(&[verb, "m.gguf", option, value], "");
            let told = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{verb} {option} {value}: {told}");
            assert!(told.contains(option) && told.contains("must be a"), "{told}");
            assert!(told.contains(" from ") && told.contains(" to "), "the range: {told}");
        }
    }
    let penalty = teff(&["run", "m.gguf", "--frequency-penalty", "-0.5", "-p", "x"], "");
    assert_eq!(penalty.status.code(), Some(1), "within its range: {}", stderr(&penalty));
}

#[test]
fn every_verb_takes_the_model_with_and_without_the_flag() {
    let folder = Folder::new("positional");
    let model = folder.tiny_with("m", vec![]);
    let (model, out) = (text(&model), folder.0.join("out"));
    let verbs: &[&[&str]] = &[
        &["run", "-p", "x", "-n", "1"],
        &["embed", "-p", "x"],
        &["bench", "--prompt", "2", "--gen", "1", "--reps", "1"],
        &["logits", "--tokens", "1", "-o", text(&out)],
        &["tokenize"],
        &["detokenize"],
        &["inspect"],
        &["pull"],
    ];
    for args in verbs {
        for named in [&[model][..], &["-m", model], &["--model", model]] {
            let output = teff(&[args, named].concat(), "");
            assert!(output.status.success(), "{args:?} {named:?}: {}", stderr(&output));
        }
        let output = teff(&[args, &[model, "-m", model][..]].concat(), "");
        assert_eq!(output.status.code(), Some(2), "{args:?}: both");
        let error = stderr(&teff(&[args, &["-m", "-"][..]].concat(), ""));
        assert!(error.contains("cannot be read from standard input"), "{args:?}: {error}");
    }
    assert!(error_of(&teff(&["rm", model], ""), 1).contains("not in the cache"));
    assert!(error_of(&teff(&["rm", "-m", model], ""), 1).contains("not in the cache"));
    assert!(error_of(&teff(&["rm"], ""), 2).contains("MODEL"));
}

#[test]
fn the_cache_of_keys_and_values_has_a_budget() {
    let folder = Folder::new("kv-bytes");
    let model = folder.tiny_with("m", vec![]);
    answer(&[text(&model), "--kv-bytes", "10M"]);
    let args = ["run", text(&model), "-p", "hello", "-n", "3", "--kv-bytes", "1"];
    assert!(!teff(&args, "").status.success());
}

// ------------------------------------------------------------------ one bad text

#[test]
fn a_bad_text_is_named_and_the_good_ones_are_written() {
    let folder = Folder::new("bad-text");
    let keys = vec![("tokenizer.ggml.add_bos_token", false.into())];
    let model = folder.tiny_with("m", keys);
    let file = folder.0.join("texts.txt");
    std::fs::write(&file, b"one\n\nthree\n\xff\nfive\n").unwrap();
    let embed = |args: &[&str]| {
        teff(&[&["embed", text(&model), "--ctx", "16", "-f", text(&file)], args].concat(), "")
    };
    let one = stdout(&teff(&["embed", text(&model), "-p", "one"], ""));
    let output = embed(&[]);
    let (found, told) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(found, one, "what came before it");
    assert!(told.starts_with("error: ") && told.contains("texts.txt, line 2: "), "{told}");

    let output = embed(&["--skip-bad"]);
    let (found, told) = (stdout(&output), stderr(&output));
    assert!(output.status.success(), "{told}");
    let lines: Vec<&str> = found.lines().collect();
    assert!(lines.len() == 5 && lines[1].is_empty() && lines[3].is_empty(), "{found}");
    assert!(found.starts_with(&one) && !lines[2].is_empty() && !lines[4].is_empty());
    for line in ["line 2: has no token: skipped", "line 4: is not UTF-8: skipped"] {
        assert!(told.contains(line), "{told}");
    }
    let json = stdout(&embed(&["--skip-bad", "--json"]));
    let index =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["index"].as_u64();
    assert_eq!(json.lines().filter_map(index).collect::<Vec<_>>(), [0, 2, 4]);

    let long = "three ".repeat(20);
    std::fs::write(&file, format!("one\n{long}\nfive\n")).unwrap();
    let told = stderr(&embed(&[]));
    assert!(told.contains("texts.txt, line 2: has ") && told.contains("the 16"), "{told}");
    let output = embed(&["--truncate", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let second = stdout(&output).lines().nth(1).unwrap().to_string();
    assert!(second.contains("\"tokens\":16,"), "{second}");
}

// ------------------------------------------------------------------ old and odd files

#[test]
fn text_that_is_not_utf8_is_read_as_bytes() {
    let folder = Folder::new("not-utf8");
    let (expected, _) = answer(&[text(&folder.tiny_with("plain", vec![]))]);
    let license = OwnedValue::Bytes(b"\xa9 1999".to_vec());
    let model = folder.tiny_with("license", vec![("general.license", license)]);
    assert_eq!(unsupported(&model), "[]");
    let (found, told) = answer(&[text(&model)]);
    assert_eq!(found, expected);
    assert!(told.contains("license.gguf: key `general.license`"), "{told}");

    let file = GgufFile::from_bytes(TINY.to_vec()).unwrap();
    let tokens = file.get("tokenizer.ggml.tokens").and_then(|value| value.as_array()).unwrap();
    let mut tokens: Vec<Vec<u8>> = tokens.byte_strs().unwrap().map(<[u8]>::to_vec).collect();
    tokens[285] = b"\xe2\x82".to_vec();
    tokens[286] = b"\xac!".to_vec();
    let tokens = OwnedValue::Array(gguf_rs_lite::OwnedArray::Bytes(tokens));
    let model = folder.tiny_with("tokens", vec![("tokenizer.ggml.tokens", tokens)]);
    let (_, told) = answer(&[text(&model)]);
    assert!(told.contains("tokens.gguf: key `tokenizer.ggml.tokens`"), "{told}");
    let output = teff(&["detokenize", text(&model)], "[285,286]");
    assert!(stdout(&output).contains("€!"), "two halves of a character: {output:?}");
}

#[test]
fn zero_bytes_end_strings() {
    let folder = Folder::new("nul");
    let (expected, _) = answer(&[text(&folder.tiny_with("plain", vec![]))]);
    let keys = vec![
        ("general.architecture", "llama\0".into()),
        ("tokenizer.ggml.model", "llama\0".into()),
    ];
    let model = folder.tiny_with("nul", keys);
    assert_eq!(unsupported(&model), "[]");
    let (found, told) = answer(&[text(&model)]);
    assert_eq!(found, expected);
    assert!(told.contains("key `general.architecture`"), "{told}");
}

#[test]
fn ids_that_are_none_are_told_by_every_verb() {
    let folder = Folder::new("ids");
    for (name, id, why) in [("none", u32::MAX, "stands for none"), ("beyond", 999, "not in the")] {
        let model = folder.tiny_with(name, vec![("tokenizer.ggml.bos_token_id", id.into())]);
        let (_, told) = answer(&[text(&model)]);
        let tokenized = stderr(&teff(&["tokenize", text(&model)], "x"));
        for told in [told, tokenized] {
            assert!(
                told.contains(&format!("bos_token_id` is {id}")) && told.contains(why),
                "{told}"
            );
        }
    }
}

#[test]
fn a_context_of_nothing_is_refused() {
    let folder = Folder::new("no-context");
    let model = folder.tiny_with("m", vec![("llama.context_length", 0u32.into())]);
    assert!(unsupported(&model).contains("`llama.context_length` is 0"));
    let error = error_of(&teff(&["run", text(&model), "-p", "x"], ""), 1);
    assert!(error.contains("m.gguf: key `llama.context_length` is 0"), "{error}");
    answer(&[text(&model), "--override-kv", "llama.context_length=int:64"]);
}

#[test]
fn more_tokens_than_embeddings_are_told() {
    let folder = Folder::new("rows");
    let file = GgufFile::from_bytes(TINY.to_vec()).unwrap();
    let tokens = file.get("tokenizer.ggml.tokens").and_then(|value| value.as_array()).unwrap();
    let mut tokens: Vec<String> = tokens.strs().unwrap().map(str::to_string).collect();
    tokens.push("[MORE]".into());
    let n = tokens.len();
    let keys = vec![
        ("tokenizer.ggml.tokens", tokens.into()),
        ("tokenizer.ggml.scores", vec![0f32; n].into()),
        ("tokenizer.ggml.token_type", vec![1i32; n].into()),
    ];
    let model = folder.tiny_with("m", keys);
    let problem = "291 tokens, and the model has embeddings for 290";
    assert!(unsupported(&model).contains(problem), "{}", unsupported(&model));
    for args in [&["run", "-p", "x"][..], &["embed", "-p", "x"]] {
        let error = error_of(&teff(&[args, &[text(&model)]].concat(), ""), 1);
        assert!(error.contains("m.gguf: ") && error.contains(problem), "{error}");
    }
}

#[test]
fn byte_order_marks_are_no_text() {
    let folder = Folder::new("bom");
    let model = folder.tiny_with("m", vec![]);
    let model = text(&model);
    let file = folder.0.join("bom.txt");
    std::fs::write(&file, "\u{feff}hello").unwrap();
    let (expected, _) = answer(&[model]);
    let args = ["run", model, "-f", text(&file), "-n", "3", "--temp", "0"];
    assert_eq!(stdout(&teff(&args, "")), expected);
    let tokens = stdout(&teff(&["tokenize", model], "hello"));
    assert_eq!(stdout(&teff(&["tokenize", model], "\u{feff}hello")), tokens);
    let lines = teff(&["tokenize", model, "--json-lines"], "\u{feff}\"hello\"\n\"hello\"\n");
    assert_eq!(stdout(&lines), tokens.repeat(2), "{}", stderr(&lines));
    let vector = stdout(&teff(&["embed", model, "-p", "hello"], ""));
    assert_eq!(stdout(&teff(&["embed", model, "-f", text(&file)], "")), vector);
}

#[cfg(target_os = "linux")]
#[test]
fn paths_need_not_be_utf8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new("path");
    let path = folder.0.join(OsStr::from_bytes(b"m\xff.gguf"));
    std::fs::write(&path, TINY).unwrap();
    for (verb, flag) in [("run", None), ("run", Some("-m")), ("embed", None), ("inspect", None)] {
        let mut command = program();
        command.arg(verb).args(flag).arg(&path);
        if verb != "inspect" {
            command.args(["-p", "x"]);
        }
        if verb == "run" {
            command.args(["-n", "1"]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{verb}: {}", stderr(&output));
    }
}

// ------------------------------------------------------------------ limits

#[test]
fn long_contexts_are_warned_of_and_huge_ones_refused() {
    let folder = Folder::new("ctx");
    let model = folder.tiny_with("m", vec![]);
    let (_, told) = answer(&[text(&model), "--ctx", "64"]);
    assert!(!told.contains("warning"), "{told}");
    let (_, told) = answer(&[text(&model), "--ctx", "640"]);
    assert!(told.contains("m.gguf: a context of 640 tokens") && told.contains("with 64"), "{told}");
    for args in [
        &["run", "-p", "x", "--ctx", "4000000000"][..],
        &["embed", "-p", "x", "--ctx", "4000000000"],
        &["logits", "--tokens", "1", "-o", "-", "--ctx", "4000000000"],
        &["bench", "--depth", "1000000000", "--prompt", "1000000000", "--gen", "1000000000"],
    ] {
        let error = error_of(&teff(&[args, &[text(&model)]].concat(), ""), 1);
        assert!(error.contains("m.gguf: ") && error.contains("would take "), "{args:?}: {error}");
        assert!(error.contains("GiB") && error.contains("are available"), "{error}");
    }
    let output = teff(&["inspect", text(&model), "--ctx", "4000000000", "--json"], "");
    assert!(stdout(&output).contains("would take "), "{}", stdout(&output));
}

// ------------------------------------------------------------------ a file that changes

#[cfg(unix)]
#[test]
fn a_file_that_is_cut_is_noticed() {
    use std::io::{BufRead, BufReader, Read, Write};
    let folder = Folder::new("cut");
    let model = folder.tiny_with("m", vec![]);
    let mut command = program();
    command.args(["embed", text(&model), "-t", "1"]).stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"a\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    std::fs::File::options().write(true).open(&model).unwrap().set_len(1000).unwrap();
    stdin.write_all(b"b\n").unwrap();
    drop(stdin);
    assert_eq!(child.wait_timeout(20), Some(Some(1)));
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("m.gguf: the file was cut from "), "{told}");
}

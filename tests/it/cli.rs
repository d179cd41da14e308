//! The program as scripts see it: what goes where, exit codes, one-line errors.

use crate::fixture_model;
use crate::folder::Folder;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The program; under the emulator that cargo runs this test in, if there is one.
pub fn program() -> Command {
    let program = env!("CARGO_BIN_EXE_teff");
    let prefix = format!("CARGO_TARGET_{}", std::env::consts::ARCH.to_uppercase());
    let runner = std::env::vars()
        .find(|(name, _)| name.starts_with(&prefix) && name.ends_with("_RUNNER"))
        .map_or(String::new(), |(_, runner)| runner);
    let mut words = runner.split_whitespace();
    let Some(emulator) = words.next() else { return Command::new(program) };
    let mut command = Command::new(emulator);
    command.args(words).arg(program);
    command
}

pub fn teff(args: &[&str], stdin: &str) -> Output {
    teff_with(args, stdin, &[])
}

/// [`teff`] with variables of the environment.
pub fn teff_with(args: &[&str], stdin: &str, vars: &[(&str, &str)]) -> Output {
    let mut child = program()
        .args(args)
        .env_remove("TEFF_ISA")
        .envs(vars.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The words of a command that runs [`program`].
#[cfg(unix)]
fn program_words() -> Vec<String> {
    let program = program();
    let words = std::iter::once(program.get_program()).chain(program.get_args());
    words.map(|word| word.to_str().unwrap().to_owned()).collect()
}

/// What a terminal shows of a program at which `keys` are typed: see `terminal.py`.
#[cfg(unix)]
pub fn at_terminal(keys: &str, args: &[&str], vars: &[(&str, &str)]) -> (Option<i64>, String) {
    let words = program_words();
    let words: Vec<&str> = words.iter().map(String::as_str).chain(args.iter().copied()).collect();
    typed_at_terminal(keys, &words, vars)
}

/// [`at_terminal`] of a line for the shell, in which `$TEFF` is the program.
#[cfg(unix)]
pub fn line_at_terminal(keys: &str, line: &str, vars: &[(&str, &str)]) -> (Option<i64>, String) {
    let words = program_words().join(" ");
    typed_at_terminal(keys, &["/bin/sh", "-c", line], &[vars, &[("TEFF", &*words)]].concat())
}

#[cfg(unix)]
fn typed_at_terminal(keys: &str, words: &[&str], vars: &[(&str, &str)]) -> (Option<i64>, String) {
    let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/terminal.py");
    let mut python = Command::new("python3");
    python.args([driver, "60", keys]).args(words).envs(vars.iter().copied());
    let output = python.output().expect("python3, which these tests need");
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_ne!(object["raw"], true, "the terminal is left in order: {object}");
    (object["code"].as_i64(), object["text"].as_str().unwrap().to_string())
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a run tells in one JSON object, and what it says besides.
pub fn json_and_notes(args: &[&str]) -> (serde_json::Value, String) {
    let output = teff(args, "");
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {notes}");
    (serde_json::from_slice(&output.stdout).unwrap(), notes)
}

/// What a run tells in one JSON object.
pub fn json(args: &[&str]) -> serde_json::Value {
    json_and_notes(args).0
}

/// The one line of an error, which must be all of stderr.
pub fn error_of(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "an error leaves stdout alone");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
    stderr
}

#[test]
fn logits_are_the_same_bytes_for_any_batch() {
    let folder = Folder::new("logits");
    let model = folder.model("llama-dense");
    let fixture = fixture_model::load("llama-dense");
    let ids: Vec<String> = fixture.tokens.iter().map(u32::to_string).collect();
    let ids = ids.join(",");
    let mut files = Vec::new();
    for (batch, threads) in [("1", "1"), ("7", "2"), ("48", "4")] {
        let out = folder.0.join(batch);
        let args = [
            "logits",
            "-m",
            text(&model),
            "--tokens",
            &ids,
            "--batch",
            batch,
            "-t",
            threads,
            "-o",
            text(&out),
        ];
        let output = teff(&args, "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        files.push(std::fs::read(out).unwrap());
    }
    assert_eq!(files[0].len(), fixture.logits.len() * 4);
    assert!(files[0] == files[1] && files[1] == files[2]);
}

#[test]
fn failures_name_the_file_and_the_fault() {
    let folder = Folder::new("failures");
    let model = folder.model("qwen3-dense");
    let missing = folder.0.join("missing.gguf");
    let error = error_of(&teff(&["run", "-m", text(&missing), "-p", "x"], ""), 1);
    assert!(error.contains("missing.gguf"), "{error}");

    let cut = folder.0.join("cut.gguf");
    std::fs::write(&cut, &std::fs::read(&model).unwrap()[..1000]).unwrap();
    let error = error_of(&teff(&["inspect", text(&cut)], ""), 1);
    assert!(error.contains("cut.gguf") && error.contains("offset"), "{error}");

    let error = error_of(&teff(&["run", "-m", text(&model), "-p", "x"], ""), 1);
    assert!(error.contains("qwen3-dense.gguf"), "{error}");

    let out = folder.0.join("out");
    let args = ["logits", "-m", text(&model), "--tokens", "1,999999", "-o", text(&out)];
    let error = error_of(&teff(&args, ""), 1);
    assert!(error.contains("999999"), "{error}");
}

/// A disk that is full behind standard output.
#[cfg(target_os = "linux")]
#[test]
fn standard_output_is_named_by_its_errors() {
    let folder = Folder::new("full-stdout");
    let model = folder.model("llama-dense");
    for args in [&["inspect", text(&model)][..], &["edit", text(&model), "--dry-run"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = program().args(args).stdout(full).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.starts_with("error: standard output: No space left"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

/// What would take the place of an input, or of what is no file, is refused before work begins.
#[test]
fn outputs_that_destroy_are_refused() {
    let folder = Folder::new("outputs");
    let model = folder.model("llama-dense");
    let before = std::fs::read(&model).unwrap();
    let input = folder.0.join("text.txt");
    std::fs::write(&input, "a text").unwrap();
    let (m, i) = (text(&model), text(&input));
    let cases = [
        (vec!["imatrix", "-m", m, "-f", i, "-o", m], "is the input too"),
        (vec!["imatrix", "-m", m, "-f", i, "-o", i], "is the input too"),
        (vec!["quantize", m, m, "--type", "Q8_0"], "is the input too"),
        (vec!["quantize", m, text(&folder.0), "--type", "Q8_0"], "is a folder"),
        (vec!["quantize", m, "/no/such/x.gguf", "--type", "Q8_0"], "there is no such folder"),
        (vec!["merge", m, text(&folder.0)], "is a folder"),
        (vec!["merge", m, m], "is the input too"),
        (vec!["merge", text(&folder.0), "x.gguf"], "teff convert"),
        (vec!["merge", m, "/no/such/"], "/no/such/: names a folder"),
        (vec!["split", m, "/no/such/", "--max-size", "1.5K"], "/no/such/: names a folder"),
        (vec!["convert", m, "-o", "x.gguf"], "is no folder"),
    ];
    for (args, expected) in cases {
        let told = error_of(&teff(&args, ""), 1);
        assert!(told.contains(expected), "{args:?}: {told}");
    }
    if cfg!(unix) {
        let told = error_of(&teff(&["quantize", m, "/dev/null", "--type", "Q8_0"], ""), 1);
        assert!(told.contains("/dev/null: is no regular file"), "{told}");
    }
    assert!(std::fs::read(&model).unwrap() == before);
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 2);
}

/// One wording for what is not there, whatever the verb.
#[test]
fn what_is_missing_is_told_alike() {
    let folder = Folder::new("missing");
    let (model, words) = (folder.0.join("m.gguf"), folder.0.join("text.txt"));
    std::fs::write(&model, include_bytes!("../golden/faults/tiny.gguf")).unwrap();
    std::fs::write(&words, "a text ".repeat(99)).unwrap();
    let (m, t) = (text(&model), text(&words));
    for args in [
        &["run", "-m", "/no/x", "-p", "x"][..],
        &["run", "-m", m, "-f", "/no/x"],
        &["run", "-m", m, "-p", "x", "--lora", "/no/x"],
        &["inspect", "/no/x"],
        &["quantize", "/no/x", "out", "--type", "Q4_0"],
        &["quantize", m, "out", "--type", "Q4_0", "--imatrix", "/no/x"],
        &["imatrix", "-m", m, "-f", "/no/x", "-o", "out"],
        &["imatrix", "--merge", "/no/x", "-o", "out"],
        &["perplexity", "-m", m, "-f", "/no/x"],
        &["perplexity", "-m", m, "-f", t, "--teacher", "/no/x"],
        &["edit", "/no/x", "--remove", "a"],
        &["edit", m, "--template", "/no/x"],
        &["split", "/no/x", "out"],
        &["merge", "/no/x", "out"],
    ] {
        let told = error_of(&teff(args, ""), 1);
        assert_eq!(told, "error: /no/x: there is no such file\n", "{args:?}");
    }
}

#[test]
fn wrong_usage_is_told_with_code_2() {
    for args in [
        &["frobnicate"][..],
        &["run", "--temp", "nan", "-p", "x"],
        &["run", "--top-p", "-1", "-p", "x"],
        &["run", "--threads", "0", "-p", "x"],
        &["run", "--cpu-list", "3-1", "-p", "x"],
        &["run", "--cpu-list", "0", "--threads", "1", "-p", "x"],
        &["run", "--kv-type", "f8", "-p", "x"],
        &["run", "-p", "x", "-f", "y"],
        &["logits", "--tokens", "1,b", "-o", "x"],
        &["embed", "--pooling", "median", "-p", "x"],
        &["embed", "-f", "x", "-p", "x"],
        &["convert", "hf:x", "--dry-run"],
        &["quantize", "hf:x", "y", "--type", "Q4_0"],
    ] {
        let output = teff(args, "");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && output.stdout.is_empty(), "{args:?}: {stderr}");
    }
    let unknown = program().args(["bench", "-m", "x"]).env("TEFF_ISA", "quantum").output().unwrap();
    assert_ne!(unknown.status.code(), Some(0));
}

#[test]
fn bench_and_inspect_print_one_json_object() {
    let folder = Folder::new("json");
    let model = folder.model("gemma3-dense");
    let args =
        ["bench", "-m", text(&model), "--prompt", "40", "--gen", "4", "--reps", "1", "--json"];
    let object = json(&args);
    for key in
        ["prompt_tokens", "prompt_tps", "gen_tokens", "gen_tps", "depth", "threads", "load_ms"]
    {
        assert!(object[key].is_number(), "{key} in {object}");
    }
    assert!(object["isa"].is_string() && object["rss_mib_max"] != 0);

    let output = teff(&["inspect", text(&model), "--tensors", "--json"], "");
    assert_eq!(output.stdout.iter().filter(|&&b| b == b'\n').count(), 1);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["layers"], 3);
    assert_eq!(object["metadata"]["general.architecture"], "gemma3");
    assert_eq!(object["tensors"][0]["type"], "F32");

    let output = teff(&["inspect", text(&model)], "");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("window 32") && shown.contains("norms before and after"), "{shown}");
    assert!(shown.contains("activations") && !shown.contains("Unsupported"), "{shown}");
    let memory = &object["memory"];
    let sum = ["weights", "activations"].map(|key| memory[key].as_u64().unwrap());
    let kv = memory["kv"]["f16"].as_u64().unwrap();
    assert_eq!(memory["total"], sum[0] + sum[1] + kv);
    assert_eq!(
        (&object["kv_bytes"], &object["bits_per_weight"]),
        (&memory["kv"]["f16"], &32.0.into())
    );
    assert_eq!(object["unsupported"], serde_json::json!([]));
}

#[test]
fn bench_runs_what_inspect_calls_fine() {
    let folder = Folder::new("wide");
    let model = folder.0.join("wide.gguf");
    std::fs::write(&model, fixture_model::wide_llama(246_752)).unwrap();
    let object = json(&["inspect", text(&model), "--json"]);
    // It has no vocabulary, as all models here; what is said of that is in the other tests.
    assert_eq!(object["unsupported"], serde_json::json!([]));
    let args = ["bench", "-m", text(&model), "--prompt=9", "--gen=2", "--reps=1", "--json"];
    let output = teff(&args, "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn inspect_explains_what_cannot_run() {
    let folder = Folder::new("unsupported");
    let mut writer = gguf_rs_lite::GgufWriter::new(Vec::new());
    for (key, value) in [("general.architecture", "zebra"), ("tokenizer.ggml.model", "runes")] {
        writer.add(key, value).unwrap();
    }
    for (key, value) in [("block_count", 2u32), ("embedding_length", 64), ("context_length", 99)] {
        writer.add(format!("zebra.{key}"), value).unwrap();
    }
    writer.declare("a.weight", gguf_rs_lite::GgmlType::I64, &[4, 2]).unwrap();
    let mut data = writer.write_header().unwrap();
    data.write_tensor(&[0; 64]).unwrap();
    let path = folder.0.join("zebra.gguf");
    std::fs::write(&path, data.finish().unwrap()).unwrap();
    let output = teff(&["inspect", text(&path)], "");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    for part in [
        "2 layers, 64 wide, trained for a context of 99 tokens",
        "weights at 64.00 bits each",
        "Unsupported",
        "`zebra` is not supported",
        "converted to F32",
        "`runes`",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let object = json(&["inspect", "--json", text(&path)]);
    assert_eq!(object["unsupported"].as_array().unwrap().len(), 2);
    assert_eq!(object["architecture"][0], "zebra");

    let model = folder.model("llama-dense");
    let keys = ["--override-kv=llama.odd=int:1", "--override-kv=llama.even=int:2"];
    let output = teff(&["inspect", text(&model), keys[0], keys[1]], "");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("key `llama.odd`") && shown.contains("key `llama.even`"), "{shown}");
}

/// The encoder of the fixtures with a vocabulary of words.
fn encoder(folder: &Folder) -> PathBuf {
    let (fixture_model::Fixture { gguf, n_vocab, .. }, _) = fixture_model::load_embedding("bert");
    with_words(folder, "encoder", gguf, n_vocab)
}

/// A model with a vocabulary of words.
fn with_words(folder: &Folder, name: &str, gguf: Vec<u8>, n_vocab: usize) -> PathBuf {
    let file = gguf_rs_lite::GgufFile::from_bytes(gguf).unwrap();
    let mut writer = gguf_rs_lite::GgufWriter::new(Vec::new());
    for (key, value) in file.entries().filter(|(key, _)| *key != "tokenizer.ggml.model") {
        writer.add(key, value).unwrap();
    }
    let first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁a", "▁cold", "▁night"].map(String::from);
    let tokens: Vec<String> =
        first.into_iter().chain((0..n_vocab - 7).map(|i| format!("▁w{i}"))).collect();
    writer.add("tokenizer.ggml.model", "bert").unwrap();
    writer.add("tokenizer.ggml.tokens", tokens).unwrap();
    for (name, id) in [("unknown", 1_u32), ("cls", 2), ("seperator", 3), ("padding", 0)] {
        writer.add(format!("tokenizer.ggml.{name}_token_id"), id).unwrap();
    }
    for tensor in file.tensors() {
        writer.declare(&tensor.name, tensor.ty, &tensor.dims).unwrap();
    }
    let mut data = writer.write_header().unwrap();
    file.tensors().iter().for_each(|tensor| data.write_tensor(file.data(tensor)).unwrap());
    let path = folder.0.join(format!("{name}.gguf"));
    std::fs::write(&path, data.finish().unwrap()).unwrap();
    path
}

#[test]
fn texts_become_vectors_line_by_line() {
    let folder = Folder::new("embed");
    let model = encoder(&folder);
    let lines = |args: &[&str], stdin: &str| -> Vec<serde_json::Value> {
        let output = teff(&[&["embed", "-m", text(&model), "--json"], args].concat(), stdin);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    // The second text is empty, the third is spaces, and the last has no end of line.
    let found = lines(&[], "a cold night\r\n\n   \nnight");
    let tokens: Vec<_> = found.iter().map(|line| line["tokens"].as_u64().unwrap()).collect();
    assert_eq!(tokens, [5, 2, 2, 3]);
    assert_eq!(found[1]["embedding"], found[2]["embedding"]);
    for (i, line) in found.iter().enumerate() {
        let vector: Vec<f64> =
            line["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let length: f64 = vector.iter().map(|x| x * x).sum();
        assert!(vector.len() == 64 && (length - 1.0).abs() < 1e-6, "{length}");
        assert_eq!(line["index"], i);
    }
    let again = lines(&["-p", "a cold night", "-p", "night"], "");
    assert_eq!(again[0]["embedding"], found[0]["embedding"]);
    assert_eq!(again[1]["embedding"], found[3]["embedding"]);
    let file = folder.0.join("texts");
    std::fs::write(&file, "night\n").unwrap();
    let from_file = lines(&["-f", text(&file), "--pooling", "cls"], "");
    assert_eq!(from_file[0]["embedding"], found[3]["embedding"]);
    assert_ne!(
        lines(&["-p", "night", "--pooling", "mean"], "")[0]["embedding"],
        found[3]["embedding"]
    );
    let all = lines(&["-p", "night", "--pooling", "none"], "");
    assert_eq!(all[0]["embedding"].as_array().unwrap().len(), 3);
    assert_eq!(all[0]["embedding"][0], found[3]["embedding"]);
    assert_eq!(lines(&[], ""), [] as [serde_json::Value; 0]);

    let plain = ["embed", "-m", text(&model), "-p", "night", "--no-normalize"];
    let output = String::from_utf8(teff(&plain, "").stdout).unwrap();
    let vector: Vec<f32> = output.split_whitespace().map(|x| x.parse().unwrap()).collect();
    assert!(vector.len() == 64 && output.ends_with('\n'));
    assert!(vector.iter().map(|x| x * x).sum::<f32>() > 2.0);
}

#[test]
fn documents_are_scored_by_a_query() {
    let folder = Folder::new("rerank");
    let fixture_model::Reranker { gguf, n_vocab, .. } = fixture_model::load_reranker("bert");
    let model = with_words(&folder, "reranker", gguf, n_vocab);
    let output = |args: &[&str], stdin: &str| {
        let args = [&["rerank", "-m", text(&model), "-q", "a night"], args].concat();
        let output = teff(&args, stdin);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let documents = ["cold", "night w3", "", "w1 w2 w3 w4"];
    let given = output(&[], &documents.join("\n"));
    let rows: Vec<(f64, &str)> = given
        .lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(score, document)| (score.parse().unwrap(), document))
        .collect();
    assert!(rows.iter().map(|row| row.1).eq(documents), "{given}");
    let flags: Vec<&str> = documents.iter().flat_map(|document| ["-p", document]).collect();
    assert_eq!(output(&flags, ""), given);

    let mut sorted = rows.clone();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    assert_ne!(sorted, rows);
    let best = output(&[&["--top-n", "2", "--json"][..], &flags].concat(), "");
    let best: Vec<serde_json::Value> =
        best.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(best.len(), 2);
    for (best, (score, document)) in best.iter().zip(sorted) {
        assert_eq!(best["document"], document);
        assert!((best["relevance_score"].as_f64().unwrap() - score).abs() < 1e-6);
        let words = document.split_whitespace().count();
        // [CLS] a night [SEP] document [SEP]
        assert_eq!(best["tokens"], 5 + words);
        assert_eq!(documents[best["index"].as_u64().unwrap() as usize], document);
    }
    let output = String::from_utf8(teff(&["inspect", text(&model)], "").stdout).unwrap();
    assert!(output.contains("reranker: `teff rerank`"), "{output}");
    assert!(!output.contains("Unsupported"), "{output}");
}

#[test]
fn what_cannot_be_embedded_is_told() {
    let folder = Folder::new("not-embedded");
    let model = encoder(&folder);
    let embed =
        |args: &[&str]| error_of(&teff(&[&["embed", "-m", text(&model)], args].concat(), ""), 1);
    let key = "--override-kv=bert.pooling_type=int:";
    let error = embed(&["-p", "x", &format!("{key}4")]);
    assert!(error.contains("encoder.gguf") && error.contains("`teff rerank`"), "{error}");
    let error = error_of(&teff(&["rerank", "-m", text(&model), "-q", "x", "-p", "x"], ""), 1);
    assert!(error.contains("`cls.weight`"), "{error}");
    let error = embed(&["-p", "x", &format!("{key}9")]);
    assert!(error.contains("`bert.pooling_type` is 9"), "{error}");
    let error = embed(&["--ctx", "8", "-p", &"night ".repeat(7)]);
    assert!(error.contains("text 1: has 9 tokens, more than the 8"), "{error}");
    let error = embed(&["--ctx", "999", "-p", "x"]);
    assert!(error.contains("can take only 256"), "{error}");
    let error = embed(&["-f", text(&folder.0.join("nowhere"))]);
    assert!(error.contains("nowhere"), "{error}");
    let file = folder.0.join("bytes");
    std::fs::write(&file, b"\xff\n").unwrap();
    let error = embed(&["-f", text(&file)]);
    assert!(error.contains("line 1: is not UTF-8"), "{error}");

    let out = folder.0.join("out");
    for args in
        [&["run", "-p", "x"][..], &["bench"], &["logits", "--tokens", "1", "-o", text(&out)]]
    {
        let error = error_of(&teff(&[args, &["-m", text(&model)]].concat(), ""), 1);
        assert!(error.contains("encoder.gguf") && error.contains("`teff embed`"), "{error}");
    }
    let output = String::from_utf8(teff(&["inspect", text(&model)], "").stdout).unwrap();
    for part in ["encoder: tokens see as far behind", "its first token", "norms of the sums"] {
        assert!(output.contains(part) && !output.contains("Unsupported"), "{output}");
    }
}

#[test]
fn equal_layers_are_told_once() {
    let folder = Folder::new("inspect-layers");
    let shown = |name: &str| {
        let model = folder.model(name);
        String::from_utf8(teff(&["inspect", text(&model)], "").stdout).unwrap()
    };
    let output = shown("minimax-01-odd");
    assert!(output.contains("layers 0-1, 3: linear attention of 6 heads"), "{output}");
    assert!(output.contains("states in f32 included"), "{output}");
    let output = shown("gemma3n-dense");
    assert!(output.contains("layer 24: ") && output.contains("of keys and values of layer 19"));
    assert!(output.contains("4 parallel streams"), "{output}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let folder = Folder::new("pipe");
    let model = folder.model("llama-moe");
    let mut child = program()
        .args(["inspect", text(&model), "--tensors"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn every_verb_takes_overrides() {
    let folder = Folder::new("override");
    let model = folder.model("llama-dense");
    let out = folder.0.join("out");
    let key = "--override-kv=llama.embedding_length=int:7";
    let logits = ["logits", "--tokens", "1", "-o", text(&out), "-m", text(&model), key];
    let error = error_of(&teff(&logits, ""), 1);
    assert!(error.contains("tensor `token_embd.weight`"), "{error}");
    let text_of = ["inspect", text(&model), "--override-kv=general.name=str:Eva"];
    let output = String::from_utf8(teff(&text_of, "").stdout).unwrap();
    assert!(output.contains(r#"general.name = "Eva""#), "{output}");
    let wrong = ["tokenize", "-m", text(&model), "--override-kv=llama.block_count=str:2"];
    let error = error_of(&teff(&wrong, ""), 1);
    assert!(error.contains("cannot override key `llama.block_count`"), "{error}");
    let output = teff(&["run", "-m", text(&model), "--override-kv", "a=int:b"], "");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("key `a`: `b` is no int"));
}

//! Quantizing to a size, and from a Hugging Face folder.

use crate::cli::{json, teff, text};
use crate::fixture_model::load;
use crate::folder::Folder;
use gguf_rs_lite::GgufFile;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A model of three layers in F32 without a vocabulary.
fn model(folder: &Folder) -> PathBuf {
    let path = folder.0.join("model.gguf");
    fs::write(&path, load("llama-dense").gguf).unwrap();
    path
}

/// A model with a vocabulary, and a text.
pub fn speaking(folder: &Folder) -> [PathBuf; 2] {
    let [model, words] = ["tiny.gguf", "text.txt"].map(|name| folder.0.join(name));
    fs::write(&model, include_bytes!("../golden/faults/tiny.gguf")).unwrap();
    fs::write(&words, "The quick brown fox jumps over the lazy dog. ".repeat(40)).unwrap();
    [model, words]
}

fn quantize(args: &[&str]) -> Value {
    json(&[&["quantize", "--json"], args].concat())
}

/// A model gives logits.
pub fn check_runs(model: &Path) {
    let folder = Folder::new("runs");
    let logits = folder.file("logits");
    let run = teff(&["logits", "-m", text(model), "--tokens", "1,2", "-o", text(&logits)], "");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

/// The line of an error, behind those that tell of progress.
pub fn error_of(output: &Output) -> String {
    let told = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    let error = told.lines().last().unwrap();
    assert!(error.starts_with("error: "), "{told}");
    error.into()
}

fn types(path: &Path) -> Vec<(String, &'static str)> {
    let file = GgufFile::open(path).unwrap();
    file.tensors().iter().map(|tensor| (tensor.name.clone(), tensor.ty.name())).collect()
}

/// Sizes are kept to, used, and met alike by any number of threads.
#[test]
fn files_are_no_larger_than_wanted() {
    let folder = Folder::new("target-size");
    let input = model(&folder);
    let whole = fs::metadata(&input).unwrap().len();
    let mut before = f64::INFINITY;
    for part in [20, 24, 30, 50, 101] {
        let target = (whole * part / 100).to_string();
        let mut all = Vec::new();
        for threads in ["1", "3"] {
            let out = folder.0.join(format!("{part}-{threads}.gguf"));
            let args = [text(&input), text(&out), "--target-size", &target, "-t", threads];
            let told = quantize(&args);
            let bytes = fs::read(&out).unwrap();
            assert_eq!(told["file_bytes"].as_u64(), Some(bytes.len() as u64));
            assert!(bytes.len() as u64 <= whole * part / 100, "{part} %");
            let plan = quantize(&[&args[..], &["--dry-run"]].concat());
            for (tensor, (name, ty)) in plan["tensors"].as_array().unwrap().iter().zip(types(&out))
            {
                assert_eq!((&tensor["name"], &tensor["type"]), (&name.into(), &ty.into()));
            }
            all.push((bytes, told));
        }
        assert!(all[0].0 == all[1].0, "{part} %");
        // Of the room, what no tensor could use is little.
        assert!(all[0].0.len() as u64 * 1000 > whole * part * 8, "{part} %");
        // More room, less loss.
        let tensors = all[0].1["tensors"].as_array().unwrap().iter();
        // As it counts: the head's is measured to matter more.
        let weight = |t: &Value| if t["name"] == "output.weight" { 40.0 } else { 1.0 };
        let square = |t: &Value| t["relative_error"].as_f64().map(|e| weight(t) * e * e);
        let loss: f64 = tensors.filter_map(square).sum();
        assert!(loss < before, "{part} %: {loss}, and {before} with less room");
        before = loss;
    }
    let kept = types(&folder.0.join("101-1.gguf"));
    assert!(kept.iter().all(|(_, ty)| *ty == "F32"), "there is room for all of it");
}

#[test]
fn bits_are_counted_and_wishes_kept() {
    let folder = Folder::new("target-bits");
    let (input, out) = (model(&folder), folder.0.join("out.gguf"));
    let wish = ["--tensor-type", "attn_v=Q8_0", "--leave-output-tensor"];
    let args = [text(&input), text(&out), "--target-bpw", "12"];
    let told = quantize(&[&args[..], &wish].concat());
    let bits = told["bits_per_weight"].as_f64().unwrap();
    assert!((11.0..=12.0).contains(&bits), "{bits}");
    for (name, ty) in types(&out) {
        assert!(!name.contains("attn_v.weight") || ty == "Q8_0", "{name}: {ty}");
        assert!(name != "output.weight" || ty == "F32", "{name}: {ty}");
    }
    assert!(
        teff(&["logits", "-m", text(&out), "--tokens", "1,2", "-o", text(&input)], "")
            .status
            .success()
    );
}

#[test]
fn sizes_that_cannot_be_are_refused_with_the_least() {
    let folder = Folder::new("target-least");
    let (input, out) = (model(&folder), folder.0.join("out.gguf"));
    let run = |args: &[&str]| teff(&[&["quantize", text(&input), text(&out)], args].concat(), "");
    let output = run(&["--target-size", "10K"]);
    let error = error_of(&output);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told.lines().count(), 1, "said before anything is tried: {told}");
    let least = error.split("has ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let least: u64 = least.parse().unwrap();
    assert!(error.contains("10240 bytes are too few"), "{error}");
    let error = error_of(&run(&["--target-size", &(least - 1).to_string()]));
    assert!(error.contains(&format!("{least} bytes")), "{error}");
    assert!(!out.exists());
    assert!(run(&["--target-size", &least.to_string()]).status.success());
    assert_eq!(fs::metadata(&out).unwrap().len(), least);
    for args in [
        &["--target-size", "1G", "--type", "Q4_0"][..],
        &["--target-size", "1G", "--target-bpw", "4"],
        &["--target-size", "0"],
        &["--target-bpw", "4", "--pure"],
        &["--type", "Q4_0", "--calibrate", "text.txt"],
        &[],
    ] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
    let error = error_of(&run(&["--target-bpw", "8", "--calibrate", "/no/such.txt"]));
    assert!(error.contains("/no/such.txt"), "{error}");
}

/// A text decides which tensors matter, alike for any number of threads.
#[test]
fn sensitivities_are_measured() {
    let folder = Folder::new("target-calibrate");
    let [input, words] = speaking(&folder);
    let mut all = Vec::new();
    for threads in ["1", "2"] {
        let out = folder.0.join(format!("{threads}.gguf"));
        let args = [text(&input), text(&out), "--target-bpw", "9", "-t", threads];
        let told = quantize(&[&args[..], &["--calibrate", text(&words)]].concat());
        let probes: Vec<(String, f64)> = told["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|tensor| !tensor["probe"].is_null())
            .map(|tensor| {
                let divergence = tensor["probe"]["divergence"].as_f64().unwrap();
                (tensor["name"].as_str().unwrap().into(), divergence)
            })
            .collect();
        assert!(probes.len() > 5 && probes.iter().all(|(_, kl)| *kl > 0.0), "{probes:?}");
        all.push((fs::read(&out).unwrap(), probes));
    }
    assert!(all[0] == all[1]);
}

/// What sensitivities cannot be measured with is told before anything is tried, by its name.
#[test]
fn what_cannot_be_calibrated_is_told_first() {
    let folder = Folder::new("target-blank");
    let [input, words] = speaking(&folder);
    fs::write(&words, " \n").unwrap();
    let out = folder.0.join("out.gguf");
    let args = ["quantize", text(&input), text(&out), "--target-bpw", "6", "--calibrate"];
    let told = crate::cli::error_of(&teff(&[&args[..], &[text(&words)]].concat(), ""), 1);
    assert!(told.contains("text.txt: the text has") && !told.contains("--ctx"), "{told}");
}

#[test]
fn folders_are_converted_on_the_way() {
    let folder = Folder::new("target-folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf/llama-spm");
    let [converted, two, one] = ["c.gguf", "two.gguf", "one.gguf"].map(|n| folder.0.join(n));
    assert!(teff(&["convert", text(&source), "-o", text(&converted)], "").status.success());
    quantize(&[text(&converted), text(&two), "--type", "Q8_0"]);
    quantize(&[text(&source), text(&one), "--type", "Q8_0"]);
    assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
    // What a process that was killed left is written over, and a plan needs nothing converted.
    let part = folder.0.join(".one.gguf.converted.teff-part");
    fs::write(&part, "left over").unwrap();
    quantize(&[text(&source), text(&one), "--type", "Q8_0"]);
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap() && !part.exists());
    let plan = ["--type", "Q4_0", "--dry-run"];
    let planned = quantize(&[&[text(&source), "/no/such/none.gguf"], &plan[..]].concat());
    let of_file = quantize(&[&[text(&converted), "/no/such/none.gguf"], &plan[..]].concat());
    assert_eq!(planned, of_file);
    assert_eq!(folder.names(), ["c.gguf", "one.gguf", "two.gguf"]);
    let empty = folder.0.join("empty");
    fs::create_dir(&empty).unwrap();
    let error = error_of(&teff(&["quantize", text(&empty), text(&one), "--type", "Q8_0"], ""));
    assert!(error.contains("config.json"), "{error}");
}

#[test]
fn a_file_of_the_folder_is_no_output() {
    let scratch = Folder::new("target-folder-output");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf/nemotron-h-moe");
    for entry in golden.read_dir().unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), scratch.0.join(entry.file_name())).unwrap();
    }
    for name in ["model.safetensors", "config.json"] {
        let (folder, out) = (text(&scratch.0), scratch.0.join(name));
        let before = fs::read(&out).unwrap();
        for args in [
            &["convert", folder, "-o", text(&out)][..],
            &["quantize", folder, text(&out), "--type", "Q8_0"],
        ] {
            let error = error_of(&teff(args, ""));
            assert!(error.contains("is the input too"), "{error}");
            assert!(fs::read(&out).unwrap() == before, "{args:?}");
        }
    }
}

/// Warnings that nobody reads keep nothing from being done.
#[test]
fn a_closed_standard_error_stops_nothing() {
    let folder = Folder::new("target-closed");
    let (input, out) = (model(&folder), folder.0.join("out.gguf"));
    let args = ["quantize", text(&input), text(&out), "--type", "Q4_K_M"];
    let told = String::from_utf8(teff(&args, "").stderr).unwrap();
    assert!(told.contains("warning: "), "{told}");
    let whole = fs::read(&out).unwrap();
    fs::remove_file(&out).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_teff"));
    let status = command.args(args).stdout(Stdio::null()).stderr(writer).status().unwrap();
    assert!(status.success(), "{status}");
    assert!(fs::read(&out).unwrap() == whole);
}

//! Receipts of files, and `teff verify`.

use crate::cli::{teff, text};
use crate::folder::Folder;
use crate::target::{error_of, speaking};
use gguf_rs_lite::{GgufFile, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// A model in Q4_0 beside its source and a text.
fn made(folder: &Folder, more: &[&str]) -> [PathBuf; 2] {
    let [input, words] = speaking(folder);
    let out = folder.0.join("made.gguf");
    let base = ["quantize", text(&input), text(&out), "--type", "Q4_0"];
    let calibrate = ["--calibrate", text(&words)];
    let calibrate = if more.is_empty() { &[][..] } else { &calibrate };
    let output = teff(&[&base, more, calibrate].concat(), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    [input, out]
}

fn verify(args: &[&str]) -> String {
    let output = teff(&[&["verify"], args].concat(), "");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What verify finds wrong.
fn faults(args: &[&str]) -> Vec<String> {
    let output = teff(&[&["verify"], args].concat(), "");
    error_of(&output);
    let told = String::from_utf8(output.stdout).unwrap();
    told.lines().filter_map(|line| line.strip_prefix("fault: ")).map(str::to_owned).collect()
}

fn changed(path: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let out = path.with_file_name(name);
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(&out, bytes).unwrap();
    out
}

/// A file is as its receipt says, and was made of its source.
#[test]
fn receipts_hold() {
    let folder = Folder::new("verify");
    let [input, out] = made(&folder, &[]);
    let file = GgufFile::open(&out).unwrap();
    let n = file.tensors().len();
    let told = verify(&[text(&out), "--source", text(&input)]);
    assert!(told.contains(&format!("{n} tensors as in the receipt")), "{told}");
    assert!(told.contains(&format!("{n} tensors lost what the receipt says")), "{told}");
    assert!(told.contains("texts cut by the vocabulary"), "{told}");
    let entry = |key: &str| match file.get(&format!("teff.receipt.{key}")) {
        Some(Value::Str(text)) => text,
        _ => panic!("no {key}"),
    };
    assert_eq!(entry("method"), "search");
    assert_eq!(entry("parameters"), "type=Q4_0");
    assert!(entry("version").starts_with("teff ") && entry("source.sha256").len() == 64);
    let numbers = |key: &str| -> Vec<f32> {
        let array = file.get(&format!("teff.receipt.tensors.{key}")).unwrap().as_array().unwrap();
        let number = |value| if let Value::F32(x) = value { x } else { panic!("no number") };
        array.iter().map(number).collect()
    };
    let (errors, cosines) = (numbers("rms_error"), numbers("cosine"));
    for ((info, error), cosine) in file.tensors().iter().zip(errors).zip(cosines) {
        let is_exact = info.ty == gguf_rs_lite::GgmlType::F32;
        assert!((error == 0.0) == is_exact && (cosine == 1.0) == is_exact, "{}", info.name);
        assert!(cosine > 0.9, "{}: {cosine}", info.name);
    }
    let json = verify(&[text(&out), "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["receipt"]["tensors"], n);
    assert_eq!(json["faults"], serde_json::json!([]));
    // A change of metadata leaves it true; a file of the same types is the same file.
    let edited = folder.0.join("edited.gguf");
    let set = "general.name=str:other";
    let edit = teff(&["edit", text(&out), "--set", set, "-o", text(&edited)], "");
    assert!(edit.status.success(), "{}", String::from_utf8_lossy(&edit.stderr));
    verify(&[text(&edited), "--source", text(&input)]);
    let told = verify(&[text(&input)]);
    assert!(told.contains("no receipt"), "{told}");
}

/// One byte of a tensor, another source, a receipt that is cut short: each is named.
#[test]
fn changes_are_named() {
    let folder = Folder::new("verify-changed");
    let [input, out] = made(&folder, &[]);
    let file = GgufFile::open(&out).unwrap();
    let info = file.tensors().iter().find(|info| info.name.contains("ffn_up")).unwrap();
    let data = file.data(info);
    let whole = fs::read(&out).unwrap();
    let at = whole.windows(data.len()).position(|window| window == data).unwrap();
    let other = changed(&out, "byte.gguf", |bytes| bytes[at + data.len() / 2] ^= 1);
    let found = faults(&[text(&other)]);
    assert_eq!(found, [format!("tensor {:?} has been changed", info.name)]);
    // The same byte of the source.
    let source = GgufFile::open(&input).unwrap();
    let from = source.data(source.tensor(&info.name).unwrap());
    let bytes = fs::read(&input).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    let other = changed(&input, "source.gguf", |bytes| bytes[at + 2] ^= 64);
    let found = faults(&[text(&out), "--source", text(&other)]);
    assert!(found[0].contains("source is not the one"), "{found:?}");
    assert!(found.len() == 2 && found[1].contains(&info.name), "{found:?}");
    // A receipt of other lists.
    let key = b"teff.receipt.tensors.sha256";
    let at = whole.windows(key.len()).position(|window| window == key).unwrap();
    let other = changed(&out, "cut.gguf", |bytes| bytes[at] = b'x');
    assert_eq!(faults(&[text(&other)]), ["the receipt is damaged"]);
    let found = faults(&[text(&input), "--source", text(&input)]);
    assert_eq!(found, ["there is no receipt to hold the source against"]);
}

/// Files by methods that see a text have receipts too; factors of columns are told.
#[test]
fn receipts_know_of_factors() {
    let folder = Folder::new("verify-awq");
    let [input, out] = made(&folder, &["--method", "awq+gptq"]);
    let told = verify(&[text(&out), "--source", text(&input)]);
    assert!(told.contains("not measured: they are the source's times factors"), "{told}");
    let file = GgufFile::open(&out).unwrap();
    let hash = file.get("teff.receipt.calibration.sha256").and_then(|value| value.as_str());
    assert_eq!(hash.map(str::len), Some(64));
    let [input, out] = made(&folder, &["--method", "gptq+refit"]);
    let told = verify(&[text(&out), "--source", text(&input)]);
    assert!(!told.contains("not measured"), "{told}");
}

/// A converted file has a receipt of the folder's files and of what tensors lost in their types; the same
/// bytes come of the same folder.
#[cfg(feature = "convert")]
#[test]
fn converted_files_have_receipts() {
    let folder = Folder::new("verify-convert");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hf/llama-spm");
    let source = folder.0.join("hf");
    fs::create_dir(&source).unwrap();
    for entry in fs::read_dir(golden).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), source.join(entry.file_name())).unwrap();
    }
    let convert = |name: &str, ty: &str| {
        let out = folder.0.join(name);
        let output = teff(&["convert", text(&source), "-o", text(&out), "--type", ty], "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        out
    };
    let [plain, small] = [convert("plain.gguf", "f32"), convert("small.gguf", "q8_0")];
    let again = convert("again.gguf", "q8_0");
    assert!(fs::read(&small).unwrap() == fs::read(again).unwrap());
    for (out, ty) in [(&plain, "f32"), (&small, "q8_0")] {
        let file = GgufFile::open(out).unwrap();
        let entry = |key: &str| file.get(&format!("teff.receipt.{key}")).unwrap().as_str().unwrap();
        assert_eq!((entry("method"), entry("parameters")), ("convert", &*format!("type={ty}")));
        let n = file.tensors().len();
        let told = verify(&[text(out)]);
        assert!(told.contains(&format!("{n} tensors as in the receipt")), "{told}");
        let told = verify(&[text(out), "--source", text(&source)]);
        assert!(told.contains(&format!("{n} not measured: the source is no GGUF file")), "{told}");
    }
    // What was lost is what differs from the floats.
    let found = faults(&[text(&small), "--source", text(&plain)]);
    assert_eq!(found, ["the source is not the one that the file was made of"]);
    let file = GgufFile::open(&small).unwrap();
    let errors = file.get("teff.receipt.tensors.rms_error").unwrap().as_array().unwrap();
    for (info, error) in file.tensors().iter().zip(errors.iter()) {
        let Value::F32(error) = error else { panic!("no number") };
        match info.ty {
            gguf_rs_lite::GgmlType::F32 => assert_eq!(error, 0.0, "{}", info.name),
            gguf_rs_lite::GgmlType::Q8_0 => assert!(error > 0.0, "{}", info.name),
            // Rows that blocks do not divide are halves, which may hold all.
            _ => assert!(error >= 0.0, "{}", info.name),
        }
    }
    let config = source.join("config.json");
    let own = fs::read_to_string(&config).unwrap();
    fs::write(&config, own.replace('{', "{ ")).unwrap();
    let found = faults(&[text(&small), "--source", text(&source)]);
    assert_eq!(found, ["the source's file \"config.json\" is another"]);
    fs::remove_file(&config).unwrap();
    let found = faults(&[text(&small), "--source", text(&source)]);
    assert_eq!(found, ["the source's file \"config.json\" is missing"]);
}

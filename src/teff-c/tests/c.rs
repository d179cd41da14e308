//! Programs in C against `teff.h` and the library that this crate makes, on the tiny model.
//!
//! The compiler is `cc`, which rustc links by, so it is there wherever this test is built.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use serde_json::{Map, Value as Json, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use teff::CancelToken;
use teff::serve::{Local, LocalOptions};

const HERE: &str = env!("CARGO_MANIFEST_DIR");
/// A template whose roles are told apart.
const TEMPLATE: &str = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:";

/// A folder that is gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("teff-c-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tiny() -> PathBuf {
    Path::new(HERE).join("../../tests/golden/faults/tiny.gguf")
}

/// Compiles a program with all warnings as errors, and runs it.
fn run(source: &str, args: &[&str]) -> String {
    let name = Path::new(source).file_stem().unwrap().to_str().unwrap();
    let folder = Folder::new(name);
    let program = folder.0.join(name);
    // The library lies beside this test.
    let library = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let mut cc = Command::new("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", HERE, "-o"]);
    cc.arg(&program).arg(Path::new(HERE).join(source)).arg("-L").arg(&library).arg("-lteff_c");
    cc.arg(format!("-Wl,-rpath,{}", library.display()));
    told(cc.output().expect("rustc links by cc, so it is there"));
    let mut program = Command::new(&program);
    // Cargo's own has the folder above first, where a library of an earlier build may lie.
    program.args(args).env("LD_LIBRARY_PATH", &library);
    told(program.output().unwrap())
}

fn told(output: Output) -> String {
    let [said, complained] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{}: {said}{complained}", output.status);
    said
}

fn object(json: Json) -> Map<String, Json> {
    json.as_object().unwrap().clone()
}

#[test]
fn callers_that_do_wrong_get_errors_and_answers_are_cancelled() {
    assert_eq!(run("tests/borders.c", &[tiny().to_str().unwrap()]), "ok");
}

#[test]
fn a_text_is_continued_as_rust_continues_it() {
    let local = Local::open(&tiny(), LocalOptions::from_json(Map::new()).unwrap()).unwrap();
    let request = json!({ "prompt": "Once upon a time", "max_tokens": 24, "temperature": 0 });
    let answer = local.complete(object(request), &CancelToken::default()).unwrap();
    let text = answer.whole().unwrap()["choices"][0]["text"].as_str().unwrap().to_owned();
    assert!(!text.is_empty());
    let said = run("examples/generate.c", &[tiny().to_str().unwrap(), "Once upon a time"]);
    assert_eq!(said, format!("{text}\n"));
}

#[test]
fn tools_are_called_and_schemas_followed() {
    let options = json!({ "chat_template": TEMPLATE, "ctx": 2048 }).to_string();
    let said = run("examples/chat.c", &[tiny().to_str().unwrap(), &options]);
    let lines: Vec<&str> = said.lines().collect();
    let arguments: Json =
        serde_json::from_str(lines[0].strip_prefix("call 0 of weather with ").unwrap()).unwrap();
    assert!(["Paris", "Oslo"].contains(&arguments["city"].as_str().unwrap()), "{said}");
    let whole: Json = serde_json::from_str(lines[2]).unwrap();
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["content"], lines[1]);
    assert_eq!(choice["finish_reason"], "stop");
    let form: Json = serde_json::from_str(lines[1]).unwrap();
    assert!(form["answer"].is_boolean() && form["sure"].is_string(), "{said}");
}

#[test]
fn texts_become_vectors() {
    let said = run("examples/embed.c", &[tiny().to_str().unwrap(), "a night", "a night", "winter"]);
    let near: Vec<f32> =
        said.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!((near[0] - 1.0).abs() < 1e-3 && near[1] < 0.9999, "{said}");
}

#[test]
fn the_header_and_the_library_name_the_same_functions() {
    let header = std::fs::read_to_string(Path::new(HERE).join("teff.h")).unwrap();
    let sources = ["lib.rs", "guard.rs"]
        .map(|file| std::fs::read_to_string(Path::new(HERE).join("src").join(file)).unwrap());
    let mut exported: Vec<String> = sources
        .iter()
        .flat_map(|source| source.split("extern \"C\" fn ").skip(1))
        .map(|rest| rest.split('(').next().unwrap().to_owned())
        .collect();
    let word = |c: char| !(c.is_alphanumeric() || c == '_');
    let code = header.split("*/").map(|part| part.split("/*").next().unwrap()).collect::<String>();
    let mut declared: Vec<String> = code
        .match_indices('(')
        .map(|(at, _)| code[..at].rsplit(word).next().unwrap().to_owned())
        .filter(|name| name.starts_with("teff_"))
        .collect();
    exported.sort();
    declared.sort();
    assert_eq!(exported, declared);
}

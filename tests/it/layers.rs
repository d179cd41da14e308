//! The house rules that a compiler does not know, read off the sources themselves:
//!
//! - a room imports only from rooms below its own ([`ROOMS`]; see `src/ARCHITECTURE.md`),
//! - architecture names stay in `src/model/arch`, so no `if arch == ..` creeps into shared code,
//! - `unsafe` stays in the few files listed in [`UNSAFE_FILES`],
//! - only `cli` and `main.rs` print or exit, only the CPU backend knows rayon,
//! - `kv`, `decoder` and `engine` name no device ([`DEVICES`]): they see the backend's seam,
//! - texts of the library name no flag and no verb ([`FLAG_FILES`]): the command line adds those,
//! - no `unwrap`, `todo!` or `unimplemented!` outside tests.
//!
//! Sources are read as text with comments blanked, so the checks see every target and feature.
//! Limits: macros that build paths are not seen, and a `mod` inside a file counts as that file.

use crate::rust_source::{Finding, Source, is_word, word_positions};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every room of `src`, with its rank. A room may use rooms of a lower rank, never its equals.
const ROOMS: &[(&str, u8)] = &[
    ("random", 2),
    ("receipt", 2),
    ("tensor", 2),
    ("grid", 2),
    ("workers", 2),
    ("backend", 3),
    ("model", 3),
    ("text", 3),
    ("sample", 3),
    ("kv", 4),
    ("decoder", 5),
    ("engine", 6),
    ("quantize", 6),
    ("convert", 6),
    ("cache", 6),
    ("calibrate", 7),
    ("eval", 7),
    ("serve", 7),
    ("tune", 7),
    ("cli", 8),
];

/// What a room must not know although its rank would let it: (room, rooms absent from it).
const ABSENT: &[(&str, &[&str])] = &[
    ("kv", &["model", "text", "sample"]),
    ("decoder", &["text", "sample"]),
    ("sample", &["tensor"]),
    ("cache", &["tensor", "backend", "model", "text", "sample", "kv", "decoder"]),
];

/// Files and folders that may say `unsafe`.
const UNSAFE_FILES: &[&str] = &[
    "kernels/src/isa/",
    "kernels/src/table.rs",
    "kernels/src/block/mod.rs",
    "src/gguf-rs-lite/src/mapped.rs",
    "src/backend/cpu/pool/",
    "src/backend/gpu/adapter_memory.rs",
    "src/backend/gpu/map_buffer.rs",
    "src/main.rs",
    "src/teff-c/src/",
];

/// Places that may name an architecture: its own folder, exceptions that other programs make for it,
/// model names people type, and formats that share a name with one (`tokenizer.ggml.pre`, the layouts
/// that `convert` reads).
const NAMING_FILES: &[&str] = &[
    "src/model/arch/",
    "src/model/mix_exceptions.rs",
    "src/cache/aliases.rs",
    "src/text/",
    "src/convert/",
];

const PRINTING: &[&str] = &[
    "print!",
    "println!",
    "eprint!",
    "eprintln!",
    "dbg!",
    "io::stdout",
    "io::stderr",
    "process::exit",
    "process::abort",
];

/// Rooms of `backend` that are of one device.
const DEVICES: &[&str] = &["cpu", "gpu"];

/// Places that may say `--flag` or a verb of the program: the command line, pip's own flags, and a
/// reason that only the compiler reads.
const FLAG_FILES: &[&str] =
    &["src/cli/", "src/main.rs", "src/cache/pypi.rs", "src/backend/cpu/pool/sync.rs"];

const UNFINISHED: &[&str] = &["todo!", "unimplemented!", ".unwrap()", ".unwrap_err()"];

// ---------------------------------------------------------------- the checks

#[test]
fn rooms_import_only_from_below() {
    check_all(upward_imports);
}

#[test]
fn architectures_are_named_in_one_place() {
    let names = architecture_names();
    assert!(names.contains("llama"), "{names:?}");
    check_all(|source| named_architectures(source, &names));
}

#[test]
fn unsafe_stays_in_few_files() {
    check_all(stray_unsafe);
}

#[test]
fn only_the_command_line_prints_or_exits() {
    check_all(printing);
}

#[test]
fn rayon_stays_in_the_cpu_backend() {
    check_all(stray_rayon);
}

#[test]
fn devices_are_behind_the_seam() {
    check_all(named_devices);
}

#[test]
fn errors_of_the_library_name_no_flag() {
    check_all(named_flags);
}

#[test]
fn nothing_is_unfinished() {
    check_all(unfinished);
}

fn upward_imports(source: &Source) -> Vec<Finding> {
    let Some(room) = source.room() else { return Vec::new() };
    let Some(rank) = rank(&room) else {
        return vec![Finding::new(source, 0, format!("room `{room}` has no rank in ROOMS"))];
    };
    let absent = ABSENT.iter().find(|(of, _)| *of == room).map_or(&[][..], |(_, absent)| absent);
    let is_allowed = |other: &str| {
        other == room
            // What is no room is an item of the crate's root.
            || self::rank(other).is_none_or(|r| r < rank && !absent.contains(&other))
    };
    let uses = source.used_rooms().into_iter();
    uses.filter(|(_, other)| !is_allowed(other))
        .map(|(at, other)| Finding::new(source, at, format!("`{room}` uses `{other}`")))
        .collect()
}

fn named_architectures(source: &Source, names: &BTreeSet<String>) -> Vec<Finding> {
    if source.is_in(NAMING_FILES) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let text = source.with_strings.to_ascii_lowercase();
    for name in names {
        for at in word_positions(&text, name) {
            let (before, after) = (&text[..at], &text[at + name.len()..]);
            let is_alias = after.starts_with(':') && !after.starts_with("::");
            let is_program = after.starts_with(".cpp");
            let is_module = before.ends_with("mod ");
            if !is_alias && !is_program && !is_module {
                findings.push(Finding::new(source, at, format!("names architecture `{name}`")));
            }
        }
    }
    findings
}

fn stray_unsafe(source: &Source) -> Vec<Finding> {
    if source.is_in(UNSAFE_FILES) {
        return Vec::new();
    }
    let places = word_positions(&source.code, "unsafe");
    places.map(|at| Finding::new(source, at, "says `unsafe`".to_owned())).collect()
}

fn printing(source: &Source) -> Vec<Finding> {
    if source.is_in(&["src/cli/", "src/main.rs"]) {
        return Vec::new();
    }
    source.find_any(PRINTING, "prints or exits")
}

fn stray_rayon(source: &Source) -> Vec<Finding> {
    if source.is_in(&["src/backend/cpu/"]) {
        return Vec::new();
    }
    source.find_any(&["rayon"], "knows of threads")
}

fn named_devices(source: &Source) -> Vec<Finding> {
    if !source.is_in(&["src/kv/", "src/decoder/", "src/engine/"]) {
        return Vec::new();
    }
    let places = DEVICES.iter().flat_map(|device| word_positions(&source.code, device));
    let places = places.filter(|&at| {
        source.code[..at].ends_with("::") || {
            source.code[at..].trim_start_matches(is_word).starts_with("::")
        }
    });
    places.map(|at| Finding::new(source, at, "names a device".to_owned())).collect()
}

fn named_flags(source: &Source) -> Vec<Finding> {
    if source.is_in(FLAG_FILES) {
        return Vec::new();
    }
    let text = &source.with_strings;
    let flags = text.match_indices("--").map(|(at, _)| at).filter(|&at| {
        !text[..at].ends_with('-') && text[at + 2..].starts_with(|c: char| c.is_ascii_lowercase())
    });
    let verbs = text.match_indices("`teff ").map(|(at, _)| at);
    // Decrements are no operator of Rust, but `a - -b` may be written without spaces.
    let places = flags.chain(verbs).filter(|&at| source.code[at..].starts_with(' '));
    places.map(|at| Finding::new(source, at, "names a flag or a verb".to_owned())).collect()
}

fn unfinished(source: &Source) -> Vec<Finding> {
    source.find_any(UNFINISHED, "is unfinished or panics on input")
}

// ---------------------------------------------------------------- the files

fn rank(room: &str) -> Option<u8> {
    ROOMS.iter().find(|(name, _)| *name == room).map(|&(_, rank)| rank)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every architecture is a file of `src/model/arch`; its name is the file's.
fn architecture_names() -> BTreeSet<String> {
    let files = rust_files(&root().join("src/model/arch"));
    let stems = files.iter().filter_map(|file| file.file_stem()?.to_str().map(str::to_owned));
    stems.filter(|stem| stem != "mod").collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// All library code: the root crate, the kernels, the reader. Not tests, benches and fuzzing.
fn sources() -> Vec<Source> {
    let outside = ["/tests/", "/benches/", "/examples/", "/fuzz/"];
    let mut sources = Vec::new();
    for file in ["src", "kernels/src"].iter().flat_map(|folder| rust_files(&root().join(folder))) {
        let path = file.strip_prefix(root()).expect("below the root").to_str().expect("UTF-8");
        let path = path.replace('\\', "/");
        let is_tests = path.ends_with("/tests.rs") || outside.iter().any(|p| path.contains(p));
        if !is_tests {
            sources.push(Source::new(&path, &fs::read_to_string(&file).expect("UTF-8")));
        }
    }
    sources
}

fn check_all(check: impl Fn(&Source) -> Vec<Finding>) {
    let findings: Vec<String> = sources().iter().flat_map(check).map(|Finding(f)| f).collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

// ---------------------------------------------------------------- the checks can fail

fn findings(check: impl Fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<String> {
    check(&Source::new(path, text)).into_iter().map(|Finding(f)| f).collect()
}

#[test]
fn upward_imports_are_found() {
    let check = |path, text| findings(upward_imports, path, text);
    let up = "src/kv/pages.rs";
    assert_eq!(check(up, "use crate::engine::Engine;"), ["src/kv/pages.rs:1: `kv` uses `engine`"]);
    assert_eq!(check(up, "\nfn f() { crate::cli::run() }").len(), 1);
    assert_eq!(check(up, "use crate::{backend::Buffer, decoder::{a, b}, tensor};").len(), 1);
    assert_eq!(check(up, "use crate::{\n    serve,\n    cli::{x},\n};").len(), 2);
    assert_eq!(check(up, "use super::super::engine::Engine;").len(), 1);
    assert_eq!(check("src/kv/mod.rs", "use super::engine::Engine;").len(), 1);
    assert_eq!(check("src/kv.rs", "pub use super::cli;").len(), 1);
    // Equals, and rooms that are deliberately absent.
    assert_eq!(check("src/text/mod.rs", "use crate::sample::SamplerChain;").len(), 1);
    assert_eq!(check("src/decoder/mod.rs", "use crate::text::Tokenizer;").len(), 1);
    assert_eq!(check("src/cache/mod.rs", "use crate::model::ModelSpec;").len(), 1);
    assert_eq!(
        check("src/attic/mod.rs", ""),
        ["src/attic/mod.rs:1: room `attic` has no rank in ROOMS"]
    );

    for fine in [
        "use crate::backend::Buffer;",
        "use crate::kv::PageTable;",
        "use super::pool::Pool;",
        "use std::engine::x; // crate::engine",
        "const S: &str = \"crate::engine\";",
        "#[cfg(test)]\nmod tests { use crate::engine::Engine; }",
        "macro_rules! m { () => { $crate::VERSION } }",
    ] {
        assert!(check(up, fine).is_empty(), "{fine}");
    }
    assert!(check("src/main.rs", "use teff::cli;").is_empty());
    assert!(check("src/gguf-rs-lite/src/file.rs", "use crate::error::Error;").is_empty());
}

#[test]
fn architecture_names_are_found() {
    let names = ["llama", "qwen2"].map(str::to_owned).into();
    let check = |path, text| findings(|s| named_architectures(s, &names), path, text);
    let path = "src/decoder/mod.rs";
    for bad in [
        "if arch == \"llama\" {}",
        "struct Llama;",
        "get(\"qwen2.block_count\")",
        "x = llama::SPEC;",
        "r#\"Qwen2\"#",
    ] {
        assert_eq!(check(path, bad).len(), 1, "{bad}");
    }
    for fine in [
        "// as in llama",
        "fn llama_like() {}",
        "\"llama.cpp\"",
        "\"qwen2:0.5b\"",
        "let qwen25 = 1;",
        "#[test]\nfn t() { load(\"llama\"); }",
    ] {
        assert!(check(path, fine).is_empty(), "{fine}");
    }
    assert!(check("src/model/arch/llama.rs", "\"llama\"").is_empty());
    assert_eq!(check("src/model/spec.rs", "\"llama\"").len(), 1);
}

#[test]
fn unsafe_printing_and_unfinished_code_are_found() {
    assert_eq!(findings(stray_unsafe, "src/kv/mod.rs", "unsafe fn f() {}").len(), 1);
    assert_eq!(findings(stray_unsafe, "kernels/src/lib.rs", "let x = unsafe { 1 };").len(), 1);
    for fine in ["#![deny(unsafe_op_in_unsafe_fn)]", "// unsafe", "\"unsafe\""] {
        assert!(findings(stray_unsafe, "src/kv/mod.rs", fine).is_empty(), "{fine}");
    }
    assert!(findings(stray_unsafe, "kernels/src/isa/avx2/dot.rs", "unsafe {}").is_empty());

    let bad = "fn f() { println!(\"x\"); eprintln!(); std::process::exit(1) }";
    assert_eq!(findings(printing, "src/engine/mod.rs", bad).len(), 3);
    assert_eq!(findings(printing, "src/engine/mod.rs", "std::io::stdout().lock()").len(), 1);
    assert!(findings(printing, "src/cli/run.rs", bad).is_empty());
    assert!(findings(printing, "src/engine/mod.rs", "/* println!() */ fingerprint!()").is_empty());

    assert_eq!(findings(stray_rayon, "src/decoder/mod.rs", "use rayon::prelude::*;").len(), 1);
    assert!(findings(stray_rayon, "src/backend/cpu/pool/mod.rs", "use rayon::scope;").is_empty());

    assert_eq!(findings(named_devices, "src/kv/mod.rs", "use crate::backend::cpu::x;").len(), 1);
    assert_eq!(findings(named_devices, "src/decoder/mod.rs", "backend::{cpu::Cpu, x}").len(), 1);
    assert!(findings(named_devices, "src/cli/run.rs", "use crate::backend::cpu::x;").is_empty());
    assert!(findings(named_devices, "src/engine/mod.rs", "let cpu = options.cpus;").is_empty());

    let bad = "write!(f, \"raise --ctx, see `teff run`\")";
    assert_eq!(findings(named_flags, "src/engine/mod.rs", bad).len(), 2);
    assert!(findings(named_flags, "src/cli/error.rs", bad).is_empty());
    for fine in ["a--b", "\"a -- b\"", "// --ctx", "\"----x\""] {
        assert!(findings(named_flags, "src/engine/mod.rs", fine).is_empty(), "{fine}");
    }

    assert_eq!(findings(unfinished, "src/kv/mod.rs", "x.unwrap(); todo!()").len(), 2);
    assert!(findings(unfinished, "src/kv/mod.rs", "x.unwrap_or(1)").is_empty());
    assert!(findings(unfinished, "src/kv/mod.rs", "#[test]\nfn t() { x.unwrap() }").is_empty());
}

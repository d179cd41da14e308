//! Fuzzes the conversion of folders: `config.json`, `tokenizer.json` and what stands beside them, with
//! the weights that belong to them.
//!
//! The first byte of an input chooses a family of `tests/golden/hf` and `tests/golden/quantized` (and of
//! `$TEFF_FIXTURES/hf`, if that is set). If the second is even, the others are changes to the family's files, five bytes each: which
//! file, which of its nodes (two bytes), what becomes of it, and a number for that. If it is odd, the
//! rest are files, each up to a byte of 0, in the place of the family's.

#![no_main]

mod common;

use common::changes::change_node;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

#[global_allocator]
static ALLOCATOR: common::Bounded = common::Bounded;

/// Files that are changed.
const FILES: [&str; 5] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "model.safetensors.index.json",
];

struct Family {
    folder: PathBuf,
    files: Vec<(&'static str, Value)>,
}

static FAMILIES: LazyLock<Vec<Family>> = LazyLock::new(|| {
    let fixtures = std::env::var_os("TEFF_FIXTURES").map(|folder| PathBuf::from(folder).join("hf"));
    let mut all = Vec::new();
    let own = ["hf", "quantized"].map(common::golden);
    for folder in own.into_iter().chain(fixtures) {
        let entries = fs::read_dir(&folder).expect("folders").map(|entry| entry.expect("a folder"));
        let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        folders.retain(|folder| folder.join("config.json").exists());
        folders.sort();
        all.extend(folders.iter().enumerate().map(|(i, folder)| family(folder, i)));
    }
    all
});

/// Copies a folder with those in it, as sentence-transformers have them for later steps.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("a file").path();
        let copied = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &copied),
            false => drop(fs::copy(&path, &copied).expect("a copy")),
        }
    }
}

/// A copy of a family's folder.
fn family(from: &Path, number: usize) -> Family {
    let name = from.file_name().expect("a name").to_str().expect("UTF-8");
    let folder = common::folder().join(format!("{number}-{name}"));
    copy(from, &folder);
    let value = |name| Some((name, serde_json::from_slice(&fs::read(from.join(name)).ok()?).ok()?));
    Family { files: FILES.into_iter().filter_map(value).collect(), folder }
}

fuzz_target!(|data: &[u8]| {
    let [number, mode, rest @ ..] = data else { return };
    let family = &FAMILIES[usize::from(*number) % FAMILIES.len()];
    if mode & 1 == 0 {
        let mut files = family.files.clone();
        let n = files.len();
        for change in rest.as_chunks::<5>().0.iter().take(16) {
            let [file, low, high, what, number] = *change;
            let (_, value) = &mut files[usize::from(file) % n];
            change_node(value, u16::from_le_bytes([low, high]).into(), what, number);
        }
        for (name, value) in &files {
            fs::write(family.folder.join(name), value.to_string()).expect("a file");
        }
    } else {
        let mut contents = rest.split(|&byte| byte == 0);
        for (name, value) in &family.files {
            let own = contents.next().map(<[u8]>::to_vec);
            let content = own.unwrap_or_else(|| value.to_string().into_bytes());
            fs::write(family.folder.join(name), content).expect("a file");
        }
    }
    common::convert(&family.folder, mode >> 1);
});

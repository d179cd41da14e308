//! Fuzzes the conversion of folders: `config.json`, `tokenizer.json` and what stands beside them, with
//! the weights that belong to them.
//!
//! The first byte of an input chooses a family of `tests/golden/hf` and `tests/golden/quantized` (and of
//! `$TEFF_FIXTURES/hf`, if that is set). If the second is even, the others are changes to the family's files, five bytes each: which
//! file, which of its nodes (two bytes), what becomes of it, and a number for that. If it is odd, the
//! rest are files, each up to a byte of 0, in the place of the family's.

#![no_main]

mod common;

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
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

/// A copy of a family's folder.
fn family(from: &Path, number: usize) -> Family {
    let name = from.file_name().expect("a name").to_str().expect("UTF-8");
    let folder = common::folder().join(format!("{number}-{name}"));
    fs::create_dir_all(&folder).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("a file").path();
        fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("a copy");
    }
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

/// Nodes of a value, itself among them.
fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(nodes).sum(),
        Value::Object(map) => map.values().map(nodes).sum(),
        _ => 0,
    }
}

/// Changes one node, counted in the order of the text.
fn change_node(value: &mut Value, number: usize, what: u8, with: u8) {
    let mut left = number % nodes(value);
    visit(value, &mut left, &mut |node| replace(node, what, with));
}

fn visit(value: &mut Value, left: &mut usize, change: &mut dyn FnMut(&mut Value)) -> bool {
    if *left == 0 {
        change(value);
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|value| visit(value, left, change)),
        Value::Object(map) => map.values_mut().any(|value| visit(value, left, change)),
        _ => false,
    }
}

fn replace(node: &mut Value, what: u8, with: u8) {
    let power = 1u64 << (with & 63);
    *node = match what % 20 {
        0 => Value::Null,
        1 => json!(with),
        2 => json!(power),
        3 => json!(power.wrapping_sub(1)),
        4 => json!(-i64::from(with)),
        5 => json!(f64::from(with) / 16.0),
        6 => json!(power as f64 * 1e30),
        7 => json!(""),
        8 => json!(char::from(with).to_string()),
        9 => json!("x".repeat(usize::from(with) * 64)),
        10 => json!([]),
        11 => json!({}),
        12 => json!(true),
        13 => json!(vec![node.clone(); usize::from(with & 15)]),
        14 => json!({"type": node.clone(), "rope_type": "yarn", "factor": with}),
        15 => json!(["linear", "dynamic", "yarn", "longrope", "llama3", "mrope", "su"][usize::from(with) % 7]),
        16 | 17 => match node.as_array_mut() {
            Some(list) if what % 20 == 16 => {
                list.truncate(usize::from(with));
                return;
            }
            Some(list) => {
                let copy = list.first().cloned().unwrap_or(Value::Null);
                list.push(copy);
                return;
            }
            None => json!(-1.5),
        },
        18 => match node.as_object_mut() {
            Some(map) => {
                let place = usize::from(with) % map.len().max(1);
                let key = map.keys().nth(place).cloned().unwrap_or_default();
                map.shift_remove(&key);
                return;
            }
            None => json!(1e308),
        },
        _ => match node.as_u64() {
            Some(n) => json!(n.wrapping_add(u64::from(with))),
            None => json!(f64::from(with)),
        },
    };
}

//! Checkpoints made of drawn models by turning names and layouts around.

use crate::convert::convert;
use crate::convert_lora::{Tensor, write};
use crate::fixture_model::build;
use crate::folder::Folder;
use gguf_rs_lite::GgufFile;
use serde_json::{Map, Value, json as object};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use teff::convert::TargetType;

/// A matrix or vector, rows before columns.
#[derive(Clone)]
pub struct Part {
    pub shape: Vec<u64>,
    pub values: Vec<f32>,
}

impl Part {
    pub fn transposed(&self) -> Part {
        let [rows, cols] = self.shape[..] else { return self.clone() };
        let at = |row: u64, col: u64| self.values[(row * cols + col) as usize];
        let values = (0..cols).flat_map(|col| (0..rows).map(move |row| (row, col)));
        let values = values.map(|(row, col)| at(row, col)).collect();
        Part { shape: vec![cols, rows], values }
    }

    /// Rows in another order.
    pub fn rows(&self, order: impl Iterator<Item = usize>) -> Part {
        let cols = self.values.len() / self.shape[0] as usize;
        let row = |row: usize| self.values[row * cols..][..cols].to_vec();
        Part { shape: self.shape.clone(), values: order.flat_map(row).collect() }
    }

    /// Rows of heads from pairs to halves.
    pub fn halved(&self, head: usize) -> Part {
        let place = |row: usize| {
            let (first, i) = (row / head * head, row % head);
            first + i % (head / 2) * 2 + i / (head / 2)
        };
        self.rows((0..self.shape[0] as usize).map(place))
    }

    pub fn times(&self, x: f32) -> Part {
        Part { shape: self.shape.clone(), values: self.values.iter().map(|v| v * x).collect() }
    }
}

/// A drawn model.
pub struct Drawn {
    pub file: GgufFile,
    pub parts: HashMap<String, Part>,
}

pub fn drawn(folder: &str, name: &str, scratch: &Folder) -> Drawn {
    drawn_by(&golden(folder, name), scratch)
}

/// The description of a drawn model.
pub fn golden(folder: &str, name: &str) -> PathBuf {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    all.join(folder).join(format!("{name}.json"))
}

/// The model of a description.
pub fn drawn_by(golden: &Path, scratch: &Folder) -> Drawn {
    let path = scratch.0.join("drawn.gguf");
    fs::write(&path, build(golden)).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let part = |info: &gguf_rs_lite::TensorInfo| {
        let values = file.data(info).as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect();
        (info.name.clone(), Part { shape: info.dims.iter().rev().copied().collect(), values })
    };
    let parts = file.tensors().iter().map(part).collect();
    Drawn { parts, file }
}

/// Words of a vocabulary of BERT's, as many as an embedding has rows.
fn words(folder: &Path, n: usize) {
    let letters = ('a'..='z').flat_map(|c| [c.to_string(), format!("##{c}")]);
    let marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(str::to_owned).into_iter();
    let more = (0..).map(|i| format!("word{i}"));
    let all: Vec<String> = marks.chain(letters).chain(more).take(n).collect();
    fs::write(folder.join("vocab.txt"), all.join("\n")).unwrap();
}

/// Makes a checkpoint.
pub fn checkpoint(
    scratch: &Folder,
    class: &str,
    config: Value,
    tensors: Vec<(String, Part)>,
) -> PathBuf {
    let folder = scratch.0.join("hf");
    fs::create_dir_all(&folder).unwrap();
    let mut all = config.as_object().unwrap().clone();
    all.insert("architectures".into(), object!([class]));
    fs::write(folder.join("config.json"), Value::from(all).to_string()).unwrap();
    let tensor =
        |(name, part): (String, Part)| Tensor { name, shape: part.shape, values: part.values };
    let tensors: Vec<Tensor> = tensors.into_iter().map(tensor).collect();
    write(&folder.join("model.safetensors"), &tensors);
    words(&folder, 128);
    folder
}

/// Keys of drawn models that say what follows without them, or that no configuration has.
pub const UNSAID: &[&str] = &[
    "attention.causal",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
];

/// Converts the checkpoint; tensors and numbers of the result are those of the drawn model, but for those
/// of these names.
pub fn check(scratch: &Folder, drawn: &Drawn, folder: &Path, except: &[&str]) {
    let out = scratch.0.join("model.gguf");
    convert(folder, &out, TargetType::F32).unwrap();
    let file = GgufFile::open(&out).unwrap();
    let is_out = |name: &str| except.iter().any(|part| name.contains(part));
    for info in drawn.file.tensors().iter().filter(|info| !is_out(&info.name)) {
        let found = file.tensor(&info.name).unwrap_or_else(|| panic!("{} is missing", info.name));
        let whole = |dims: &[u64]| dims.iter().copied().filter(|&n| n > 1).collect::<Vec<_>>();
        assert_eq!(whole(&found.dims), whole(&info.dims), "{}", info.name);
        let floats = |bytes: &[u8]| -> Vec<f32> {
            bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect()
        };
        let (found, wanted) = (floats(file.data(found)), floats(drawn.file.data(info)));
        // Where something was taken away and added, the last bit may differ.
        let slack = if info.name.contains("norm") { 2e-7 } else { 0.0 };
        let same = found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() <= slack);
        assert!(same, "{}", info.name);
    }
    let is_known = |name: &str| drawn.file.tensor(name).is_some() || is_out(name);
    assert!(file.tensors().iter().all(|info| is_known(&info.name)));
    let text = |value: Option<&dyn std::fmt::Debug>| value.map(|value| format!("{value:?}"));
    for (key, value) in drawn.file.entries().filter(|(key, _)| !is_out(key)) {
        let name = key.split_once('.').map_or(key, |(_, name)| name);
        let found = file.entries().find(|(other, _)| *other == key).map(|(_, value)| value);
        let is_known = found.is_some() || !UNSAID.contains(&name);
        if is_known && !key.starts_with("tokenizer.") {
            let found = found.as_ref().map(|value| value as &dyn std::fmt::Debug);
            assert_eq!(text(found), text(Some(&value)), "{key}");
        }
    }
}

/// What each tensor of a drawn model becomes.
pub fn renamed(
    drawn: &Drawn,
    make: impl Fn(&str, &Part) -> Vec<(String, Part)>,
) -> Vec<(String, Part)> {
    drawn.parts.iter().flat_map(|(name, part)| make(name, part)).collect()
}

/// Our names of tensors, and a checkpoint's; both without `weight` or `bias`.
type Pairs = &'static [(&'static str, &'static str)];

/// Names of a checkpoint's tensors.
pub struct Names {
    /// Those that belong to no layer.
    pub model: Pairs,
    /// Beginning of a layer's names; `{}` is its number.
    pub layer: &'static str,
    pub layers: Pairs,
}

/// The names that most classes have for what belongs to no layer.
pub const USUAL: Pairs =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

impl Names {
    /// The checkpoint's name of a tensor; `None`: it has none. Factors of products have none anywhere.
    pub fn of(&self, name: &str) -> Option<String> {
        let (before, of, end, names) = match layer(name) {
            Some((n, of, end)) => (self.layer.replace("{}", n), of, end, self.layers),
            None => {
                let (of, end) = name.rsplit_once('.')?;
                (String::new(), of, end, self.model)
            }
        };
        let (_, to) = names.iter().find(|(ours, _)| *ours == of && !is_scale(name))?;
        Some(format!("{before}{to}.{end}"))
    }

    /// Tensors under the checkpoint's names.
    pub fn rename(&self, drawn: &Drawn) -> Vec<(String, Part)> {
        self.rename_with(drawn, |_, part| part.clone())
    }

    /// Tensors under the checkpoint's names, each as `change` makes it of ours.
    pub fn rename_with(
        &self,
        drawn: &Drawn,
        change: impl Fn(&str, &Part) -> Part,
    ) -> Vec<(String, Part)> {
        let one = |(name, part): (&String, &Part)| Some((self.of(name)?, change(name, part)));
        drawn.parts.iter().filter_map(one).collect()
    }
}

/// A layer's tensor: the layer, its name, `weight` or `bias`.
pub fn layer(name: &str) -> Option<(&str, &str, &str)> {
    let (number, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, end) = rest.rsplit_once('.')?;
    Some((number, part, end))
}

/// Factors of products, which these checkpoints have none of.
pub const SCALES: &[&str] = &[".scale", ".input_scale"];

pub fn is_scale(name: &str) -> bool {
    SCALES.iter().any(|end| name.ends_with(end))
}

pub fn common() -> Map<String, Value> {
    object!({
        "vocab_size": 128, "max_position_embeddings": 256, "hidden_size": 256,
        "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2,
        "intermediate_size": 384, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    })
    .as_object()
    .unwrap()
    .clone()
}

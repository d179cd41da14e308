//! Tiny seeded models: a description, drawn weights, and the logits that the reference
//! implementation computed from the same weights in F32.
//!
//! `tests/golden/archs/NAME.json` holds `architecture`, `seed`, `metadata` (key -> [GGUF type,
//! value]), `tensors` ([name, dims in GGUF order]), `tokens` and `n_vocab`; `NAME.f32` the logits,
//! little-endian `[n_tokens][n_vocab]`. `tests/golden/embeddings` is the same for models that turn
//! texts into vectors of `n_out` elements: `[n_tokens + 3][n_out]`, behind the tokens' vectors their
//! mean, the first and the last, as the reference pooled them. `tests/golden/rerankers` has `texts`,
//! ranges of `tokens`, and the `scores` of each. No weight file is kept: [`weight`] draws each value from
//! the tensor's name, so the bytes are the same everywhere.

use std::fs;
use std::path::{Path, PathBuf};

use gguf_rs_lite::{GgmlType, GgufFile, GgufWriter, OwnedValue};
use serde_json::Value;

/// A tiny model with what the reference answered.
pub struct Fixture {
    /// A complete GGUF file.
    pub gguf: Vec<u8>,
    /// The prompt.
    pub tokens: Vec<u32>,
    pub n_vocab: usize,
    /// `[tokens.len()][n_vocab]`: the logits after each token.
    pub logits: Vec<f32>,
}

/// Names of all fixtures with logits, sorted.
pub fn names() -> Vec<String> {
    names_in(ARCHS)
}

/// Names of all fixtures with vectors, sorted.
pub fn embedding_names() -> Vec<String> {
    names_in(EMBEDDINGS)
}

fn names_in(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(golden(folder)).expect("a folder of fixtures").flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned()))
        .collect();
    names.sort();
    names
}

/// The architecture that the fixture is of.
pub fn architecture(name: &str) -> String {
    let paths = [ARCHS, EMBEDDINGS].map(|folder| golden(folder).join(format!("{name}.json")));
    let spec = read_json(paths.iter().find(|path| path.exists()).expect("a fixture"));
    spec["architecture"].as_str().expect("a string").to_owned()
}

/// The fixture of that name.
pub fn load(name: &str) -> Fixture {
    load_from(ARCHS, name)
}

/// The fixture of that name, whose `logits` are vectors, and their length.
pub fn load_embedding(name: &str) -> (Fixture, usize) {
    let spec = read_json(&golden(EMBEDDINGS).join(format!("{name}.json")));
    (load_from(EMBEDDINGS, name), unsigned(&spec["n_out"]) as usize)
}

fn load_from(folder: &str, name: &str) -> Fixture {
    let json = golden(folder).join(format!("{name}.json"));
    let spec = read_json(&json);
    let tokens = array(&spec["tokens"]).iter().map(|id| unsigned(id) as u32).collect();
    let logits = fs::read(json.with_extension("f32")).expect("logits beside the description");
    let logits = logits.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    Fixture { gguf: build(&json), tokens, n_vocab: unsigned(&spec["n_vocab"]) as usize, logits }
}

/// A tiny reranker with what the reference answered.
pub struct Reranker {
    /// A complete GGUF file.
    pub gguf: Vec<u8>,
    pub n_vocab: usize,
    /// Texts and their scores.
    pub texts: Vec<(Vec<u32>, Vec<f32>)>,
}

/// All rerankers, with their names.
pub fn rerankers() -> Vec<(String, Reranker)> {
    names_in(RERANKERS).into_iter().map(|name| (name.clone(), load_reranker(&name))).collect()
}

/// The reranker of that name: its `texts` are ranges of `tokens`, each with a row of `scores`.
pub fn load_reranker(name: &str) -> Reranker {
    let json = golden(RERANKERS).join(format!("{name}.json"));
    let spec = read_json(&json);
    let tokens: Vec<u32> = array(&spec["tokens"]).iter().map(|id| unsigned(id) as u32).collect();
    let texts = array(&spec["texts"]).iter().map(|range| {
        let [from, to] = [0, 1].map(|i| unsigned(&range[i]) as usize);
        tokens[from..to].to_vec()
    });
    let scores = array(&spec["scores"])
        .iter()
        .map(|row| array(row).iter().map(|x| x.as_f64().expect("a number") as f32).collect());
    let n_vocab = unsigned(&spec["n_vocab"]) as usize;
    Reranker { gguf: build(&json), n_vocab, texts: texts.zip(scores).collect() }
}

/// The GGUF file that a description stands for.
pub fn build(json: &Path) -> Vec<u8> {
    let spec = read_json(json);
    let mut writer = GgufWriter::new(Vec::new());
    let architecture = spec["architecture"].as_str().expect("a string");
    writer.add("general.architecture", architecture).expect("a new key");
    writer.add("tokenizer.ggml.model", "none").expect("a new key");
    for (key, typed) in spec["metadata"].as_object().expect("an object") {
        writer.add(key, metadata(&typed[0], &typed[1])).expect("a new key");
    }
    let tensors: Vec<(&str, Vec<u64>)> = array(&spec["tensors"])
        .iter()
        .map(|t| (t[0].as_str().expect("a name"), array(&t[1]).iter().map(unsigned).collect()))
        .collect();
    for (name, dims) in &tensors {
        writer.declare(*name, GgmlType::F32, dims).expect("a new tensor");
    }
    let seed = unsigned(&spec["seed"]);
    let mut data = writer.write_header().expect("memory takes all");
    for (name, dims) in &tensors {
        let values = (0..dims.iter().product()).map(|i| weight(seed, name, dims, i));
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        data.write_tensor(&bytes).expect("the declared length");
    }
    data.finish().expect("every tensor written")
}

/// A llama of one layer, 32 wide, without a vocabulary, whose feed-forward part has `n_ff` hidden
/// columns in Q8_0: `102 * n_ff` bytes.
pub fn wide_llama(n_ff: u32) -> Vec<u8> {
    const WIDTH: u64 = 32;
    const N_VOCAB: u64 = 8;
    let mut writer = GgufWriter::new(Vec::new());
    writer.add("general.architecture", "llama").expect("a new key");
    writer.add("tokenizer.ggml.model", "none").expect("a new key");
    for (key, value) in [
        ("block_count", 1),
        ("context_length", 64),
        ("embedding_length", WIDTH as u32),
        ("feed_forward_length", n_ff),
        ("attention.head_count", 1),
        ("rope.dimension_count", WIDTH as u32),
        ("vocab_size", N_VOCAB as u32),
    ] {
        writer.add(format!("llama.{key}"), value).expect("a new key");
    }
    writer.add("llama.attention.layer_norm_rms_epsilon", 1e-5_f32).expect("a new key");
    let n_ff = u64::from(n_ff);
    let tensors: [(&str, GgmlType, &[u64]); 11] = [
        ("token_embd.weight", GgmlType::F32, &[WIDTH, N_VOCAB]),
        ("output_norm.weight", GgmlType::F32, &[WIDTH]),
        ("blk.0.attn_norm.weight", GgmlType::F32, &[WIDTH]),
        ("blk.0.attn_q.weight", GgmlType::F32, &[WIDTH, WIDTH]),
        ("blk.0.attn_k.weight", GgmlType::F32, &[WIDTH, WIDTH]),
        ("blk.0.attn_v.weight", GgmlType::F32, &[WIDTH, WIDTH]),
        ("blk.0.attn_output.weight", GgmlType::F32, &[WIDTH, WIDTH]),
        ("blk.0.ffn_norm.weight", GgmlType::F32, &[WIDTH]),
        ("blk.0.ffn_gate.weight", GgmlType::Q8_0, &[WIDTH, n_ff]),
        ("blk.0.ffn_up.weight", GgmlType::Q8_0, &[WIDTH, n_ff]),
        ("blk.0.ffn_down.weight", GgmlType::Q8_0, &[n_ff, WIDTH]),
    ];
    for (name, ty, dims) in tensors {
        writer.declare(name, ty, dims).expect("a new tensor");
    }
    let mut data = writer.write_header().expect("memory takes all");
    for (name, ty, dims) in tensors {
        let n = dims.iter().product();
        let bytes: Vec<u8> = match ty {
            // Blocks of 34 bytes: small scales (halves 0x1010), codes 16.
            GgmlType::Q8_0 => vec![0x10; n as usize / 32 * 34],
            _ => (0..n).flat_map(|i| weight(1, name, dims, i).to_le_bytes()).collect(),
        };
        data.write_tensor(&bytes).expect("the declared length");
    }
    data.finish().expect("every tensor written")
}

/// Weight `i`, in storage order, of the tensor `name`.
pub fn weight(seed: u64, name: &str, dims: &[u64], i: u64) -> f32 {
    const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let start = seed.wrapping_add(fnv1a(name));
    let z = splitmix64(start.wrapping_add((i + 1).wrapping_mul(GOLDEN_GAMMA)));
    let u = (z >> 40) as f64 / f64::from(1 << 23) - 1.0; // in [-1, 1)
    let value = if name.contains("rope_f") {
        4.5 + 3.5 * u
    } else if name.contains(".ssm_a") || name.ends_with("ssm_a") {
        -(0.5 + 0.5 * u.abs())
    } else if name.contains("norm") && !name.ends_with(".bias") {
        1.0 + 0.1 * u
    } else if name.ends_with(".bias") || dims.len() == 1 {
        0.05 * u
    } else {
        u * (3.0 / dims[0] as f64).sqrt()
    };
    value as f32
}

fn fnv1a(text: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

fn splitmix64(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn metadata(ty: &Value, value: &Value) -> OwnedValue {
    let floats = || array(value).iter().map(|v| v.as_f64().expect("a number") as f32);
    let integers = || array(value).iter().map(|v| v.as_i64().expect("an integer"));
    match ty.as_str().expect("a type's name") {
        "BOOL" => value.as_bool().expect("a bool").into(),
        "UINT32" => u32::try_from(unsigned(value)).expect("32 bits").into(),
        "FLOAT32" => (value.as_f64().expect("a number") as f32).into(),
        "STRING" => value.as_str().expect("a string").into(),
        "ARRAY:UINT32" => integers().map(|v| v as u32).collect::<Vec<_>>().into(),
        "ARRAY:INT32" => integers().map(|v| v as i32).collect::<Vec<_>>().into(),
        "ARRAY:STRING" => {
            let texts = array(value).iter().map(|text| text.as_str().expect("a string").to_owned());
            texts.collect::<Vec<String>>().into()
        }
        "ARRAY:FLOAT32" => floats().collect::<Vec<_>>().into(),
        other => panic!("metadata type {other}"),
    }
}

const ARCHS: &str = "archs";
const EMBEDDINGS: &str = "embeddings";
const RERANKERS: &str = "rerankers";

fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder)
}

fn read_json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn array(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

fn unsigned(value: &Value) -> u64 {
    value.as_u64().expect("an unsigned integer")
}

#[test]
fn weights_follow_the_rule() {
    // Computed with Python's integers and floats from the rule's text.
    let cases: &[(&str, &[u64], u64, f32)] = &[
        ("token_embd.weight", &[256, 128], 0, -0.09895005),
        ("token_embd.weight", &[256, 128], 32767, -0.059228495),
        ("blk.0.attn_norm.weight", &[256], 3, 0.9973215),
        ("blk.2.attn_q.bias", &[256], 255, -0.036914147),
        ("blk.0.attn_norm.bias", &[256], 1, -0.049688388),
        ("rope_freqs.weight", &[16], 15, 7.3729963),
        ("blk.1.ssm_a", &[1, 8], 2, -0.5540604),
        ("blk.0.attn_q.scale", &[1], 0, 0.025314141),
        ("blk.1.ffn_down_exps.weight", &[384, 256, 8], 700000, -0.022406476),
    ];
    for &(name, dims, i, expected) in cases {
        assert_eq!(weight(42_424_242, name, dims, i), expected, "{name}[{i}]");
    }
}

#[test]
fn every_fixture_is_a_readable_file() {
    assert!(names().len() >= 8, "{:?}", names());
    for name in names() {
        let fixture = load(&name);
        assert_eq!(fixture.logits.len(), fixture.tokens.len() * fixture.n_vocab, "{name}");
        assert!(fixture.logits.iter().all(|x| x.is_finite()), "{name}");
        let file = GgufFile::from_bytes(fixture.gguf).unwrap_or_else(|e| panic!("{name}: {e}"));
        let architecture = file.get("general.architecture").and_then(|v| v.as_str());
        assert!(name.starts_with(architecture.expect("a string")), "{name}");
        let embedding = file.tensor("token_embd.weight").expect("every model has one");
        assert_eq!(embedding.rows(), fixture.n_vocab as u64, "{name}");
        let row = file.data(embedding);
        let first = f32::from_le_bytes([row[0], row[1], row[2], row[3]]);
        assert!(first != 0.0 && first.abs() <= (3.0 / embedding.cols() as f32).sqrt(), "{name}");
    }
}

//! What the targets share: an allocator with a bound, a folder in memory, a tiny checkpoint.

#![allow(dead_code, reason = "each target uses a part")]

pub mod bodies;
pub mod changes;
pub mod sums;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use teff::convert::{Conversion, ConvertOptions, TargetType};
use teff::engine::{Engine, EngineOptions, Model, Runner};

/// Bytes that Rust code may hold at a time. Inputs have kilobytes, so this is a length that was
/// believed.
const BYTES_MAX: usize = 256 << 20;

static BYTES: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which ends the process over [`BYTES_MAX`].
pub struct Bounded;

// SAFETY: every method is the system allocator's with the caller's arguments, and gives what that
// gives or does not return.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the same promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the same promise.
        unsafe { System.dealloc(block, layout) }
    }
}

fn count(bytes: usize) {
    let before = BYTES.fetch_add(bytes, Ordering::Relaxed);
    if before.saturating_add(bytes) > BYTES_MAX {
        eprintln!("{bytes} bytes asked for, {before} held: over {BYTES_MAX}");
        std::process::abort();
    }
}

/// A folder of this process, in memory where the system has that.
pub fn folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = base.join(format!("teff-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Converts a folder, to different types by turns. What is written must be whole.
pub fn convert(folder: &Path, turn: u8) {
    let types = [None, Some(TargetType::F16), Some(TargetType::Q8_0), Some(TargetType::F32)];
    let options =
        ConvertOptions { ty: types[usize::from(turn) % types.len()], ..Default::default() };
    let Ok(conversion) = Conversion::plan(folder, &options) else { return };
    let out = folder.join("out.gguf");
    if conversion.write(&out, &mut |_| {}, &AtomicBool::new(false)).is_ok() {
        Model::open(&out).expect("a model that was checked");
        fs::remove_file(&out).expect("the result");
    }
    assert!(!out.with_extension("gguf.teff-part").exists() && !out.exists());
}

/// Configuration of a Llama of one layer.
const TINY_CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 16,
"intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1,
"num_hidden_layers": 1, "vocab_size": 64, "rms_norm_eps": 1e-5, "max_position_embeddings": 64,
"tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2}"#;

/// A folder of that Llama, of whose files a target replaces one.
pub fn tiny_folder() -> PathBuf {
    let folder = folder();
    fs::write(folder.join("config.json"), TINY_CONFIG).expect("a file");
    fs::write(folder.join("model.safetensors"), tiny_weights()).expect("weights");
    let vocabulary = golden("hf/llama-spm/tokenizer.model");
    fs::copy(vocabulary, folder.join("tokenizer.model")).expect("a vocabulary");
    folder
}

/// Weights of that Llama, all alike.
pub fn tiny_weights() -> Vec<u8> {
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let tensors = [
        ("model.embed_tokens.weight".to_owned(), vec![64, 16]),
        ("model.norm.weight".to_owned(), vec![16]),
        (layer("input_layernorm"), vec![16]),
        (layer("post_attention_layernorm"), vec![16]),
        (layer("mlp.down_proj"), vec![16, 16]),
        (layer("mlp.gate_proj"), vec![16, 16]),
        (layer("mlp.up_proj"), vec![16, 16]),
        (layer("self_attn.k_proj"), vec![8, 16]),
        (layer("self_attn.o_proj"), vec![16, 16]),
        (layer("self_attn.q_proj"), vec![16, 16]),
        (layer("self_attn.v_proj"), vec![8, 16]),
    ];
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let (start, bytes) = (end, 2 * shape.iter().product::<usize>());
        end += bytes;
        let entry =
            serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name, entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.into_bytes());
    bytes.extend([0, 0x3f].repeat(end / 2));
    bytes
}

/// A golden file of the tests.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden").join(name)
}

/// A model of 290 tokens, and what runs it on one thread.
pub fn tiny_model(n_ctx: usize) -> (Model, Engine) {
    let model = Model::open(&golden("faults/tiny.gguf")).expect("a model");
    let mut base = EngineOptions::default();
    base.threads = Some(1);
    let options = teff::eval::engine_options(&model, n_ctx, &base);
    let engine = Engine::new(&model, &options).expect("an engine");
    (model, engine)
}

/// Room for a few sequences of 64 tokens, on one thread.
pub fn tiny_options() -> EngineOptions {
    let mut options = EngineOptions::default();
    options.threads = Some(1);
    options.n_ctx = Some(64);
    options.kv_bytes_max = Some(1 << 20);
    options
}

/// Answers of a model of 290 tokens.
pub fn tiny_runner() -> Runner {
    let model = Model::open(&golden("faults/tiny.gguf")).expect("a model");
    let engine = Engine::new(&model, &tiny_options()).expect("an engine");
    Runner::start(engine, None, 1).expect("a thread")
}

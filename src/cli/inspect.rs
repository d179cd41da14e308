//! `teff inspect`: what a file holds, what it is in words, and what it needs to run.

use super::CliError;
use super::options::{ContextArgs, ModelArgs};
use super::progress::bytes;
use crate::backend::pages::KvType;
use crate::engine::N_CTX_DEFAULT;
use crate::model::{
    AttentionSpec, Ffn, Hparams, LatentSpec, LayerSpec, Mixer, ModelError, ModelSpec,
    NormPlacement, QkNorm, RopeScaling, RopeSpec, StateSpaceGeneration, StateSpaceSpec, arch,
};
use gguf_rs_lite::{GgmlType, GgufFile, TensorInfo, Value};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use teff_kernels::KernelTable;

/// Longest text of a metadata value that is shown in full.
const TEXT_CHARS_MAX: usize = 72;
/// Most elements of an array that are shown.
const ELEMENTS_MAX: usize = 6;

/// `teff inspect`
#[derive(clap::Args, Debug)]
pub struct InspectArgs {
    /// A GGUF file, an alias, or hf:owner/repo[:file or quant]
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    file: Option<crate::cache::ModelRef>,
    #[command(flatten)]
    flag: ModelArgs,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    context: ContextArgs,
    /// How keys and values would be cached: f32, f16, q8_0 or q4_0
    #[arg(long, value_name = "TYPE", default_value_t = KvType::F16)]
    kv_type: KvType,
}

/// Bytes and weights by type.
#[derive(Default)]
struct TypeSum {
    tensors: usize,
    weights: u64,
    bytes: u64,
}

/// Explains the file.
pub fn inspect(args: &InspectArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let path: PathBuf = match &args.file {
        Some(model) => ModelArgs::of(model.clone()).path()?,
        None => args.flag.path()?,
    };
    let file = GgufFile::open(&path)?;
    let kernels = KernelTable::from_env().map_err(|e| CliError::usage(e.to_string()))?;
    let mut types: BTreeMap<GgmlType, TypeSum> = BTreeMap::new();
    for tensor in file.tensors() {
        let sum = types.entry(tensor.ty).or_default();
        sum.tensors += 1;
        sum.weights += tensor.dims.iter().product::<u64>();
        sum.bytes += tensor.bytes;
    }
    let spec = Hparams::new(&file).and_then(|h| arch::spec(&h));
    if args.json {
        let line = to_json(args, &path, &file, kernels, &types, &spec);
        writeln!(out, "{line}")?;
        return Ok(());
    }
    let shards = file.shard_count();
    let parts = if shards > 1 { format!(" in {shards} files") } else { String::new() };
    let (version, size) = (file.version(), bytes(file.total_bytes()));
    writeln!(out, "{}: GGUF v{version}, {size}{parts}", path.display())?;
    writeln!(out, "\nMetadata")?;
    for (key, value) in file.entries() {
        writeln!(out, "  {key} = {}", shown(value))?;
    }
    writeln!(out, "\nTensors")?;
    if args.tensors {
        for TensorInfo { name, ty, dims, bytes: n, .. } in file.tensors() {
            let dims: Vec<String> = dims.iter().map(u64::to_string).collect();
            writeln!(
                out,
                "  {name:40} {:8} {:>18} {:>10}",
                ty.name(),
                dims.join(" x "),
                bytes(*n)
            )?;
        }
    }
    let (mut weights, mut total) = (0, 0);
    for (ty, sum) in &types {
        let kernel = kernel_of(kernels, *ty);
        let (n, w, b) = (sum.tensors, millions(sum.weights), bytes(sum.bytes));
        writeln!(out, "  {:8} {n:5} tensors {w:>9} weights {b:>10}  kernel: {kernel}", ty.name())?;
        weights += sum.weights;
        total += sum.bytes;
    }
    let bits = total as f64 * 8.0 / weights.max(1) as f64;
    writeln!(out, "  {} weights at {bits:.2} bits each", millions(weights))?;
    writeln!(out, "\nArchitecture")?;
    match &spec {
        Ok(spec) => {
            in_words(spec, out)?;
            memory(spec, args, &file, out)?;
        }
        Err(error) => writeln!(out, "  cannot be run: {error}")?,
    }
    Ok(())
}

fn kernel_of(kernels: &KernelTable, ty: GgmlType) -> String {
    kernels.types(ty).map_or("none yet".into(), |k| k.level.to_string())
}

fn millions(n: u64) -> String {
    format!("{:.1} M", n as f64 / 1e6)
}

/// A metadata value on one line.
fn shown(value: Value<'_>) -> String {
    match value {
        Value::Str(text) => {
            let line: String = text.chars().take(TEXT_CHARS_MAX).collect();
            let more = if line.len() < text.len() { " ..." } else { "" };
            format!("{line:?}{more}")
        }
        Value::Array(array) => {
            let first: Vec<String> = array.iter().take(ELEMENTS_MAX).map(shown).collect();
            let more = if array.len() > ELEMENTS_MAX { ", ..." } else { "" };
            format!(
                "[{}{more}] ({} x {})",
                first.join(", "),
                array.len(),
                array.element_type().name()
            )
        }
        Value::Bool(x) => x.to_string(),
        Value::F32(x) => x.to_string(),
        Value::F64(x) => x.to_string(),
        other => other.as_i64().map_or_else(|| "?".into(), |x| x.to_string()),
    }
}

/// The description, equal layers told once.
fn in_words(spec: &ModelSpec, out: &mut dyn Write) -> Result<(), CliError> {
    let (n, width, ctx) = (spec.layers.len(), spec.n_embd, spec.n_ctx_train);
    writeln!(out, "  {n} layers, {width} wide, trained for a context of {ctx} tokens")?;
    if spec.embed_scale != 1.0 {
        writeln!(out, "  embeddings times {}", spec.embed_scale)?;
    }
    let mut first = 0;
    for layers in spec.layers.chunk_by(|a, b| a == b) {
        let last = first + layers.len() - 1;
        let which =
            if first == last { format!("layer {first}") } else { format!("layers {first}-{last}") };
        writeln!(out, "  {which}: {}", layer_in_words(&layers[0]))?;
        first = last + 1;
    }
    if let Some(cap) = spec.head.softcap {
        writeln!(out, "  logits soft-capped at {cap}")?;
    }
    Ok(())
}

fn layer_in_words(layer: &LayerSpec) -> String {
    let mixer = mixer_in_words(&layer.mixer);
    let ffn = match &layer.ffn {
        Ffn::None => "no feed-forward part".to_string(),
        Ffn::Dense(dense) => format!("{:?}-gated feed-forward of {}", dense.act, dense.n_ff),
        Ffn::Moe(moe) | Ffn::DenseAndMoe(_, moe) => format!(
            "{} of {} experts, {:?}-gated feed-forward of {}",
            moe.n_used, moe.n_experts, moe.act, moe.n_ff
        ),
    };
    let norms = match layer.norms {
        NormPlacement { before_mixer: None, .. } => "norms after",
        NormPlacement { after_mixer: None, .. } => "norms before",
        _ => "norms before and after",
    };
    format!("{mixer}; {ffn}; {norms}")
}

fn mixer_in_words(mixer: &Mixer) -> String {
    match mixer {
        Mixer::None => "no attention".to_string(),
        Mixer::Attention(attention) => attention_in_words(attention),
        Mixer::ShortConv(conv) => format!("short convolution of {} tokens", conv.taps),
        Mixer::StateSpace(space) => state_space_in_words(space),
        Mixer::AttentionAndStateSpace(attention, space) => {
            format!("{} beside {}", attention_in_words(attention), state_space_in_words(space))
        }
        Mixer::Delta(delta) => {
            format!(
                "gated delta rule of {} heads of {} x {}",
                delta.n_heads, delta.v_dim, delta.k_dim
            )
        }
        Mixer::Latent(latent) => {
            let LatentSpec { n_heads, rank, n_content, n_position, .. } = latent;
            let k_dim = n_content + n_position;
            let mut text = format!("attention of {n_heads} heads of {k_dim} on latents of {rank}");
            text += &rope_in_words(latent.rope.as_ref());
            text
        }
    }
}

fn state_space_in_words(space: &StateSpaceSpec) -> String {
    let StateSpaceSpec { n_inner, state_dim, .. } = space;
    match space.generation {
        StateSpaceGeneration::One { .. } => format!("state space of {n_inner} x {state_dim}"),
        StateSpaceGeneration::Two { n_heads, .. } => {
            let head_dim = n_inner / n_heads;
            format!("state space of {n_heads} heads of {head_dim} x {state_dim}")
        }
    }
}

fn attention_in_words(a: &AttentionSpec) -> String {
    let mut text = format!("attention of {} heads on {} of {}", a.n_heads, a.n_kv_heads, a.k_dim);
    if let Some(window) = a.window {
        text += &format!(", window {window}");
    }
    if a.qk_norm != QkNorm::None {
        text += ", normed queries and keys";
    }
    text += &rope_in_words(a.rope.as_ref());
    if let Some(cap) = a.softcap {
        text += &format!(", scores soft-capped at {cap}");
    }
    text
}

fn rope_in_words(rope: Option<&RopeSpec>) -> String {
    let Some(rope) = rope else { return ", no rope".to_string() };
    let text = format!(", rope {:?} base {}", rope.pairing, rope.freq_base);
    match rope.scaling {
        RopeScaling::None | RopeScaling::LongRope { .. } => text,
        RopeScaling::Linear { factor } => format!("{text} stretched {factor} times"),
        RopeScaling::Yarn { factor, .. } => format!("{text} stretched {factor} times (YaRN)"),
    }
}

/// Bytes of keys and values for a context of `n_ctx` tokens, and of the states beside them.
fn kv_bytes(spec: &ModelSpec, kind: KvType, n_ctx: usize) -> u64 {
    let layer = |layer: &LayerSpec| {
        let attention =
            |a: &AttentionSpec| (a.window, kind.token_bytes(a.n_kv_heads, a.k_dim, a.v_dim));
        let (window, bytes_per_token) = match &layer.mixer {
            Mixer::Attention(a) | Mixer::AttentionAndStateSpace(a, _) => attention(a),
            Mixer::None | Mixer::ShortConv(_) | Mixer::StateSpace(_) | Mixer::Delta(_) => (None, 0),
            Mixer::Latent(a) => {
                let (n_kv_heads, k_dim, v_dim) = a.cached();
                (None, kind.token_bytes(n_kv_heads, k_dim, v_dim))
            }
        };
        let state_len = match &layer.mixer {
            Mixer::None | Mixer::Attention(_) | Mixer::Latent(_) => 0,
            Mixer::ShortConv(conv) => spec.n_embd * (conv.taps - 1),
            Mixer::StateSpace(space) | Mixer::AttentionAndStateSpace(_, space) => space.state_len(),
            Mixer::Delta(delta) => delta.state_len(),
        };
        let tokens = window.map_or(n_ctx, |window| window.min(n_ctx));
        (tokens * bytes_per_token + state_len * size_of::<f32>()) as u64
    };
    spec.layers.iter().map(layer).sum()
}

fn n_ctx(spec: &ModelSpec, args: &InspectArgs) -> usize {
    args.context.ctx.map_or(spec.n_ctx_train.min(N_CTX_DEFAULT), |n| n as usize)
}

fn memory(
    spec: &ModelSpec,
    args: &InspectArgs,
    file: &GgufFile,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let n_ctx = n_ctx(spec, args);
    let kv = kv_bytes(spec, args.kv_type, n_ctx);
    let all = bytes(file.total_bytes() + kv);
    writeln!(out, "\nMemory for a context of {n_ctx} tokens")?;
    writeln!(out, "  {} for keys and values in {}, {all} with the file", bytes(kv), args.kv_type)?;
    Ok(())
}

fn to_json(
    args: &InspectArgs,
    path: &std::path::Path,
    file: &GgufFile,
    kernels: &KernelTable,
    types: &BTreeMap<GgmlType, TypeSum>,
    spec: &Result<ModelSpec, ModelError>,
) -> Json {
    let metadata: Map<String, Json> =
        file.entries().map(|(key, value)| (key.to_string(), value_json(value))).collect();
    let types: Map<String, Json> = types
        .iter()
        .map(|(ty, sum)| {
            let TypeSum { tensors, weights, bytes } = sum;
            let kernel = kernels.types(*ty).map(|k| k.level.to_string());
            let row = json!({
                "tensors": tensors, "weights": weights, "bytes": bytes, "kernel": kernel
            });
            (ty.name().to_string(), row)
        })
        .collect();
    let mut object = json!({
        "path": path.to_string_lossy(), "version": file.version(), "bytes": file.total_bytes(),
        "shards": file.shard_count(), "metadata": metadata, "types": types,
    });
    match spec {
        Ok(spec) => {
            let n_ctx = n_ctx(spec, args);
            object["layers"] = json!(spec.layers.len());
            object["n_embd"] = json!(spec.n_embd);
            object["n_ctx_train"] = json!(spec.n_ctx_train);
            object["n_ctx"] = json!(n_ctx);
            object["kv_type"] = json!(args.kv_type.name());
            object["kv_bytes"] = json!(kv_bytes(spec, args.kv_type, n_ctx));
        }
        Err(error) => object["unsupported"] = json!(error.to_string()),
    }
    if args.tensors {
        let row = |t: &TensorInfo| json!({"name": t.name, "type": t.ty.name(), "dims": t.dims, "bytes": t.bytes});
        object["tensors"] = file.tensors().iter().map(row).collect();
    }
    object
}

/// A metadata value; of arrays only the first elements and the length.
fn value_json(value: Value<'_>) -> Json {
    match value {
        Value::Str(text) => json!(text),
        Value::Bool(x) => json!(x),
        Value::F32(x) => json!(x),
        Value::F64(x) => json!(x),
        Value::U64(x) => json!(x),
        Value::Array(array) => {
            let first: Vec<Json> = array.iter().take(ELEMENTS_MAX).map(value_json).collect();
            json!({"length": array.len(), "type": array.element_type().name(), "first": first})
        }
        other => json!(other.as_i64()),
    }
}
